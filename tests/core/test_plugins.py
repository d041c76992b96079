"""Loading plugins one by one: what works stays, what is broken is named and explained."""

from __future__ import annotations

import textwrap
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

import pytest

from hvmmu import plugins
from hvmmu.backend import API_VERSION
from hvmmu.hookspecs import hvmmu_backends
from hvmmu.native import NativeBackend
from hvmmu.plugins import BUILT_IN, GROUP, Problem, Registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = f"""
from hvmmu.hookspecs import hookimpl

class Backend:
    name, api_version = "NAME", {API_VERSION}

@hookimpl
def hvmmu_backends():
    return [Backend]
"""


def offering(*names: str) -> str:
    """Return the source of a plugin that offers backends of these names."""
    lines = [f'type("B", (Backend,), {{"name": {name!r}}})' for name in names]
    return GOOD.replace("[Backend]", f"[{', '.join(lines)}]")


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    """Return a function that loads plugins from their sources, given by name."""
    monkeypatch.syspath_prepend(tmp_path)
    names = iter(range(100))

    def loaded(**sources: str) -> Registry:
        points = []
        for name, source in sources.items():
            module = f"fake_hvmmu_plugin_{next(names)}_{tmp_path.name.replace('-', '_')}"
            (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
            points.append(EntryPoint(name, module, GROUP))
        return plugins.load(points)

    return loaded


def test_native_needs_no_plugin() -> None:
    """If wrong, a fresh installation has nothing to compare with, or nothing at all."""
    registry = plugins.load([])
    assert list(registry.backends) == ["native"]
    assert registry.backends["native"] is NativeBackend
    assert registry.origin("native") == BUILT_IN
    assert registry.problems == ()


def test_a_plugin_adds_its_backends(load: Callable[..., Registry]) -> None:
    """If wrong, backends are lost, in another order each time, or credited to somebody else."""
    registry = load(two=offering("zeta", "beta"), one=offering("alpha"))
    assert list(registry.backends) == ["alpha", "beta", "native", "zeta"]
    assert registry.problems == ()
    assert registry.origin("zeta") == "unknown distribution"


def test_a_plugin_with_nothing_to_offer(load: Callable[..., Registry]) -> None:
    """If wrong, a plugin that implements none of our hooks, or offers none, counts as broken."""
    registry = load(silent="", empty=GOOD.replace("[Backend]", "()"))
    assert list(registry.backends) == ["native"]
    assert registry.problems == ()


BROKEN = [
    pytest.param("import not_there_at_all", "ModuleNotFoundError: No module named", id="import"),
    pytest.param("raise SystemExit('bye')", "SystemExit: bye", id="exit"),
    pytest.param("raise SystemExit", "SystemExit", id="exit without a word"),
    pytest.param("1 +", "SyntaxError: invalid syntax", id="syntax"),
    pytest.param(
        "raise ValueError('one\\n  two\\n\\nthree')", "ValueError: one two three", id="many lines"
    ),
    pytest.param(
        GOOD.replace("def hvmmu_backends", "def hvmmu_backendz"),
        "PluginValidationError: unknown hook 'hvmmu_backendz'",
        id="misspelt hook",
    ),
    pytest.param(
        GOOD.replace("hvmmu_backends()", "hvmmu_backends(name)"),
        "PluginValidationError: Plugin 'broken' for hook 'hvmmu_backends'",
        id="argument that the hook has not",
    ),
    pytest.param(
        GOOD.replace("return [Backend]", "raise RuntimeError('no')"), "RuntimeError: no", id="hook"
    ),
    pytest.param(
        GOOD.replace("return [Backend]", "yield Backend; raise RuntimeError('late')"),
        "RuntimeError: late",
        id="generator",
    ),
    pytest.param(GOOD.replace("[Backend]", "7"), "TypeError: 'int' object is not", id="no list"),
    pytest.param(GOOD.replace("[Backend]", "[7]"), "AttributeError: 'int' object", id="no class"),
    pytest.param(
        GOOD.replace(f'"NAME", {API_VERSION}', f'"NAME", {API_VERSION + 1}'),
        f"ValueError: backend 'NAME' is for interface {API_VERSION + 1}, and this is {API_VERSION}",
        id="another interface",
    ),
    pytest.param(
        offering("native"),
        "ValueError: backend 'native' is there already, from built in",
        id="a name that is taken",
    ),
    pytest.param(
        offering("good", "good2", "native"),
        "ValueError: backend 'native' is there already",
        id="one of several",
    ),
    pytest.param(
        offering("twice", "twice"),
        "ValueError: backend 'twice' is offered twice",
        id="the same name twice",
    ),
]


@pytest.mark.parametrize(("source", "cause"), BROKEN)
def test_a_broken_plugin_costs_only_itself(
    load: Callable[..., Registry], source: str, cause: str
) -> None:
    """If wrong, one bad plugin takes the tool, or other plugins, down with it."""
    registry = load(before=offering("first"), broken=source, later=offering("last"))
    assert list(registry.backends) == ["first", "last", "native"]
    [problem] = registry.problems
    assert (problem.plugin, problem.distribution) == ("broken", "unknown distribution")
    assert problem.cause.startswith(cause)
    assert "\n" not in problem.cause


def test_two_plugins_with_one_backend(load: Callable[..., Registry]) -> None:
    """If wrong, which of two plugins is used depends on chance."""
    registry = load(b=offering("same"), a=offering("same"))
    assert list(registry.backends) == ["native", "same"]
    assert [problem.plugin for problem in registry.problems] == ["b"]


def test_an_attribute_that_is_not_there(load: Callable[..., Registry], tmp_path: Path) -> None:
    """If wrong, an entry point that names nothing stops the tool."""
    load(silent="")
    [module] = [path.stem for path in tmp_path.glob("*.py")]
    point = EntryPoint("broken", f"{module}:missing", GROUP)
    [problem] = plugins.load([point]).problems
    assert problem.cause.startswith("AttributeError: module")


def test_keyboard_interrupt_is_the_users(load: Callable[..., Registry]) -> None:
    """If wrong, Ctrl-C while plugins load counts as a broken plugin."""
    with pytest.raises(KeyboardInterrupt):
        load(slow="raise KeyboardInterrupt")


def test_installed_plugins_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If wrong, a plugin that was installed is not found, or named after its entry point."""
    for name, source in (("sound", offering("sound")), ("sick", "raise OSError('dead')")):
        (tmp_path / f"fake_{name}_plugin.py").write_text(source)
        about = tmp_path / f"fake_{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fake-{name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = fake_{name}_plugin\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = plugins.load()
    assert registry.origin("sound") == "fake-sound"
    assert [problem for problem in registry.problems if problem.plugin == "sick"] == [
        Problem("sick", "fake-sick", "OSError: dead")
    ]


def test_two_entry_points_of_one_name(load: Callable[..., Registry], tmp_path: Path) -> None:
    """If wrong, a name that two distributions use stops the tool, or silences the first."""
    load(one=offering("one"), two=offering("two"))
    first, second = sorted(path.stem for path in tmp_path.glob("*.py"))
    registry = plugins.load([EntryPoint("same", m, GROUP) for m in (first, second)])
    assert list(registry.backends) == ["native", "one"]
    [problem] = registry.problems
    assert problem.plugin == "same"
    assert problem.cause.startswith("ValueError: Plugin name already registered: same")


def test_every_hook_says_what_it_is_for() -> None:
    """If wrong, a plugin author has to read our source."""
    assert hvmmu_backends.__doc__
    assert hvmmu_backends() is None  # a specification does nothing itself
