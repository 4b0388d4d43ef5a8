"""Errors in settings, from a file, the command line or an argument."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line for the user."""
