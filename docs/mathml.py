"""A Sphinx extension: formulas become MathML while the site is built.

Browsers draw MathML themselves, so the pages need no script and no network. LaTeX that latex2mathml
does not know is a warning, which `make docs` takes for an error.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_log = logging.getLogger(__name__)


def mathml(latex: str, display: str, node: nodes.Node) -> str:
    """A <math> element; display is "inline" or "block"."""
    try:
        found = convert(latex.strip(), display=display)
    except Exception as error:  # one exception for each way of being wrong
        _log.warning("formula %r: %r", latex, error, location=node)
        return ""
    # What it does not know goes through as it is.
    if "\\" in found or ">&<" in found:
        _log.warning("formula %r has a part that latex2mathml does not know", latex, location=node)
    return found


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext(), "inline", node))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    formula = mathml(node.astext(), "block", node)
    translator.body.append(f'<div class="formula">{formula}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
