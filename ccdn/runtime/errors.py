"""Errors of settings, whoever reads them: a file, the command line, an argument."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line for the user."""
