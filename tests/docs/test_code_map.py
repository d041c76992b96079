"""The pages under Development: each file and each function they name is in the tree."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "hvmmu"
PAGES = sorted((ROOT / "docs" / "development").glob("*.md"))
MAP = ROOT / "docs" / "development" / "code-map.md"
ROW = re.compile(r"^\| (.+\?) \| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)
FILE = r"(?:[\w.-]+/)*[\w-]+\.(?:py|c|h|toml|md|ini)"
NAMED = re.compile(rf"(?<![\w./-])({FILE}|(?:[\w.-]+/)+)(?![\w*])")
BASES = (SOURCE, ROOT, SOURCE / "_core", ROOT / "benchmarks", ROOT / "docs" / "development")


def rows() -> list[tuple[str, str, str]]:
    """Return the questions of the map, each with its file and function."""
    return ROW.findall(MAP.read_text(encoding="utf-8"))


def place(name: str) -> Path | None:
    """Return the file or folder that a page names, or None if there is none."""
    return next((base / name for base in BASES if (base / name).exists()), None)


def is_defined(function: str, path: Path) -> bool:
    """Return whether a file defines a function or a class, indented or not."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return bool(re.search(rf"^ *(?:def|class) {function}\b", text, re.MULTILINE))
    return bool(re.search(rf"^\w[^;=]*?\b{function}\([^;]*?\)\s*\{{", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_exists(page: Path) -> None:
    """A page for developers names a file that was moved or deleted."""
    text = page.read_text(encoding="utf-8")
    assert [name for name in NAMED.findall(text) if place(name) is None] == []


@pytest.mark.parametrize(("question", "file", "function"), rows())
def test_every_question_has_its_answer(question: str, file: str, function: str) -> None:
    """A newcomer is sent to a file that does not define the function, or that does not exist."""
    path = place(file)
    assert path is not None, question
    assert is_defined(function, path), f"{question} {file} has no {function}"


def test_there_are_enough_questions() -> None:
    """The table was cut short, or its rows are no longer recognised."""
    table = [line for line in MAP.read_text(encoding="utf-8").splitlines() if "? |" in line]
    assert len(rows()) == len(table) >= 10


def test_a_missing_function_is_noticed() -> None:
    """The search for a definition finds calls and declarations too, or none at all."""
    walk = SOURCE / "_core" / "walk.c"
    assert is_defined("hv_walk", walk)
    assert not is_defined("memset", walk)
    assert not is_defined("hv_walk", SOURCE / "_core" / "walk.h")
