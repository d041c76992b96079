"""The hooks of a run, asked once which of them anybody implements.

A hook that nobody implements is None here, so that it costs the run one comparison.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any

import pluggy

from hvmmu.errors import HvmmuError, PluginError

Call = Callable[..., Any]


class RunHooks:
    """What the plugins of one run listen to: a callable for each hook, or None."""

    def __init__(self, plugins: pluggy.PluginManager | None = None) -> None:
        self.vm_created = _caller(plugins, "hvmmu_vm_created")
        self.memslot_changed = _caller(plugins, "hvmmu_memslot_changed")
        self.handle_exit = _caller(plugins, "hvmmu_handle_exit")
        self.handle_fault = _caller(plugins, "hvmmu_handle_fault")
        self.fault_handled = _caller(plugins, "hvmmu_fault_handled")
        self.report = _caller(plugins, "hvmmu_report")


def _caller(plugins: pluggy.PluginManager | None, name: str) -> Call | None:
    """Return a call of the hook that names the plugin if one raises; None if nobody listens."""
    hook = None if plugins is None else getattr(plugins.hook, name)
    if hook is None or not hook.get_hookimpls():
        return None

    def call(**arguments: Any) -> Any:  # noqa: ANN401 - whatever the hook is declared with
        try:
            return hook(**arguments)
        except HvmmuError:
            raise
        except Exception as error:
            who = _culprit(hook, error.__traceback__)
            what = f"{type(error).__name__}: {error}"
            raise PluginError(f"plugin {who!r}, in {name}: {what}") from error

    return call


def _culprit(hook: pluggy.HookCaller, trace: TracebackType | None) -> str:
    """Return the name of the plugin whose hook is on the way to where the error arose."""
    by_code = {
        getattr(impl.function, "__code__", None): impl.plugin_name for impl in hook.get_hookimpls()
    }
    name = "unknown"
    while trace is not None:  # the innermost one: a wrapper only lets it through
        name = str(by_code.get(trace.tb_frame.f_code, name))
        trace = trace.tb_next
    return name
