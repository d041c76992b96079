"""The resolved configuration: every value with where it came from, every problem in one pass."""

from hvmmu._config.resolve import DEFAULT, Config, Known, Row, resolve

__all__ = ["DEFAULT", "Config", "Known", "Row", "resolve"]
