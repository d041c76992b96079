"""The public API: every module without an underscore at the start of a part of its name."""

import re
from pathlib import Path

import pytest

from hvmmu.testing.import_scan import is_public, private_imports

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"


def modules() -> set[str]:
    """Return the names of all modules of the core."""
    names = (path.relative_to(SOURCE).with_suffix("").parts for path in SOURCE.rglob("*.py"))
    return {".".join(parts).removesuffix(".__init__") for parts in names}


@pytest.mark.parametrize(
    "package",
    sorted(
        path.parent
        for top in ("plugins", "examples")
        for path in (ROOT / top).glob("*/src/hvmmu_*/__init__.py")
    ),
    ids=lambda path: path.name,
)
def test_plugins_import_public_modules_alone(package: Path) -> None:
    """One of the packages here imports what a third party could not."""
    found = list(private_imports(package))
    assert found
    assert [name for _, _, name in found if not is_public(name)] == []


def test_the_reference_has_every_public_module() -> None:
    """A module that plugins may import is on no page, or the reference describes a private one."""
    pages = (ROOT / "docs" / "api").glob("*.md")
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    described = set(re.findall(r"automodule:: (\S+)", text)) - {"hvmmu.testing"}
    public = {name for name in modules() if is_public(name)}
    packages = {name.rpartition(".")[0] for name in public} - {"hvmmu.workloads"}
    assert described == public - packages
