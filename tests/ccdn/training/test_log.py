"""The record of a run on a disk that is full."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ccdn.training.metrics_log import MetricsLog


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.close()
    log._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    try:
        with pytest.raises(OSError, match=r"No space left.*metrics\.jsonl"):
            log.write({"kind": "step", "step": 1})
    finally:
        log.close()
