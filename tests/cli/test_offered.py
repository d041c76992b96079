"""What plugins register, as a user meets it: in the listings, by its name, and when it fails."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hvmmu._engines import ENGINES
from hvmmu._report import document

Command = Callable[..., Any]
BUILT_IN = [made.name for made in ENGINES]
OFFERING = """
import pathlib
from array import array
import attrs, click
from hvmmu.costs import Cost, CostModel
from hvmmu.errors import EngineUnavailableError
from hvmmu.steps import PROT_READ, PROT_WRITE, Accesses, Backing, Mmap
from hvmmu.hookspecs import hookimpl
from hvmmu.engine import EngineCaps
from hvmmu.spec.engine import ReferenceEngine
from hvmmu.params import param

pathlib.Path(__file__).with_name("imported").touch()

class Engine(ReferenceEngine):
    name, summary, caps = "twin", "the reference engine again", EngineCaps(caches=False)

class Absent(ReferenceEngine):
    name, summary = "absent", "never there"
    def __init__(self, memory):
        raise EngineUnavailableError("the engine absent needs a CPU of gold; take another")

class Touch:
    name, summary, pages = "touch", "writes a page", 1
    def open(self, options):
        return self
    def recognises(self, path, head):
        return head == b"ACME"
    def facts(self):
        return {}
    def steps(self):
        yield Mmap(0x400000, 1, PROT_READ | PROT_WRITE, Backing.ANONYMOUS)
        yield Accesses(array("Q", [0x400000]), bytes([6]))

class Format(Touch):
    def open(self, path, limit):
        return self

@attrs.frozen
class Params:
    depth: int = param(default=3, doc="how deep", least=1)
    levels: int = param(default=4, doc="named as one of the core's", least=1)

@click.command(short_help="Say hello.")
@click.argument("how", default="well")
def hello(how):
    if how == "badly":
        raise ZeroDivisionError("as planned")
    click.echo("hello")
    return 3 if how == "oddly" else 0

@hookimpl
def hvmmu_engines():
    return [Engine, Absent]

@hookimpl
def hvmmu_workloads():
    return [Touch()]

@hookimpl
def hvmmu_trace_formats():
    return [Format()]

@hookimpl
def hvmmu_cost_models():
    return [CostModel("mine", "my own", (Cost("mine.depth", 7, "made up"),))]

@hookimpl
def hvmmu_commands():
    return [hello]

@hookimpl
def hvmmu_parameters():
    return {"mine": Params}

depths = []

@hookimpl
def hvmmu_vm_created(settings):
    depths.append(settings["mine"].depth)

@hookimpl
def hvmmu_report():
    return {"mine.depth": depths[-1]}
"""
RUN = ("run", "touch", "-b", "native", "--json")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Install a plugin that offers some of everything; return where."""
    (tmp_path / "acme.py").write_text(OFFERING)
    about = tmp_path / "acme-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[hvmmu]\nacme = acme\n")
    return tmp_path


@pytest.fixture
def acme(installed: Path, hvmmu: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Run the command line where that plugin is installed."""
    monkeypatch.syspath_prepend(installed)
    monkeypatch.delitem(sys.modules, "acme", raising=False)

    def command(*argv: str, **environ: str) -> Any:  # noqa: ANN401 - how it ended
        with monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            return hvmmu(*argv)

    yield command
    sys.modules.pop("acme", None)


def test_plugins_as_json(acme: Command) -> None:
    """A script has to take the table of plugins apart, or is not told of a kind."""
    listed = json.loads(acme("plugins", "--json").out)
    (one,) = [plugin for plugin in listed if plugin["name"] == "acme"]
    assert one == {
        "name": "acme",
        "distribution": "acme",
        "version": "1.0",
        "state": "ok",
        "cause": "",
        "registered": [
            "engine absent",
            "engine twin",
            "workload touch",
            "trace format touch",
            "cost model mine",
            "command hello",
            "parameters mine",
            "hvmmu_vm_created",
            "hvmmu_report",
        ],
    }


def test_engines_are_listed(acme: Command) -> None:
    """An engine cannot be found, or nobody says where it is from and what it can do."""
    head, *lines = acme("engines").out.splitlines()
    assert head.split() == ["name", "from", "summary", "capabilities"]
    assert [line.split()[0] for line in lines] == [*BUILT_IN, "absent", "twin"]
    assert lines[0].split()[1:3] == ["built", "in"]
    assert "acme 1.0  the reference engine again" in lines[-1]
    assert "maxphyaddr=36-52" in lines[0]
    assert ["caches" in line.split(", ") for line in lines[-2:]] == [True, False]


def test_an_engine_is_chosen(acme: Command, tmp_path: Path) -> None:
    """--engine, or the configuration, runs another engine than it says."""
    for argv in (("--engine", "twin"), ()):
        (run,) = json.loads(acme(*RUN, *argv, HVMMU_ENGINE="twin").out)["runs"]
        assert run["engine"] == "twin"
    (problem,) = acme(*RUN, "--engine", "absent").problems
    assert problem == "the engine absent needs a CPU of gold; take another"
    (problem,) = acme(*RUN, "--engine", "twim").problems
    known = ", ".join([*BUILT_IN, "absent", "twin"])
    assert problem.endswith(f"is not one of {known}; did you mean 'twin'?")
    (tmp_path / "hvmmu.toml").write_text('engine = "twin"\ncosts = "mine"\n')
    made = json.loads(acme(*RUN).out)
    assert (made["runs"][0]["engine"], made["cost_model"]["name"]) == ("twin", "mine")


def test_a_section_of_its_own(acme: Command) -> None:
    """A plugin's section is not read, not listed, or changes documents that it has no part in."""
    made = json.loads(acme(*RUN).out)
    jsonschema.validate(made, document.schema())
    assert "mine" not in made["config"]
    assert made["runs"][0]["counters"]["mine.depth"] == 3
    for argv, environ in (
        (("-p", "mine.depth=5"), {}),
        (("-p", "depth=5"), {}),
        ((), {"HVMMU_MINE_DEPTH": "5"}),
    ):
        made = json.loads(acme(*RUN, "--costs", "mine", *argv, **environ).out)
        jsonschema.validate(made, document.schema())
        assert made["config"]["mine"] == {"depth": 5, "levels": 4}
        assert made["overrides"]["mine.depth"]["value"] == 5
        assert made["runs"][0]["counters"]["mine.depth"] == 5
        assert made["runs"][0]["cycles"]["mine.depth"] == 35
    assert "parm:          depth:how deep (int)" in acme("params", "mine").out
    rows = [line.split() for line in acme("config", "--explain").out.splitlines()]
    assert ["mine.depth", "3", "default"] in rows
    assert "[mine]\ndepth = 3\n" in acme("config").out
    (problem,) = acme(*RUN, "-p", "mine.depht=5").problems
    assert problem.endswith("mine has no such parameter; did you mean 'depth'?")


def test_a_trace_of_its_own(acme: Command, tmp_path: Path) -> None:
    """A plugin's format of traces is listed and never asked."""
    (tmp_path / "some.acme").write_bytes(b"ACME")
    made = json.loads(acme("compare", "some.acme", "--json").out)
    jsonschema.validate(made, document.schema())
    assert made["workload"] == {"kind": "trace", "name": "touch"}
    assert {run["counters"]["guest_faults"] for run in made["runs"]} == {1}


def test_a_command_of_its_own(acme: Command) -> None:
    """A plugin's command is not listed, does not run, or its bug looks like ours."""
    *_, last = acme("--help").out.splitlines()
    assert last.split() == ["hello", "Say", "hello."]
    ended = acme("hello")
    assert (ended.code, ended.out, ended.err) == (0, "hello\n", "")
    assert acme("hello", "oddly").code == 3
    assert acme("hello", "--help").out.startswith("Usage: hvmmu hello [OPTIONS] [HOW]")
    ended = acme("hello", "badly")
    assert (ended.code, ended.out) == (1, "")
    said = "plugin 'acme', in command 'hello': ZeroDivisionError: as planned"
    assert ended.err == f"hvmmu: error: {said}\n"
    (problem,) = acme("hello", "a", "b").problems
    assert problem == "Got unexpected extra argument (b) (see `hvmmu hello --help`)"
    (problem,) = acme("-P", "no:acme", "hello").problems
    assert problem == "No such command 'hello' (see `hvmmu --help`)"
    assert "hello" not in acme("-P", "no:acme", "--help").out


def test_a_broken_plugin_may_have_had_the_command(acme: Command, installed: Path) -> None:
    """Somebody whose plugin is broken is only told that its command does not exist."""
    (installed / "acme.py").write_text("raise OSError('broken')")
    ended = acme("hello")
    assert ended.code == 2
    warning, error = ended.err.splitlines()
    assert "plugin_not_loaded plugin=acme" in warning
    assert error == "hvmmu: error: No such command 'hello' (see `hvmmu --help`)"
    assert acme("--help").code == 0


@pytest.mark.parametrize(
    ("argv", "is_imported"),
    [
        (("--version",), False),
        (("compare", "--help"), False),
        (("plugins", "--help"), False),
        (("compare", "--frob"), False),
        (("--help",), True),
        (("--help", "-P", "no:acme"), False),
        ((), True),
        (("hello",), True),
    ],
)
def test_plugins_are_imported_when_needed(
    process: Command, installed: Path, argv: tuple[str, ...], is_imported: bool
) -> None:
    """A slow plugin makes every start slow, or a command of a plugin's is not found."""
    process(*argv, PYTHONPATH=str(installed))
    assert (installed / "imported").exists() == is_imported
