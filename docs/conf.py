"""The site: `make docs` builds it into build/docs, and a warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

from ccdn_ops import __version__  # noqa: E402

project = "CCDN"
author = "the CCDN authors"
release = version = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "mathml",
]

highlight_language = "none"  # a block without a language is a command

# Markdown as GitHub renders it: $...$, ```math and headings that can be linked to.
myst_enable_extensions = ["dollarmath"]
myst_dmath_double_inline = True
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3

# Docstrings: reStructuredText with `name` for code, and Google's "Args:".
default_role = "py:obj"
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"CCDN {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False


def skip_fields(app: Sphinx, what: str, name: str, item: Any, skip: bool, options: Any) -> bool:
    """The fields of a named tuple are in its docstring; their own only count them."""
    return skip or str(getattr(item, "__doc__", "")).startswith("Alias for field number")


def arrows(app: Sphinx, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """What a function makes of its arguments, in one character: "->" would break over lines."""
    lines[:] = [line.replace(" -> ", " → ") for line in lines]


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", arrows)
    app.connect("autodoc-skip-member", skip_fields)
