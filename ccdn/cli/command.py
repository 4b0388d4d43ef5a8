"""How a command ends: with an exit code and, after an error, one line."""

from __future__ import annotations

import errno
import functools
import io
import os
import select
import sys
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TextIO

from ccdn.runtime.interrupt import ended_by_signals

Arguments = ParamSpec("Arguments")
Main = Callable[Arguments, int]

WRONG = 2
INTERRUPTED, UNREAD = 130, 141  # as a shell reports processes that SIGINT and SIGPIPE ended
# Errors of writing to a pipe without a reader; the second is Windows'.
_PIPE_ERRORS = (errno.EPIPE, errno.EINVAL)


def command(name: str, *wrong: type[Exception]) -> Callable[[Main[Arguments]], Main[Arguments]]:
    """Make the main function of a command end with an exit code instead of a traceback.

    The code is the function's own; 2 after an error of type `wrong`, reported in one line with the
    command's `name`; 130 after Ctrl-C, also reported, even during a wait that never ends; and 141,
    without a message, if the reader of its output has gone, as with `head`.
    """
    caught: tuple[type[Exception], ...] = (BrokenPipeError, *wrong)

    def decorate(main: Main[Arguments]) -> Main[Arguments]:
        @functools.wraps(main)
        def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
            plain_output()
            try:
                with ended_by_signals(name):
                    code = main(*args, **kwargs)
                if sys.stdout is not None:  # None: Python was started without one
                    sys.stdout.flush()
                return code
            except KeyboardInterrupt:
                print(f"{name}: interrupted", file=sys.stderr)
                return INTERRUPTED
            except caught as error:
                if isinstance(error, OSError) and error.errno in _PIPE_ERRORS and _unread():
                    return UNREAD
                if not isinstance(error, wrong):
                    raise
                print(f"{name}: {error}", file=sys.stderr)
                return WRONG
            finally:
                _discard_unread_output()

        return run

    return decorate


def plain_output() -> None:
    """Print for users: a warning is one line without its place in the source, and characters that
    the terminal cannot show, for example in a file's name, are escaped.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"warning: {message}", file=sys.stderr)

    warnings.showwarning = show


def _discard_unread_output() -> None:
    """Drop unwritten output: flushing it when Python exits would fail with a message."""
    for stream in _unread():
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _unread() -> list[TextIO]:
    """Which of stdout and stderr are pipes without a reader."""
    return [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]


def _has_no_reader(stream: TextIO | None) -> bool:
    if stream is None:
        return False
    if not hasattr(select, "poll"):  # Windows: a failing write reveals it
        try:
            stream.flush()
        except OSError as error:
            return error.errno in _PIPE_ERRORS
        except ValueError:  # closed
            return False
        return False
    asked = select.poll()
    try:
        asked.register(stream, 0)
    except (OSError, ValueError):  # in memory; closed
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0))
