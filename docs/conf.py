"""How Sphinx builds the documentation."""

import tomllib
from pathlib import Path

_PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

project = _PROJECT["name"]
release = version = _PROJECT["version"]
author = "the hvmmu maintainers"
html_title = f"{project} {release}"
html_theme = "furo"
html_show_copyright = False
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
nitpick_ignore_regex = [
    # of other projects: their pages are on the network
    ("py:class", r"(collections|click|pathlib|pluggy)\..*"),
    # type aliases and type variables: autodoc documents none
    ("py:class", r"hvmmu\.(backend\.C|generic\.P|params\.V)"),
    ("py:class", r"(Buffer|Exit|Part|Sink|Space|Step|Value|Words)"),
    # classes of private modules, whose values a plugin receives
    ("py:class", r"\W*hvmmu\.(\w+\.)*_\w+(\.\w+)*\W*"),
    ("py:class", r"\W*(Ledger|Mmu|Operand|Registry|RunHooks|SpanTail|WorldSwitch)\W*"),
]
