"""A tree's ccdn_ops in a process of its own, which compare.py asks for rows and their times.

The process reads a line of JSON for every question and answers with one. It takes the operators
from the tree and everything else from this folder, of which it must need as little as old trees
have: the public functions and `ccdn_ops.reference`.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

HERE = Path(__file__).resolve().parent
# glibc keeps freed memory. Otherwise large tensors lie in fresh pages, and zeroing these takes
# longer than some kernels, in one process and not in the other.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 40), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


class Tree:
    """The asking side.

    name: "before" or "after"; isa: its CCDN_CPU_ISA, or None; operators: those that the tree has;
    commit, built, versions: for the table.
    """

    def __init__(self, name: str, folder: Path, isa: str | None = None) -> None:
        self.name, self.folder = name, folder.resolve()
        if not (self.folder / "ccdn_ops" / "__init__.py").is_file():
            raise SystemExit(f"{name}: there is no ccdn_ops in {self.folder}")
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder)],
            env={
                **KEEP_MEMORY,
                **os.environ,
                "PYTHONPATH": str(self.folder),
                **({} if isa is None else {"CCDN_CPU_ISA": isa}),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        about = self.ask(about=True)
        if about["problem"]:
            self.__exit__()
            raise SystemExit(f"{name}: {about['problem']}")
        self.operators = set(about["operators"])
        self.built, self.versions = f"{about['isa']}, {about['built']}", about["versions"]
        if isa not in (None, about["isa"]):
            self.__exit__()
            raise SystemExit(f"{name}: this machine runs {about['isa']}, not {isa}")
        done = subprocess.run(
            ["git", "-C", str(self.folder), "describe", "--always", "--dirty=+"],
            capture_output=True,
            text=True,
            check=False,
        )
        self.commit = done.stdout.strip() or "unknown commit"

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise SystemExit(f"{self.name}: the process of {self.folder} has ended")
        found: dict[str, Any] = json.loads(answer)
        return found

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Served:
    """The answering side: what is timed is what was asked for last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.function: Callable[[], object] = lambda: None
        sys.path.insert(0, str(folder))
        importlib.import_module("ccdn_ops")  # first: what fails here is the tree's
        # What the grids want beside our operators may need more of ccdn_ops than an old tree has.
        sys.modules["best_eager"] = MagicMock()
        import cases

        cases.work = lambda *_, **__: (0, 0)  # type: ignore[assignment]

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        if "about" in question:
            return self.about()
        if "calls" in question:
            import timing

            clock = timing.thread if timing.THREADS == 1 else timing.wall
            return {"seconds": clock(self.function, question["calls"])}
        if "rows" in question:
            import grid

            return {"count": len(grid.rows(question["rows"]))}
        if "examples" in question:
            return {"paths": self.examples(Path(question["examples"]))}
        try:
            if "call" in question:
                return self.call(question["call"], question["path"], question["step"])
            return self.row(question["operator"], question["index"])
        except Exception as error:  # this row's, which is said and left out
            return {"missing": f"{type(error).__name__}: {error}"}

    def about(self) -> dict[str, Any]:
        import torch
        from timing import THREADS

        import ccdn_ops
        from ccdn_ops.backends import native

        torch.set_num_threads(THREADS)
        module, problem = native.module(), None
        if Path(ccdn_ops.__file__).parent.parent != self.folder:
            problem = f"Python imports {ccdn_ops.__file__}, not that of {self.folder}"
        elif module is None:
            problem = str(native.why_missing())
        return {
            "problem": problem,
            "operators": [name for name in ccdn_ops.__all__ if callable(getattr(ccdn_ops, name))],
            "isa": getattr(module, "cpu_isa", str)(),
            "built": "" if module is None else f"compiler {module.compiler}, {direct_calls()}",
            "versions": f"torch {torch.__version__}, Python {platform.python_version()}",
        }

    def row(self, operator: str, index: int) -> dict[str, Any]:
        import grid
        from cases import checked, steps

        case = grid.rows(operator)[index]()
        self.function = steps(case)["ours"]
        checked(case, {"ours": self.function})
        return {"size": case.size}

    def call(self, operator: str, path: str, step: bool) -> dict[str, Any]:
        import torch
        from torch.utils._pytree import tree_leaves

        import ccdn_ops

        function = getattr(ccdn_ops, operator)
        arguments, options = torch.load(path)
        leaves = [leaf.requires_grad_(step) for leaf in tree_leaves(arguments)]

        def outputs() -> Any:
            found = function(*arguments, **options)
            return (found,) if isinstance(found, torch.Tensor) else found

        upstream = [torch.ones_like(y) for y in outputs()]
        if step:
            self.function = lambda: torch.autograd.grad(outputs(), leaves, upstream)
        else:
            self.function = lambda: function(*arguments, **options)
        self.function()
        return {"size": {}}

    def examples(self, folder: Path) -> dict[str, str]:
        """Files with arguments and options of a small call of every operator of this tree."""
        import torch

        from ccdn_ops.ops.operator import OPERATORS

        example = importlib.import_module("bench_overhead").example
        paths = {}
        for name, record in OPERATORS.items():
            paths[name] = str(folder / f"{name}.pt")
            torch.save(example(record), paths[name])
        return paths


def direct_calls() -> str:
    """Which code makes this tree's direct calls: what a call costs depends on it."""
    try:
        compiled = importlib.import_module("ccdn_ops.backends.compiled")
    except ImportError:
        return "no direct calls"
    if compiled.module() is None:
        return f"direct calls in Python ({compiled.why_missing()})"
    return "direct calls in C++"


def serve(folder: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed
    served = Served(folder)
    for line in sys.stdin:
        print(json.dumps(served.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
