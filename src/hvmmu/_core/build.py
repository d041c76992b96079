"""How cffi builds the compiled machine; `setup.py` names *ffibuilder*.

`arch.h` is written here, from the tables in Python, each time that hvmmu is built.
"""

import re
import sys
from pathlib import Path

from cffi import FFI

_HERE = Path(__file__).parent  # relative to the project, as setuptools runs this
_TRACE = _HERE.parent / "_trace"

sys.path.insert(0, str(_HERE.parents[1].resolve()))
try:
    from hvmmu._core import arch_header
    from hvmmu._trace import grammar
finally:
    del sys.path[0]

HEADERS = (
    "walk.h",
    "thread.h",
    "walk_2d.h",
    "events.h",
    "shadow_page.h",
    "shadow_mmu.h",
    "ledger.h",
    "guest.h",
    "vcpu.h",
    "page_slots.h",
    "lackey.h",
    "reduce.h",
    "expand.h",
    "span_run.h",
)
"""Read by cffi and the compiler, each after those it needs."""


def _declarations(name: str) -> str:
    """Return a header as cffi takes it: without its directives."""
    return re.sub(r"^#.*$", "", _found(name).read_text(encoding="utf-8"), flags=re.MULTILINE)


def _found(name: str) -> Path:
    return next(at / name for at in (_HERE, _TRACE) if (at / name).exists())


arch_header.write(_HERE / "arch.h")
grammar.write(_TRACE / "grammar.h")
ffibuilder = FFI()
ffibuilder.cdef(arch_header.shared())
ffibuilder.cdef("\n".join(grammar.macros()))
for header in HEADERS:
    ffibuilder.cdef(_declarations(header))
for header in ("callbacks.h", "guest_callbacks.h"):
    ffibuilder.cdef(f'extern "Python+C" {{{_declarations(header)}}}')
ffibuilder.set_source(
    "hvmmu._core._lib",
    "#include <stdint.h>\n" + "\n".join(f'#include "{header}"' for header in ("arch.h", *HEADERS)),
    sources=[
        str(_found(name))
        for name in (
            "thread.c",
            "walk.c",
            "walk_2d.c",
            "events.c",
            "shadow_page.c",
            "shadow_mmu.c",
            "guest.c",
            "guest_cpu.c",
            "guest_frames.c",
            "guest_tables.c",
            "page_cache.c",
            "vcpu.c",
            "page_slots.c",
            "lackey.c",
            "reduce.c",
            "expand.c",
            "span_run.c",
        )
    ],
    include_dirs=[str(_HERE), str(_TRACE)],
    depends=[str(path) for at in (_HERE, _TRACE) for path in sorted(at.glob("*.h"))],
    # vectorised, the choice of the least recent way takes ten times the instructions
    extra_compile_args=["-O3", "-std=c11", "-fvisibility=hidden", "-fno-tree-vectorize"],
)
