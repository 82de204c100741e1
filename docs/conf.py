"""Sphinx settings. The site builds offline: no extension fetches anything."""

import re
from importlib.metadata import version as installed_version

from sphinx.application import Sphinx

project = "hirescam"
author = "The hirescam contributors"
project_copyright = author
version = release = installed_version("hirescam")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.bibtex",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "hirescam"

myst_heading_anchors = 3
bibtex_bibfiles = ["bibliography.bib"]
bibtex_default_style = "plain"
suppress_warnings = [
    # The bibliography lists every entry, cited on a page or only in a docstring.
    "bibtex.duplicate_citation",
]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False

nitpicky = True
nitpick_ignore_regex = [
    # Other packages are not linked: intersphinx would fetch their inventories.
    (r"py:.*", r"(torch|numpy|PIL|pathlib|collections|typing|enum|os|types)\..*"),
    # The same names when a module imports them bare.
    (r"py:.*", r"(Tensor|nn\.Module|Path|Callable|Mapping|Sequence|Iterator|Any)"),
    # Modules and names that are not part of the public interface have no page of their own.
    (r"py:.*", r"hirescam\.\w+\..*"),
]

AXES = re.compile(r"(?<![\w*`\\])\*(?=\w+(?![\w*]))|(?<![`\\])\|")
"""The star of an axis list such as (b, *space), and a bar as in |raw|. Emphasis has two stars."""


def escape_formulas(_app: Sphinx, what: str, _name: str, _obj: object, *rest: object) -> None:
    """Let docstrings write formulas plainly: outside literals, stars and bars mean themselves."""
    lines = rest[-1]
    assert isinstance(lines, list)
    if what == "module":  # written for readers of the code
        lines.clear()
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``)", line)
            parts[::2] = [AXES.sub(lambda found: "\\" + found[0], part) for part in parts[::2]]
            lines[number] = "".join(parts)


def setup(app: Sphinx) -> None:
    # Before napoleon, which turns sections into fields.
    app.connect("autodoc-process-docstring", escape_formulas, priority=400)
