"""The schema: every key that can be set, and the message for one that cannot."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from hvmmu.errors import ConfigError
from hvmmu.params import Param, did_you_mean, params_of, printable

Key = tuple[str | None, str]
"""Section, None at the top, and name."""

_ALIKE = 0.75
"""How alike a section must be to be suggested: vmx and svm are not."""


class ConfigSchema(NamedTuple):
    """The sections and the names there are; the first engine and cost model are the defaults.

    `core` maps a section to its attrs class, `plugin_sections` the plugins' own. `backends` maps a
    backend's name to its class (of which `params` and `unsupported` are read), in the order in
    which they run when none is named. `choices` are the words of parameters, by `section.name`, to
    which plugins add some.
    """

    core: Mapping[str, type]
    backends: Mapping[str, Any]
    engines: Sequence[str]
    models: Sequence[str]
    plugin_sections: Mapping[str, type] = MappingProxyType({})
    choices: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def classes(self) -> dict[str, type]:
        """Return every section's attrs class."""
        backends = {name: backend.params for name, backend in self.backends.items()}
        return {**self.core, **self.plugin_sections, **backends}

    def sections(self) -> dict[str, dict[str, Param]]:
        """Return every section's parameters by name."""
        return {
            section: {
                param.name: param._replace(
                    choices=self.choices.get(f"{section}.{param.name}", param.choices)
                )
                for param in params_of(params)
            }
            for section, params in self.classes().items()
        }

    def top(self) -> dict[str, Param]:
        """Return the keys in no section, `backend` excepted, as parameters."""
        costs = _word("costs", "the cost model for estimating cycles", self.models)
        engine = _word("engine", "the MMU model", self.engines)
        return {"costs": costs, "engine": engine}


class SchemaReader:
    """Looks keys up in a schema; each error names the key and its source."""

    def __init__(self, schema: ConfigSchema, top: Mapping[str, Param]) -> None:
        """Take the schema and the keys in no section."""
        self.schema, self.top = schema, top
        self.sections = schema.sections()

    def param(self, key: Key, source: str, prefix: str = "") -> Param:
        """Return the parameter of a key; raise ConfigError if the section has none."""
        section, name = key
        params = self.top if section is None else self.sections[section]
        if name in params and name not in self.unsupported(section):
            return params[name]
        why = self.unsupported(section).get(name) or self._unknown(section, name)
        raise ConfigError([f"{prefix}{printable(dotted(key))} ({source}): {why}"])

    def unsupported(self, section: str | None) -> Mapping[str, str]:
        """Return the parameters that a backend does not support, each with the reason."""
        backend = self.schema.backends.get(section or "")
        return {} if backend is None else backend.unsupported

    def no_section(self, section: str, source: str, prefix: str = "") -> str:
        """Return the message for a section that does not exist."""
        near = did_you_mean(section, self.sections, _ALIKE)
        near = near or "; if it is a backend, is its plugin installed?"
        there = ", ".join(self.sections)
        return f"{prefix}{printable(section)} ({source}): no such section ({there}){near}"

    def is_misspelt(self, section: str) -> bool:
        """Return whether one of the core's sections is meant, not that of a missing plugin."""
        return bool(did_you_mean(section, self.schema.core, _ALIKE))

    def _unknown(self, section: str | None, name: str) -> str:
        if section is not None:
            near = (
                did_you_mean(name, self.sections[section])
                or f"; `hvmmu params {section}` lists them"
            )
            return f"{section} has no such parameter{near}"
        if name in self.sections:
            return f"that is a section; write [{name}] and its parameters below"
        near = did_you_mean(name, (*self.top, *self.sections), _ALIKE)
        return f"no such key{near}" if near else f"no such key; there are {self._top_keys()}"

    def _top_keys(self) -> str:
        return f"{', '.join(self.top)} and the sections"


def dotted(key: Key) -> str:
    """Return a key as text: section.name, or the name alone."""
    return key[1] if key[0] is None else f"{key[0]}.{key[1]}"


def _word(name: str, doc: str, choices: Iterable[str]) -> Param:
    words = tuple(choices)
    return Param(name, str, words[0], doc, choices=words)
