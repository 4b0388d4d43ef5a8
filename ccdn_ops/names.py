"""What the package is called, and its raw operators: torch.ops.<NAMESPACE>.

tools/kernel_hub.py makes a package with another name, whose operators have their own namespace.
"""

PACKAGE = __name__.rpartition(".")[0]
NAMESPACE = "ccdn"
