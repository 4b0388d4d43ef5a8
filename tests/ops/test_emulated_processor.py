"""The AVX-512 and AVX512-BF16 kernels in an emulated processor (tests/ops/emulated_processor)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import emulated_processor
import pytest

from ccdn_ops.backends import native

HERE = Path(__file__).parent
MISSING = emulated_processor.why_missing()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native.module() is None, reason=str(native.why_missing())),
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]

# Of every operator that is emulated a row in all types; what forms covariances on more shapes.
TESTS = {
    "test_operators.py": "cpu and (one_of_everything or dtypes) and not gates and not ctm",
    "test_covariance_pool.py": "cpu and other_dtypes",
    "test_isqrt_cov.py": "cpu and other_dtypes",
}


@pytest.mark.parametrize("processor", ["x86-64-v4", "avx512-bf16"])
@pytest.mark.parametrize("file", TESTS)
def test_operators(tmp_path: Path, file: str, processor: str) -> None:
    plugin = ["-p", "emulated_processor", "--processor", processor, "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", *plugin, HERE / file, "-k", TESTS[file]],
        env=emulated_processor.environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert re.search("^[1-9][0-9]* kernels ran in the emulated", done.stdout, re.M), done.stdout


BITS = """
import torch
from emulated_processor import Module
from harness import features
import ccdn_ops
from ccdn_ops.backends import native
from ccdn_ops.ops import direct

real, found = native.require(), {}
for processor in ("avx512-bf16", "avx512-bf16 in floats"):
    native._C = Module(real, processor)
    found[processor] = []
    for channels, positions in [(65, 49), (49, 65), (9, 1101)]:
        x = features("rectified", 1, channels, positions, dtype=torch.bfloat16)
        for x in (x, x.mT.contiguous().mT):
            direct.forget()
            found[processor] += [ccdn_ops.covariance_pool(x), *ccdn_ops.dual_squeeze(x)]
    assert native._C.calls, processor
assert all(map(torch.equal, *found.values()))
"""


def test_the_instruction_has_the_bits_of_its_portable_form(tmp_path: Path) -> None:
    environment = emulated_processor.environment(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", BITS], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
