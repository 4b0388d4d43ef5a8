"""What the package is called, and its raw operators: torch.ops.<NAMESPACE>.

tools/kernel_hub.py makes a package of another name, whose operators have a namespace of their own.
"""

PACKAGE = __name__.rpartition(".")[0]
NAMESPACE = "ccdn"
