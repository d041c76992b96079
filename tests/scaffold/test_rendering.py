"""The files of a new backend's package: what is in them, and for whom."""

import configparser
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from hvmmu._plugins import load
from hvmmu._scaffold import Origin, origin, render, write
from hvmmu._scaffold.naming import MOST
from hvmmu.errors import InputError
from hvmmu.testing import check_backend

ROOT = Path(__file__).parents[2]
INDEX = Origin("0.1.0", ">=3.11", "attrs>=23.2")
HERE = Origin("0.1.0", ">=3.11", "attrs>=23.2", "file:///somewhere/hvmmu")
NAMES = ["acme", "a", "z9-x", "a-" + "w" * (MOST - 2)]
DEMANDED = 60  # lines: a backend that only sets data is under this


class Found(Distribution):
    """A distribution with a given version and direct_url.json."""

    def __init__(self, version: str, noted: str | None) -> None:
        self._version, self._noted = version, noted

    def read_text(self, filename: str) -> str | None:
        """Return its metadata, or its direct_url.json."""
        if filename == "direct_url.json":
            return self._noted
        return f"Name: hvmmu\nVersion: {self._version}\nRequires-Python: >=3.11\n"

    def locate_file(self, path: Any) -> Any:  # noqa: ANN401
        """Refuse: nothing looks for a file."""
        raise AssertionError(path)


def deps(text: str) -> str | None:
    """Return what a tox.ini has as the matrix's deps."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    matrix = next(name for name in parser.sections() if name.startswith("testenv:py"))
    return parser[matrix].get("deps")


@pytest.mark.parametrize("name", NAMES)
def test_the_files_can_be_read(name: str) -> None:
    """A name is put where it breaks the file, or a placeholder is left."""
    files = render(name, INDEX)
    project = tomllib.loads(files["pyproject.toml"])["project"]
    module = f"hvmmu_{name.replace('-', '_')}"
    assert project["name"] == f"hvmmu-{name}"
    assert project["entry-points"]["hvmmu"] == {name: module}
    assert [Requirement(r).name for r in project["dependencies"]] == ["hvmmu", "attrs"]
    assert files[f"src/{module}/py.typed"] == ""
    for path, text in files.items():
        assert "$" not in path + text
        assert text.endswith("\n") or not text
        if path.endswith(".py"):
            compile(text, path, "exec")


@pytest.mark.parametrize("name", NAMES)
def test_a_backend_that_sets_data_is_short(name: str) -> None:
    """Writing a backend takes more than it is said to."""
    (path,) = (path for path in render(name, INDEX) if path.endswith("/backend.py"))
    assert len(render(name, INDEX)[path].splitlines()) < DEMANDED


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_to_our_own_rules(name: str, tmp_path: Path) -> None:
    """What a third party begins with would not pass the lint that we hold ourselves to."""
    pytest.importorskip("ruff", reason="ruff is not installed here")
    write(render(name, INDEX), tmp_path / "made")
    config = ["--config", str(ROOT / "pyproject.toml"), "--config", "src=['src']"]
    for check in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--no-cache", *config, "."]
        ended = subprocess.run(
            command, cwd=tmp_path / "made", capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_pythons_are_ours() -> None:
    """A new package is tested on other Pythons than the core is."""
    ours = (ROOT / "tox.ini").read_text(encoding="utf-8")
    matrices = {
        re.findall(r"py\{([\d,]+)\}-", text)[0] for text in (ours, render("a", INDEX)["tox.ini"])
    }
    assert len(matrices) == 1


def test_from_an_index_only_the_range_is_asked_for() -> None:
    """A package pins where its author happened to get hvmmu from."""
    assert deps(render("acme", INDEX)["tox.ini"]) is None
    assert "deps" not in render("acme", INDEX)["tox.ini"]


def test_from_elsewhere_no_index_is_asked() -> None:
    """Tox asks an index for hvmmu, where somebody else may own the name."""
    files = render("acme", HERE)
    assert deps(files["tox.ini"]) == "\nhvmmu @ file:///somewhere/hvmmu"
    files.pop("tox.ini")
    assert "somewhere" not in "".join(files.values())


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("direct", "url"),
    [
        ({"url": "file:///src/hvmmu", "dir_info": {"editable": True}}, "file:///src/hvmmu"),
        ({"url": "file:///src/hvmmu", "dir_info": {}}, "file:///src/hvmmu"),
        (
            {"url": "file:///w/hvmmu.whl", "archive_info": {"hashes": {"sha256": "ab"}}},
            "file:///w/hvmmu.whl",
        ),
        (
            {"url": "https://a.example/hvmmu.whl", "archive_info": {"hashes": {"sha256": "ab"}}},
            "https://a.example/hvmmu.whl#sha256=ab",
        ),
        (
            {
                "url": "https://a.example/hvmmu",
                "vcs_info": {"vcs": "git", "commit_id": COMMIT, "requested_revision": "main"},
                "subdirectory": "core",
            },
            f"git+https://a.example/hvmmu@{COMMIT}#subdirectory=core",
        ),
    ],
)
def test_where_it_came_from(direct: dict[str, Any], url: str) -> None:
    """A test environment is given another hvmmu than the one the package was written for."""
    found = origin(Found("0.1.0", json.dumps(direct)))
    assert found.url == url
    shown = deps(render("acme", found)["tox.ini"])
    assert shown == f"\nhvmmu @ {url}".replace("#", "\\#")  # a bare one begins a comment of tox's


def test_from_an_index_there_is_no_url() -> None:
    """Hvmmu from an index counts as one from elsewhere."""
    assert origin(Found("0.1.0", None)).url is None


@pytest.mark.parametrize(
    "noted", ["", "{", "[]", "{}", '{"url": 3}', '{"url": "x", "vcs_info": 1}']
)
def test_an_origin_that_cannot_be_read(noted: str) -> None:
    """A damaged installation is a traceback."""
    with pytest.raises(InputError, match="install hvmmu again"):
        origin(Found("0.1.0", noted))


@pytest.mark.parametrize(
    ("version", "accepted"),
    [
        ("0.1.0", ">=0.1.0,<0.2"),
        ("0.3.2.dev4+gabc", ">=0.3.2.dev4,<0.4"),
        ("0.2rc1", ">=0.2rc1,<0.3"),
        ("1.4.2", ">=1.4.2,<2"),
    ],
)
def test_the_range_of_versions(version: str, accepted: str) -> None:
    """A package takes an hvmmu with another interface, or not the one it was written for."""
    found = Origin(version, "", "")
    assert found.compatible == accepted
    assert Requirement(f"hvmmu{accepted}").specifier.contains(version, prereleases=True)


def test_a_vanished_origin_is_noticed(tmp_path: Path) -> None:
    """A tox.ini is written that cannot work, and nobody says so."""
    folder = tmp_path / "a b"
    made = Origin("0.1.0", "", "", folder.as_uri())
    assert made.is_gone
    folder.mkdir()
    assert not made.is_gone
    assert not INDEX.is_gone


def test_the_generated_backend_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend as generated is refused, or breaks a rule that needs no random program to see."""
    name, module = "rendered-here", "hvmmu_rendered_here"
    write(render(name, INDEX), tmp_path / "made")
    monkeypatch.syspath_prepend(str(tmp_path / "made" / "src"))
    registry = load([], extra=[module])
    assert [(p.state.value, p.cause) for p in registry.plugins] == [("ok", "")]
    assert name in registry.cost_models
    report = check_backend(name, level=4, registry=registry)
    assert report.ok, str(report)
