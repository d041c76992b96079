"""What is wrong with a configuration: all of it at once, one clear line each."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from hvmmu._config import Config, ConfigSchema, resolve
from hvmmu._config.sources import MOST_BYTES
from hvmmu.errors import ConfigError
from hvmmu.params import param


def test_all_problems_are_told_at_once(
    problems: Callable[..., tuple[str, ...]], tmp_path: Path
) -> None:
    """One error hides another, so that a user mends them one run at a time."""
    (tmp_path / "hvmmu.toml").write_text(
        'bakend = "left"\ncosts = "neha"\n[mmu]\nflod = 1\nflood = true\n[gest]\nmemory = 1\n'
    )
    environ = {"HVMMU_MMU_FLOD": "1", "HVMMU_LEFT_DEPTH": "0"}
    found = problems("depht=1", "left.depth=x", backends=["lefty"], environ=environ)
    assert found == (
        "HVMMU_MMU_FLOD: no such setting; did you mean 'HVMMU_MMU_FLOOD'?",
        (
            "backend (-b lefty): 'lefty' is not an installed backend (native, left, right); "
            "did you mean 'left'? (see `hvmmu backends`)"
        ),
        "bakend (hvmmu.toml): no such key; did you mean 'backend'?",
        "mmu.flod (hvmmu.toml): mmu has no such parameter; did you mean 'flood'?",
        (
            "gest (hvmmu.toml): no such section (mmu, guest, native, left, right); "
            "did you mean 'guest'?"
        ),
        "-p depht=1: no parameter 'depht'; did you mean 'depth'?",
        "costs (hvmmu.toml): 'neha' is not one of sandy, nehalem; did you mean 'nehalem'?",
        "mmu.flood (hvmmu.toml): True is not a whole number, decimal or 0x, 0 to 1000",
        "left.depth (-p left.depth=x): 'x' is not a whole number, decimal or 0x, 1 or more",
    )


NOT_INSTALLED = "'acme' is not an installed backend (native, left, right) (see `hvmmu backends`)"
THERE = "(mmu, guest, native, left, right)"


def test_settings_of_plugins_that_are_not_loaded(
    resolved: Callable[..., Config], problems: Callable[..., tuple[str, ...]], tmp_path: Path
) -> None:
    """A configuration that several environments share is an error where a plugin is missing."""
    (tmp_path / "hvmmu.toml").write_text('backend = ["acme", "right"]\n[lft]\ndepth = "x"\n')
    config = resolved("depth=7", environ={"HVMMU_LFT_DEPTH": "x"})
    assert config.backends == ("right",)
    assert config.sections["right"].depth == 7
    assert config.ignored == (
        "HVMMU_LFT_DEPTH: no plugin that is loaded has such a setting",
        f"backend (hvmmu.toml): {NOT_INSTALLED}",
        f"lft (hvmmu.toml): no plugin that is loaded has such a section {THERE}",
    )
    assert problems("lft.depth=1") == (
        f"lft (-p lft.depth=1): no such section {THERE}; did you mean 'left'?",
    )
    (tmp_path / "hvmmu.toml").write_text('backend = "acme"\n')
    assert resolved().backends == ()
    assert resolved(backends=["left"]).ignored == ()
    assert problems(backends=["acme"]) == (f"backend (-b acme): {NOT_INSTALLED}",)


def test_only_the_value_that_counts_is_read(
    resolved: Callable[..., Config], tmp_path: Path
) -> None:
    """A wrong value is an error even if a later source replaces it."""
    (tmp_path / "hvmmu.toml").write_text('costs = "mine"\n[left]\ndepth = "x"\n')
    config = resolved(environ={"HVMMU_LEFT_DEPTH": "3"}, costs="sandy")
    assert (config.costs, config.sections["left"].depth) == ("sandy", 3)


def test_long_keys(problems: Callable[..., tuple[str, ...]], tmp_path: Path) -> None:
    """A key of thousands of parts is read for half a minute."""
    for text in (".".join("a" * 20_000) + "=1", "[" + ".".join("a" * 65) + "]", "a" * 500_000):
        (tmp_path / "hvmmu.toml").write_text(text)
        begun = time.monotonic()
        (problem,) = problems()
        assert problem.startswith("hvmmu.toml: ")
        assert time.monotonic() - begun < 5


def test_a_byte_order_mark(resolved: Callable[..., Config], tmp_path: Path) -> None:
    """A file that an editor began with a byte order mark cannot be read."""
    (tmp_path / "hvmmu.toml").write_bytes(b"\xef\xbb\xbf[left]\ndepth = 4\n")
    assert resolved().sections["left"].depth == 4


REASON = "right CPUs cannot"


def test_a_refusal_says_why_from_every_source(
    problems: Callable[..., tuple[str, ...]], tmp_path: Path
) -> None:
    """A parameter a vendor cannot have is met with anything but the reason."""
    assert problems("filter_faults=1", backends=["right"]) == (
        f"right.filter_faults (-p filter_faults=1): {REASON}",
    )
    assert problems("right.filter_faults=1") == (
        f"right.filter_faults (-p right.filter_faults=1): {REASON}",
    )
    assert problems(environ={"HVMMU_RIGHT_FILTER_FAULTS": "1"}) == (
        f"right.filter_faults (HVMMU_RIGHT_FILTER_FAULTS): {REASON}",
    )
    (tmp_path / "hvmmu.toml").write_text("[right]\nfilter_faults = true\n")
    assert problems() == (f"right.filter_faults (hvmmu.toml): {REASON}",)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("depth", "-p depth: write -p name=value or -p section.name=value"),
        ("=1", "-p =1: write -p name=value or -p section.name=value"),
        ("left.=1", "-p left.=1: write -p name=value or -p section.name=value"),
        (".depth=1", " (-p .depth=1): no such section (mmu, guest, native, left, right)"),
        ("zzz=1", "-p zzz=1: no parameter 'zzz'; `hvmmu params` lists them all"),
        ("mmu.zzz=1", "mmu.zzz (-p mmu.zzz=1): mmu has no such parameter; `hvmmu params mmu`"),
        ("vmy.depth=1", "vmy (-p vmy.depth=1): no such section (mmu, guest, native, left, right);"),
        ("left.depth=", "left.depth (-p left.depth=): '' is not a whole number"),
        ("memory=4097", "guest (-p memory=4097): memory: not whole pages"),
        ("a\x1b\n=1", r"-p a\x1b\n=1: no parameter 'a\x1b\n'"),
    ],
)
def test_what_p_cannot_mean(
    problems: Callable[..., tuple[str, ...]], setting: str, said: str
) -> None:
    """A wrong -p is met with a line that does not say what to do."""
    (found,) = problems(setting)
    assert found.startswith(said)
    assert found.isprintable()


def test_a_parameter_of_a_backend_not_chosen(problems: Callable[..., tuple[str, ...]]) -> None:
    """-p for a backend that does not run is taken silently, and the user thinks it worked."""
    assert problems("filter_faults=1", backends=["native"]) == (
        (
            "-p filter_faults=1: filter_faults is a parameter of left, which is not chosen; "
            "add -b left"
        ),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("backend = 3", "backend (hvmmu.toml): 3 is not an installed backend"),
        ("backend = []", "backend (hvmmu.toml): names none"),
        ("backend = [[]]", "backend (hvmmu.toml): a TOML array is not an installed backend"),
        ('engine = "fast"', "engine (hvmmu.toml): 'fast' is not one of reference, other"),
        ("left = 1", "left (hvmmu.toml): that is a section; write [left]"),
        ('[""]\nx = 1', " (hvmmu.toml): no such section"),
        ("[mmu.flood]\nx = 1", "mmu.flood (hvmmu.toml): a TOML table is not a whole number"),
        ("[mmu]\nflood = 1979-05-27", "mmu.flood (hvmmu.toml): a TOML date is not"),
        ("[mmu]\nflood = 1.5", "mmu.flood (hvmmu.toml): 1.5 is not a whole number"),
        ("flood =", "hvmmu.toml: not TOML: Invalid value (at"),
        ("a = " + "[" * 100_000, "hvmmu.toml: not TOML"),
        ("a = " + "9" * 10_000, "hvmmu.toml: not TOML"),
        ("#" * (MOST_BYTES + 1), "hvmmu.toml: over 1 MiB"),
        (b"a = '\xff'", "hvmmu.toml: not UTF-8 at byte 5"),
    ],
)
def test_what_a_file_cannot_say(
    problems: Callable[..., tuple[str, ...]], tmp_path: Path, text: str | bytes, said: str
) -> None:
    """A wrong file ends in a traceback, or in a line that does not say where."""
    raw = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "hvmmu.toml").write_bytes(raw)
    (found,) = problems()
    assert found.startswith(said)
    assert len(found) < 300


def test_a_file_that_cannot_be_read(
    problems: Callable[..., tuple[str, ...]], tmp_path: Path
) -> None:
    """A directory, a pipe or a dangling link where the file should be is waited for or ignored."""
    path = tmp_path / "hvmmu.toml"
    path.mkdir()
    assert problems() == ("hvmmu.toml: not a regular file; move it away or write one",)
    path.rmdir()
    os.mkfifo(path)
    assert problems() == ("hvmmu.toml: not a regular file; move it away or write one",)
    path.unlink()
    path.symlink_to("nowhere")
    assert problems() == ("hvmmu.toml: cannot be read: No such file or directory",)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(
    problems: Callable[..., tuple[str, ...]], tmp_path: Path
) -> None:
    """A file without permission is taken as absent."""
    path = tmp_path / "hvmmu.toml"
    path.write_text("")
    path.chmod(0)
    assert problems() == ("hvmmu.toml: cannot be read: Permission denied",)


def test_a_project_file_whose_section_is_no_table(
    problems: Callable[..., tuple[str, ...]], tmp_path: Path
) -> None:
    """`hvmmu = 1` below [tool] is taken as nothing, or as a crash."""
    (tmp_path / "pyproject.toml").write_text("[tool]\nhvmmu = 1\n")
    assert problems() == ("pyproject.toml: tool.hvmmu is no table; write [tool.hvmmu]",)


def test_empty_sections_of_what_there_is_are_fine(
    resolved: Callable[..., Config], tmp_path: Path
) -> None:
    """A section with every line commented out is an error."""
    (tmp_path / "hvmmu.toml").write_text("[left]\n# depth = 1\n")
    assert resolved() == resolved(cwd=tmp_path.parent)


def test_a_name_of_two_core_sections_asks_which(tmp_path: Path) -> None:
    """A name of two core sections is set in one of them without a word."""

    @attrs.frozen
    class Section:
        size: int = param(default=1, doc="a number")

    known = ConfigSchema(
        core={"a": Section, "b": Section}, backends={}, engines=("e",), models=("m",)
    )
    with pytest.raises(ConfigError, match=r"say which one: -p a\.size=\.\.\. or -p b"):
        resolve(known, cwd=tmp_path, environ={}, settings=["size=2"])
