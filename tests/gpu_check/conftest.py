"""gpu-check on a machine without a device."""

from __future__ import annotations

import shutil
from types import ModuleType
from typing import Any

import pytest
import torch
from pretended_runs import Runner


@pytest.fixture
def gpu_check(load: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With a sanitizer, whatever is installed, and without faces to train on."""
    monkeypatch.delenv("CCDN_SHARED", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    module: ModuleType = load("gpu_check")
    return module


@pytest.fixture
def gpu_steps(load: Any, gpu_check: ModuleType) -> ModuleType:
    module: ModuleType = load("gpu_steps")
    return module


@pytest.fixture
def pretended(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A device to main()."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "T")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(gpu_check, "run", Runner())
    return gpu_check
