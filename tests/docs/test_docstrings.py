"""Docstrings are what the reference is made of: reStructuredText with `name` for code and Google's
"Args:".
"""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator
from typing import Any

import pytest
from pages import ROOT

pytest.importorskip("sphinx", reason="the extra `docs` is not installed")


def docstrings() -> Iterator[tuple[str, str]]:
    """Those of public names, and where they stand; backends and specs draw their contracts."""
    for package in ("ccdn", "ccdn_ops"):
        for path in sorted((ROOT / package).rglob("*.py")):
            inside = path.relative_to(ROOT / package).parts
            of_operator = inside[0] == "ops" and len(inside) == 3
            if inside[0] == "backends" or (of_operator and path.name != "__init__.py"):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    continue
                name = getattr(node, "name", "")
                text = ast.get_docstring(node)
                if text and not name.startswith("_"):
                    yield f"{path.relative_to(ROOT)} {name}", text


def complaints(text: str) -> str:
    """What docutils says of a docstring."""
    from docutils import core, nodes
    from docutils.parsers.rst import roles
    from sphinx.ext.napoleon import Config, GoogleDocstring

    def code(role: str, raw: str, content: str, *_: Any, **__: Any) -> tuple[list[Any], list[Any]]:
        return [nodes.literal(raw, content)], []

    roles.register_local_role("name", code)
    rendered = str(GoogleDocstring(text, Config(napoleon_numpy_docstring=False)))
    said = io.StringIO()
    core.publish_doctree(
        f".. default-role:: name\n\n{rendered}",
        settings_overrides={"warning_stream": said, "report_level": 2},
    )
    return said.getvalue()


def test_every_docstring_can_be_read() -> None:
    found = list(docstrings())
    assert len(found) > 500
    wrong = {where: said for where, text in found if (said := complaints(text))}
    assert not wrong, "\n".join(f"{where}: {said}" for where, said in wrong.items())
    # One way to write code, and no second one.
    assert not [where for where, text in found if "``" in text]


def test_the_check_sees_what_is_wrong() -> None:
    assert "Undefined substitution" in complaints("At most |x| of it.")
    assert "Unexpected indentation" in complaints("Sizes:\nx: a number\n    of them\ny: another")
    assert not complaints("Sizes.\n\nArgs:\n    x: a number\n        of `them`.\n")
