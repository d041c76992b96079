"""The MMU's parameters, each as it is declared: C must obey all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from hvmmu._mmu_params import MmuParams
from hvmmu.arch import pte
from hvmmu.params import Param, params_of
from hvmmu.testing.settings import values

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench, Seen

VA, LARGE_VA, FAR = 0x7F00_0000_0000, 0x7F00_4000_0000, 0x1000_0000_0000
FRAME, LARGE = 0x10_0000, 8 << 20
RW, USED = pte.P | pte.W | pte.U, pte.A | pte.D


SHADOWS_OWN = [param for param in params_of(MmuParams) if param.type is not str]
"""The shadow MMU's own parameters: the text chooses the MMU, before there is any C."""


def story(build: Callable[..., Bench], **params: bool | int) -> object:
    """Have a guest give every parameter its occasion; return all that came of it."""
    bench = build(**params)
    seen: list[Seen] = []
    bench.map(LARGE_VA, LARGE | RW | USED, level=2)
    for page in range(16):
        bench.map(VA + (page << 12), FRAME + (page << 12) | RW | USED)
        bench.map(FAR + (page << 30), FRAME | RW | USED)
    for page in range(16):
        seen.extend(bench.access(va + (page << 12), bench.WRITE) for va in (VA, LARGE_VA))
    for page in range(4):  # built at once, or by a fault
        bench.rewrite(VA + (page << 12), LARGE | RW | USED)
        seen.append(bench.access(VA + (page << 12), bench.READ))
    for _ in range(5):  # a flood
        bench.rewrite(VA, FRAME | RW)
    seen.append(bench.access(VA, bench.READ))
    seen.extend(bench.access(FAR + (page << 30), bench.READ) for page in range(16))  # many pages
    return seen, bench.flushes, bench.pages.zapped, len(bench.pages)


def test_a_story_is_the_same_each_time(build: Callable[..., Bench]) -> None:
    """If wrong, the next test finds a difference where there is none."""
    assert story(build) == story(build)


@pytest.mark.parametrize("param", SHADOWS_OWN, ids=lambda param: param.name)
def test_each_parameter_is_obeyed(build: Callable[..., Bench], param: Param) -> None:
    """If wrong, a parameter is declared, and C does not know it."""
    usual = story(build)
    others = [story(build, **{param.name: value}) for value in values(param)[1:]]
    assert any(other != usual for other in others)


def test_c_is_given_all_of_them(build: Callable[..., Bench]) -> None:
    """If wrong, a parameter that is set does not arrive."""
    given = {param.name: values(param)[-1] for param in SHADOWS_OWN}
    vm = build(**given).mmu.vm
    in_c = vm.pointer.params
    assert {name: getattr(in_c, name) for name in given} == given
    fields = {field.name for field in attrs.fields(MmuParams) if field.type is not str}
    assert set(given) == fields
