"""`backends`, `params`, `config`, and configuration mistakes as a user meets them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hvmmu._plugins import load
from hvmmu._plugins.registry import BASELINE

Command = Callable[..., Any]
INSTALLED = sorted(set(load().backends) - {BASELINE})
BROKEN = {
    "broken.py": "import no_such_module_anywhere\n",
    "hvmmu_broken-7.1.dist-info/METADATA": (
        "Metadata-Version: 2.1\nName: hvmmu-broken\nVersion: 7.1\n"
    ),
    "hvmmu_broken-7.1.dist-info/entry_points.txt": "[hvmmu]\nbroken = broken\n",
}


def test_backends_are_listed(hvmmu: Command) -> None:
    """A backend that is installed is missing, or nobody says where it comes from."""
    ended = hvmmu("backends")
    assert (ended.code, ended.err) == (0, "")
    lines = [line.split() for line in ended.out.splitlines()]
    assert lines[0][:3] == ["name", "from", "summary"]
    assert [line[0] for line in lines[1:]] == ["native", *INSTALLED]
    assert lines[1][1:3] == ["built", "in"]


def test_a_broken_plugin_does_not_stop_the_tool(process: Command, tmp_path: Path) -> None:
    """A plugin that cannot be imported takes the tool with it, or goes unnoticed."""
    for name, text in BROKEN.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    ended = process("backends", PYTHONPATH=str(tmp_path))
    assert ended.code == 0
    (line,) = [line for line in ended.out.splitlines() if line.startswith("broken:")]
    assert "hvmmu-broken 7.1" in line
    assert "No module named 'no_such_module_anywhere'" in line
    ended = process("compare", "demand-zero:pages=8", PYTHONPATH=str(tmp_path))
    assert ended.code == 0
    assert "page-walk memory refs" in ended.out  # alone, native is compared with nothing
    assert ended.err.startswith("hvmmu: warning: ")
    assert "broken" in ended.err


def test_params_read_as_modinfo(hvmmu: Command) -> None:
    """`params` leaves out a parameter, its type, its value or where that is from."""
    ended = hvmmu("params", "mmu", "-p", "update_on_write=0")
    assert ended.code == 0
    lines = ended.out.splitlines()
    (at,) = [n for n, line in enumerate(lines) if "update_on_write:" in line]
    assert lines[at].startswith("parm:          update_on_write:")
    assert lines[at].endswith(" (bool)")
    assert lines[at + 1].split(" · ")[:2] == [
        f"{'':15}0 from -p update_on_write=0",
        "default 1",
    ]


def test_params_without_a_name_lists_every_section(hvmmu: Command) -> None:
    """A section's parameters cannot be found without knowing its name."""
    ended = hvmmu("params")
    names = [line.split()[1] for line in ended.out.splitlines() if line.startswith("name:")]
    assert names == ["mmu", "cpu", "guest", *load().parameters, "native", *INSTALLED]


def test_params_of_what_there_is_not(hvmmu: Command) -> None:
    """A wrong name ends in a traceback, or without the right one."""
    (problem,) = hvmmu("params", "gest").problems
    assert problem.startswith("no section 'gest'; there are mmu, cpu, guest, ")
    assert problem.endswith("did you mean 'guest'?")


def test_config_reads_back_as_itself(hvmmu: Command, tmp_path: Path) -> None:
    """`hvmmu config > hvmmu.toml` configures something else."""
    first = hvmmu("config", "-p", "update_on_write=0", "-p", "guest.memory=64M", "-b", "native")
    assert first.code == 0
    assert "update_on_write = false" in first.out
    (tmp_path / "hvmmu.toml").write_text(first.out)
    assert hvmmu("config") == first


def test_config_explains(hvmmu: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """--explain leaves a source out, or names the wrong one."""
    (tmp_path / "pyproject.toml").write_text('[tool.hvmmu]\ncosts = "nehalem"\n')
    monkeypatch.setenv("HVMMU_GUEST_MEMORY", "64M")
    ended = hvmmu("config", "--explain", "-p", "mmu.update_on_write=0")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in ended.out.splitlines()}
    assert rows["key"] == "value from default"
    assert rows["costs"] == "nehalem pyproject.toml [tool.hvmmu] sandy-bridge"
    assert rows["guest.memory"] == "64M HVMMU_GUEST_MEMORY 1G"
    assert rows["mmu.update_on_write"] == "0 -p mmu.update_on_write=0 1"
    assert rows["guest.set_accessed_dirty"] == "1 default"


@pytest.mark.parametrize("command", ["compare", "run", "config"])
def test_mistakes_are_told_all_at_once(hvmmu: Command, tmp_path: Path, command: str) -> None:
    """A user has to run the tool once for each mistake, or a run starts all the same."""
    (tmp_path / "hvmmu.toml").write_text("[mmu]\nupdate_on_wirte = true\n")
    problems = hvmmu(command, "-b", "natve", "-p", "update_on_write=maybe").problems
    assert problems[0].startswith("backend (-b natve): 'natve' is not an installed backend (native")
    assert "did you mean 'native'?" in problems[0]
    assert problems[1] == (
        "mmu.update_on_wirte (hvmmu.toml): mmu has no such parameter; "
        "did you mean 'update_on_write'?"
    )
    assert problems[2] == (
        "mmu.update_on_write (-p update_on_write=maybe): 'maybe' is not one of "
        "1/0/y/n/yes/no/on/off/true/false; did you mean 'y'?"
    ).removesuffix("; did you mean 'y'?")


def test_a_section_of_a_backend_that_is_not_installed(hvmmu: Command, tmp_path: Path) -> None:
    """Settings that projects share are an error without the plugin, or ignored silently."""
    (tmp_path / "hvmmu.toml").write_text("[hypothetical]\nx = 1\n")
    ended = hvmmu("compare", "-b", "native", "demand-zero:pages=2")
    assert ended.code == 0
    assert ended.err.startswith('hvmmu: warning: setting_ignored cause="hypothetical (hvmmu.toml)')
    (problem,) = hvmmu("--strict", "compare").problems
    assert problem.startswith("hypothetical (hvmmu.toml): no plugin that is loaded has such a")
    assert problem.endswith("(--strict)")
    (tmp_path / "hvmmu.toml").write_text('backend = "hypothetical"\n')
    assert hvmmu("params", "mmu").code == 0
    ended = hvmmu("compare")
    assert ended.code == 2
    assert "backend (hvmmu.toml): 'hypothetical' is not an installed backend" in ended.err
    assert "hvmmu: error: none of the chosen backends is installed" in ended.err


def test_bypass_is_refused_where_it_cannot_be(hvmmu: Command) -> None:
    """Asking SVM for bypass_guest_pf is taken, or refused without saying why."""
    pytest.importorskip("hvmmu_svm")
    (problem,) = hvmmu("compare", "-b", "svm", "-p", "bypass_guest_pf=1").problems
    assert problem.startswith("svm.bypass_guest_pf (-p bypass_guest_pf=1): ")
    assert "AMD" in problem
