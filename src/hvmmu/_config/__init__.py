"""The configuration: every value with its source, every problem in one pass."""

from hvmmu._config.resolve import DEFAULT, Config, ExplainRow, resolve
from hvmmu._config.schema import ConfigSchema

__all__ = ["DEFAULT", "Config", "ConfigSchema", "ExplainRow", "resolve"]
