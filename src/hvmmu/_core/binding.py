"""The compiled machine as cffi gives it: its C library, and what makes C values."""

from importlib import import_module
from typing import Any

_built: Any = import_module("hvmmu._core._lib")
ffi: Any = _built.ffi
lib: Any = _built.lib
