"""What is wrong with a file of weights; without torch, which not every such file needs."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A file is not the expected checkpoint; the message is one line."""
