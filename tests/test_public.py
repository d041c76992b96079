"""The public API: each module of the core is public, or import-linter keeps plugins out of it."""

import re
import tomllib
from pathlib import Path
from typing import Any

from hvmmu.testing import sources

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "hvmmu",
    "hvmmu.__main__",  # imported by nobody
    "hvmmu.guest",
    "hvmmu.hw",
    "hvmmu.mmu",
    *sources.PUBLIC,
}
"""What a plugin may import, and the packages it lies in; of `hvmmu.testing` its tests may."""
WHOLE = {"hvmmu.arch"}
"""Packages of which every module is public."""


def contract() -> dict[str, Any]:
    """Return the contract that keeps plugins to the public modules."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    return next(c for c in contracts if c["name"].startswith("Plugins and examples keep to"))


def modules() -> set[str]:
    """Return the names of all modules of the core."""
    source = ROOT / "src"
    names = (path.relative_to(source).with_suffix("").parts for path in source.rglob("*.py"))
    return {".".join(parts).removesuffix(".__init__") for parts in names}


def test_a_module_is_public_or_private() -> None:
    """A plugin may come to lean on a module that nobody meant it to, or is kept from a public one.

    To be decided for each new module: list it above, or in pyproject.toml.
    """
    private = set(contract()["forbidden_modules"])
    parents = {name: {name.rsplit(".", n)[0] for n in range(name.count("."))} for name in modules()}
    undecided = {
        name
        for name, above in parents.items()
        if name not in PUBLIC and not above & (private | WHOLE)
    }
    assert undecided == set()
    assert private <= modules()
    assert modules() >= PUBLIC
    assert private & PUBLIC == set()


def test_every_plugin_of_ours_is_held_to_it() -> None:
    """One of the packages here imports what a third party could not."""
    packages = {
        path.parent.name
        for top in ("plugins", "examples")
        for path in (ROOT / top).glob("*/src/hvmmu_*/__init__.py")
    }
    assert set(contract()["source_modules"]) == packages


def test_the_reference_has_every_public_module() -> None:
    """A module that plugins may import is on no page, or the reference describes a private one."""
    pages = (ROOT / "docs" / "api").glob("*.md")
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    described = set(re.findall(r"automodule:: (\S+)", text)) - {"hvmmu.testing"}
    public = PUBLIC | {name for name in modules() if name.rpartition(".")[0] in WHOLE}
    packages = {name.rpartition(".")[0] for name in public} - {"hvmmu.workloads"}
    assert described == public - packages - {"hvmmu.__main__"}
