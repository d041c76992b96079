"""The walk in two dimensions held against others: C against Python, and both against one dimension.

Where the second dimension is the identity, the walk is the guest's alone, which recorded walks
check; and nested paging's second dimension is itself the walk of one dimension, by a user.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.ept import EPT_A, EPT_D, EPT_R, EPT_W, EPT_X, EPT_XU, ept
from hvmmu.arch.npt import npt
from hvmmu.arch.paging import LEGACY32, LONG4, LONG5, MODES, PAE, PagingMode, formats
from hvmmu.arch.regs import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PGE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    CpuFeatures,
    Regs,
)
from hvmmu.arch.tdp import TdpFormats, Use
from hvmmu.memory import Memory
from hvmmu.spec.walk import Outcome, walk
from hvmmu.spec.walk_2d import GuestMemory, NestedWalk, NestedWalker

if TYPE_CHECKING:
    from collections.abc import Callable

RAM = 0x90_000
GUEST_TABLES = tuple(range(1, 12))
"""Guest frames that serve as tables of any level."""
ROOTS = GUEST_TABLES[:2]
HOST_TABLES = 0x88
"""Host frames from here on hold the second dimension, the root first."""
MAPPED = (*GUEST_TABLES, 0x40, 0x80)
"""Guest frames that are mapped one by one; from 0x200 on a large page, beyond the memory."""
BASE = {
    LEGACY32: (CR4_PSE, 0),
    PAE: (CR4_PAE, 0),
    LONG4: (CR4_PAE, EFER_LME | EFER_LMA),
    LONG5: (CR4_PAE | CR4_LA57, EFER_LME | EFER_LMA),
}
KINDS = [user | how for user in (0, pf.U) for how in (pf.READ, pf.WRITE, pf.FETCH)]
ALL = pte.P | pte.W | pte.U
GUEST_FLAGS = (pte.P, pte.W, pte.U, pte.A, pte.D, pte.PS, pte.G, pte.NX, 1 << 59, 1 << 50)
RWX = EPT_R | EPT_W | EPT_X
EPT_FLAGS = (EPT_R, EPT_W, EPT_X, EPT_XU, EPT_A, EPT_D, 1 << 3, 1 << 4, 1 << 6, pte.PS, 1 << 50)
NPT_FLAGS = (*GUEST_FLAGS, 1 << 13)


def compiled(memory: Memory) -> Any:  # noqa: ANN401 - it may not have been built
    """Return the compiled walker; skip the test where it was not built."""
    reason = "the compiled engine was not built"
    pytest.importorskip("hvmmu._core._lib", reason=reason)
    return pytest.importorskip("hvmmu._core.walk_2d").CompiledNestedWalker(memory)


class World:
    """Random tables of both dimensions, and random walks through them."""

    def __init__(
        self, seed: int, mode: PagingMode, flavour: str, *, identity: bool = False
    ) -> None:
        """Begin with a second dimension that allows all, and scatter mistakes."""
        self.random, self.mode = random.Random(seed), mode  # noqa: S311 - not for secrets
        self.cpu = CpuFeatures(
            maxphyaddr=self.random.choice((36, 46, 52)),
            gbpages=self.coin(0.8),
            mbz_bit8=self.coin(0.2),
        )
        self.flavour, self.tdp = flavour, self.formats_of(flavour)
        self.memory, self.other = Memory(RAM), Memory(RAM)
        self.root = HOST_TABLES << 12
        self.size = mode.entry_size
        self.at = [self.random.randrange(4096 // self.size) for _ in range(3)]
        self.map_host(identity=identity)
        for _ in range(100):
            self.write_guest()
        self.load()

    def store(self, pa: int, value: int, size: int = 8) -> None:
        """Write to both memories."""
        self.memory.store(pa, value, size)
        self.other.store(pa, value, size)

    def is_same(self) -> bool:
        """Say whether walks have left the same in both memories."""
        return bytes(self.memory.bytes) == bytes(self.other.bytes)

    def close(self) -> None:
        """Give the memories back."""
        self.memory.close()
        self.other.close()

    def coin(self, chance: float = 0.5) -> bool:
        """Return whether a coin fell on its likelier side."""
        return self.random.random() < chance

    def formats_of(self, flavour: str) -> TdpFormats:
        """Return random formats of a flavour."""
        levels = self.random.choice((4, 4, 5))
        if flavour == "npt":
            return npt(self.cpu, levels, nxe=self.coin(0.8))
        names = ("accessed_dirty", "mode_based", "execute_only", "advanced")
        return ept(self.cpu, levels, **{name: self.coin() for name in names})

    def map_host(self, *, identity: bool = False) -> None:
        """Build the second dimension: a shuffle of the frames below 2 MiB, then one large page."""
        rights, leaf = (ALL, ALL) if self.flavour == "npt" else (RWX | EPT_XU, RWX | EPT_XU | 0x30)
        depth, at, last = len(self.tdp.mode.levels), self.root, 0
        for last in range(HOST_TABLES + 1, HOST_TABLES + depth):
            self.store(at, last << 12 | rights)
            at = last << 12
        frames = list(range(HOST_TABLES))
        if not identity:
            self.random.shuffle(frames)
        for gfn in MAPPED:
            self.store(at + 8 * gfn, frames[gfn] << 12 | leaf)
        self.host_slots = [at + 8 * gfn for gfn in MAPPED]
        above = [frame << 12 for frame in range(HOST_TABLES, last)]
        self.store(above[-1] + 8, 0x20_0000 | leaf | pte.PS)
        self.host_slots += above + [above[-1] + 8] * 3
        self.sound = {where: self.memory.load(where) for where in self.host_slots}

    def spoil(self, gpa: int | None = None) -> None:
        """Turn a bit of a host entry over, that of *gpa* if there is one, or make it absent."""
        where = self.random.choice(self.host_slots)
        if gpa is not None and gpa >> 12 in MAPPED:
            where = self.host_slots[MAPPED.index(gpa >> 12)]
        flags = NPT_FLAGS if self.flavour == "npt" else EPT_FLAGS
        entry = self.memory.load(where) ^ self.random.choice(flags)
        self.store(where, 0 if self.coin(0.05) else entry)

    def heal(self) -> None:
        """Put the second dimension back as it was built."""
        for where, entry in self.sound.items():
            self.store(where, entry)

    def host_frame(self, gfn: int) -> int:
        """Return where a guest table lies, as it was mapped first."""
        return self.sound[self.host_slots[MAPPED.index(gfn)]] & pte.ADDRESS

    def write_guest(self) -> None:
        """Write an entry of some guest table: mostly one that leads on."""
        choose = self.random.choice
        index = choose(self.at) % (1 << choose(self.mode.levels).bits)
        table = choose((*ROOTS, *GUEST_TABLES))
        frame = choose((*GUEST_TABLES[2:] * 3, *ROOTS, 0x40, 0x80, 0x2AB, 0x600))
        flags = ALL | (pte.PS if self.coin(0.05) else 0)
        if self.mode is PAE and table in ROOTS:
            flags = pte.P
        for _ in range(choose((0,) * 12 + (1, 1, 2))):
            flags ^= choose(GUEST_FLAGS)
        value = (frame << 12 | flags) & ((1 << 8 * self.size) - 1)
        pa = self.host_frame(table) + self.size * index
        self.store(pa, value, self.size)

    def load(self) -> None:
        """Draw registers of the mode."""
        cr4, efer = BASE[self.mode]
        for bit in (CR4_SMEP, CR4_SMAP, CR4_PKE, CR4_PGE):
            cr4 |= bit if self.coin(0.3) else 0
        efer |= EFER_NXE if self.coin(0.7) else 0
        cr0 = CR0_PE | CR0_PG | (CR0_WP if self.coin(0.6) else 0)
        root = self.random.choice(ROOTS) << 12
        pkru, ac = self.random.getrandbits(4), self.random.getrandbits(1)
        self.regs = Regs(cr0, root, cr4, efer, pkru, ac)
        self.known = formats(self.mode, self.regs, self.cpu)

    def address(self) -> int:
        """Return an address whose indices are those that guest tables are written at."""
        va = sum(
            self.random.choice(self.at) % (1 << at.bits) << at.shift for at in self.mode.levels
        )
        va |= self.random.choice((0, 8, 0xFF8))
        if not self.mode.sign_extended:
            return va & 0xFFFF_FFFF
        top = va >> (self.mode.va_bits - 1) & 1
        return va | (-top << self.mode.va_bits) & ((1 << 64) - 1)

    def access(self) -> tuple[int, int]:
        """Return an access."""
        return self.address(), self.random.choice(KINDS)


def ending(walked: NestedWalk) -> str:
    """Return how a walk ended, in a word."""
    if walked.fault is not None:
        return f"{walked.fault.use.name} {walked.fault.cause.name}"
    return walked.guest.outcome.name


def both_walk(world: World, steps: int, seen: Counter[str]) -> None:
    """Walk on both sides, with tables and registers changing, and compare all that is there."""
    walkers = NestedWalker(world.memory), compiled(world.other)
    gva, kind = world.access()
    last: NestedWalk | None = None
    for _ in range(steps):
        kind = world.random.choice(KINDS)
        if last is not None and last.is_ok:  # again, with something amiss where it ended
            world.spoil(last.guest.pa)
        else:
            world.heal() if world.coin(0.3) else world.write_guest()
            gva, kind = world.access()
        if world.coin(0.2):
            world.spoil()
            world.load()
        for walker in walkers:
            walker.load(world.regs, world.known, world.tdp, world.root)
        last, other = (walker.walk(gva, kind) for walker in walkers)
        assert last == other
        seen[ending(last)] += 1
    assert world.is_same()
    world.close()


@pytest.mark.parametrize("flavour", ["ept", "npt"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@given(seed=st.integers(0, 2**64 - 1))
def test_walkers_agree(mode: PagingMode, flavour: str, seed: int) -> None:
    """If wrong, C translates, stops, reports or marks otherwise than the reference."""
    both_walk(World(seed, mode, flavour), 40, Counter())


@pytest.mark.parametrize("flavour", ["ept", "npt"])
def test_random_walks_end_in_every_way(flavour: str) -> None:
    """If wrong, the walks of the property above do not reach what it is to compare."""
    seen: Counter[str] = Counter()
    for seed in range(40):
        for mode in (PAE, LONG4):
            both_walk(World(seed, mode, flavour), 40, seen)
    causes = ("NOT_PRESENT", "RESERVED", "DENIED")
    expected = {f"{use} {cause}" for use in ("TABLE", "READ", "WRITE") for cause in causes}
    expected |= {"OK", "PAGE_FAULT", "GENERAL_PROTECTION", "POINTER NOT_PRESENT"}
    expected |= {"FETCH_USER NOT_PRESENT"} | ({"MARK DENIED"} if flavour == "ept" else set())
    assert expected - set(seen) == set()


def in_python(memory: Memory) -> Any:  # noqa: ANN401 - as the compiled one
    """Return the readable walker."""
    return NestedWalker(memory)


walkers = pytest.mark.parametrize("walker", [in_python, compiled], ids=["reference", "compiled"])


@walkers
@pytest.mark.parametrize("flavour", ["ept", "npt"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@given(seed=st.integers(0, 2**64 - 1))
def test_the_identity_is_one_dimension(
    walker: Callable[[Memory], Any], mode: PagingMode, flavour: str, seed: int
) -> None:
    """If wrong, the second dimension changes what it only passes on."""
    world = World(seed, mode, flavour, identity=True)
    nested = walker(world.memory)
    nested.load(world.regs, world.known, world.tdp, world.root)
    ram = slice(HOST_TABLES << 12)
    for _ in range(20):
        gva, kind = world.access()
        expected = walk(world.other, world.regs, world.known, gva, kind)
        found = nested.walk(gva, kind)
        if found.fault is not None:  # it led to where nothing is mapped
            assert found.fault.gpa >> 12 not in MAPPED
            world.other.bytes[:] = world.memory.bytes
            continue
        assert found.guest == expected
        if expected.outcome is Outcome.OK:
            assert found.hpa == expected.pa
            assert found.access == expected.access
            assert found.readable
        assert bytes(world.memory.bytes[ram]) == bytes(world.other.bytes[ram])
    world.close()


USES = {Use.TABLE: pf.W, Use.READ: pf.READ, Use.WRITE: pf.W, Use.FETCH: pf.ID}


@pytest.mark.parametrize("levels", [4, 5])
@given(seed=st.integers(0, 2**64 - 1))
def test_nested_paging_is_a_users_walk(levels: int, seed: int) -> None:
    """If wrong, the tables of formats say something else of nested paging than the one walker."""
    world = World(seed, LONG4, "npt")
    nxe = world.coin(0.8)
    world.tdp = npt(world.cpu, levels, nxe=nxe)
    world.map_host()
    efer = EFER_LMA | EFER_LME | (EFER_NXE if nxe else 0)
    host = Regs(CR0_PE | CR0_PG | CR0_WP, world.root, CR4_PAE, efer)
    known = formats(attrs.evolve(LONG4 if levels == 4 else LONG5), host, world.cpu)
    for _ in range(30):
        world.spoil()
        gpa = world.random.choice((*MAPPED, 0x211, 0x3FF)) << 12 | 0x123
        use = world.random.choice(list(USES))
        expected = walk(world.other, host, known, gpa, USES[use] | pf.U)
        space = GuestMemory(world.memory, world.tdp, world.root, 0)
        found = space.translate(gpa, use)
        assert space.refs == len(expected.path)
        assert world.is_same()
        if found is None:
            assert space.fault is not None
            assert expected.outcome is Outcome.PAGE_FAULT
            assert space.fault.code & 0xFFFF_FFFF == expected.pfec
            assert space.fault.level == expected.level
        else:
            assert (found.hpa, found.level) == (expected.pa, expected.level)
            assert found.dirty == expected.dirty
    world.close()
