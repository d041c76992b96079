"""Loading plugins one by one: what works stays, what is broken is named and explained."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from importlib.metadata import EntryPoint, distributions
from typing import TYPE_CHECKING

import pytest

from hvmmu import _plugins as plugins
from hvmmu._native import NativeBackend
from hvmmu._plugins import BUILT_IN, GROUP, Plugin, Problem, Registry, State
from hvmmu.backend import API_VERSION
from hvmmu.errors import ConfigError
from hvmmu.hookspecs import hvmmu_backends

if TYPE_CHECKING:
    from pathlib import Path

GOOD = f"""
from hvmmu.errors import ConfigError
from hvmmu.hookspecs import hookimpl
from hvmmu._native import NativeBackend

class Backend(NativeBackend):
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
        "unknown hook 'hvmmu_backendz'; did you mean 'hvmmu_backends'?",
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
    pytest.param(
        GOOD.replace("[Backend]", "[7]"),
        "hvmmu_backends gave an object of type int, which is no class",
        id="no class",
    ),
    pytest.param(
        GOOD.replace("[Backend]", "[type('B', (), {})]"),
        "backend class B has no usable name",
        id="no name",
    ),
    pytest.param(
        offering("two words"), "backend class B has no usable name", id="a name nobody can type"
    ),
    pytest.param(
        offering("mmu"),
        "backend 'mmu' has the name of a section of the configuration",
        id="the name of a section",
    ),
    pytest.param(
        GOOD.replace("(NativeBackend)", "").replace('"NAME"', '"half"'),
        "backend 'half' lacks summary, caps, params, unsupported, compare_params, create_vcpu",
        id="half a backend",
    ),
    pytest.param(
        GOOD.replace(
            "class Backend(NativeBackend):",
            "class Backend(NativeBackend):\n"
            "    caps = __import__('attrs').evolve(NativeBackend.caps, deprivileged=True)",
        ),
        "backend 'NAME' lacks switch_privilege, deliver_page_fault, load_user_root",
        id="half a backend for guests without privilege",
    ),
    pytest.param(
        GOOD.replace("api_version =", "params, api_version =").replace('"NAME",', '"NAME", 7,'),
        "backend 'NAME': its params are no attrs class",
        id="parameters that are none",
    ),
    pytest.param(
        offering("twice", "twice"),
        "backend 'twice' is contributed twice",
        id="the same name twice",
    ),
    pytest.param(
        "class Silent(BaseException):\n    def __str__(self): return 7\nraise Silent",
        "Silent",
        id="an error that cannot say what it is",
    ),
    pytest.param(
        "raise ValueError('\\x1b[31m' * 999)", "ValueError: \\x1b[31m", id="control codes"
    ),
    pytest.param("input('name? ')", "EOFError", id="a question"),
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
    assert problem.cause.isprintable()
    assert len(problem.cause) < 500
    (plugin,) = [plugin for plugin in registry.plugins if plugin.name == "broken"]
    assert (plugin.state, plugin.registered) == (State.BROKEN, ())


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


NEWER = [
    pytest.param(
        GOOD.replace(f'"NAME", {API_VERSION}', f'"NAME", {API_VERSION + 1}'),
        f"backend 'NAME' is for api_version {API_VERSION + 1}, and this is {API_VERSION}",
        id="a backend",
    ),
    pytest.param(
        f"api_version = {API_VERSION + 1}" + GOOD.replace("def hvmmu_backends", "def hvmmu_later"),
        f"the plugin is for api_version {API_VERSION + 1}, and this is {API_VERSION}",
        id="a plugin, whose hooks we may not know",
    ),
]


@pytest.mark.parametrize(("source", "cause"), NEWER)
def test_another_version_of_the_interface(
    load: Callable[..., Registry], source: str, cause: str
) -> None:
    """If wrong, a plugin that is too new for us fails in the middle of a run, or looks broken."""
    registry = load(newer=source, later=offering("last"))
    assert list(registry.backends) == ["last", "native"]
    assert [(p.state, p.cause) for p in registry.unusable] == [(State.INCOMPATIBLE, cause)]


@pytest.mark.parametrize("names", [("native",), ("good", "good2", "native")])
def test_a_backend_that_is_built_in(load: Callable[..., Registry], names: tuple[str, ...]) -> None:
    """If wrong, a plugin replaces the baseline, or half of a plugin is loaded."""
    registry = load(bold=offering(*names))
    assert registry.backends == {"native": NativeBackend}
    (plugin,) = registry.unusable
    assert plugin.state is State.DUPLICATE
    assert plugin.cause.startswith("backend 'native' is built in, and a plugin has it too")


Installed = Callable[..., list[EntryPoint]]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Return a function that installs distributions: each with one plugin, by name and source."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(**plugins: tuple[str, str]) -> list[EntryPoint]:
        for distribution, (name, source) in plugins.items():
            module = f"{distribution}_{tmp_path.name.replace('-', '_')}"
            (tmp_path / f"{module}.py").write_text(source)
            about = tmp_path / f"{distribution}-1.0.dist-info"
            about.mkdir()
            metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
            (about / "METADATA").write_text(metadata)
            (about / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {module}\n")
        return [p for d in distributions(path=[str(tmp_path)]) for p in d.entry_points]

    return install


def test_installed_plugins_are_found(installed: Installed) -> None:
    """If wrong, a plugin that was installed is not found, or named after its entry point."""
    installed(fake_sound=("sound", offering("sound")), fake_sick=("sick", "raise OSError('dead')"))
    registry = plugins.load()
    assert registry.origin("sound") == "fake-sound"
    assert [problem for problem in registry.problems if problem.plugin == "sick"] == [
        Problem("sick", "fake-sick", "OSError: dead")
    ]
    (sick,) = [plugin for plugin in registry.unusable if plugin.name == "sick"]
    assert str(sick) == "plugin sick (from fake-sick 1.0) is broken: OSError: dead"


def test_what_a_plugin_registered(installed: Installed) -> None:
    """If wrong, nobody can tell which plugin listens in on a run."""
    hooks = "".join(
        f"\n@hookimpl\ndef hvmmu_{hook}(): return None\n" for hook in ("report", "vm_created")
    )
    registry = plugins.load(installed(fake=("it", offering("zeta", "beta") + hooks)))
    (plugin,) = registry.plugins
    assert plugin._replace(seconds=0.0) == Plugin(
        "it",
        "fake",
        "1.0",
        registered=("backend beta", "backend zeta", "hvmmu_vm_created", "hvmmu_report"),
    )
    assert registry.hooks.vm_created is not None
    assert registry.hooks.handle_fault is None


def test_one_name_in_two_distributions(installed: Installed) -> None:
    """If wrong, which of two plugins is used depends on chance."""
    points = installed(
        fake_a=("same", offering("one")),
        fake_b=("same", offering("two")),
        fake_c=("other", offering("three")),
    )
    registry = plugins.load(points)
    assert list(registry.backends) == ["native", "three"]
    cause = (
        "entry point 'same' is in same (from fake_a 1.0) and same (from fake_b 1.0);"
        " uninstall all but one"
    )
    told = [(p.origin, p.state, p.cause) for p in registry.unusable]
    assert told == [(f"fake_{x} 1.0", State.DUPLICATE, cause) for x in "ab"]


def test_one_backend_in_two_distributions(installed: Installed) -> None:
    """If wrong, which of two backends is used depends on chance, or a hook of a loser is called."""
    hook = "\n@hookimpl\ndef hvmmu_report(): return None\n"
    points = installed(
        fake_a=("a", offering("same", "own") + hook),
        fake_b=("b", offering("same")),
        fake_c=("c", offering("three")),
    )
    registry = plugins.load(points)
    assert list(registry.backends) == ["native", "three"]
    assert registry.hooks.report is None
    cause = (
        "backend 'same' is in a (from fake_a 1.0) and b (from fake_b 1.0);"
        " keep one: uninstall the other, or block it with -P no:NAME"
    )
    assert [(p.name, p.state, p.cause) for p in registry.unusable] == [
        ("a", State.DUPLICATE, cause),
        ("b", State.DUPLICATE, cause),
    ]
    kept = plugins.load(points, block=["a"])
    assert list(kept.backends) == ["native", "same", "three"]
    assert kept.problems == ()


def test_one_module_under_two_names(installed: Installed) -> None:
    """If wrong, a plugin's hooks are called twice, or one of its names is right by chance."""
    (point,) = installed(fake=("a", offering("one")))
    registry = plugins.load([point, EntryPoint("b", point.value, GROUP)])
    assert list(registry.backends) == ["native"]
    assert [(p.name, p.state) for p in registry.plugins] == [
        ("a", State.DUPLICATE),
        ("b", State.DUPLICATE),
    ]
    assert "under another name is in a (from fake 1.0) and b" in registry.problems[0].cause


def test_blocking(installed: Installed) -> None:
    """If wrong, a plugin that somebody blocks is imported all the same, or counts as a failure."""
    points = installed(fake_a=("a", "raise KeyboardInterrupt"), fake_b=("b", offering("two")))
    registry = plugins.load(points, block=["a"])
    assert list(registry.backends) == ["native", "two"]
    assert registry.problems == ()
    assert [(p.name, p.state, p.cause) for p in registry.plugins if p.cause] == [
        ("a", State.BLOCKED, "by its name: -P no:a")
    ]


@pytest.mark.parametrize("by_module", [False, True])
def test_without_autoload(installed: Installed, by_module: bool) -> None:
    """If wrong, there is no way to run with just the plugins one wants."""
    points = installed(fake_a=("a", offering("one")), fake_b=("b", "raise KeyboardInterrupt"))
    assert list(plugins.load(points[:0], autoload=False).backends) == ["native"]
    named = [point.module if by_module else "a" for point in points if point.name == "a"]
    registry = plugins.load(points, extra=named, autoload=False)
    assert registry.origin("one") == "fake_a"
    assert [(p.name, p.state) for p in registry.plugins] == [("a", State.OK), ("b", State.BLOCKED)]
    assert plugins.load(points, extra=named, block=named, autoload=False).problems == ()


def test_a_module_that_is_no_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If wrong, a backend cannot be tried before it is packaged."""
    monkeypatch.syspath_prepend(tmp_path)
    package = f"loose_{tmp_path.name.replace('-', '_')}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / package / "mine.py").write_text(offering("mine"))
    (tmp_path / package / "sick.py").write_text("import no_such_module_anywhere")
    names = [f"{package}.mine", f"{package}.sick"]
    registry = plugins.load([], extra=names)
    assert list(registry.backends) == ["mine", "native"]
    assert [p.plugin for p in registry.problems] == names[1:]
    assert plugins.load([], extra=names, block=names).backends.keys() == {"native"}


@pytest.mark.parametrize(
    "name", ["", "no_such_module", "no_such.module", "os.nothing", ".x", "../x", "a b", "a:b", "x."]
)
def test_names_of_nothing(installed: Installed, name: str) -> None:
    """If wrong, a typing mistake is taken for a broken plugin, or for nothing at all."""
    points = installed(fake=("fine", offering("fine")))
    for wrong in ({"extra": [name]}, {"block": [name]}, {"extra": [name], "autoload": False}):
        with pytest.raises(ConfigError, match="no plugin"):
            plugins.load(points, **wrong)
    with pytest.raises(ConfigError, match=r"'fina' to block; did you mean 'fine'\?") as caught:
        plugins.load(points, block=["fina", name])
    assert len(caught.value.problems) == 2


TALKER = """
import sys
print("hello"); print("there\\x1b", file=sys.stderr)
sys.stdout.reconfigure(encoding="ascii")
sys.stdout.buffer.write(b"\\xff")
sys.stdout.close()
"""


def test_a_plugin_that_prints(
    load: Callable[..., Registry], capfd: pytest.CaptureFixture[str]
) -> None:
    """If wrong, a plugin's greeting stands in the middle of a JSON document."""
    registry = load(talker=TALKER + offering("fine"), shouting="print('x' * 9999)")
    assert capfd.readouterr() == ("", "")
    assert registry.problems == ()
    shouting, talker = registry.plugins
    assert talker.printed == "hello there\\x1b \ufffd"
    assert len(shouting.printed) < 300


def test_how_long_an_import_took(load: Callable[..., Registry]) -> None:
    """If wrong, nobody knows which plugin makes the tool slow."""
    (plugin,) = load(slow="import time; time.sleep(0.05)").plugins
    assert plugin.seconds >= 0.05


UNREADABLE = {
    "an entry point that is none": (f"[{GROUP}]\nnothing\n", ["broken"]),
    "another tool's": ("[other]\nnothing\n", []),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_an_unreadable_distribution(installed: Installed, tmp_path: Path, what: str) -> None:
    """If wrong, one file of some other package takes the tool down, or all plugins with it."""
    text, states = UNREADABLE[what]
    installed(fake_sound=("sound", offering("sound")))
    (tmp_path / "bad-2.0.dist-info").mkdir()
    (tmp_path / "bad-2.0.dist-info" / "METADATA").write_text("Name: bad\nVersion: 2.0\n")
    (tmp_path / "bad-2.0.dist-info" / "entry_points.txt").write_text(text)
    registry = plugins.load()
    assert "sound" in registry.backends
    assert [p.state.value for p in registry.plugins if p.name == "bad"] == states


@pytest.mark.parametrize("metadata", [None, b"", b"\xff\xfe", b"Name: x\n"])
def test_a_distribution_that_cannot_say_its_name(
    installed: Installed, tmp_path: Path, metadata: bytes | None
) -> None:
    """If wrong, a half-deleted distribution takes the tool down."""
    points = installed(fake=("it", offering("one")))
    (tmp_path / "fake-1.0.dist-info" / "METADATA").unlink()
    if metadata is not None:
        (tmp_path / "fake-1.0.dist-info" / "METADATA").write_bytes(metadata)
    (plugin,) = plugins.load(points).plugins
    assert plugin.state is State.OK
    assert plugin.origin in ("unknown distribution", "x")


@pytest.mark.parametrize("value", ["!!!", "", "json:nothing", "builtins:__spec__.submodule"])
def test_an_entry_point_of_nothing(value: str) -> None:
    """If wrong, a slip in a plugin's pyproject takes the tool down."""
    registry = plugins.load([EntryPoint("slip", value, GROUP)])
    assert [p.state for p in registry.plugins] == [State.BROKEN]


def test_every_hook_says_what_it_is_for() -> None:
    """If wrong, a plugin author has to read our source."""
    assert hvmmu_backends.__doc__
    assert hvmmu_backends() is None  # a specification does nothing itself
