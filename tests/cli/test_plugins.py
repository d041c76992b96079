"""Plugins as a user meets them: the listing, -P, the environment, --strict, and bad manners."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from hvmmu._cli.plugin_options import plugin_selection
from hvmmu.errors import ConfigError

Command = Callable[..., Any]
INSTALLED = sorted(point.name for point in entry_points(group="hvmmu"))
GOOD = """
from hvmmu.hookspecs import hookimpl
from hvmmu._native import NativeBackend

class Backend(NativeBackend):
    name = "NAME"

@hookimpl
def hvmmu_backends():
    return [Backend]
"""
RUN = ("run", "demand-zero:pages=8", "-b", "native", "--json")


@pytest.fixture
def install(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return a function that installs plugins by name, and returns what to add to `process`."""

    def made(**sources: str) -> dict[str, str]:
        for name, source in sources.items():
            (tmp_path / f"acme_{name}.py").write_text(source)
            about = tmp_path / f"acme_{name}-1.0.dist-info"
            about.mkdir()
            metadata = f"Metadata-Version: 2.1\nName: acme-{name}\nVersion: 1.0\n"
            (about / "METADATA").write_text(metadata)
            (about / "entry_points.txt").write_text(f"[hvmmu]\n{name} = acme_{name}\n")
        return {"PYTHONPATH": str(tmp_path)}

    return made


def listed(out: str) -> dict[str, list[str]]:
    """Return the words of each plugin's row of `hvmmu plugins`, by the plugin's name."""
    head, *lines = out.splitlines()
    assert head.split() == ["name", "from", "state", "registered", "cause"]
    return {line.split()[0]: line.split()[1:] for line in lines}


def test_every_state_is_listed(process: Command, install: Callable[..., dict[str, str]]) -> None:
    """`hvmmu plugins` leaves out a plugin, where it is from, its state, or the reason."""
    environ = install(
        fine=GOOD.replace("NAME", "fine"),
        sick="raise SystemExit('bye')",
        newer=GOOD.replace('"NAME"', '"newer"; api_version = 99'),
        left=GOOD.replace("NAME", "twin"),
        right=GOOD.replace("NAME", "twin"),
        out="raise KeyboardInterrupt",
    )
    ended = process("-P", "no:out", "plugins", **environ)
    assert (ended.code, ended.err) == (0, "")
    rows = listed(ended.out)
    assert sorted(rows) == sorted(["fine", "left", "newer", "out", "right", "sick", *INSTALLED])
    assert rows["fine"] == ["acme-fine", "1.0", "ok", "backend", "fine"]
    assert rows["sick"] == ["acme-sick", "1.0", "broken", "-", "SystemExit:", "bye"]
    assert rows["out"][:3] == ["acme-out", "1.0", "blocked"]
    assert rows["newer"][2] == "incompatible"
    for twin in ("left", "right"):
        assert rows[twin][2] == "duplicate"
        assert "left (from acme-left 1.0) and right (from acme-right 1.0)" in " ".join(rows[twin])
    told = process("-P", "no:out", "backends", **environ).out.splitlines()
    assert [line.split(":")[0] for line in told[-4:]] == [
        "duplicate",
        "incompatible",
        "duplicate",
        "broken",
    ]


def test_strict_fails_on_any_of_it(
    process: Command, install: Callable[..., dict[str, str]]
) -> None:
    """A broken plugin goes unnoticed where somebody asked not to let it, or a blocked one fails."""
    environ = install(sick="raise SystemExit('bye')", newer="api_version = 99")
    for command in (RUN, ("plugins",), ("record", "-o", "x", "true"), ("config", "--help")):
        problems = process("--strict", *command, **environ).problems
        newer, sick = problems
        assert newer.startswith("plugin newer (from acme-newer 1.0) is incompatible: the plugin is")
        assert newer.endswith("for api_version 99, and this is 1 (--strict)")
        assert sick == "plugin sick (from acme-sick 1.0) is broken: SystemExit: bye (--strict)"
    ended = process("--strict", "-P", "no:sick", "-P", "no:newer", *RUN, **environ)
    assert (ended.code, ended.err) == (0, "")
    assert process(*RUN, **environ).out == ended.out


def test_autoload_can_be_turned_off(
    process: Command, install: Callable[..., dict[str, str]]
) -> None:
    """A run takes in whatever happens to be installed, and nobody can stop it."""
    environ = install(one=GOOD.replace("NAME", "one"), two=GOOD.replace("NAME", "two"))
    environ["HVMMU_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    rows = listed(process("plugins", **environ).out)
    assert {row[2] for row in rows.values()} == {"blocked"}
    rows = listed(process("-P", "acme_two", "plugins", **environ, HVMMU_PLUGINS="one").out)
    assert {name for name, row in rows.items() if row[2] == "ok"} == {"one", "two"}
    told = process("-P", "no:one", "backends", **environ, HVMMU_PLUGINS="one, two").out
    assert [line.split()[0] for line in told.splitlines()] == ["name", "native", "two"]


def test_nothing_is_installed(hvmmu: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hvmmu plugins` prints the head of a table and leaves one wondering."""
    monkeypatch.setattr("hvmmu._plugins.loading.discover", lambda: ([], []))
    assert hvmmu("plugins").out == "no plugin is installed\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["-P", "no:nobody"], ["no plugin 'nobody' to block; `hvmmu plugins` lists them"]),
        (["-P", "nobody"], ["no plugin or module 'nobody' to load; `hvmmu plugins` lists them"]),
        (["-P", "no:"], ["-P no:: write -P NAME or -P no:NAME"]),
        (["-P", "x", "-P", "no:x"], ["-P x: contradicts -P no:x"]),
    ],
)
@pytest.mark.parametrize("command", [RUN, ("plugins",), ("record", "-o", "x", "true")])
def test_names_of_nothing(
    hvmmu: Command, argv: list[str], said: list[str], command: tuple[str, ...]
) -> None:
    """A mistyped -P is ignored by some command, and the wrong plugins are run."""
    assert hvmmu(*argv, *command).problems == said


def test_a_name_that_is_nearly_right(
    process: Command, install: Callable[..., dict[str, str]]
) -> None:
    """Somebody who mistypes a plugin's name has to look it up."""
    environ = install(zebra="")
    (problem,) = process("-P", "no:zebar", "plugins", **environ).problems
    assert problem == "no plugin 'zebar' to block; did you mean 'zebra'?"
    (problem,) = process("-P", "zebar", "plugins", **environ).problems
    assert problem == "no plugin or module 'zebar' to load; did you mean 'zebra'?"


def test_the_environment_is_read_strictly() -> None:
    """A mistake in a variable counts as on or off, or hides another mistake."""
    with pytest.raises(ConfigError) as caught:
        plugin_selection(
            ["no:"], {"HVMMU_DISABLE_PLUGIN_AUTOLOAD": "maybe", "HVMMU_PLUGINS": "a,no:b"}
        )
    *others, autoload = caught.value.problems
    assert others == [
        "-P no:: write -P NAME or -P no:NAME",
        "HVMMU_PLUGINS: no:b: it only adds; write -P no:b",
    ]
    assert autoload.startswith("HVMMU_DISABLE_PLUGIN_AUTOLOAD (environment): 'maybe' is not one of")
    off = {"HVMMU_DISABLE_PLUGIN_AUTOLOAD": "no", "HVMMU_PLUGINS": ""}
    assert plugin_selection([], off) == {"block": [], "extra": [], "autoload": True}


LOUD = """
import os, subprocess, sys
print("one")
sys.stderr.write("two\\n")
os.write(1, b"three\\n")
subprocess.run([sys.executable, "-c", "print('four')"])
"""


def test_a_plugin_that_prints(process: Command, install: Callable[..., dict[str, str]]) -> None:
    """A plugin's greeting, or that of a process it starts, stands in the JSON document."""
    environ = install(loud=LOUD)
    bypassable = process("-P", "no:loud", *RUN, **environ)
    ended = process(*RUN, **environ)
    assert ended.code == 0
    assert json.loads(ended.out)["runs"]
    assert ended.out == bypassable.out
    assert ended.err == "three\nfour\n"
    told = process("plugins", "-v", **environ)
    assert 'hvmmu: debug: plugin_printed plugin=loud text="one two"' in told.err
    assert listed(told.out)["loud"] == ["acme-loud", "1.0", "ok", "-"]


def test_a_plugin_that_is_slow(hvmmu: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin makes every start take seconds, and nobody says which; or the listing says when."""
    monkeypatch.setattr("hvmmu._plugins.loading.discover", lambda: ([], []))
    now = iter((5.0, 7.25, 8.0, 8.9))
    monkeypatch.setattr("hvmmu._plugins.loading.perf_counter", lambda: next(now))
    ended = hvmmu("-P", "json", "-P", "string", "plugins")
    assert ended.err == "hvmmu: warning: plugin_import_was_slow plugin=json seconds=2.2\n"
    assert "2.2" not in ended.out


def test_interrupting_a_slow_plugin(
    process: Command, install: Callable[..., dict[str, str]]
) -> None:
    """Ctrl-C while a plugin loads counts as a broken plugin, and the command goes on."""
    ended = process("backends", **install(slow="raise KeyboardInterrupt"))
    assert (ended.code, ended.out, ended.err) == (130, "", "hvmmu: error: interrupted\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    """Where the shell closed a stream, keeping stdout clean ends in a traceback."""
    ended = subprocess.run(
        ["sh", "-c", f'"$0" -m hvmmu plugins {closed}', sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_hooks_of_a_plugin_are_called(
    process: Command, install: Callable[..., dict[str, str]]
) -> None:
    """A plugin that is listed with a hook is not heard in a run, or its failure names nobody."""
    hook = "from hvmmu.hookspecs import hookimpl\n@hookimpl\ndef hvmmu_report(result): "
    environ = install(count=hook + "return {'count.seen': 7}", sick=hook + "return 1 / 0")
    (run,) = json.loads(process("-P", "no:sick", *RUN, **environ).out)["runs"]
    assert run["counters"]["count.seen"] == 7
    ended = process(*RUN, **environ)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == (
        "hvmmu: error: plugin 'sick', in hvmmu_report: ZeroDivisionError: division by zero\n"
    )
