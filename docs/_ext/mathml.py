"""Formulas as MathML, made with the pages: they need no network to be read."""

from docutils.nodes import SkipNode
from latex2mathml.converter import convert


def _inline(self, node):
    self.body.append(convert(node.astext(), display="inline"))
    raise SkipNode


def _block(self, node):
    mathml = convert(node.astext(), display="block")
    self.body.append(f'<div class="formula">{mathml}</div>\n')
    raise SkipNode


def setup(app):
    """Register the renderer ``html_math_renderer = "mathml"``."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
