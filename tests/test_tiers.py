"""The tiers of tests: `make check` in two minutes, `make test`, `make test-all`.

check   one representative row of every operator on every backend, the shortest training, one
        reader, metrics, configurations, the figures of the README
slow    what a change rarely breaks alone: whole grids of shapes, fuzzing, killed runs
"""

from __future__ import annotations

import pytest

from ccdn_ops.ops.operator import OPERATORS

# How the rows of a backend are called where tests do not choose it by the fixture `backend`.
FILES = {"test_cuda_operators.py": "cuda", "test_triton_compiled.py": "triton"}


@pytest.mark.check
def test_check_has_every_operator_on_every_backend(request: pytest.FixtureRequest) -> None:
    if request.config.option.markexpr != "check":
        pytest.skip("looks at what `make check` selects")
    found = set()
    for item in request.session.items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if "operator" in parameters:
            backend = FILES.get(item.path.name) or parameters["backend"]
            found.add((str(parameters["operator"]), backend))
    backends = ("reference", "cpu", "cuda", "triton")
    assert found == {(operator, backend) for operator in OPERATORS for backend in backends}
