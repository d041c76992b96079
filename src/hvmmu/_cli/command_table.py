"""The commands that come with hvmmu; no command of a plugin may have such a name."""

MODULES = {
    "compare": "compare",
    "run": "run",
    "sweep": "sweep",
    "collect": "collect",
    "backends": "list_commands",
    "engines": "list_commands",
    "mmus": "list_commands",
    "plugins": "list_commands",
    "params": "list_commands",
    "config": "list_commands",
    "check": "check",
    "record": "record",
    "new-backend": "scaffold",
    "trace": "trace",
}
"""The module of each command, in the order of `hvmmu --help`."""
