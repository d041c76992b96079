"""The master property: the guest cannot tell what machine it is on."""

import itertools
import random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import (
    CR0_WP,
    CR4_PGE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_NXE,
    CpuFeatures,
)
from hvmmu.backend import Paging
from hvmmu.errors import InvariantError
from hvmmu.machine import Platform, build
from hvmmu.mmu.audit import audit
from hvmmu.mmu.params import MmuParams
from hvmmu.params import declared
from hvmmu.plugins import load
from hvmmu.testing.program import (
    ADDRESSES,
    DATA,
    INDICES,
    RAM,
    TABLES,
    WRITABLE,
    Access,
    Guest,
    Invlpg,
    LoadRoot,
    Operation,
    Poke,
    SetEntry,
    Toggle,
    natural_level,
)

BACKENDS = load().backends
FLAGS = (pte.P, pte.W, pte.U, pte.A, pte.D, pte.G, pte.NX)
HOLE = 0x10_0000 << 12
RESERVED = 1 << 50
STEPS = 100


def machines(cpu: CpuFeatures, params: MmuParams, seed: str) -> list[Platform]:
    """Return a native machine, and every other backend each way that comparisons show it.

    The other booleans of a backend are drawn from the seed.
    """
    draw = random.Random(f"parameters {seed}")  # noqa: S311 - not for secrets
    made = [
        build(BACKENDS["native"](BACKENDS["native"].params(), cpu, frozenset()), cpu, params, RAM)
    ]
    for backend in BACKENDS.values():
        if backend.caps.paging is Paging.BARE:
            continue
        compared = backend.compare_over
        others = {
            p.name: draw.random() < 0.5
            for p in declared(backend.params)
            if p.type is bool and p.name not in compared
        }
        for values in itertools.product((False, True), repeat=len(compared)):
            chosen = backend.params(**dict(zip(compared, values, strict=True)), **others)
            made.append(build(backend(chosen, cpu, frozenset()), cpu, params, RAM))
    return made


class Programs:
    """Random operations from a seed, the same on every Python.

    Hypothesis draws the seed and the machine: drawn operation by operation, programs come out too
    small to lead anywhere.
    """

    def __init__(self, seed: str) -> None:
        """Begin from *seed*."""
        self.random = random.Random(seed)  # noqa: S311 - not for secrets
        self.recent: list[int] = []
        self.last: Operation | None = None

    def one_of(self, *weighted: tuple[int, str]) -> str:
        """Return one of (weight, value)."""
        at = self.random.random() * sum(weight for weight, _ in weighted)
        for weight, value in weighted:
            at -= weight
            if at < 0:
                return value
        return weighted[-1][1]

    def flags(self, usual: int) -> int:
        """Return an entry's flags: usually those given, sometimes one changed, sometimes any."""
        how = self.random.random()
        if how < 0.5:
            return usual
        if how < 0.9:
            return usual ^ self.random.choice(FLAGS)
        return sum(bit for bit in FLAGS if self.random.random() < 0.5)

    def entry(self, level: int) -> int:
        """Return an entry for a table used at *level*: mostly well-formed, sometimes anything."""
        usual = pte.P | pte.W | pte.U | pte.A
        choose = self.random.choice
        wild = self.random.random()
        if wild < 0.06:
            return choose((0, 0, RESERVED | usual, HOLE | usual, (1 << 64) - 1, 0xFF000))
        if wild < 0.14:
            return choose((*WRITABLE, *DATA)) << 12 | self.flags(usual | pte.D)
        key = choose((0, 0, 1 << pte.PKEY_SHIFT))
        if level == 1:
            return choose((*DATA, *TABLES[-4:])) << 12 | self.flags(usual | pte.D) | key
        if level == 2 and wild < 0.5:
            return choose((0, 1, 2, 3)) << 21 | pte.PS | self.flags(usual | pte.D) | key
        if level == 3 and wild < 0.2:
            return pte.PS | self.flags(usual | pte.D) | key
        below = [frame for frame in TABLES if natural_level(frame) == level - 1]
        return choose(below) << 12 | self.flags(usual)

    def address(self) -> int:
        """Return an address the program uses, rather one it has used lately."""
        if self.recent and self.random.random() < 0.6:
            return self.random.choice(self.recent[-3:])
        self.recent.append(self.random.choice(ADDRESSES) + self.random.choice((0, 8, 16)))
        return self.recent[-1]

    def start(self) -> list[Operation]:
        """Return writes that lead from either root to data, for a program to begin with."""
        below = {level: [f for f in TABLES if natural_level(f) == level] for level in (3, 2, 1)}
        below[0] = list(DATA)
        chance = self.random.random
        made = [toggle for toggle in TOGGLES if chance() < 0.3]
        for table in WRITABLE:
            frames = below[natural_level(table) - 1]
            for index in INDICES:
                gpte = frames[(table + index) % len(frames)] << 12 | pte.P | pte.U
                gpte |= (
                    pte.W * (chance() < 0.75) | pte.A * (chance() < 0.6) | pte.D * (chance() < 0.5)
                )
                if chance() < 0.9:
                    made.append(SetEntry(table, index, gpte, by_page=True))
        return made

    def operation(self) -> Operation:
        """Return one operation; after one that changes what is allowed, often a look at that."""
        choose = self.random.choice
        if self.recent and isinstance(self.last, (Toggle, SetEntry)) and self.random.random() < 0.6:
            self.last = Access(choose(self.recent[-3:]), choose(KINDS))
        else:
            self.last = self.any_operation()
        return self.last

    def any_operation(self) -> Operation:
        """Return one operation, whatever came before."""
        choose = self.random.choice
        match self.one_of(
            (10, "access"), (7, "set"), (2, "poke"), (1, "page"), (1, "root"), (2, "")
        ):
            case "access":
                return Access(self.address(), choose(KINDS))
            case "set":
                table = choose(WRITABLE)
                value = self.entry(natural_level(table))
                return SetEntry(table, choose(INDICES), value, choose((False, True)))
            case "poke":
                return Poke(self.address(), self.entry(1))
            case "page":
                return Invlpg(self.address())
            case "root":
                return LoadRoot(choose((0, 1)))
            case _:
                return choose(TOGGLES)


KINDS = [user | how for user in (0, pf.U) for how in (pf.READ, pf.WRITE, pf.FETCH)]
TOGGLES = (
    Toggle("cr0", CR0_WP),
    Toggle("cr0", CR0_WP),
    Toggle("cr4", CR4_SMEP),
    Toggle("cr4", CR4_SMAP),
    Toggle("cr4", CR4_SMAP),
    Toggle("cr4", CR4_PGE),
    Toggle("cr4", CR4_PKE),
    Toggle("efer", EFER_NXE),
    Toggle("pkru", 1 << 2),
    Toggle("pkru", 1 << 3),
    Toggle("rflags_ac", 1),
)
CPU = st.builds(CpuFeatures, maxphyaddr=st.sampled_from((46, 40, 51, 52)), mbz_bit8=st.booleans())
PARAMS = st.builds(
    MmuParams,
    update_on_write=st.booleans(),
    large_pages=st.booleans(),
    flood_threshold=st.sampled_from((3, 0, 1)),
    shadow_pages=st.sampled_from((65536, 8, 12)),
)


def differs(cpu: CpuFeatures, params: MmuParams, seed: str, program: list[Operation]) -> str | None:
    """Run *program* on every machine; return what went wrong first, None if nothing did."""
    platforms = machines(cpu, params, seed)
    try:
        guests = [Guest(platform) for platform in platforms]
        for step, operation in enumerate(program):
            expected, *others = [guest.do(operation) for guest in guests]
            for platform, outcome in zip(platforms[1:], others, strict=True):
                who = f"step {step}, {operation}, {platform.backend.name}"
                who += f" {platform.backend.in_force}"
                if outcome != expected:
                    return f"{who}: {expected.differences(outcome)}"
                try:
                    audit(platform.shadow, platform.vcpu.slots)
                except InvariantError as error:
                    return f"{who}: {error}"
    finally:
        for platform in platforms:
            platform.memory.close()
    return None


def shortest(
    cpu: CpuFeatures, params: MmuParams, seed: str, program: list[Operation]
) -> list[Operation]:
    """Leave out of a failing program whatever it fails without."""
    size = len(program) // 2
    while size:
        at = 0
        while at < len(program):
            less = program[:at] + program[at + size :]
            if differs(cpu, params, seed, less):
                program = less
            else:
                at += size
        size //= 2
    return program


@given(CPU, PARAMS, st.integers(0, 2**64 - 1))
@settings(phases=set(settings.default.phases) - {Phase.shrink})
def test_the_guest_cannot_tell(cpu: CpuFeatures, params: MmuParams, number: int) -> None:
    """If it fails, some guest behaves differently under a hypervisor than on a bare machine."""
    seed = f"{number} {cpu} {params}"
    programs = Programs(seed)
    program = programs.start() + [programs.operation() for _ in range(STEPS)]
    if differs(cpu, params, seed, program):
        program = shortest(cpu, params, seed, program)
        steps = "\n".join(map(str, program))
        pytest.fail(f"{differs(cpu, params, seed, program)}\n{cpu}\n{params}\n{steps}")
