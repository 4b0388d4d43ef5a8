"""Runs commands of ccdn as on a system without the features that Linux has and Windows lacks.

`python elsewhere.py FILE`; the file holds, as JSON, [[command, argument, ...], ...]. Ends with a
line of JSON, the exit codes. Text that ccdn reads or writes in the encoding of the locale is an
error.
"""

from __future__ import annotations

import builtins
import json
import os
import select
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
NAMES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (select, ("poll", "epoll")),
    (os, ("getuid", "geteuid", "sched_getaffinity", "sysconf")),
    (signal, ("SIGHUP", "SIGPIPE", "SIGUSR1")),
    (time, ("clock_gettime", "CLOCK_BOOTTIME")),
)


def hide() -> None:
    """Take away modules, functions, /proc and hard links."""
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for owner, names in NAMES:
        for name in names:
            if hasattr(owner, name):
                delattr(owner, name)

    def no_links(*_: object, **__: object) -> None:
        raise OSError("no links here")

    os.link = no_links
    opened = builtins.open

    def without_proc(file: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(file, str) and file.startswith("/proc/"):
            raise FileNotFoundError(file)
        return opened(file, *arguments, **options)

    builtins.open = without_proc  # type: ignore[assignment]


def run(words: list[str]) -> int | str:
    """The exit code of `ccdn` with these words, or the traceback that it ended in."""
    try:
        from ccdn.cli.main import main

        return main(words)
    except SystemExit as error:  # argparse
        return error.code if isinstance(error.code, int) else str(error.code)
    except BaseException:
        return traceback.format_exc()


if __name__ == "__main__":
    commands = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    hide()
    warnings.filterwarnings("error", category=EncodingWarning, module=r"ccdn(_ops)?(\..*)?$")
    print("\n" + json.dumps([run(words) for words in commands]))
