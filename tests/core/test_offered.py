"""What plugins register: each kind is there to be chosen, checked, and nobody's twice."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

import pytest

from hvmmu import _plugins as plugins
from hvmmu._engines import ENGINES
from hvmmu._native import NativeBackend
from hvmmu._plugins import BUILT_IN, GROUP, Registry, State
from hvmmu.costs import MODELS, estimate
from hvmmu.errors import EngineUnavailableError, InputError, PluginError, TraceError
from hvmmu.machine import Machine, MachineConfig
from hvmmu.steps import ReducedAccesses
from hvmmu.workloads import FORMATS, WORKLOADS, open_workload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAD = """
from array import array
import attrs, click
from hvmmu.costs import Cost, CostModel
from hvmmu.errors import EngineUnavailableError, InputError
from hvmmu.steps import PROT_READ, PROT_WRITE, Accesses, Backing, Mmap
from hvmmu.hookspecs import hookimpl
from hvmmu.spec.engine import ReferenceEngine
from hvmmu.types import PAGE_SLOTS
from hvmmu._bare_mmu import BareMmu
from hvmmu._native import NativeBackend
from hvmmu.params import param

class Engine(ReferenceEngine):
    name, summary = "stopwatch", "the reference engine, with a name of its own"

class Mmu(BareMmu):
    name, summary = "pass-through", "the guest's own tables"

class Workload:
    name = "touch"
    summary = "writes a few pages"
    pages = 2
    def open(self, options):
        if options == "sick":
            raise InputError("touch: sick")
        self.pages = int(options or 2)
        return self
    def facts(self):
        return {"pages": self.pages}
    def steps(self):
        yield Mmap(0x400000, self.pages, PROT_READ | PROT_WRITE, Backing.ANONYMOUS)
        gva = array("Q", [0x400000 + 4096 * n for n in range(self.pages)])
        yield Accesses(gva, bytes([6]) * self.pages)

class Format:
    name = "acme"
    summary = "begins with ACME"
    def recognises(self, path, head):
        return head.startswith(b"ACME")
    def open(self, path, limit):
        workload = Workload()
        workload.name, workload.pages = path.name, limit or 3
        return workload

@click.command(short_help="Say hello.")
def hello():
    click.echo("hello")

@attrs.frozen
class Params:
    depth: int = param(default=3, doc="how deep", least=1)
"""
ALL = (
    HEAD
    + """
@hookimpl
def hvmmu_engines():
    return [Engine]

@hookimpl
def hvmmu_mmus():
    return [Mmu]

@hookimpl
def hvmmu_workloads():
    return [Workload()]

@hookimpl
def hvmmu_trace_formats():
    return [Format()]

@hookimpl
def hvmmu_cost_models():
    return [CostModel("mine", "my own", (Cost("exits", 7, "made up"),))]

@hookimpl
def hvmmu_commands():
    yield hello

@hookimpl
def hvmmu_parameters():
    return {"mine": Params}
"""
)
WORDS = ["engine", "MMU", "workload", "trace format", "cost model", "command", "parameters"]


def offer(hook: str, made: str) -> str:
    """Return the source of a plugin with one hook, which returns what *made* says."""
    return f"{HEAD}\n@hookimpl\ndef hvmmu_{hook}():\n    return {made}\n"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    """Return a function that loads plugins from their sources, given by name."""
    monkeypatch.syspath_prepend(tmp_path)
    names = iter(range(100))

    def loaded(commands: tuple[str, ...] = (), **sources: str) -> Registry:
        points = []
        for name, source in sources.items():
            module = f"offering_{next(names)}_{tmp_path.name.replace('-', '_')}"
            (tmp_path / f"{module}.py").write_text(source)
            points.append(EntryPoint(name, module, GROUP))
        return plugins.load(points, commands=commands)

    return loaded


def test_without_plugins() -> None:
    """If wrong, what is built in is not there to be chosen, or not the default."""
    registry = plugins.load([])
    assert list(registry.engines.values()) == list(ENGINES)
    assert registry.workloads == WORKLOADS
    assert registry.trace_formats == FORMATS
    assert list(registry.cost_models) == list(MODELS)
    assert (registry.commands, registry.parameters) == ({}, {})
    assert registry.origin("reference", "engine") == BUILT_IN
    assert registry.hooks.settings == {}


def test_one_plugin_offers_everything(load: Callable[..., Registry]) -> None:
    """If wrong, something that a plugin registers is lost, or not told of."""
    registry = load(acme=ALL)
    (plugin,) = registry.plugins
    assert (plugin.state, plugin.cause) == (State.OK, "")
    assert plugin.registered == (
        "engine stopwatch",
        "MMU pass-through",
        "workload touch",
        "trace format acme",
        "cost model mine",
        "command hello",
        "parameters mine",
    )
    assert list(registry.engines) == [*(made.name for made in ENGINES), "stopwatch"]
    assert list(registry.mmus) == ["shadow", "pass-through"]
    assert list(registry.workloads) == [*WORKLOADS, "touch"]
    assert list(registry.trace_formats) == [*FORMATS, "acme"]
    assert list(registry.cost_models) == [*MODELS, "mine"]
    assert (list(registry.commands), list(registry.parameters)) == (["hello"], ["mine"])
    assert registry.hooks.settings["mine"].depth == 3
    for word, (*_, name) in registry.contributions.items():
        assert registry.plugin(word, name) is (None if word == "backend" else plugin)


REFUSED = [
    ("engines", "[7]", "hvmmu_engines gave an object of type int, which is no class"),
    ("engines", "[Engine, Engine]", "engine 'stopwatch' is contributed twice"),
    ("engines", "[type('E', (), {'name': 'x y'})]", "engine class E has no usable name"),
    (
        "engines",
        "[type('E', (), {'name': 'e'})]",
        "engine 'e' lacks summary, load_regs, write_pte, flush, run, counts",
    ),
    ("engines", "[type('E', (Engine,), {'summary': 7})]", "engine 'stopwatch': its summary is no"),
    ("workloads", "[object()]", "a workload has no usable name"),
    ("workloads", "[Engine]", "workload 'stopwatch' lacks open"),
    ("workloads", "7", "TypeError: 'int' object is not iterable"),
    ("trace_formats", "[Workload()]", "trace format 'touch' lacks recognises"),
    ("trace_formats", "[Format(), Format()]", "trace format 'acme' is contributed twice"),
    ("cost_models", "['x']", "hvmmu_cost_models gave an object of type str, which is no CostModel"),
    ("cost_models", "[CostModel('a b', '', ())]", "a cost model has no usable name"),
    ("cost_models", "[CostModel('m', '', (7,))]", "cost model 'm': its costs must be Cost"),
    (
        "cost_models",
        "[CostModel('m', '', (Cost('exits', -1, ''),))]",
        "cost model 'm': its costs must be Cost objects of whole cycles, 0 or more",
    ),
    (
        "cost_models",
        "[CostModel('m', '', (Cost('total', 1, ''),))]",
        "cost model 'm': no cost may be named 'total'",
    ),
    ("commands", "[print]", "hvmmu_commands gave an object of type builtin_function_or_method"),
    ("parameters", "{'mine': 7}", "hvmmu_parameters gave an object of type int, which is no class"),
    ("parameters", "{'mine': Engine}", "parameters 'mine': must be an attrs class with parameters"),
    (
        "parameters",
        "{'mine': attrs.make_class('P', ['needed'])}",
        "parameters 'mine': must be an attrs class with parameters",
    ),
    ("parameters", "{'m.n': Params}", "parameters class Params has no usable name"),
    ("parameters", "{'mmu': Params}", "parameters 'mmu' has the name of a section of the config"),
    ("parameters", "{'native': Params}", "parameters 'native' has the name of a section of the"),
]


@pytest.mark.parametrize(("hook", "made", "cause"), REFUSED)
def test_what_cannot_be_used_is_refused(
    load: Callable[..., Registry], hook: str, made: str, cause: str
) -> None:
    """If wrong, a slip in a plugin shows in the middle of a run, or as a traceback."""
    registry = load(slip=offer(hook, made), fine=ALL)
    (problem,) = registry.problems
    assert problem.plugin == "slip"
    assert problem.cause.startswith(cause)
    assert "stopwatch" in registry.engines


BUILT_INS = [
    ("engines", "[type('E', (Engine,), {'name': 'reference'})]", "engine 'reference'"),
    ("workloads", "[attrs.make_class('W', {'name': attrs.field(default='random')})()]", "workload"),
    ("trace_formats", "[type('F', (Format,), {'name': 'lackey'})]", "trace format 'lackey'"),
    ("cost_models", "[CostModel('nehalem', '', ())]", "cost model 'nehalem'"),
    ("commands", "[click.Command('run')]", "command 'run'"),
]


@pytest.mark.parametrize(("hook", "made", "label"), BUILT_INS)
def test_what_is_built_in_stays(
    load: Callable[..., Registry], hook: str, made: str, label: str
) -> None:
    """If wrong, a plugin replaces what everybody means by a name."""
    registry = load(bold=offer(hook, made), commands=("run",))
    (plugin,) = registry.unusable
    assert plugin.state is State.DUPLICATE
    assert plugin.cause.startswith(label)
    assert "built in, and a plugin has it too" in plugin.cause
    assert registry.contributions == plugins.load([]).contributions


@pytest.mark.parametrize("hook", ["hvmmu_" + word.lower().replace(" ", "_") for word in WORDS])
def test_no_name_is_in_two_plugins(load: Callable[..., Registry], hook: str) -> None:
    """If wrong, which of two plugins is used depends on chance, or a loser's rest stays."""
    head, *hooks = ALL.split("@hookimpl\n")
    (own,) = [one for one in hooks if one.startswith(f"def {hook.rstrip('s')}s")]
    registry = load(a=ALL, b=f"{head}@hookimpl\n{own}")
    assert [(p.name, p.state) for p in registry.unusable] == [
        ("a", State.DUPLICATE),
        ("b", State.DUPLICATE),
    ]
    for plugin in registry.unusable:
        assert "is in a (from unknown distribution) and b (from" in plugin.cause
    assert registry.contributions == plugins.load([]).contributions


BACKEND = """
@hookimpl
def hvmmu_backends():
    return [type("B", (NativeBackend,), {"name": "mine"})]
"""


def test_a_backend_and_a_section_of_one_name(load: Callable[..., Registry]) -> None:
    """If wrong, [mine] in a file means two things."""
    registry = load(a=ALL, b=HEAD + BACKEND)
    causes = {plugin.cause.split(" is in ")[0] for plugin in registry.unusable}
    assert causes == {"backend 'mine' or parameters 'mine'"}
    assert registry.backends == {"native": NativeBackend}
    (problem,) = load(both=ALL + BACKEND).problems
    assert problem.cause == "parameters 'mine' has the name of its own backend"


def machine(**config: Any) -> Machine:  # noqa: ANN401 - whatever a machine is made with
    """Return a bare machine."""
    return Machine(MachineConfig(NativeBackend, NativeBackend.params(), **config))


def test_an_engine_plays_the_hardware(load: Callable[..., Registry]) -> None:
    """If wrong, the engine that was chosen is not the one that runs."""
    registry = load(acme=ALL)
    made = machine(engine=registry.engines["stopwatch"])
    for step in open_workload("touch:5", kinds=registry.workloads).steps():
        made.step(step)
    result = made.result(registry.cost_models["mine"])
    assert (result.engine, result.counters["guest_faults"]) == ("stopwatch", 5)
    assert type(made._platform.engine) is registry.engines["stopwatch"]
    assert list(registry.mmus) == ["shadow", "pass-through"]
    assert result.cycles == {
        "model": "mine",
        **estimate(registry.cost_models["mine"], result.counters),
    }
    made.close()


@pytest.mark.parametrize(
    ("raised", "error", "said"),
    [
        ("EngineUnavailableError('no /dev/kvm')", EngineUnavailableError, "^no /dev/kvm$"),
        ("OSError('odd')", PluginError, "engine 'stopwatch' cannot be made: OSError: odd"),
    ],
)
def test_an_engine_that_cannot_work_here(
    load: Callable[..., Registry], raised: str, error: type[Exception], said: str
) -> None:
    """If wrong, nobody is told what an engine lacks."""
    source = ALL.replace(
        "    name, summary =", f"    def __init__(self, *_): raise {raised}\n    name, summary ="
    )
    with pytest.raises(error, match=said):
        machine(engine=load(acme=source).engines["stopwatch"])


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ("caps = property(lambda self: 7, lambda *_: None)", PluginError, "lacks an EngineCaps"),
        ("thread = property(lambda self: 7, lambda *_: None)", PluginError, "or a HwThread"),
        (
            "promote = property(lambda self: self.missing)",
            PluginError,
            "'stopwatch' has 16 lru_sets and no promote",
        ),
        (
            "caps = property(lambda self: EngineCaps(maxphyaddr=(40, 40)), lambda *_: None)",
            EngineUnavailableError,
            "engine stopwatch: it has 40 physical-address bits, and the CPU model has 46",
        ),
    ],
)
def test_an_engine_is_what_it_says(
    load: Callable[..., Registry], change: str, error: type[Exception], said: str
) -> None:
    """If wrong, an engine runs that cannot be what the CPU model says, or fails on the way."""
    source = ALL.replace("    name, summary =", f"    {change}\n    name, summary =")
    source = "from hvmmu.engine import EngineCaps\n" + source
    with pytest.raises(error, match=said):
        machine(engine=load(acme=source).engines["stopwatch"])


def test_a_workload_has_its_options(load: Callable[..., Registry]) -> None:
    """If wrong, options are lost, a limit is ignored, or the document does not take the facts."""
    kinds = load(acme=ALL).workloads
    assert open_workload("touch", kinds=kinds).facts() == {
        "name": "touch",
        "kind": "synthetic",
        "pages": 2,
    }
    assert open_workload("touch:4", limit=1, kinds=kinds).facts()["pages"] == 4
    with pytest.raises(InputError, match="touch: sick"):
        open_workload("touch:sick", kinds=kinds)
    with pytest.raises(InputError, match=r"did you mean 'touch'\?"):
        open_workload("tuch", kinds=kinds)


def test_a_format_is_told_by_content(load: Callable[..., Registry], tmp_path: Path) -> None:
    """If wrong, a plugin's trace is read as lackey's, or lackey's by the plugin."""
    import gzip  # noqa: PLC0415

    formats = load(acme=ALL).trace_formats
    (tmp_path / "plain").write_bytes(b"ACME")
    (tmp_path / "packed").write_bytes(gzip.compress(b"ACME" * 9999))
    for name in ("plain", "packed"):
        made = open_workload(str(tmp_path / name), limit=1, formats=formats)
        assert made.facts() == {"name": name, "kind": "trace", "pages": 1}
    assert open_workload(formats=formats).facts() == {"name": "dd.lackey.xz", "kind": "trace"}
    (tmp_path / "damaged").write_bytes(b"\x1f\x8b" + bytes(9))
    for name in ("damaged", ".", "gone"):
        if name == "gone":
            (tmp_path / name).symlink_to(tmp_path / "nowhere")
        with pytest.raises(TraceError):
            open_workload(str(tmp_path / name), formats=formats)


def test_two_formats_recognise_a_file(load: Callable[..., Registry], tmp_path: Path) -> None:
    """If wrong, which of two formats a file is read as depends on chance."""
    twin = "[type('F', (Format,), {'name': 'twin'})()]"
    registry = load(acme=ALL, other=offer("trace_formats", twin))
    (tmp_path / "x").write_bytes(b"ACME")
    with pytest.raises(InputError, match="the trace formats acme and twin both recognise it"):
        open_workload(str(tmp_path / "x"), formats=registry.trace_formats)


BAD = [
    ("return self\n", "return 1 / 0\n", "ZeroDivisionError: division by zero"),
    ("return self\n", "raise SystemExit('bye')\n", "SystemExit: bye"),
    ('return {"pages": self.pages}', "return 7", "its facts are no mapping"),
    ('{"pages": self.pages}', '{"pages": [1]}', "its fact 'pages' is no text and no number"),
    ("yield Mmap", "yield 7; yield Mmap", "an object of type int is no step"),
    ("yield Accesses", "yield 1 / 0, Accesses", "ZeroDivisionError: division by zero"),
    ("bytes([6])", "bytes([6, 6])", "accesses have as many gva (format Q) as kind (format B)"),
    ('array("Q", ', "list(", "TypeError: memoryview: a bytes-like object is required"),
    ("return self\n", "return object()\n", "AttributeError: 'object' object has no attribute"),
    ("self.pages = int(", "self.name = 7; self.pages = int(", "the workload's name is no text"),
]


@pytest.mark.parametrize(("old", "new", "said"), BAD)
def test_a_workload_that_breaks(
    load: Callable[..., Registry], old: str, new: str, said: str
) -> None:
    """If wrong, a bug in a plugin's workload looks like ours."""
    assert old in HEAD
    kinds = load(acme=ALL.replace(old, new, 1)).workloads
    with pytest.raises(PluginError) as caught:  # noqa: PT012 - whichever comes first
        made = open_workload("touch", kinds=kinds)
        made.facts()
        list(made.steps())
    assert str(caught.value).startswith(f"plugin 'acme', in workload 'touch': {said}")
    assert caught.value.plugin == "acme"


REDUCED = """
        @attrs.frozen
        class Tail:
            at: int
            next_kept: int
            def remaining(self):
                yield Accesses(gva[self.at:], array("B", [6] * (len(gva) - self.at)))
        def tail(at):
            return Tail(at, len(gva))
        slot_gva = gva + array("Q", bytes(8 * (PAGE_SLOTS - len(gva))))
        kept = array("H", range(len(gva)))
        yield ReducedAccesses(kept, slot_gva, bytes([6]) * PAGE_SLOTS, 9, 16, 1, tail)
"""
SLOTS = "ReducedAccesses have 65536 page slots of gva (format Q) and kind (B)"
KEPT = "ReducedAccesses keep page slots (format H), at most all accesses"
PARTS = "a tail is Accesses, as many gva (format Q) as kind (format B)"
NEXT = "a tail's next_kept is a later kept access, or the end"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("bytes([6])", "bytes([6, 6])", SLOTS),
        ("(8 *", "(16 *", SLOTS),
        ('"H"', '"B"', KEPT),
        (" 9,", " 1,", KEPT),
        ("return ", "1 / 0; return ", "ZeroDivisionError: division by zero"),
        ("yield ", "1 / 0; yield ", "ZeroDivisionError: division by zero"),
        ("return Tail", "return ", "AttributeError: 'tuple' object has no attribute 'next_kept'"),
        ("[6]", "[6, 6]", PARTS),
        ("yield Accesses", "yield ", PARTS),
        ("at, len(gva)", "at, at", NEXT),
        ("at, len(gva)", "at, 99", NEXT),
        ("", "", ""),
    ],
)
def test_a_reduction_that_breaks(
    load: Callable[..., Registry], old: str, new: str, said: str
) -> None:
    """If wrong, a plugin's reduction runs for ever or past its end, or its bug looks like ours."""
    steps = REDUCED.replace(old, new, 1) if old else REDUCED
    source = ALL.replace("Accesses, Backing", "Accesses, Backing, ReducedAccesses")
    at = source.index("        yield Accesses")
    kinds = load(acme=source[:at] + steps.lstrip("\n") + source[at:]).workloads

    def run() -> list[int]:
        return [
            len(part)
            for step in open_workload("touch", kinds=kinds).steps()
            if isinstance(step, ReducedAccesses)
            for part in step.whole()
        ]

    if not said:
        assert run() == [2]
        return
    with pytest.raises(PluginError) as caught:
        run()
    assert str(caught.value).startswith(f"plugin 'acme', in workload 'touch': {said}")


def test_a_format_that_breaks(load: Callable[..., Registry], tmp_path: Path) -> None:
    """If wrong, a file that no plugin has to do with cannot be read, and nobody knows why."""
    broken = ALL.replace('head.startswith(b"ACME")', "head[5000] == 0")
    (tmp_path / "x").write_bytes(b"ACME")
    with pytest.raises(PluginError, match="plugin 'acme', in trace format 'acme': IndexError"):
        open_workload(str(tmp_path / "x"), formats=load(acme=broken).trace_formats)
