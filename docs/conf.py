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
    # not ours, and asking for their pages would take a network
    ("py:class", r"(collections|click|pathlib|pluggy)\..*"),
    # names for longer types, and type variables: autodoc writes them out nowhere
    ("py:class", r"hvmmu\.(backend\.C|generic\.P|params\.V)"),
    ("py:class", r"(Buffer|Exit|Part|Sink|Step|Value|Words)"),
    # private: a plugin meets them as values, and has no use for their names
    ("py:class", r"\W*(hvmmu\.(\w+\.)+)*(Ledger|Mmu|Operand|Registry|RunHooks|WorldSwitch)\W*"),
]
