"""Progress: a bar on a terminal, an occasional line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def counted(number: int, what: str, several: str | None = None) -> str:
    """A number of things in words: 1 face, 2 faces; `several`: an irregular plural."""
    return f"{number} {what if number == 1 else several or what + 's'}"


class Progress:
    """Shows how far a run is: a tqdm bar on a terminal, else one line every `seconds`.

    total, done: optimiser steps of the run and those before a resume. batch_size turns the rate
    into images a second.
    """

    def __init__(
        self,
        total: int,
        done: int,
        batch_size: int,
        stream: TextIO | None = None,
        seconds: float = 15.0,
    ) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.total = total
        self.first = done
        self.batch_size = batch_size
        self.seconds = seconds
        self.start = self.shown = time.monotonic()
        self.bar: tqdm[Any] | None = None
        if self.stream.isatty():
            self.bar = tqdm(
                total=total, initial=done, unit="step", file=self.stream, dynamic_ncols=True
            )

    def step(self, done: int, text: str) -> None:
        """Report `done` optimiser steps; `text` is the state, e.g. the epoch and the loss."""
        if self.bar is not None:
            self.bar.set_postfix_str(f"{text}, {self.rate(done):.0f} images/s", refresh=False)
            self.bar.update(done - self.bar.n)
        elif time.monotonic() - self.shown >= self.seconds:
            self.shown = time.monotonic()
            left = (self.shown - self.start) / max(1, done - self.first) * (self.total - done)
            print(
                f"step {done}/{self.total}, {text}, {self.rate(done):.0f} images/s,"
                f" {tqdm.format_interval(left)} left",
                file=self.stream,
                flush=True,
            )

    def say(self, text: str) -> None:
        """Print a separate line."""
        if self.bar is not None:
            self.bar.write(text, file=self.stream)
        else:
            print(text, file=self.stream, flush=True)

    def rate(self, done: int) -> float:
        """Images a second since the start of this process."""
        return (done - self.first) * self.batch_size / max(1e-9, time.monotonic() - self.start)

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.close()


def bar(
    items: Iterable[Item],
    name: str,
    total: int | None = None,
    seconds: float = 15.0,
    unit: str = "",
) -> Iterator[Item]:
    """Yield `items`, with a tqdm bar on a terminal or else a line every `seconds`.

    total: how many there are, if `len` is not available. unit: what one is called; the line then
    says how many were done a second, as the bar does.
    """
    if sys.stderr.isatty():
        called = f" {unit}s" if unit else "it"
        yield from tqdm(items, desc=name, total=total, leave=False, unit=called)
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    start = shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - shown >= seconds:
            shown = time.monotonic()
            of = "" if total is None else f"/{total}"
            rate = f", {done / (shown - start):.1f} {unit}s/s" if unit else ""
            print(f"{name}: {done}{of}{rate}", file=sys.stderr, flush=True)
