"""What can go wrong that is not a guest's page fault: a page fault is a value, never raised."""

from collections.abc import Sequence


class HvmmuError(Exception):
    """Anything hvmmu raises on purpose."""


class InputError(HvmmuError):
    """Something the user gave cannot be used; the message says what, where and what to do."""


class ConfigError(InputError):
    """One or more configuration problems, all found in one pass."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Keep every problem, each already one clear line."""
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class TraceError(InputError):
    """A trace that cannot be read: which file, which line, what is wrong, what to do."""

    def __init__(self, path: str, line: int | None, what: str, todo: str) -> None:
        """Name the file, the line from 1 (None: no one line is to blame), and the remedy."""
        self.path, self.line, self.what, self.todo = path, line, what, todo
        where = path if line is None else f"{path}:{line}"
        super().__init__(f"{where}: {what}; {todo}")


class BackendUnavailableError(InputError):
    """A backend that cannot do what was asked on this CPU model."""


class EngineUnavailableError(InputError):
    """An engine that cannot work here: the message says what it lacks, and what to do."""


class PluginError(HvmmuError):
    """A plugin broke a promise; the message names the plugin.

    `plugin` and `hook` say where it happened; empty where no hook of a plugin's was called.
    """

    def __init__(self, message: str, *, plugin: str = "", hook: str = "") -> None:
        """Keep the plugin's name and the hook's beside the message."""
        self.plugin, self.hook = plugin, hook
        super().__init__(message)


class GuestMemoryError(HvmmuError):
    """The guest ran out of memory, or a guest-physical address is in no memslot."""


class InvariantError(HvmmuError):
    """A state that must never be: a bug in hvmmu, not in the input."""
