"""Write `arch.h`: the constants and structs of the compiled code, from the tables in Python.

Each function below is one concept and yields the lines of it. Those in `MACROS` are for C alone;
cffi reads the others too. A number that both languages use is an enumeration's order: Python has
``tuple(Route)[n]``, and C the same name with a prefix.
"""

import enum
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

import attrs

from hvmmu import steps
from hvmmu._guest import layout
from hvmmu._guest.policy import CAUSES, GuestParams
from hvmmu._mmu_params import MmuParams
from hvmmu.arch import pfec, pte, regs, role
from hvmmu.arch.regs import Regs
from hvmmu.arch.tdp import Cause as TdpCause
from hvmmu.arch.tdp import Use
from hvmmu.engine import Event
from hvmmu.events import EventKind
from hvmmu.fault import Cause, Route
from hvmmu.tlb import SCOPES

_TYPES = {int: "uint64_t", bool: "int32_t"}


def macros(prefix: str, module: ModuleType, suffix: str) -> Iterator[str]:
    """Yield the integer constants of a module; *suffix* is the type that masks have in C."""
    for name, value in vars(module).items():
        if name.isupper() and not name.startswith("_") and isinstance(value, int):
            number = str(value) if name.endswith("_SHIFT") else f"{value:#x}{suffix}"
            yield f"#define {prefix}{name} {number}"


def enumerators(prefix: str, names: Iterable[str], first: int = 0) -> Iterator[str]:
    """Yield an enumeration with these names in their order."""
    yield "enum {"
    for number, name in enumerate(names, first):
        yield f"    {prefix}{name} = {number},"
    yield "};"


def struct(name: str, record: type[attrs.AttrsInstance]) -> Iterator[str]:
    """Yield a struct with the numbers of an attrs class: integers in 64 bits, booleans in 32."""
    yield "typedef struct {"
    for field in attrs.fields(record):
        if field.type is not str:
            yield f"    {_TYPES[field.type]} {field.name};"
    yield f"}} {name};"


def _names(kinds: type[enum.Enum]) -> Iterator[str]:
    return (kind.name for kind in kinds)


def pfec_bits() -> Iterator[str]:
    """Yield the bits of a page fault's error code."""
    yield from macros("PF_", pfec, "u")


def pte_bits() -> Iterator[str]:
    """Yield the bits of a page-table entry."""
    yield from macros("PTE_", pte, "ull")


def register_bits() -> Iterator[str]:
    """Yield the bits of CR0, CR4 and EFER."""
    yield from macros("", regs, "ull")


def paging_registers() -> Iterator[str]:
    """Yield the registers that a page walk reads."""
    yield from struct("hv_regs", Regs)


def engine_events() -> Iterator[str]:
    """Yield why an engine stopped: HV_END where it did not, HV_NOT_PAGING where it cannot run."""
    yield from enumerators("HV_", ("END", *_names(Event), "NOT_PAGING"))


def flush_scopes() -> Iterator[str]:
    """Yield what a flush drops, the narrowest scope first."""
    yield from enumerators("HV_FLUSH_", (scope.name if scope else "NOTHING" for scope in SCOPES))


def tdp_uses() -> Iterator[str]:
    """Yield what a guest-physical address is accessed for."""
    yield from enumerators("HV_USE_", _names(Use))


def tdp_causes() -> Iterator[str]:
    """Yield why the second dimension stopped a walk."""
    yield from enumerators("HV_", _names(TdpCause))


def routes() -> Iterator[str]:
    """Yield who handled a fault, and how."""
    yield from enumerators("", _names(Route))


def fault_causes() -> Iterator[str]:
    """Yield why a fault arose."""
    yield from enumerators("", _names(Cause))


def role_layout() -> Iterator[str]:
    """Yield the fields of a shadow page's role, as masks and shifts."""
    yield "enum {"
    for name, value in role.layout():
        yield f"    HV_ROLE_{name} = {value},"
    yield "};"


def event_kinds() -> Iterator[str]:
    """Yield the kinds of event in the event stream."""
    yield from enumerators("HV_EVENT_", _names(EventKind))


def mmu_params() -> Iterator[str]:
    """Yield the MMU's parameters."""
    yield from struct("hv_mmu_params", MmuParams)


def guest_layout() -> Iterator[str]:
    """Yield where the guest's kernel puts things, and the limits of its page-fault handler."""
    yield from macros("GUEST_", layout, "ull")


def protections() -> Iterator[str]:
    """Yield the protections of a mapping."""
    for name, value in vars(steps).items():
        if name.startswith("PROT_"):
            yield f"#define {name} {value}u"


def backings() -> Iterator[str]:
    """Yield what stands behind a mapping's pages."""
    yield from enumerators("HV_BACKING_", _names(steps.Backing))


def pager_causes() -> Iterator[str]:
    """Yield why the guest's pager was called."""
    yield from enumerators("HV_", (cause.upper() for cause in CAUSES))


def guest_params() -> Iterator[str]:
    """Yield the guest's parameters."""
    yield from struct("hv_guest_params", GuestParams)


Generator = Callable[[], Iterator[str]]

MACROS: tuple[Generator, ...] = (
    pfec_bits,
    pte_bits,
    register_bits,
    guest_layout,
    protections,
)
"""For C alone."""
SHARED: tuple[Generator, ...] = (
    paging_registers,
    engine_events,
    flush_scopes,
    tdp_uses,
    tdp_causes,
    routes,
    fault_causes,
    event_kinds,
    role_layout,
    mmu_params,
    backings,
    pager_causes,
    guest_params,
)
"""For C and cffi."""


def _text(generators: Iterable[Generator]) -> str:
    parts = []
    for generator in generators:
        summary = (generator.__doc__ or "").partition("\n")[0].removeprefix("Yield ")
        parts.append("\n".join((f"/* {summary[0].upper()}{summary[1:]} */", *generator())))
    return "\n\n".join(parts) + "\n"


def shared() -> str:
    """Return the declarations that cffi reads."""
    return f"{_text(SHARED)}\nenum {{ HV_ARCH_DIGEST = {digest()} }};\n"


def digest() -> int:
    """Return a number that is another where the header is: a stale build is found by it."""
    return zlib.crc32((_text(MACROS) + _text(SHARED)).encode()) >> 1


def header() -> str:
    """Return the whole of `arch.h`."""
    begin = "/* Generated by _core/arch_header.py at each build; edit the tables instead. */"
    return f"{begin}\n#pragma once\n\n#include <stdint.h>\n\n{_text(MACROS)}\n{shared()}"


def write(path: Path) -> None:
    """Write `arch.h` unless it holds the same already, so that nothing is compiled needlessly."""
    text = header()
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        unfinished = path.with_suffix(".new")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
