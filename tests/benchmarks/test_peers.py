"""The benchmark against peers: what it counts, how it reads what they say, and its page."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hvmmu.workloads import SHIPPED
from hvmmu.workloads.hvt.making import import_trace

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import peer_accesses
import peer_champsim
import peer_page
import peer_programs
import peer_timing
import peer_tools
import peers

BENCHMARKS = Path(peers.__file__).parent
CASES: dict[str, dict[str, float]] = {
    "native": {"seconds": 0.05, "references": 150_000_000, "mebibytes": 60.0},
    "vmx": {"seconds": 0.075, "references": 150_000_000, "mebibytes": 61.5},
    "native, start-up": {"seconds": 0.02, "references": 1, "mebibytes": 38.0},
    "vmx, start-up": {"seconds": 0.03, "references": 1, "mebibytes": 38.0},
    "cachegrind": {"seconds": 6.0, "references": 150_000_000, "mebibytes": 50.0},
    "pycachesim, batch": {"seconds": 0.5, "references": 50_000_000, "mebibytes": 90.0},
}
MISSES = {"fetches": 10, "data": 5, "instruction_misses": 2, "data_misses": 1, "misses": 2}


def results() -> dict[str, Any]:
    """Return figures of one program, as they are kept."""
    sort = {
        "references": 150_000_000,
        "faults": 1_234,
        "misses": {"ours": MISSES, "cachegrind": MISSES},
        "cases": CASES,
    }
    return {
        "programs": {"sort": sort},
        "memory": {"20000000": 60.2, "200000000": 60.4},
        "skipped": {"dynamorio": "not installed: unpack a release"},
        "rounds": 5,
        "versions": "Python 3.11",
    }


def row(figures: str, label: str) -> list[str]:
    """Return a row's goal and cells."""
    line = next(line for line in figures.splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Return a compact trace of the first 20,000 references of the one in the package."""
    made = tmp_path / "dd.hvt"
    import_trace(SHIPPED, None, made, limit=20_000)
    return made


def test_table() -> None:
    """A ratio would be upside down, or of other seconds than its label says."""
    figures = peer_page.text(results())
    rates = row(figures, "references a CPU second, whole process")
    assert rates == ["≥ 3.00 G/s", "3.00 G/s / 2.00 G/s"]
    rates = row(figures, "the same, start-up subtracted")
    assert rates == ["", "5.00 G/s / 3.33 G/s"]
    ratios = row(figures, "over cachegrind as a TLB, whole processes")
    assert ratios == ["≥ 30 x", "120 x / 80 x"]
    assert row(figures, "misses equal cachegrind's") == ["yes", "yes"]
    assert "20 M references 60 MiB, 200 M references 60 MiB" in " ".join(figures.split())
    assert "dynamorio: not installed" in figures


def test_missed_goal() -> None:
    """A goal that was missed would look like one that was met."""
    made = results()
    made["programs"]["sort"]["cases"] = {
        **CASES,
        "cachegrind": {"seconds": 1.0, "references": 150_000_000, "mebibytes": 50.0},
    }
    ratios = row(peer_page.text(made), "over cachegrind as a TLB, whole processes")
    assert ratios == ["≥ 30 x", "20 x / 13.3 x ✗"]


def test_what_was_not_run() -> None:
    """A peer that is missing would have a row of nothing, or end the table."""
    figures = peer_page.text(results())
    assert "Unicorn" not in figures
    assert "| over DynamoRIO" not in figures


def test_misses_that_differ() -> None:
    """A TLB that is wrong would be called equal."""
    made = results()
    made["programs"]["sort"]["misses"] = {"ours": MISSES, "cachegrind": MISSES | {"misses": 3}}
    assert row(peer_page.text(made), "misses equal cachegrind's")[1] == "misses 2, not 3"
    made["programs"]["sort"]["misses"] = {"ours": MISSES}
    assert row(peer_page.text(made), "misses equal cachegrind's")[1] == "not compared"


def test_write(tmp_path: Path) -> None:
    """The page would lose what is written around its figures, or be written without marks."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{peer_page.BEGIN}\nold\n{peer_page.END}\nafter\n")
    kept = tmp_path / "figures.json"
    kept.write_text(json.dumps(results()))
    peers.main(["--from", str(kept), "--write", str(page)])
    assert page.read_text().startswith(f"before\n{peer_page.BEGIN}\n\n|")
    assert page.read_text().endswith(f"rounds. Python 3.11.\n\n{peer_page.END}\nafter\n")
    page.write_text("no marks\n")
    with pytest.raises(SystemExit, match="has no lines"):
        peers.main(["--from", str(kept), "--write", str(page)])
    assert page.read_text() == "no marks\n"


def test_the_page_has_marks() -> None:
    """`--write docs/benchmarks.md` would end with nothing, after half an hour."""
    page = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text()
    assert page.index(peer_page.BEGIN) < page.index(peer_page.END)


def test_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt program would be found out when the others were measured."""
    with pytest.raises(SystemExit) as ended:
        peers.main(["--programs", "sort,bash"])
    assert ended.value.code == 2
    assert "--programs: 'bash' is none of sqlite3, sort, python, hash-table" in (
        capsys.readouterr().err
    )


def test_measure() -> None:
    """Seconds would be of the wall clock, or a peer's own count would be ignored."""
    idle = peer_timing.Case("idle", (sys.executable, "-c", "import time; time.sleep(1)"), 7)
    made = peer_timing.measure(idle)
    assert made.seconds < 0.9
    assert made.references == 7
    assert made.mebibytes > 1
    said = 'print(\'{"seconds": 2.5, "references": 11}\')'
    says = peer_timing.Case("says", (sys.executable, "-c", said), says=True)
    best = peer_timing.least([says], 2)["says"]
    assert (best.seconds, best.references) == (2.5, 11)


def test_measure_failing() -> None:
    """A peer that fails at once would be the fastest of all."""
    failing = peer_timing.Case("failing", (sys.executable, "-c", "raise SystemExit('no license')"))
    with pytest.raises(SystemExit, match="failing: exit code 1: no license"):
        peer_timing.measure(failing)


def test_accesses(trace: Path) -> None:
    """Peers would be credited with references that they were not given."""
    gva, kind, references = peer_accesses.accesses(trace, 10**9)
    assert references == 20_000
    assert len(gva) == len(kind) >= references
    assert set(kind) <= {0x04, 0x06, 0x14}
    part, _, some = peer_accesses.accesses(trace, 5_000)
    assert part == gva[: len(part)]
    assert 5_000 <= len(part) < 5_000 + 4096
    assert some <= len(part)


def test_unreduced(trace: Path) -> None:
    """The figure of the unreduced path would be of something else, or of nothing."""
    command = [sys.executable, str(BENCHMARKS / "peer_unreduced.py"), str(trace), "20000"]
    said = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert said["references"] == 20_000
    assert said["seconds"] > 0


def test_champsim_trace(trace: Path, tmp_path: Path) -> None:
    """ChampSim would be given other accesses than everybody else."""
    written = b"".join(peer_champsim.records(trace, 5_000))
    assert len(written) == 5_000 * 64
    packed, made = tmp_path / "made.gz", tmp_path / "made.hvt"
    packed.write_bytes(gzip.compress(written))
    import_trace(packed, None, made, fmt="champsim")
    _, kinds, references = peer_accesses.accesses(made, 10**9)
    assert list(kinds).count(0x14) == 5_000
    data = [kind for kind in peer_accesses.accesses(trace, 10**9)[1] if kind != 0x14]
    made_data = [kind for kind in kinds if kind != 0x14]
    assert references - 5_000 == len(made_data)
    assert abs(made_data.count(0x06) - data[: len(made_data)].count(0x06)) < 100


def program(folder: Path, trace: Path) -> peer_tools.Recorded:
    """Return a program that says what it was called with, and a trace to go with it."""
    made = peer_programs.Program("echo", ("/bin/echo", "done"), folder, 1)
    trace.rename(made.trace)
    return peer_tools.Recorded(made, 20_000, 14_000, {})


def script(path: Path, text: str) -> Path:
    """Write a program of the shell's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_dynamorio(trace: Path, tmp_path: Path) -> None:
    """The program would run without DynamoRIO, or its TLB would have another shape."""
    ran = tmp_path / "ran"
    script(tmp_path / "dynamorio" / "bin64" / "drrun", f'echo "$@" > {ran}')
    asked = peer_tools.Asked(dynamorio=tmp_path / "dynamorio")
    (case,) = peer_tools.dynamorio(program(tmp_path, trace), asked)
    peer_timing.measure(case)
    assert ran.read_text() == (
        "-t drcachesim -simulator_type TLB -cores 1 -page_size 4096 -TLB_L1I_entries 64"
        " -TLB_L1I_assoc 4 -TLB_L1D_entries 64 -TLB_L1D_assoc 4 -TLB_L2_entries 1536"
        " -TLB_L2_assoc 12 -- /bin/echo done\n"
    )


def test_champsim(trace: Path, tmp_path: Path) -> None:
    """ChampSim would wait for more instructions than its trace has, or be timed on another."""
    binary = script(tmp_path / "champsim", 'echo "$@"; test "$(zcat "$5" | wc -c)" = 320000')
    asked = peer_tools.Asked(champsim=binary, part=10_000)
    (case,) = peer_tools.champsim(program(tmp_path, trace), asked)
    assert case.command[1:5] == ("-w", "0", "-i", "4999")
    measured = peer_timing.measure(case)
    assert 5_000 < measured.references < 10_000


@pytest.mark.parametrize(
    ("peer", "asked", "why"),
    [
        ("dynamorio", {}, "not installed: unpack .* --dynamorio DIR"),
        ("dynamorio", {"dynamorio": Path("nowhere")}, "drrun is not there"),
        ("champsim", {}, "not installed: build .* --champsim BINARY"),
        ("champsim", {"champsim": Path("nowhere")}, "is not there"),
    ],
)
def test_not_installed(peer: str, asked: dict[str, Path], why: str, tmp_path: Path) -> None:
    """Who lacks a peer would not be told how to get it, or get no figures at all."""
    made = peer_programs.Program("echo", ("/bin/echo",), tmp_path, 1)
    recorded = peer_tools.Recorded(made, 2, 1, {})
    with pytest.raises(peer_programs.SkippedError, match=why):
        peer_tools.PEERS[peer](recorded, peer_tools.Asked(**asked))


@pytest.mark.parametrize("peer", ["pycachesim", "unicorn"])
def test_packages(peer: str, trace: Path, tmp_path: Path) -> None:
    """A peer of the package index would be asked for what it does not know."""
    pytest.importorskip({"pycachesim": "cachesim"}.get(peer, peer))
    recorded = program(tmp_path, trace)
    for case in peer_tools.PEERS[peer](recorded, peer_tools.Asked(part=9_000)):
        measured = peer_timing.measure(case)
        assert 2_000 < measured.references <= 9_000 + 4_096
        assert measured.seconds > 0


def test_missing_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A system without sqlite3 would get a traceback in place of the other programs' figures."""
    monkeypatch.setattr(peer_programs, "PATH", str(tmp_path))
    asked = peers.arguments(["--programs", "sqlite3", "--rounds", "1"])
    made = peers.run(asked, tmp_path)
    assert made["skipped"] == {"sqlite3": "sqlite3 is not installed"}
    assert not made["programs"]
