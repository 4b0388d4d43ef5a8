"""Every operator has a folder here. Newcomers start here. All of these folders are imported.

The folder of an operator holds::

    spec.py         its schema, its fake kernel, its batching rule, its work; and at its head the
                    contract: what goes in and out, and what a backend must provide
    __init__.py     the public function: documentation, checks, autograd
    reference.py    plain PyTorch, to be read next to the paper
    cpu.py, cuda.py, triton.py, triton_kernels.py    the backends that implement it

An operator X is two raw operators, `ccdn::X` and `ccdn::X_backward`. Their kernels look up the
backend when they run (backends/registry.py), so they are opaque to torch.compile. What the forward
pass saves is defined by mathematics alone, so forward and backward may come from different
backends. Autocast is off while a backend runs.
"""

from importlib import import_module
from pkgutil import iter_modules

for _folder in iter_modules(__path__):
    if _folder.ispkg:
        import_module(f"{__name__}.{_folder.name}")
