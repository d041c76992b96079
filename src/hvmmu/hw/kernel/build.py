"""How cffi builds the compiled engine; `setup.py` names *ffibuilder*."""

from pathlib import Path

from cffi import FFI

_HERE = Path(__file__).parent  # relative to the project, as setuptools runs this

HEADERS = ("kernel.h", "walk.h", "nested.h", "pages.h", "shadow.h", "tokens.h", "lane.h")
"""Read by cffi and the compiler, each after those it needs."""

ffibuilder = FFI()
for header in HEADERS:
    ffibuilder.cdef((_HERE / header).read_text(encoding="utf-8"))
_ASK = (_HERE / "ask.h").read_text(encoding="utf-8").partition("#include <stdint.h>")[2]
ffibuilder.cdef(f'extern "Python+C" {{{_ASK}}}')
ffibuilder.set_source(
    "hvmmu.hw._kernel",
    "#include <stdint.h>\n" + "\n".join(f'#include "{header}"' for header in HEADERS),
    sources=[
        str(_HERE / name)
        for name in (
            "kernel.c",
            "walk.c",
            "nested.c",
            "pages.c",
            "shadow.c",
            "tokens.c",
            "replay.c",
            "pager.c",
            "stops.c",
            "runs.c",
        )
    ],
    include_dirs=[str(_HERE)],
    depends=[str(path) for path in sorted(_HERE.glob("*.h"))],
    # vectorised, the choice of the least recent way takes ten times the instructions
    extra_compile_args=["-O3", "-std=c11", "-fvisibility=hidden", "-fno-tree-vectorize"],
)
