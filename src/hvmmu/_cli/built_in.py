"""The commands that come with `hvmmu`: none of a plugin's may have such a name."""

MODULES = {
    "compare": "compare",
    "run": "run",
    "sweep": "sweep",
    "collect": "collect",
    "backends": "show",
    "engines": "show",
    "plugins": "show",
    "params": "show",
    "config": "show",
    "check": "check",
    "record": "record",
    "new-backend": "scaffold",
    "trace": "trace",
}
"""The module of each, by name, in the order in which a person meets them."""
BUILT_IN = frozenset(MODULES)
