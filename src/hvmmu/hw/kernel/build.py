"""How cffi builds the compiled engine; `setup.py` names *ffibuilder*.

Where there is no compiler the build goes on without it, and the readable engine is all there is.
"""

from pathlib import Path

from cffi import FFI

_HERE = Path(__file__).parent  # relative to the project, as setuptools runs this

ffibuilder = FFI()
ffibuilder.cdef((_HERE / "kernel.h").read_text(encoding="utf-8"))
ffibuilder.set_source(
    "hvmmu.hw._kernel",
    '#include <stdint.h>\n#include "kernel.h"',
    sources=[str(_HERE / "kernel.c")],
    include_dirs=[str(_HERE)],
    depends=[str(_HERE / "kernel.h")],
    extra_compile_args=["-O3", "-std=c11"],
    optional=True,
)
