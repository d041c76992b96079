"""Scan the source of a package for its imports of hvmmu, without running it."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hvmmu.testing.check import CheckFailure

if TYPE_CHECKING:
    from collections.abc import Iterator

_TESTS = ("tests", "test")
_MOST = 4 << 20  # bytes of one source file


def is_public(name: str) -> bool:
    """Return whether a plugin may import *name*: no part of it begins with an underscore.

    `hvmmu.testing` is for a plugin's tests alone.
    """
    parts = name.split(".")
    return parts[1:2] != ["testing"] and not any(part.startswith("_") for part in parts)


def package_of(module: str) -> Path:
    """Return the folder of the package that *module* is in, or its file if it is in none."""
    spec = find_spec(module.partition(".")[0])
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    if spec is not None and spec.origin:
        return Path(spec.origin)
    raise CheckFailure(f"the source of {module} was not found")


def private_imports(package: Path) -> Iterator[tuple[str, int, str]]:
    """Yield file, line and name of each import of hvmmu, tests excepted."""
    files = sorted(package.rglob("*.py")) if package.is_dir() else [package]
    for path in files:
        inside = path.relative_to(package.parent)
        if any(part in _TESTS for part in inside.parts) or path.stat().st_size > _MOST:
            continue
        tree = ast.parse(path.read_bytes(), filename=str(inside))
        for node in ast.walk(tree):
            for name in _imported(node):
                if name == "hvmmu" or name.startswith("hvmmu."):
                    yield inside.as_posix(), getattr(node, "lineno", 0), name


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level and node.module:
        return [f"{node.module}.{alias.name}".removesuffix(".*") for alias in node.names]
    return []
