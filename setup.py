"""The one thing pyproject.toml cannot say: what is compiled, which cffi builds."""

from setuptools import setup

setup(
    cffi_modules=[
        "src/hvmmu/hw/kernel/build.py:ffibuilder",
        "src/hvmmu/workloads/kernel/build.py:ffibuilder",
    ]
)
