"""`hvmmu new-backend`: what it writes, what it refuses, and that it leaves nothing half done."""

from pathlib import Path

import pytest

from hvmmu._cli import main
from hvmmu._scaffold import Origin

FILES = {
    ".gitignore",
    "README.md",
    "pyproject.toml",
    "src/hvmmu_my_one/__init__.py",
    "src/hvmmu_my_one/backend.py",
    "src/hvmmu_my_one/py.typed",
    "tests/test_backend.py",
    "tests/test_conformance.py",
    "tox.ini",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    """Return what is in a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_it_writes_a_package(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file is missing, or what to type next is wrong."""
    assert main(["new-backend", "my-one"]) == 0
    assert set(contents(here / "hvmmu-my-one")) == FILES
    assert [path.name for path in here.iterdir()] == ["hvmmu-my-one"]
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out == (
        "hvmmu-my-one: a package with the backend my-one, 9 files. Next:\n"
        "  pip install -e ./hvmmu-my-one\n"
        "  hvmmu check my-one\n"
        "  cd ./hvmmu-my-one && tox\n"
    )


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        pytest.param("x y", "'./x y'", id="a blank"),
        pytest.param("there", "./there", id="empty"),
        pytest.param("-x", "./-x", id="like an option"),
        pytest.param("{here}", "{here}", id="absolute"),
    ],
)
def test_a_folder_may_be_named(
    name: str, typed: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of one's own is not used, or what to type next cannot be typed."""
    (here / "there").mkdir()
    name, typed = (text.replace("{here}", str(here / "there")) for text in (name, typed))
    assert main(["new-backend", "my-one", "--", name]) == 0
    assert set(contents(here / name)) == FILES
    assert f"\n  pip install -e {typed}\n" in capsys.readouterr().out


def test_the_folder_one_is_in(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shell's folder is replaced under it, and the shell sees it empty for ever."""
    before = here.stat().st_ino
    assert main(["new-backend", "my-one", "."]) == 0
    assert set(contents(here)) == FILES
    assert here.stat().st_ino == before
    assert "\n  pip install -e .\n" in capsys.readouterr().out


def test_the_same_again(here: Path) -> None:
    """Two runs write different bytes."""
    assert main(["new-backend", "my-one", "a"]) == main(["new-backend", "my-one", "b"]) == 0
    assert contents(here / "a") == contents(here / "b")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Acme", "lower-case letters"),
        ("1st", "a letter first"),
        ("a_b", "cannot be a backend's name"),
        ("a--b", "single hyphens"),
        ("a-", "cannot be"),
        ("", "cannot be"),
        ("a" * 25, "at most 24"),
        ("../x", "cannot be"),
        ("é", "cannot be"),
        ("a\nb", "cannot be"),
        ("native", "has it"),
        ("cpu", "has it"),
        ("costs", "has it"),
        ("nehalem", "has it"),
        ("class", "a word of Python's"),
        ("py311", "take it for a Python"),
        ("not-native", "the built-in backend"),
    ],
)
def test_names_that_cannot_be(
    name: str, why: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name is taken that breaks the package, or shadows something else."""
    assert main(["new-backend", "--", name]) == 2
    said = capsys.readouterr().err
    assert said.startswith("hvmmu: error: ")
    assert why in said
    assert said.count("\n") == 1
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("module", ["vmx", "svm"])
def test_the_name_of_an_installed_backend(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A second backend is generated under a name that is taken: neither would be used."""
    pytest.importorskip(f"hvmmu_{module}")
    assert main(["new-backend", module]) == 2
    assert "a backend, plugin, cost model or section" in capsys.readouterr().err


def test_the_name_of_an_installed_module(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The package hides another one, whose backend has some other name."""
    (here / "lib").mkdir()
    (here / "lib" / "hvmmu_there_already.py").touch()
    monkeypatch.syspath_prepend(str(here / "lib"))
    assert main(["new-backend", "there-already"]) == 2
    assert "a module hvmmu_there_already is installed" in capsys.readouterr().err


def test_what_is_there_stays(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody's files are overwritten, or mixed with new ones."""
    (here / "full").mkdir()
    (here / "full" / "mine").write_text("mine")
    (here / "file").touch()
    (here / "loose").symlink_to("nowhere/at/all")
    for name in ("full", "file", "loose", "nowhere/else"):
        assert main(["new-backend", "my-one", name]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"hvmmu: error: {name}: ")
        assert said.count("\n") == 1
    assert sorted(path.name for path in here.iterdir()) == ["file", "full", "loose"]
    assert contents(here / "full") == {"mine": b"mine"}


@pytest.mark.parametrize("folder", ["new", "empty"])
def test_nothing_is_left_half_written(
    folder: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk that fills up leaves a package that looks complete."""
    (here / "empty").mkdir()
    rename = Path.rename

    def fails_late(self: Path, target: Path) -> Path:
        if self.name in ("package", "tests"):
            raise OSError(28, "No space left on device", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_late)
    assert main(["new-backend", "my-one", folder]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert contents(here) == {}
    assert [path.name for path in here.iterdir()] == ["empty"]


def test_an_origin_that_is_gone(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tox.ini is written that cannot install hvmmu, and its author learns it from tox."""
    gone = (here / "gone.whl").as_uri()
    made = Origin("0.1.0", ">=3.11", "attrs>=23.2", gone)
    monkeypatch.setattr("hvmmu._scaffold.origin", lambda: made)
    assert main(["new-backend", "my-one"]) == 0
    assert "hvmmu_origin_is_gone" in capsys.readouterr().err
    assert f"hvmmu @ {gone}" in (here / "hvmmu-my-one" / "tox.ini").read_text(encoding="utf-8")
