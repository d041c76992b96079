"""Loading: our own loop over the entry points, one try per plugin.

First all are imported, then all are registered, and names are compared in between: who came first
never decides.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from hvmmu import hookspecs
from hvmmu._hooks import RunHooks, told
from hvmmu._plugins.aside import aside
from hvmmu._plugins.found import installed
from hvmmu._plugins.offered import (
    COMMAND,
    KINDS,
    PARAMETERS,
    Kind,
    RefusedError,
    check_interface,
    check_offers,
    check_sections,
)
from hvmmu._plugins.point import Point
from hvmmu._plugins.registry import Offer, Plugin, Registry, State
from hvmmu.backend import API_VERSION
from hvmmu.errors import ConfigError
from hvmmu.log import configure_if_imported
from hvmmu.params import nearest, plain, shown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("hvmmu_"))
_OFF = "autoload is off (HVMMU_DISABLE_PLUGIN_AUTOLOAD)"


def load(
    points: "Iterable[EntryPoint] | None" = None,
    *,
    block: Collection[str] = (),
    extra: Collection[str] = (),
    autoload: bool = True,
    commands: Collection[str] = (),
) -> Registry:
    """Load plugins and return what came of each; the environment is not asked.

    *points* stand in for the entry points that are installed. *block* are names of those to leave
    out, and prevails. *extra* are names to load even without *autoload*: of entry points, or of
    modules that can be imported. *commands* are names that no command of a plugin's may have.
    Raise ConfigError with every name that nothing has.
    """
    found, unread = installed() if points is None else (list(map(Point.of, points)), [])
    chosen = _chosen(sorted(found, key=lambda p: (p.name, p.value)), block, extra, autoload)
    registry = _Loader(chosen, commands).load(unread)
    configure_if_imported()
    return registry


@attrs.define(eq=False)
class _Candidate:
    """A plugin on its way; it goes on while its state is OK."""

    point: Point
    is_module: bool
    facts: Plugin
    imported: Any = None
    offers: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    """What it offers, by hook and by name."""
    missing: str = ""
    """The module that was not there, if that was it."""

    @classmethod
    def of(cls, point: Point, *, is_module: bool = False) -> "_Candidate":
        """Return a candidate of which nothing is known yet."""
        return cls(point, is_module, Plugin(point.name, point.distribution, point.version))

    @property
    def is_wanted(self) -> bool:
        return self.facts.state is State.OK

    def give_up(self, state: State, cause: str) -> None:
        """Leave the plugin out; the first cause is the one that is told."""
        if self.is_wanted:
            self.facts = attrs.evolve(self.facts, state=state, cause=cause)

    def attempt(self, step: "Callable[[_Candidate], None]") -> None:
        """Take one step; whatever it raises, SystemExit included, ends only this plugin."""
        with aside() as printed:
            try:
                step(self)
            except KeyboardInterrupt:
                raise
            except RefusedError as error:
                self.give_up(error.state, str(error))
            except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
                self.give_up(State.BROKEN, told(error))
                if isinstance(error, ModuleNotFoundError):
                    self.missing = str(error.name)
        text = " ".join(filter(None, (self.facts.printed, printed.text)))
        self.facts = attrs.evolve(self.facts, printed=text)


def _chosen(
    points: list[Point], block: Collection[str], extra: Collection[str], autoload: bool
) -> list[_Candidate]:
    """Return a candidate for every entry point and every module that is named besides."""
    names = {point.name for point in points}
    modules = {point.module: point.name for point in points if ":" not in point.value}
    explicit = {name if name in names else modules.get(name, name) for name in extra}
    known = names | explicit | set(extra)
    if unknown := sorted(set(block) - known):
        raise ConfigError([f"no plugin {shown(n)} to block{_near(n, known)}" for n in unknown])
    chosen = [_Candidate.of(point) for point in points]
    chosen += [
        _Candidate.of(Point(name, name), is_module=True) for name in sorted(explicit - names)
    ]
    blocked = {name if name in names else modules.get(name, name) for name in block}
    for candidate in chosen:
        name = candidate.point.name
        if name in blocked:
            candidate.give_up(State.BLOCKED, f"by its name: -P no:{plain(name)}")
        elif not autoload and name not in explicit:
            candidate.give_up(State.BLOCKED, f"{_OFF}; -P {plain(name)} loads it")
    return chosen


def _near(name: str, known: Iterable[str]) -> str:
    return nearest(name, sorted(known)) or "; `hvmmu plugins` lists them"


class _Loader:
    """Takes the candidates through the steps of loading, all of them one step at a time."""

    def __init__(self, candidates: list[_Candidate], commands: Collection[str]) -> None:
        self._candidates = candidates
        self._taken = {COMMAND.hook: commands}
        self._plugins = pluggy.PluginManager(hookspecs.PROJECT)
        self._plugins.add_hookspecs(hookspecs)

    def load(self, unread: list[Plugin]) -> Registry:
        """Return the registry; *unread* go into its list of plugins."""
        self._part(lambda one: [(one.point.name, f"entry point {one.point.name!r}")])
        self._each(_import)
        if unknown := [one.point.name for one in self._candidates if _is_nothing(one)]:
            names = {one.point.name for one in self._candidates} - set(unknown)
            raise ConfigError(
                [f"no plugin or module {shown(n)} to load{_near(n, names)}" for n in unknown]
            )
        self._part(lambda one: [(id(one.imported), f"{one.point.value!r} under another name")])
        self._each(self._register)
        self._part(_offers)
        return self._registry(unread)

    def _wanted(self) -> Iterator[_Candidate]:
        return (one for one in self._candidates if one.is_wanted)

    def _each(self, step: Callable[[_Candidate], None]) -> None:
        for candidate in list(self._wanted()):
            candidate.attempt(step)
            if not candidate.is_wanted:
                self._plugins.unregister(name=candidate.point.name)

    def _part(self, claims: Callable[[_Candidate], list[tuple[object, str]]]) -> None:
        """Give up all plugins that claim the same thing."""
        claimed: dict[object, list[tuple[_Candidate, str]]] = {}
        for one in self._wanted():
            for key, what in claims(one):
                claimed.setdefault(key, []).append((one, what))
        for rivals in claimed.values():
            if len(rivals) < 2:
                continue
            who = " and ".join(f"{one.point.name} (from {one.facts.origin})" for one, _ in rivals)
            what = " or ".join(sorted({what for _, what in rivals}))
            for one, _ in rivals:
                one.give_up(State.DUPLICATE, f"{what} is in {who}; {_remedy(rivals)}")
                self._plugins.unregister(name=one.point.name)

    def _register(self, one: _Candidate) -> None:
        """Register the hooks of one plugin, and ask it alone for what it offers."""
        check_interface("the plugin", getattr(one.imported, "api_version", API_VERSION))
        self._plugins.register(one.imported, name=one.point.name)
        for hook in self._hooks(one):
            optional = all(impl.optionalhook for impl in hook.get_hookimpls())
            if not hook.has_spec() and not optional:
                raise RefusedError(f"unknown hook {hook.name!r}{nearest(hook.name, _HOOKS)}")
        others = [p for p in self._plugins.get_plugins() if p is not one.imported]
        for hook in _in_order(self._hooks(one)):
            if kind := KINDS.get(hook.name):
                given = self._plugins.subset_hook_caller(hook.name, others)()
                taken = self._taken.get(hook.name, ())
                one.offers[hook.name] = check_offers(kind, given[0], taken) if given else {}
        check_sections(one.offers)

    def _hooks(self, one: _Candidate) -> list[pluggy.HookCaller]:
        return self._plugins.get_hookcallers(one.imported) or []

    def _registry(self, unread: list[Plugin]) -> Registry:
        for one in self._wanted():
            words = [
                f"{KINDS[hook].word} {name}"
                for hook, made in one.offers.items()
                for name in sorted(made)
            ]
            words += [h.name for h in _in_order(self._hooks(one)) if h.name not in KINDS]
            one.facts = attrs.evolve(one.facts, registered=tuple(words))
        plugins = [*unread, *(one.facts for one in self._candidates)]
        sections = self._offered(PARAMETERS)
        settings = {name: offer.made() for name, offer in sections.items()}
        return Registry(
            MappingProxyType({kind.word: self._offered(kind) for kind in KINDS.values()}),
            tuple(sorted(plugins, key=lambda p: (p.name, p.origin))),
            RunHooks(self._plugins, MappingProxyType(settings)),
        )

    def _offered(self, kind: Kind) -> Mapping[str, Offer]:
        """Return all there is of a kind: the built-in first, then the plugins' by name."""
        added = {
            name: Offer(kind.guarded(one.point.name, kind.label(name), made), one.facts)
            for one in self._wanted()
            for name, made in one.offers.get(kind.hook, {}).items()
        }
        built_in = {name: Offer(made) for name, made in kind.built_in.items()}
        return MappingProxyType(built_in | dict(sorted(added.items())))


def _import(one: _Candidate) -> None:
    if not one.point.module:
        value = shown(one.point.value)
        raise RefusedError(f"its entry point {value} is not module or module:attribute")
    begun = perf_counter()
    try:
        one.imported = one.point.load()
    finally:
        one.facts = attrs.evolve(one.facts, seconds=perf_counter() - begun)
    if one.imported is None:
        raise RefusedError(f"its entry point {shown(one.point.value)} is None")


def _offers(one: _Candidate) -> list[tuple[object, str]]:
    """Return what a plugin claims for itself: names, unique in their kind or as a section."""
    return [
        (("section" if KINDS[hook].is_section else hook, name), KINDS[hook].label(name))
        for hook, offers in one.offers.items()
        for name in offers
    ]


def _is_nothing(one: _Candidate) -> bool:
    """Return whether a module was named that does not exist, rather than fails."""
    if not one.is_module or one.is_wanted:
        return False
    module = one.point.module
    is_name = all(part.isidentifier() for part in module.split("."))
    return not is_name or f"{module}.".startswith(f"{one.missing}.")


def _in_order(hooks: list[pluggy.HookCaller]) -> list[pluggy.HookCaller]:
    """Return hooks as they come in a run; those that are only tolerated come last."""
    order = {name: nth for nth, name in enumerate(_HOOKS)}
    return sorted(hooks, key=lambda hook: (order.get(hook.name, len(order)), hook.name))


def _remedy(rivals: list[tuple[_Candidate, str]]) -> str:
    if len({one.point.name for one, _ in rivals}) == 1:
        return "uninstall all but one"
    return "keep one: uninstall the other, or block it with -P no:NAME"
