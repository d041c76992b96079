"""Load plugins one by one, so that a broken one costs only itself.

All are imported, then all are registered, and names are compared in between: the order in which
they are found decides nothing.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pluggy

from hvmmu import hookspecs
from hvmmu._hooks import RunHooks, told
from hvmmu._plugins.capture_output import captured_output
from hvmmu._plugins.contributions import (
    COMMAND,
    KINDS,
    PARAMETERS,
    ContributionKind,
    PluginRejectedError,
    check_contributions,
    check_interface,
    check_sections,
)
from hvmmu._plugins.discovery import PluginEntryPoint, discover
from hvmmu._plugins.registry import Contribution, Plugin, Registry, State
from hvmmu.backend import API_VERSION
from hvmmu.errors import ConfigError
from hvmmu.log import configure_if_imported
from hvmmu.params import did_you_mean, printable, quote

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
    """Load plugins and return them with their states; the environment is not read.

    *points* stand in for the entry points that are installed. *block* are names of plugins to leave
    out, and prevails. *extra* are names to load even without *autoload*: of entry points, or of
    modules that can be imported. *commands* are names that no plugin's command may have.
    Raise ConfigError with every name that stands for nothing.
    """
    if points is None:
        found, damaged = discover()
    else:
        found, damaged = [PluginEntryPoint.of(point) for point in points], []
    chosen = _chosen(sorted(found, key=lambda p: (p.name, p.value)), block, extra, autoload)
    registry = _Loader(chosen, commands).load(damaged)
    configure_if_imported()
    return registry


class _Candidate:
    """A plugin while it is loaded; it goes on while its state is OK."""

    def __init__(self, point: PluginEntryPoint, *, is_module: bool = False) -> None:
        self.point, self.is_module = point, is_module
        self.plugin = Plugin(point.name, point.distribution, point.version)
        self.imported: Any = None
        self.contributions: dict[str, dict[str, Any]] = {}
        """By hook and by name."""
        self.missing = ""
        """The name of the module that could not be found, if that was the error."""

    @property
    def is_wanted(self) -> bool:
        return self.plugin.state is State.OK

    def reject(self, state: State, cause: str) -> None:
        """Leave the plugin out; the first cause counts."""
        if self.is_wanted:
            self.plugin = self.plugin._replace(state=state, cause=cause)

    def attempt(self, step: "Callable[[_Candidate], None]") -> None:
        """Take one step; any exception, SystemExit included, ends only this plugin."""
        with captured_output() as printed:
            try:
                step(self)
            except KeyboardInterrupt:
                raise
            except PluginRejectedError as error:
                self.reject(error.state, str(error))
            except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
                self.reject(State.BROKEN, told(error))
                if isinstance(error, ModuleNotFoundError):
                    self.missing = str(error.name)
        text = " ".join(filter(None, (self.plugin.printed, printed.text)))
        self.plugin = self.plugin._replace(printed=text)


def _chosen(
    points: list[PluginEntryPoint], block: Collection[str], extra: Collection[str], autoload: bool
) -> list[_Candidate]:
    """Return a candidate for every entry point, and for every module named in *extra*."""
    names = {point.name for point in points}
    modules = {point.module: point.name for point in points if ":" not in point.value}
    explicit = {name if name in names else modules.get(name, name) for name in extra}
    known = names | explicit | set(extra)
    if unknown := sorted(set(block) - known):
        raise ConfigError([f"no plugin {quote(n)} to block{_near(n, known)}" for n in unknown])
    chosen = [_Candidate(point) for point in points]
    named = [PluginEntryPoint(name, name) for name in sorted(explicit - names)]
    chosen += [_Candidate(point, is_module=True) for point in named]
    blocked = {name if name in names else modules.get(name, name) for name in block}
    for candidate in chosen:
        name = candidate.point.name
        if name in blocked:
            candidate.reject(State.BLOCKED, f"by its name: -P no:{printable(name)}")
        elif not autoload and name not in explicit:
            candidate.reject(State.BLOCKED, f"{_OFF}; -P {printable(name)} loads it")
    return chosen


def _near(name: str, known: Iterable[str]) -> str:
    return did_you_mean(name, sorted(known)) or "; `hvmmu plugins` lists them"


class _Loader:
    """Takes the candidates through the steps of loading, all of them one step at a time."""

    def __init__(self, candidates: list[_Candidate], commands: Collection[str]) -> None:
        self._candidates = candidates
        self._taken = {COMMAND.hook: commands}
        self._plugins = pluggy.PluginManager(hookspecs.PROJECT)
        self._plugins.add_hookspecs(hookspecs)

    def load(self, damaged: list[Plugin]) -> Registry:
        """Return the registry; *damaged* are further plugins to list."""
        self._reject_rivals(lambda one: [(one.point.name, f"entry point {one.point.name!r}")])
        self._attempt(_import)
        if unknown := [one.point.name for one in self._candidates if _is_nothing(one)]:
            names = {one.point.name for one in self._candidates} - set(unknown)
            raise ConfigError(
                [f"no plugin or module {quote(n)} to load{_near(n, names)}" for n in unknown]
            )
        self._reject_rivals(
            lambda one: [(id(one.imported), f"{one.point.value!r} under another name")]
        )
        self._attempt(self._register)
        self._reject_rivals(_claims)
        return self._registry(damaged)

    def _wanted(self) -> Iterator[_Candidate]:
        return (one for one in self._candidates if one.is_wanted)

    def _attempt(self, step: Callable[[_Candidate], None]) -> None:
        for candidate in list(self._wanted()):
            candidate.attempt(step)
            if not candidate.is_wanted:
                self._plugins.unregister(name=candidate.point.name)

    def _reject_rivals(self, claims: Callable[[_Candidate], list[tuple[object, str]]]) -> None:
        """Reject all plugins that claim the same thing."""
        claimed: dict[object, list[tuple[_Candidate, str]]] = {}
        for one in self._wanted():
            for key, label in claims(one):
                claimed.setdefault(key, []).append((one, label))
        for rivals in claimed.values():
            if len(rivals) < 2:
                continue
            who = " and ".join(f"{one.point.name} (from {one.plugin.origin})" for one, _ in rivals)
            labels = " or ".join(sorted({label for _, label in rivals}))
            for one, _ in rivals:
                one.reject(State.DUPLICATE, f"{labels} is in {who}; {_remedy(rivals)}")
                self._plugins.unregister(name=one.point.name)

    def _register(self, one: _Candidate) -> None:
        """Register the hooks of one plugin, and call its own for its contributions."""
        check_interface("the plugin", getattr(one.imported, "api_version", API_VERSION))
        self._plugins.register(one.imported, name=one.point.name)
        for hook in self._hooks(one):
            optional = all(impl.optionalhook for impl in hook.get_hookimpls())
            if not hook.has_spec() and not optional:
                raise PluginRejectedError(
                    f"unknown hook {hook.name!r}{did_you_mean(hook.name, _HOOKS)}"
                )
        others = [p for p in self._plugins.get_plugins() if p is not one.imported]
        for hook in _in_order(self._hooks(one)):
            if kind := KINDS.get(hook.name):
                given = self._plugins.subset_hook_caller(hook.name, others)()
                taken = self._taken.get(hook.name, ())
                checked = check_contributions(kind, given[0], taken) if given else {}
                one.contributions[hook.name] = checked
        check_sections(one.contributions)

    def _hooks(self, one: _Candidate) -> list[pluggy.HookCaller]:
        return self._plugins.get_hookcallers(one.imported) or []

    def _registry(self, damaged: list[Plugin]) -> Registry:
        for one in self._wanted():
            words = [
                f"{KINDS[hook].word} {name}"
                for hook, values in one.contributions.items()
                for name in sorted(values)
            ]
            words += [h.name for h in _in_order(self._hooks(one)) if h.name not in KINDS]
            one.plugin = one.plugin._replace(registered=tuple(words))
        plugins = [*damaged, *(one.plugin for one in self._candidates)]
        sections = self._contributions(PARAMETERS)
        settings = {name: contribution.value() for name, contribution in sections.items()}
        return Registry(
            MappingProxyType({kind.word: self._contributions(kind) for kind in KINDS.values()}),
            tuple(sorted(plugins, key=lambda p: (p.name, p.origin))),
            RunHooks(self._plugins, MappingProxyType(settings)),
        )

    def _contributions(self, kind: ContributionKind) -> Mapping[str, Contribution]:
        """Return everything of a kind: the built-in first, then the plugins' by name."""
        added = {
            name: Contribution(kind.isolated(one.point.name, kind.label(name), value), one.plugin)
            for one in self._wanted()
            for name, value in one.contributions.get(kind.hook, {}).items()
        }
        built_in = {name: Contribution(value) for name, value in kind.built_in.items()}
        return MappingProxyType(built_in | dict(sorted(added.items())))


def _import(one: _Candidate) -> None:
    if not one.point.module:
        value = quote(one.point.value)
        raise PluginRejectedError(f"its entry point {value} is not module or module:attribute")
    begun = perf_counter()
    try:
        one.imported = one.point.load()
    finally:
        one.plugin = one.plugin._replace(seconds=perf_counter() - begun)
    if one.imported is None:
        raise PluginRejectedError(f"its entry point {quote(one.point.value)} is None")


def _claims(one: _Candidate) -> list[tuple[object, str]]:
    """Return the names a plugin claims, unique in their kind or as a section, with labels."""
    return [
        (("section" if KINDS[hook].is_section else hook, name), KINDS[hook].label(name))
        for hook, values in one.contributions.items()
        for name in values
    ]


def _is_nothing(one: _Candidate) -> bool:
    """Return whether a module was named that does not exist, rather than fails."""
    if not one.is_module or one.is_wanted:
        return False
    module = one.point.module
    is_name = all(part.isidentifier() for part in module.split("."))
    return not is_name or f"{module}.".startswith(f"{one.missing}.")


def _in_order(hooks: list[pluggy.HookCaller]) -> list[pluggy.HookCaller]:
    """Return hooks in the order of a run; hooks without a specification come last."""
    order = {name: nth for nth, name in enumerate(_HOOKS)}
    return sorted(hooks, key=lambda hook: (order.get(hook.name, len(order)), hook.name))


def _remedy(rivals: list[tuple[_Candidate, str]]) -> str:
    if len({one.point.name for one, _ in rivals}) == 1:
        return "uninstall all but one"
    return "keep one: uninstall the other, or block it with -P no:NAME"
