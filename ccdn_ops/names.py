"""What the package is called, and its raw operators: torch.ops.<NAMESPACE>.

tools/kernel_hub.py makes a package with another name, whose operators have their own namespace.
"""

PACKAGE = __name__.rpartition(".")[0]
NAMESPACE = "ccdn"


def direct_module(torch_version: str) -> str:
    """The name of the module of direct calls for one version of torch (csrc/torch)."""
    return "_direct_" + "".join(c if c.isalnum() else "_" for c in torch_version)
