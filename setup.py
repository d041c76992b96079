"""The one thing pyproject.toml cannot say: the compiled engine is built by cffi."""

from setuptools import setup

setup(cffi_modules=["src/hvmmu/hw/kernel/build.py:ffibuilder"])
