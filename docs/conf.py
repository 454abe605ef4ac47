"""Sphinx settings; ``make docs`` builds the site with warnings as errors."""

import os
import re
import sys
import warnings
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

os.environ.setdefault("MPLBACKEND", "Agg")

import torch  # noqa: E402

from skvibe import __version__  # noqa: E402

torch.set_num_threads(1)

project = "skvibe"
author = "the skvibe developers"
project_copyright = "the skvibe developers"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.extlinks",
    "sphinx.ext.viewcode",
    "myst_parser",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "mathml",
    "benchmark_tables",
]
exclude_patterns = ["_build", "auto_examples/*.ipynb", "auto_examples/*.py"]
templates_path = ["_templates"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
# `VIBEClassifier` in a docstring is a link where there is something to link to.
default_role = "py:obj"
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

extlinks = {"doi": ("https://doi.org/%s", "doi:%s")}

autosummary_generate = True
autodoc_typehints = "none"
# "fit()" in the list beside a page, not "VIBEClassifier.fit()", which is cut there.
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
# Methods are listed by the template docs/_templates/class.rst.
numpydoc_show_class_members = False

# Every check of numpydoc but these:
numpydoc_validation_checks = {
    "all",
    "ES01",  # many functions need no more than their one line
    "SA01",  # "See Also" only where there is something to see
    "EX01",  # examples are on classes and functions, not on every method
    "RT02",  # a returned value may be named, which is the clearer documentation
    "SS05",  # takes "scikit-learn's" and "class" for verbs
    "GL08",  # docstrings of attributes are in their class's own
}
# `forward` of a torch module has the signature that torch gives it.
# Result objects, which nobody makes by hand, document their attributes.
numpydoc_validation_exclude = {
    r"\.forward$",
    r"\.build$",
    r"\.(TransportResult|OffManifoldResult|Communities)$",
}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    # Tutorials need minutes, or a language model: shown and not run.
    "filename_pattern": r"/(?![a-z_]*tutorial)[a-z_]+\.py$",
    "ignore_pattern": r"make_texts_csv\.py",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "min_reported_time": 5,
    "remove_config_comments": True,
    "within_subsection_order": "FileNameSortKey",
}
# What an example warns of is a fault of the example, but for matplotlib's remark that
# it has no screen to show a figure on.
warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")

html_theme = "pydata_sphinx_theme"
html_title = f"skvibe {version}"
html_static_path = ["_static"]
html_css_files = ["skvibe.css"]
html_copy_source = False
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 5,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
html_show_sourcelink = False
html_context = {"default_mode": "auto"}


def skip_member(app, what, name, item, skip, options):
    """Leave out what scikit-learn and torch put into every class."""
    requests = name.startswith("set_") and name.endswith("_request")
    return True if requests or name in ("forward", "build") else None


def unlink_folders(app, docname, source):
    """A folder has no page: links to one, which a file browser follows, become text."""
    source[0] = re.sub(
        r"\[([^\]]+)\]\((\.\./[^)]*)\)",
        lambda link: link[1] if (DOCS / link[2]).is_dir() else link[0],
        source[0],
    )


def setup(app):
    app.connect("source-read", unlink_folders)
    app.connect("autodoc-skip-member", skip_member)
