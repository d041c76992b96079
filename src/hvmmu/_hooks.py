"""The hooks of a run, asked once which of them anybody implements.

A hook that nobody implements is None here, so that it costs the run one comparison.
"""

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from types import TracebackType
from typing import Any

import pluggy

from hvmmu.errors import InvariantError, PluginError
from hvmmu.fault import FaultOutcome
from hvmmu.flush import Flush
from hvmmu.params import printable

Call = Callable[..., Any]
Pick = Callable[[tuple[Any, ...]], tuple[Any, ...]]
"""Picks the arguments that a function takes."""
Wrong = Callable[[Mapping[str, Any], Any], str]
"""Takes a hook's arguments and its answer; returns what is wrong with the answer, or nothing."""

MOST_TOLD = 400  # characters of a cause


class RunHooks:
    """What the plugins of one run listen to: a call of each hook, or None."""

    def __init__(
        self,
        plugins: pluggy.PluginManager | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = _defaults(plugins) if settings is None else settings
        """The plugins' own sections of the configuration, with their defaults."""
        self.vm_created = _caller(plugins, "hvmmu_vm_created")
        self.memslot_changed = _caller(plugins, "hvmmu_memslot_changed")
        self.handle_exit = _caller(plugins, "hvmmu_handle_exit", _no_exit_of_its_kind)
        self.handle_fault = _caller(plugins, "hvmmu_handle_fault", _no_route)
        self.fault_handled = _caller(plugins, "hvmmu_fault_handled")
        self.report = _caller(plugins, "hvmmu_report", _no_counters)


def _defaults(plugins: pluggy.PluginManager | None) -> Mapping[str, Any]:
    """Return each section that the plugins declare, with its defaults."""
    declared = [] if plugins is None else plugins.hook.hvmmu_parameters()
    return {name: made() for sections in declared for name, made in sections.items()}


def _caller(
    plugins: pluggy.PluginManager | None, name: str, wrong: Wrong | None = None
) -> "HookCall | None":
    """Return a call of the hook that names the plugin if one raises; None if nobody listens."""
    hook = None if plugins is None else getattr(plugins.hook, name)
    return None if hook is None or not hook.get_hookimpls() else HookCall(hook, wrong)


class HookCall:
    """A hook's implementations, called one after another as pluggy does, for a tenth of its time.

    A hook with wrappers is left to pluggy. Whatever a plugin raises comes out as a PluginError that
    names it, and so does an answer in which *wrong* finds something.
    """

    def __init__(self, hook: pluggy.HookCaller, wrong: Wrong | None = None) -> None:
        if hook.spec is None:
            raise InvariantError(f"{hook.name} is called, and the plugin manager has no hookspecs")
        self._hook, self._wrong = hook, wrong
        self._names = hook.spec.argnames
        self._is_first = bool(hook.spec.opts["firstresult"])
        self._known: list[pluggy.HookImpl] = []
        self._direct: tuple[tuple[Call, Pick | None], ...] | None = ()

    def __call__(self, **arguments: Any) -> Any:  # noqa: ANN401 - whatever the hook is declared with
        """Return the first answer that is not None, or all of them: the last registered first."""
        return self.of(*(arguments[name] for name in self._names))

    def of(self, *arguments: Any) -> Any:  # noqa: ANN401 - as above
        """Do the same, with the arguments in the order in which the hook declares them."""
        try:
            now = self._hook.get_hookimpls()
            if now != self._known:  # a plugin may come and go while others run
                self._known, self._direct = now, _direct(now, self._names)
            if self._direct is None:
                return self._judged(arguments, self._hook(**self._named(arguments)))
            answers = []
            for function, pick in self._direct:
                answer = function(*arguments) if pick is None else function(*pick(arguments))
                if answer is not None:
                    if self._is_first:
                        return self._judged(arguments, answer)
                    answers.append(answer)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may raise anything, SystemExit too
            if isinstance(error, PluginError) and error.plugin:
                raise  # from a hook that was called on the way, or of an answer
            who = _culprit(self._hook, error.__traceback__)
            raise _failure(who, self._hook.name, told(error)) from error
        return None if self._is_first else self._judged(arguments, answers)

    def _named(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(self._names, arguments, strict=True))

    def _judged(self, arguments: tuple[Any, ...], answer: Any) -> Any:  # noqa: ANN401 - as above
        if answer is None or self._wrong is None:
            return answer
        if what := self._wrong(self._named(arguments), answer):
            who = {impl.plugin_name for impl in self._hook.get_hookimpls()}
            raise _failure(who, self._hook.name, what)
        return answer


def _direct(
    impls: list[pluggy.HookImpl], names: tuple[str, ...]
) -> tuple[tuple[Call, Pick | None], ...] | None:
    """Return each function in the order of calls, with what picks its arguments from all.

    None if any is a wrapper.
    """
    if any(impl.wrapper or impl.hookwrapper for impl in impls):
        return None
    return tuple((impl.function, _picker(impl.argnames, names)) for impl in reversed(impls))


def _picker(wanted: tuple[str, ...], names: tuple[str, ...]) -> Pick | None:
    """Return what picks the arguments; None if all are wanted, in this order."""
    if wanted == names:
        return None
    places = [names.index(name) for name in wanted]
    if len(places) > 1:
        return itemgetter(*places)
    first, end = (places[0], places[0] + 1) if places else (0, 0)
    return itemgetter(slice(first, end))


def _failure(plugins: Iterable[str], hook: str, what: str) -> PluginError:
    names = sorted(plugins)
    who = " or ".join(map(repr, names))
    return PluginError(f"plugin {who}, in {hook}: {what}", plugin=" or ".join(names), hook=hook)


def _culprit(hook: pluggy.HookCaller, trace: TracebackType | None) -> set[str]:
    """Return the name of the plugin whose hook is on the way to where the error arose.

    It is more than one name where plugins share a function.
    """
    by_code: dict[Any, set[str]] = {}
    for impl in hook.get_hookimpls():
        code = getattr(impl.function, "__code__", None)
        by_code.setdefault(code, set()).add(impl.plugin_name)
    names = by_code.get(None, {"unknown"})
    while trace is not None:  # the innermost one: a wrapper only lets it through
        names = by_code.get(trace.tb_frame.f_code, names)
        trace = trace.tb_next
    return names


def _no_exit_of_its_kind(arguments: Mapping[str, Any], answer: object) -> str:
    what = arguments["what"]
    if type(answer) is type(what):
        return ""
    return f"answered {what} with {_type(answer)}: another kind"


def _no_route(_: Mapping[str, Any], answer: object) -> str:
    match answer:
        case (FaultOutcome(), Flush()):
            return ""
    return f"answered with {_type(answer)}; return a tuple of FaultOutcome and Flush, or None"


def _no_counters(arguments: Mapping[str, Any], answers: Iterable[object]) -> str:
    """Say what is wrong with the counters that plugins report, one mapping each."""
    there = set(arguments["result"].counters)
    for added in answers:
        if not isinstance(added, Mapping):
            return f"answered with {_type(added)}; return a dict of counters, or None"
        for name, count in added.items():
            if not isinstance(name, str) or type(count) is not int or count < 0:
                return f"counter {name!r} is {count!r}; a name and a count of 0 or more can be"
            if name in there:
                return f"there is a counter {name!r} already"
            if not all(name.partition(".")):
                return f"counter {name!r} has no prefix; call it PLUGIN.{printable(name)}"
            there.add(name)
    return ""


def told(error: BaseException) -> str:
    """Return an exception as one line, even one that cannot say what it is."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - a plugin's own class of error
        text = ""
    return printable(f"{type(error).__name__}: {text}" if text else type(error).__name__, MOST_TOLD)


def _type(given: object) -> str:
    return f"an object of type {type(given).__name__}"
