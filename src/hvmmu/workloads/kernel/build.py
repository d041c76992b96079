"""How cffi builds the compiled reduction; `setup.py` names *ffibuilder*."""

from pathlib import Path

from cffi import FFI

_HERE = Path(__file__).parent  # relative to the project, as setuptools runs this

ffibuilder = FFI()
ffibuilder.cdef((_HERE / "reduce.h").read_text(encoding="utf-8"))
ffibuilder.set_source(
    "hvmmu.workloads._kernel",
    '#include <stdint.h>\n#include "reduce.h"',
    sources=[str(_HERE / "reduce.c")],
    include_dirs=[str(_HERE)],
    depends=[str(_HERE / "reduce.h")],
    extra_compile_args=["-O3", "-std=c11"],
)
