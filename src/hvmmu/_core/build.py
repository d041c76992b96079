"""How cffi builds the compiled engine; `setup.py` names *ffibuilder*.

Where there is no compiler the build goes on without it, and the reference engine is all there is.
"""

from pathlib import Path

from cffi import FFI

_HERE = Path(__file__).parent  # relative to the project, as setuptools runs this

HEADERS = ("thread.h", "walk.h", "walk_2d.h", "shadow_page.h", "shadow_mmu.h", "expand.h", "vcpu.h")
"""Read by cffi and the compiler, each after those it needs."""

ffibuilder = FFI()
for header in HEADERS:
    ffibuilder.cdef((_HERE / header).read_text(encoding="utf-8"))
_ASK = (_HERE / "callbacks.h").read_text(encoding="utf-8").partition("#include <stdint.h>")[2]
ffibuilder.cdef(f'extern "Python+C" {{{_ASK}}}')
ffibuilder.set_source(
    "hvmmu._core._lib",
    "#include <stdint.h>\n" + "\n".join(f'#include "{header}"' for header in HEADERS),
    sources=[
        str(_HERE / name)
        for name in (
            "thread.c",
            "walk.c",
            "walk_2d.c",
            "shadow_page.c",
            "shadow_mmu.c",
            "expand.c",
            "replay.c",
            "guest.c",
            "vcpu.c",
            "run.c",
        )
    ],
    include_dirs=[str(_HERE)],
    depends=[str(path) for path in sorted(_HERE.glob("*.h"))],
    # vectorised, the choice of the least recent way takes ten times the instructions
    extra_compile_args=["-O3", "-std=c11", "-fvisibility=hidden", "-fno-tree-vectorize"],
    optional=True,
)
