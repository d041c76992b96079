"""Entry points of plugins: found in plain folders, or wherever the standard library finds them."""

import sys
from importlib.metadata import MetadataPathFinder, distributions
from pathlib import Path

import pytest

from hvmmu._plugins import GROUP, State
from hvmmu._plugins.discovery import PluginEntryPoint, discover

METADATA = "Metadata-Version: 2.1\nName: acme-x\nVersion: 1.0\n"
POINTS = f"[{GROUP}]\nx = acme\n"
HERE = PluginEntryPoint("x", "acme", "acme-x", "1.0")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder with one distribution in it."""
    return installed(tmp_path / "site", "acme_x-1.0.dist-info", METADATA, POINTS)


def installed(site: Path, folder: str, metadata: str | None, points: str | None) -> Path:
    """Write a distribution's files to a folder of the path, and return that."""
    (site / folder).mkdir(parents=True)
    if metadata is not None:
        name = "PKG-INFO" if folder.endswith(".egg-info") else "METADATA"
        (site / folder / name).write_text(metadata)
    if points is not None:
        (site / folder / "entry_points.txt").write_text(points)
    return site


def found(*path: object) -> list[PluginEntryPoint]:
    """Return the entry points on a path where nothing is damaged."""
    points, damaged = discover([str(one) if isinstance(one, Path) else one for one in path])
    assert damaged == []
    return points


def by_the_library(path: list[str]) -> list[tuple[str, str]]:
    """Return names and values that the standard library finds on a path."""
    seen, points = set(), []
    for one in distributions(path=path):
        if one._normalized_name not in seen:
            seen.add(one._normalized_name)
            points += [(p.name, p.value) for p in one.entry_points.select(group=GROUP)]
    return sorted(points)


@pytest.fixture
def another_finder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the standard library look, as where an archive or another finder is on the path."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, MetadataPathFinder])


def test_what_is_installed_here() -> None:
    """A plugin that is installed is not found, or has another distribution."""
    points, damaged = discover()
    assert damaged == []
    assert sorted((p.name, p.value) for p in points) == by_the_library(sys.path)
    assert all(p.distribution.startswith("hvmmu-") and p.version for p in points)


@pytest.mark.parametrize(
    "points",
    [
        POINTS,
        f"[console_scripts]\na = b:c\n\n# why\n[{GROUP}]\nx=acme : hooks [extra]\n  y = acme.y\n\n",
        f"[{GROUP}]\n[other]\nx = acme\n",
        f"[ {GROUP} ]\nx = acme\n",
        f"[{GROUP}]\n#x = acme\n",
        "",
        None,
    ],
)
@pytest.mark.parametrize("folder", ["acme_x-1.0.dist-info", "acme_x.egg-info"])
def test_as_the_library_reads_it(tmp_path: Path, folder: str, points: str | None) -> None:
    """A plugin is found or not, or has another name, by the reader of its file."""
    site = installed(tmp_path, folder, METADATA, points)
    own = [(p.name, p.value) for p in found(site, tmp_path / "not there")]
    assert own == by_the_library([str(site)])


def test_a_line_that_is_none(tmp_path: Path) -> None:
    """A damaged file of a plugin is ignored silently, or one of another tool is reported."""
    site = installed(tmp_path / "ours", "acme_x-1.0.dist-info", METADATA, f"[{GROUP}]\nnothing\n")
    points, (plugin,) = discover([str(site)])
    assert points == []
    assert (plugin.name, plugin.origin, plugin.state) == ("acme-x", "acme-x 1.0", State.BROKEN)
    assert plugin.cause.endswith("'nothing' is not name = value")
    other = installed(tmp_path / "other", "acme_x-1.0.dist-info", METADATA, "[other]\nnothing\n")
    assert found(other) == []


def test_the_first_of_a_name_counts(site: Path, tmp_path: Path) -> None:
    """An old version further down the path is loaded besides the one that is used."""
    later = installed(tmp_path / "later", "Acme.X-0.9.dist-info", METADATA, f"[{GROUP}]\nold = a\n")
    assert found(site, later) == [HERE]


def test_leftovers_of_an_interrupted_installation(site: Path, tmp_path: Path) -> None:
    """A folder that pip left behind hides a plugin, or makes it a duplicate of itself."""
    left = installed(tmp_path / "left", "~cme_x-0.9.dist-info", METADATA, POINTS)
    installed(left, "acme_x-0.8.dist-info", None, None)
    installed(left, "acme_x-0.7.dist-info", None, POINTS)
    assert found(left, site) == [HERE]
    assert found(left) == []


@pytest.mark.usefixtures("another_finder")
def test_the_library_ignores_leftovers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, where another finder is installed."""
    left = installed(tmp_path / "left", "~cme_x-0.9.dist-info", METADATA, POINTS)
    installed(left, "acme_x-0.8.dist-info", None, POINTS)
    site = installed(tmp_path / "site", "acme_x-1.0.dist-info", METADATA, POINTS)
    monkeypatch.setattr(sys, "path", [str(left), str(site)])
    assert discover() == ([HERE], [])
    (site / "acme_x-1.0.dist-info" / "entry_points.txt").write_bytes(b"\xff")
    assert discover() == ([], [])


def test_archives_are_left_to_the_library(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin in a zip file or an egg is not found."""
    (tmp_path / "packed.zip").write_bytes(b"PK")
    (tmp_path / "some.egg").mkdir()
    monkeypatch.setattr(sys, "path", [str(site)])
    for other in (str(tmp_path / "packed.zip"), str(tmp_path / "some.egg"), object()):
        assert found(other) == [HERE]  # the library's own path, which is that of the system
