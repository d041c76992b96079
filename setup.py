"""The one thing pyproject.toml cannot say: what is compiled, which cffi builds."""

from setuptools import setup

setup(cffi_modules=["src/hvmmu/_core/build.py:ffibuilder"])
