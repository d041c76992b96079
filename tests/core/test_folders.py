"""Entry points read from plain folders: as the standard library reads them, or left to it."""

import sys
from importlib.metadata import MetadataPathFinder, distributions
from pathlib import Path

import pytest

from hvmmu._plugins import folders
from hvmmu._plugins.point import GROUP, Point, about

METADATA = "Metadata-Version: 2.1\nName: acme-x\nVersion: 1.0\n"
POINTS = f"[{GROUP}]\nx = acme\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder with one distribution in it."""
    return installed(tmp_path / "site", "acme_x-1.0.dist-info", METADATA, POINTS)


def installed(site: Path, folder: str, metadata: str, points: str | None) -> Path:
    """Make a distribution's files in a folder of the path, and return that."""
    (site / folder).mkdir(parents=True)
    name = "PKG-INFO" if folder.endswith(".egg-info") else "METADATA"
    (site / folder / name).write_text(metadata)
    if points is not None:
        (site / folder / "entry_points.txt").write_text(points)
    return site


def by_the_library(path: list[str]) -> list[Point]:
    """Return what the standard library finds on a path."""
    seen, found = set(), []
    for one in distributions(path=path):
        if one._normalized_name not in seen:
            seen.add(one._normalized_name)
            points = one.entry_points.select(group=GROUP)
            found += [Point(point.name, point.value, *about(one)) for point in points]
    return sorted(found, key=repr)


def test_what_is_installed_here() -> None:
    """A plugin that is installed is not found, or credited to somebody else."""
    found = folders.entry_points()
    assert found is None or sorted(found, key=repr) == by_the_library(sys.path)


@pytest.mark.parametrize(
    "points",
    [
        POINTS,
        f"[console_scripts]\na = b:c\n\n# why\n[{GROUP}]\nx=acme : hooks [extra]\n  y = acme.y\n\n",
        f"[{GROUP}]\n[other]\nx = acme\n",
        f"[ {GROUP} ]\nx = acme\n",
        f"x = acme\n[{GROUP}\n[{GROUP}]\n#x = acme\n",
        "",
        None,
    ],
)
@pytest.mark.parametrize("folder", ["acme_x-1.0.dist-info", "acme_x.egg-info"])
def test_as_the_library_reads_it(tmp_path: Path, folder: str, points: str | None) -> None:
    """A plugin is found or not, or has another name, by who looks for it."""
    path = [str(installed(tmp_path, folder, METADATA, points)), str(tmp_path / "not there")]
    try:
        expected = by_the_library(path)
    except TypeError:  # a line that is no pair: it raises, and we leave it to raise
        assert folders.entry_points(path) is None
    else:
        assert folders.entry_points(path) == expected


def test_the_first_of_a_name_counts(site: Path, tmp_path: Path) -> None:
    """An old version further down the path is loaded besides the one that is used."""
    other = METADATA.replace("acme-x", "Acme.X")
    later = installed(tmp_path / "later", "Acme.X-0.9.dist-info", other, f"[{GROUP}]\nold = acme\n")
    both = folders.entry_points([str(site), str(later)])
    assert both == [Point("x", "acme", "acme-x", "1.0")]
    assert both == by_the_library([str(site), str(later)])


@pytest.mark.parametrize(
    ("metadata", "points"),
    [
        (METADATA, f"[{GROUP}]\nx\n"),
        (METADATA, POINTS + " " * (1 << 20)),
        (METADATA + "Name: another\n", POINTS),
        ("Metadata-Version: 2.1\nName: acme-x\n", POINTS),
        ("Name:\n acme-x\nVersion: 1.0\n", POINTS),
        ("", POINTS),
    ],
)
def test_the_unusual_is_left_to_the_library(tmp_path: Path, metadata: str, points: str) -> None:
    """What only the standard library can read is guessed at."""
    path = str(installed(tmp_path, "acme_x-1.0.dist-info", metadata, points))
    assert folders.entry_points([path]) is None


def test_so_is_what_is_in_no_folder(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin in a zip file, an egg, or where only another finder looks, is not found."""
    (tmp_path / "packed.zip").write_bytes(b"PK")
    (tmp_path / "some.egg").mkdir()
    assert folders.entry_points([str(site)]) is not None
    assert folders.entry_points([str(site), str(tmp_path / "packed.zip")]) is None
    assert folders.entry_points([str(site), str(tmp_path / "some.egg")]) is None
    assert folders.entry_points([str(site), site]) is None
    (site / "acme_x-1.0.dist-info" / "METADATA").write_bytes(METADATA.encode() + b"Author: \xe9")
    assert folders.entry_points([str(site)]) is None
    (site / "acme_x-1.0.dist-info" / "METADATA").write_text(METADATA)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, MetadataPathFinder])
    assert folders.entry_points([str(site)]) is None
