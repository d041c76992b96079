"""The files of a new package: the template with the name, the versions and the origin put in."""

from collections.abc import Mapping
from importlib.resources import files
from string import Template

from hvmmu._scaffold.naming import module_of
from hvmmu._scaffold.origin import Origin

_TEMPLATES = {
    ".gitignore": "gitignore.in",
    "README.md": "README.md.in",
    "pyproject.toml": "pyproject.toml.in",
    "src/$module/__init__.py": "init.py.in",
    "src/$module/backend.py": "backend.py.in",
    "src/$module/py.typed": None,
    "tests/test_backend.py": "test_backend.py.in",
    "tests/test_conformance.py": "test_conformance.py.in",
    "tox.ini": "tox.ini.in",
}
"""Which template each file is made from; None: an empty file."""

_FROM_HERE = """\
# hvmmu itself is installed from where it came from when this file was written: no index has to be
# asked for it, where somebody else may own the name. Remove `deps` once it comes from an index.
deps =
    hvmmu @ {url}
"""


def render(name: str, origin: Origin) -> dict[str, str]:
    """Return the text of every file of the package, by its path with slashes."""
    words = _words(name, origin)
    made = {}
    for path, template in _TEMPLATES.items():
        text = "" if template is None else _template(template).substitute(words)
        made[Template(path).substitute(words)] = text
    return made


def _words(name: str, origin: Origin) -> Mapping[str, str]:
    """Return what the templates' placeholders stand for."""
    deps = "" if origin.url is None else _FROM_HERE.format(url=_in_tox(origin.url))
    return {
        "name": name,
        "module": module_of(name),
        "class_": "".join(part.capitalize() for part in name.split("-")),
        "hvmmu": f"hvmmu{origin.compatible}",
        "attrs": origin.attrs,
        "python": origin.python,
        "deps": deps,
    }


def _in_tox(url: str) -> str:
    """Return *url* with what tox.ini gives a meaning to taken literally."""
    for special in "\\#{}":
        url = url.replace(special, f"\\{special}")
    return url


def _template(name: str) -> Template:
    return Template(files(__package__).joinpath("template", name).read_text(encoding="utf-8"))
