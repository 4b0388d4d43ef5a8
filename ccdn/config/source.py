"""Where the faces of a configuration are: how `data.kind: auto` is resolved."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ccdn.config.data import DataConfig
from ccdn.runtime.errors import ConfigError
from ccdn.runtime.files import address_hint


def resolve_data(data: DataConfig) -> DataConfig:
    """A copy with `kind` and `eval_splits` resolved; for kind auto it looks at the folder.

    auto: `root` "synthetic" is the embedded generator; otherwise the contents of the folder or
    file determine the benchmark (`ccdn.data.detect_kind`); anything else is a folder of pictures.
    Raises ConfigError without a root, or if the root is none of these.
    """
    from ccdn.data import BENCHMARKS, detect_kind

    kind, root = data.kind, data.root and os.path.expanduser(data.root)
    if root == "synthetic" and kind in ("auto", "synthetic") and not Path(root).exists():
        kind, root = "synthetic", None
    if kind == "synthetic" and root is not None:
        raise ConfigError(f"data.kind synthetic reads no folder; found data.root {root!r}")
    if kind != "synthetic":
        if root is None:
            raise ConfigError("no dataset given: pass --data DIR for a folder, or --data synthetic")
        asked = BENCHMARKS.values() if kind == "auto" else [BENCHMARKS[kind]]
        tables = tuple(dict.fromkeys(suffix for found in asked for suffix in found.suffixes))
        table = Path(root).suffix.lower() in tables and Path(root).is_file()
        if not Path(root).is_dir() and not table:
            found = "another file" if Path(root).exists() else f"nothing there{address_hint(root)}"
            wanted = " or ".join(["a folder", *(f"a {suffix} file" for suffix in tables)])
            raise ConfigError(f"data.root {root!r}: expected {wanted}, found {found}")
        if kind == "auto":
            kind = detect_kind(root)
    return replace(
        data, kind=kind, root=root, eval_splits=data.eval_splits or list(BENCHMARKS[kind].measured)
    )
