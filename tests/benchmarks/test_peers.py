"""The benchmark against peers: what it counts, how it reads what they say, and its page."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from hvmmu._plugins import load
from hvmmu._trace.hvt.import_trace import import_trace
from hvmmu.workloads import SHIPPED

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import peer_accesses
import peer_champsim
import peer_page
import peer_programs
import peer_timing
import peer_tools
import peers

BENCHMARKS = Path(peers.__file__).parent


def case(seconds: float, references: int, floor: float, apart: float = 0.001) -> dict[str, float]:
    """Return what a case took, as it is kept."""
    made = peer_timing.Measured(seconds, references, 60.2, floor, apart)
    return attrs.asdict(made)


CASES = {
    "native": case(0.05, 150_000_000, 0.049, 0.002),
    "vmx": case(0.075, 150_000_000, 0.074, 0.002),
    "native, start-up": case(0.02, 1, 0.019),
    "vmx, start-up": case(0.03, 1, 0.029, 0.004),
    "cachegrind": case(6.0, 150_000_000, 6.0),
    "cachegrind, start-up": case(3.1, 150_000_000, 3.0),
    "pycachesim, batch": case(0.5, 50_000_000, 0.5),
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
        "long": {},
        "memory": {"20000000": 60.2, "200000000": 60.4},
        "skipped": {"dynamorio": "not installed: unpack a release"},
        "rounds": 5,
        "runs": 5,
        "times": None,
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
    rates = row(figures, "references per CPU second, start-up subtracted")
    assert rates == ["≥ 3.00 G/s", "5.00 G/s / 3.33 G/s"]
    assert row(figures, "uncertainty") == ["", "10% / 13%"]
    rates = row(figures, "references per CPU second, whole process")
    assert rates == ["", "3.00 G/s / 2.00 G/s"]
    ratios = row(figures, "speed-up over cachegrind as a TLB simulator, whole processes")
    assert ratios == ["≥ 30 x", "120 x / 80 x"]
    ratios = row(figures, "speed-up over cachegrind as a TLB simulator, both without start-up")
    assert ratios == ["", "100 x / 67 x"]
    ratios = row(figures, "speed-up over pycachesim, in one batch, both without start-up")
    assert ratios == ["≥ 15.0 x", "50 x / 33 x"]
    ratios = row(figures, "speed-up over pycachesim, in one batch, ours with start-up")
    assert ratios == ["", "30 x / 20 x"]
    assert row(figures, "misses equal cachegrind's") == ["yes", "yes"]
    assert "20 M references 60 MiB, 200 M references 60 MiB" in " ".join(figures.split())
    assert "dynamorio: not installed" in figures


def test_missed_goal() -> None:
    """A goal that was missed would look like one that was met."""
    made = results()
    made["programs"]["sort"]["cases"] = {
        **CASES,
        "cachegrind": case(1.0, 150_000_000, 1.0),
    }
    ratios = row(
        peer_page.text(made), "speed-up over cachegrind as a TLB simulator, whole processes"
    )
    assert ratios == ["≥ 30 x", "20 x / 13.3 x ✗"]


@pytest.mark.parametrize("start", [0.048, 0.049, 0.06])
def test_noise(start: float) -> None:
    """Two times that differ by chance would be subtracted, and the rest be a rate of any size."""
    made = results()
    cases = made["programs"]["sort"]["cases"] = dict(CASES)
    cases["native, start-up"] = case(start, 1, start)
    rates = row(peer_page.text(made), "references per CPU second, start-up subtracted")
    assert rates == ["≥ 3.00 G/s", "within noise / 3.33 G/s"]
    cases["vmx, start-up"] = case(start, 1, 0.073)
    rates = row(peer_page.text(made), "references per CPU second, start-up subtracted")
    assert rates == ["≥ 3.00 G/s", "within noise / within noise ✗"]


def test_long() -> None:
    """A long run would be taken for one of the usual length, or be left out."""
    made = results() | {"times": 10.0}
    made["long"] = {
        "sort": {
            "references": 1_500_000_000,
            "faults": 2_000,
            "misses": {},
            "cases": {
                **CASES,
                "native": case(0.35, 1_500_000_000, 0.319),
                "cachegrind": case(35.0, 1_500_000_000, 33.0),
            },
        }
    }
    usual, _, figures = peer_page.text(made).partition("The same programs with 10 times the work:")
    assert row(usual, "references") == ["", "150,000,000"]
    assert row(figures, "references") == ["", "1,500,000,000"]
    rates = row(figures, "references per CPU second, start-up subtracted")
    assert rates[1].startswith("5.00 G/s /")
    ratios = row(figures, "speed-up over cachegrind as a TLB simulator, whole processes")
    assert ratios[1].startswith("100 x /")
    assert row(figures, "peak memory, MiB") == ["", "60 / 60"]
    assert "pycachesim" not in figures
    assert "misses equal" not in figures


def test_what_was_not_run() -> None:
    """A peer that is missing would have a row of nothing, or end the table."""
    figures = peer_page.text(results())
    assert "Unicorn" not in figures
    assert "| speed-up over DynamoRIO" not in figures


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
    assert page.read_text().endswith(f"runs. Python 3.11.\n\n{peer_page.END}\nafter\n")
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
    assert (best.seconds, best.references, best.floor, best.apart) == (2.5, 11, 2.5, 0)


def test_least(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs more often would have the luckier figure, or a floor know no doubt."""
    took = {"often": iter([5.0, 1.0, 4.0, 6.0, 3.0, 3.0]), "once": iter([8.0, 7.0])}
    turns = []

    def measure(case: peer_timing.Case) -> peer_timing.Measured:
        turns.append(case.name)
        return peer_timing.Measured(next(took[case.name]), 1, 1.0)

    monkeypatch.setattr(peer_timing, "measure", measure)
    often, once = peer_timing.Case("often", (), runs=3), peer_timing.Case("once", ())
    best = peer_timing.least([often, once], 2)
    assert turns == ["often", "once", "often", "often"] * 2
    assert (best["often"].seconds, best["often"].floor, best["often"].apart) == (5.0, 1.0, 2.0)
    assert (best["once"].seconds, best["once"].floor, best["once"].apart) == (7.0, 7.0, 1.0)


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


vmx = pytest.mark.skipif("vmx" not in load().backends, reason="the backend vmx is not installed")


@vmx
def test_ours(trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start would contain Python's compiler, or be subtracted from another backend's run."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("HVMMU_PLUGINS", "none of these")
    cases = {case.name: case for case in peer_tools.ours(program(tmp_path, trace), tmp_path)}
    assert list(cases) == ["native", "native, start-up", "vmx", "vmx, start-up"]
    whole, start = cases["vmx"], cases["vmx, start-up"]
    assert whole.command[:-1] == start.command[:-1]
    assert (whole.references, start.references) == (20_000, 1)
    assert peer_timing.measure(start).references == 1
    assert list((tmp_path / "bytecode").rglob("machine.*.pyc"))


def test_full_table(tmp_path: Path) -> None:
    """A long run of the hash table would look for a free place for ever."""
    with pytest.raises(peer_programs.SkippedError, match="20,000,000 words fill more than 3/4"):
        peer_programs.table(tmp_path, 20_000_000)


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
    explicit = peer_tools.Asked(dynamorio=tmp_path / "dynamorio")
    (case,) = peer_tools.dynamorio(program(tmp_path, trace), explicit)
    peer_timing.measure(case)
    assert ran.read_text() == (
        "-t drcachesim -simulator_type TLB -cores 1 -page_size 4096 -TLB_L1I_entries 64"
        " -TLB_L1I_assoc 4 -TLB_L1D_entries 64 -TLB_L1D_assoc 4 -TLB_L2_entries 1536"
        " -TLB_L2_assoc 12 -- /bin/echo done\n"
    )


def test_champsim(trace: Path, tmp_path: Path) -> None:
    """ChampSim would wait for more instructions than its trace has, or be timed on another."""
    binary = script(tmp_path / "champsim", 'echo "$@"; test "$(zcat "$5" | wc -c)" = 320000')
    explicit = peer_tools.Asked(champsim=binary, part=10_000)
    (case,) = peer_tools.champsim(program(tmp_path, trace), explicit)
    assert case.command[1:5] == ("-w", "0", "-i", "4999")
    measured = peer_timing.measure(case)
    assert 5_000 < measured.references < 10_000


@pytest.mark.parametrize(
    ("peer", "explicit", "why"),
    [
        ("dynamorio", {}, "not installed: unpack .* --dynamorio DIR"),
        ("dynamorio", {"dynamorio": Path("nowhere")}, "drrun is not there"),
        ("champsim", {}, "not installed: build .* --champsim BINARY"),
        ("champsim", {"champsim": Path("nowhere")}, "is missing"),
    ],
)
def test_not_installed(peer: str, explicit: dict[str, Path], why: str, tmp_path: Path) -> None:
    """Who lacks a peer would not be told how to get it, or get no figures at all."""
    made = peer_programs.Program("echo", ("/bin/echo",), tmp_path, 1)
    recorded = peer_tools.Recorded(made, 2, 1, {})
    with pytest.raises(peer_programs.SkippedError, match=why):
        peer_tools.PEERS[peer](recorded, peer_tools.Asked(**explicit))


@pytest.mark.parametrize("peer", ["pycachesim", "unicorn"])
def test_packages(peer: str, trace: Path, tmp_path: Path) -> None:
    """A peer of the package index would be asked for what it does not know."""
    pytest.importorskip({"pycachesim": "cachesim"}.get(peer, peer))
    recorded = program(tmp_path, trace)
    for case in peer_tools.PEERS[peer](recorded, peer_tools.Asked(part=9_000)):
        measured = peer_timing.measure(case)
        assert 2_000 < measured.references <= 9_000 + 4_096
        assert measured.seconds > 0


@vmx
def test_long_runs(trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--long` would measure the usual run again, or peers that are fed with a part of a trace."""
    script(tmp_path / "dynamorio" / "bin64" / "drrun", "true")
    given = ["--programs", "sort", "--scale", "0.01", "--long", "--peers", "dynamorio,champsim"]
    given += ["--long-programs", "python,sort"]
    explicit = peers.arguments([*given, "--dynamorio", str(tmp_path / "dynamorio")])
    ran = []

    def record(made: peer_programs.Program) -> None:
        made.trace.write_bytes(trace.read_bytes())
        counts = {"ours": MISSES | {"fetches": 14_000, "data": 5_999}}
        made.trace.with_suffix(".json").write_text(json.dumps(counts))

    def least(cases: list[peer_timing.Case], _: int) -> dict[str, peer_timing.Measured]:
        ran.extend((case.name, Path(case.command[-1]).name, case.references) for case in cases)
        return {}

    monkeypatch.setattr(peer_programs, "record", record)
    monkeypatch.setattr(peers, "least", least)
    monkeypatch.setattr(peers, "memory", lambda *_: {})
    made = peers.run(explicit, tmp_path)
    assert ("native", "sort-650.hvt", 19_999) in ran
    assert ran[-5:] == [
        ("native", "sort-6500.hvt", 20_000),
        ("native, start-up", "nothing.hvt", 1),
        ("vmx", "sort-6500.hvt", 20_000),
        ("vmx, start-up", "nothing.hvt", 1),
        ("DynamoRIO", "null", 20_000),
    ]
    assert made["times"] == 10
    assert made["long"]["sort"]["faults"] > 10


def test_missing_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A system without sqlite3 would get a traceback in place of the other programs' figures."""
    monkeypatch.setattr(peer_programs, "PATH", str(tmp_path))
    explicit = peers.arguments(["--programs", "sqlite3", "--rounds", "1"])
    made = peers.run(explicit, tmp_path)
    assert made["skipped"] == {"sqlite3": "sqlite3 is not installed"}
    assert not made["programs"]
