"""Mutation testing: is a change of the metrics, readers or references noticed by their tests?

    python tests/mutation.py metrics
    python tests/mutation.py readers --sample 300 --minutes 9
    python tests/mutation.py readers --survivors        # once more, after new tests

cosmic-ray (`pip install -e '.[test,mutation]'`) makes the mutants: another operator, a number one
up or down, a condition negated, a loop that does not run, a decorator gone. Those that differ only
in type annotations or docstrings, or are another one again, are left out. Its own runner starts a
Python for each; here a process that has imported torch forks for each, in a copy of the tree whose
one file is changed, and stops at the first test that fails. A mutant that changes when tests are
collected, or takes more than ten times as long as the unchanged module, counts as killed.

The places of a group come in an order drawn with a seed, so that the first of them are a sample.
Verdicts are appended to build/mutation/GROUP.jsonl and not asked for twice, unless code of the
module has changed; the figures and the survivors are printed.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import gc
import hashlib
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "build" / "mutation"
COPIED = ("ccdn", "ccdn_ops", "tests")
OPERATORS = "ccdn_ops/ops"

DATA, EVALUATION, OPS = "tests/ccdn/data", "tests/ccdn/evaluation", "tests/ops"
BAD, MAT, FACES, FOLDER, PTS, W300, BENCHMARKS, WHOLE_BODY, IMAGES, JPEG = (
    f"{DATA}/test_{name}.py"
    for name in (
        *("bad_input", "bad_mat_files", "faces", "folder", "pts", "w300", "benchmarks"),
        *("whole_body", "images", "jpeg"),
    )
)
EVERY = [f"{OPS}/test_{name}.py" for name in ("operators", "operator_derivatives")]
# Large shapes, many draws and compilers: small shapes notice as much in a tenth of the time.
SLOWEST = (
    "exact or other_dtypes or any_shape or any_scale or small_maps or runs_are or bits or opcheck"
    " or compiles or global or few_channels or (no_variance and shape2)"
)

# The tests that should notice, the quickest first: for each module a list of pytest's arguments.
GROUPS: dict[str, dict[str, list[str]]] = {
    "metrics": {
        "ccdn/evaluation/metrics.py": [f"{EVALUATION}/test_metrics.py"],
        "ccdn/evaluation/scoring.py": [f"{EVALUATION}/test_scoring.py"],
        "ccdn/evaluation/protocols.py": [
            f"{EVALUATION}/test_scoring.py",
            f"{EVALUATION}/test_tables.py",
        ],
    },
    "readers": {
        "ccdn/data/formats/pts.py": [PTS],
        "ccdn/data/readers/w300.py": [W300, MAT, "-k", "w300 or 300w or mirror"],
        "ccdn/data/readers/wflw.py": [BAD, BENCHMARKS, "-k", "wflw or sizes"],
        "ccdn/data/readers/cofw.py": [MAT, BENCHMARKS, "-k", "cofw or sizes or mirror"],
        "ccdn/data/readers/aflw.py": [MAT, BENCHMARKS, "-k", "aflw or sizes"],
        "ccdn/data/readers/coco.py": [BAD, WHOLE_BODY, "-k", "coco or whole_body"],
        "ccdn/data/readers/folder.py": [FOLDER],
        "ccdn/data/readers/hrnet.py": [BAD, "-k", "hrnet"],
        "ccdn/data/faces.py": [FACES, BAD, MAT],
        "ccdn/data/images.py": [IMAGES, JPEG],
        "ccdn/data/formats/mat.py": [FACES, MAT],
        "ccdn/data/formats/mat5.py": [f"{DATA}/test_mat5.py"],
        "ccdn/data/formats/hdf5.py": [f"{DATA}/test_hdf5.py"],
        "ccdn/data/readers/pts_pairs.py": [W300, FOLDER],
        "ccdn/data/readers/official_splits.py": [FACES, BAD, MAT],
        "ccdn/data/readers/split_files.py": [FACES],
    },
    "references": {
        f"{OPERATORS}/{name}/reference.py": [
            *EVERY,
            f"{OPS}/test_{name}.py",
            "-k",
            f"({name} or how_little or as_many_steps or another_backend) and not ({SLOWEST})",
        ]
        for name in sorted(path.parent.name for path in (ROOT / OPERATORS).glob("*/reference.py"))
    },
}


@dataclass(frozen=True)
class Mutant:
    """One change of a module by an operator of cosmic-ray. key: names it for as long as the code
    of the module stays."""

    module: str
    operator: str
    key: str
    source: str

    def difference(self) -> str:
        lines = difflib.unified_diff(
            (ROOT / self.module).read_text(encoding="utf-8").splitlines(),
            self.source.splitlines(),
            lineterm="",
            n=0,
        )
        return "\n".join(f"    {line}" for line in list(lines)[2:])


# What is changed ---------------------------------------------------------------------------------


Place = tuple[str, str, int]  # a module, an operator, and which of the places where it applies


def places_of(module: str) -> list[Place]:
    """Every place of a module where an operator of cosmic-ray changes something."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = list(ast_nodes(get_ast((ROOT / module).read_text(encoding="utf-8"))))
    found = []
    for name in operator_names():
        operator = get_operator(name)
        if not operator.arguments() and not name.endswith("/NoOp"):
            count = sum(1 for node in nodes for _ in operator().mutation_positions(node))
            found += [(module, name, place) for place in range(count)]
    return found


def mutants(places: list[Place]) -> Iterator[Mutant]:
    """The mutants of these places, each once, without those that are no change."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    seen = set()
    for module, name, place in places:
        source = (ROOT / module).read_text(encoding="utf-8")
        changed = mutate_code(source, get_operator(name)(), place)
        try:
            what = meaning(changed)
        except SyntaxError:
            continue
        key = hashlib.sha256(f"{module} {what}".encode()).hexdigest()[:20]
        if key not in seen and what != meaning(source):
            seen.add(key)
            yield Mutant(module, name.removeprefix("core/"), key, changed)


def meaning(source: str) -> str:
    """The module without its annotations and docstrings, which nothing evaluates."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
    return ast.dump(tree)


# Who notices -------------------------------------------------------------------------------------


class Tree:
    """A copy of the packages and tests, in which one module at a time is changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        for name in COPIED:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        self._changes = 0

    def run(self, tests: list[str], limit: float, module: str = "", source: str = "") -> str:
        """What the tests say to the module with this source."""
        path = self.folder / module
        original = path.read_text(encoding="utf-8") if module else ""
        if module:
            path.write_text(source, encoding="utf-8")
            self._changes += 1  # bytecode is known by its source's second and size
            os.utime(path, (self._changes, self._changes))
        try:
            return self._forked(tests, limit)
        finally:
            if module:
                path.write_text(original, encoding="utf-8")

    def _forked(self, tests: list[str], limit: float) -> str:
        child = os.fork()
        if child == 0:
            os._exit(self._pytest(tests, limit))
        watched = os.pidfd_open(child)
        ended, _, _ = select.select([watched], [], [], limit)
        os.close(watched)
        if not ended:
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not ended or os.WIFSIGNALED(status):
            return "timeout" if not ended else "killed"
        code = os.waitstatus_to_exitcode(status)
        if code in (3, 4, 5):  # pytest's own faults; no test
            raise RuntimeError(f"pytest ended with {code}: {' '.join(tests)}, {self.folder}/output")
        return "survived" if code == 0 else "killed"

    def _pytest(self, tests: list[str], limit: float) -> int:
        import pytest

        os.setsid()
        os.chdir(self.folder)
        memory = 8 << 30
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        with (self.folder / "output").open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        options = ["-x", "-q", "--tb=short", "--hypothesis-seed=0"]
        options += ["-p", "_hypothesis_pytestplugin", "-p", "no:cacheprovider"]
        options += ["-m", "not slow and not gpu", f"--basetemp={self.folder / 'tmp'}"]
        return int(pytest.main([*options, *tests]))


def preload(group: str, tree: Tree) -> None:
    """Import what is the same for every mutant of the group, from the tree what is of the tree."""
    sys.path[:] = [str(tree.folder), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    os.environ.update(PYTHONPATH=str(tree.folder), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    os.environ.pop("CCDN_SHARED", None)
    names = [
        "torch.distributed",
        "triton",
        "cv2",
        "h5py",
        "hypothesis",
        "matplotlib",
    ]
    names += ["omegaconf", "pytest", "scipy.io", "scipy.linalg", "_hypothesis_pytestplugin"]
    names += ["torch._dynamo", "torch._inductor.config"]  # what deterministic algorithms import
    if not any(module.startswith("ccdn_ops") for module in GROUPS[group]):
        names += ["ccdn_ops", "ccdn_ops.backends.triton.launcher"]
    for name in names:
        importlib.import_module(name)
    gc.freeze()  # pytest collects garbage twenty times


# The pass ----------------------------------------------------------------------------------------


def known(group: str) -> dict[str, dict[str, str]]:
    """The verdicts so far by the mutant's key, the last one of each."""
    path = RESULTS / f"{group}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {found["key"]: found for found in map(json.loads, lines)}


def measure(group: str, chosen: list[Mutant], end: float) -> None:
    """Ask the tests for the verdict of each, until the time is over."""
    tree = Tree(RESULTS / f"{group}-{os.getpid()}")
    preload(group, tree)
    seconds: dict[str, float] = {}
    with (RESULTS / f"{group}.jsonl").open("a", encoding="utf-8") as file:
        for mutant in chosen:
            tests = GROUPS[group][mutant.module]
            if time.monotonic() > end:
                break
            if mutant.module not in seconds:
                start = time.monotonic()
                if tree.run(tests, 600) != "survived":
                    raise SystemExit(f"{mutant.module}: its tests fail, {tree.folder}/output")
                seconds[mutant.module] = time.monotonic() - start
                print(f"{mutant.module}: {seconds[mutant.module]:.1f} s", flush=True)
            limit = 10 + 10 * seconds[mutant.module]
            verdict = tree.run(tests, limit, mutant.module, mutant.source)
            about = {"module": mutant.module, "operator": mutant.operator, "key": mutant.key}
            found = {**about, "verdict": verdict, "change": mutant.difference()}
            file.write(json.dumps(found) + "\n")
            file.flush()
    shutil.rmtree(tree.folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--sample", type=int, help="so many mutants of the group, not all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after these")
    parser.add_argument("--survivors", action="store_true", help="ask for them once more")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    places = [p for module in GROUPS[options.group] for p in places_of(module)]
    places.sort(key=lambda p: hashlib.sha256(f"{options.seed} {p}".encode()).digest())
    wanted = list(islice(mutants(places), options.sample))
    verdicts = known(options.group)
    again = "survived" if options.survivors else None
    todo = [m for m in wanted if verdicts.get(m.key, {}).get("verdict") == again]
    if todo:
        measure(options.group, todo, end)
    report(options.group, wanted, len(places), known(options.group))


def report(group: str, wanted: list[Mutant], of: int, verdicts: dict[str, dict[str, str]]) -> None:
    """The figures of each module and of the group, and what survived."""
    rows: dict[str, list[str]] = {module: [] for module in GROUPS[group]}
    for mutant in wanted:
        if mutant.key in verdicts:
            rows[mutant.module].append(verdicts[mutant.key]["verdict"])
    rows["all"] = [verdict for found in rows.values() for verdict in found]
    print(f"\n{group}: {len(rows['all'])} mutants, drawn from {of} places")
    for module, found in rows.items():
        killed = len(found) - found.count("survived")
        print(
            f"  {module:45} {killed:4} of {len(found):4} killed {killed / max(len(found), 1):7.1%}"
        )
    for mutant in wanted:
        if verdicts.get(mutant.key, {}).get("verdict") == "survived":
            print(f"\n{mutant.module} {mutant.operator}\n{mutant.difference()}")


if __name__ == "__main__":
    main()
