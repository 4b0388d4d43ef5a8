"""`make sanitize` works: its module dies of a fault and says where."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not os.environ.get("CCDN_SANITIZE"), reason="`make sanitize` runs it, on a module of its own"
)

SETUP = """
import torch
from ccdn_ops.backends import native, structs
module = native.require()
shape = structs.multi_excite_shape(torch.ones(1, 3, 5, 10), 50, torch.float32, 1)
def forward(x, out):
    gates = torch.ones(3)
    return module.multi_excite_forward_cpu(shape, x.data_ptr(), gates.data_ptr(), out.data_ptr())
"""
# A vector across the end of a block has no name of its own.
OVERRUN = r"AddressSanitizer: (heap-buffer-overflow|unknown-crash)(.|\n)*"
# The fault, the call, and the sanitizer's message.
FAULTS = {
    "nothing": ("print(forward(torch.ones(150), torch.ones(150)))", None),
    "output too short": (
        "forward(torch.ones(150), torch.ones(149))",
        OVERRUN + r"WRITE of size(.|\n)*csrc/cpu/",
    ),
    "input too short": (
        "forward(torch.ones(149), torch.ones(150))",
        OVERRUN + r"READ of size(.|\n)*csrc/cpu/",
    ),
    "output freed": (
        "class Freed:\n"
        "    address = torch.ones(1 << 20).data_ptr()\n"
        "    def data_ptr(self): return self.address\n"
        "forward(torch.ones(150), Freed())",
        r"AddressSanitizer: heap-use-after-free",
    ),
    "address between two numbers": (
        "forward(torch.ones(150), torch.ones(604, dtype=torch.uint8)[1:])",
        r"csrc/cpu/.*: runtime error: store to misaligned address",
    ),
    "a size whose square is no int64": (
        "square = module.NewtonSchulzShape(\n"
        "    dtype=0, wide=False, batch=1, size=1 << 32, iterations=5, slots=1\n"
        ")\n"
        "module.newton_schulz_sqrt_workspace_cpu(square, 1, False)",
        r"csrc/.*: runtime error: signed integer overflow",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_the_run(fault: str) -> None:
    call, message = FAULTS[fault]
    done = subprocess.run([sys.executable, "-c", SETUP + call], capture_output=True, text=True)
    if message is None:
        assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr
    else:
        assert done.returncode != 0
        assert re.search(message, done.stderr), done.stderr
