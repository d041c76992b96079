"""The one thing pyproject.toml cannot say: what is compiled, which cffi builds."""

import cffi  # noqa: F401 - without it setuptools passes over cffi_modules, with a warning
from setuptools import setup

setup(cffi_modules=["src/hvmmu/_core/build.py:ffibuilder"])
