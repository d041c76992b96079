"""The flush an update owes: it must be performed, or forgone with a reason."""

from __future__ import annotations

import gc
import sys
import warnings
from itertools import product

import pytest

from hvmmu.flush import Flush, Part, widest
from hvmmu.tlb import Scope

PARTS: list[Part] = [
    (None, 0),
    (Scope.PAGE, 0x1000),
    (Scope.PAGE, 0x2000),
    (Scope.NON_GLOBAL, 0),
    (Scope.ALL, 0),
]
DROPPED = {
    (None, 0): set(),
    (Scope.PAGE, 0x1000): {"page 1", "global page 1"},
    (Scope.PAGE, 0x2000): {"page 2", "global page 2"},
    (Scope.NON_GLOBAL, 0): {"page 1", "page 2", "page 3"},
    (Scope.ALL, 0): {f"{g}page {n}" for n in (1, 2, 3) for g in ("", "global ")},
}
"""What each drops, of three pages and three global ones."""


@pytest.mark.parametrize(("one", "other"), [*product(PARTS, PARTS)])
def test_wider_does_for_both(one: Part, other: Part) -> None:
    """If wrong, joining two flushes leaves something in the TLB that one would have dropped.

    One page and all that is not global is the exception: the page may be global, but what the core
    maps never is, and the guest asks for one at a time.
    """
    joined = widest(one, other)
    wanted = DROPPED[one] | DROPPED[other]
    if {one[0], other[0]} == {Scope.PAGE, Scope.NON_GLOBAL}:
        wanted = {page for page in wanted if not page.startswith("global")}
    assert wanted <= DROPPED[joined]
    assert widest(other, one) == joined
    assert joined in (one, other, (Scope.ALL, 0))


def test_performing_hands_it_over_once() -> None:
    """If wrong, an update's flush never reaches hardware, or warns although it did."""
    seen: list[tuple[Scope, int]] = []
    flush = Flush(Scope.PAGE, 0x5000)
    assert (flush.scope, flush.gva) == (Scope.PAGE, 0x5000)
    flush.perform(lambda *part: seen.append(part))
    assert seen == [(Scope.PAGE, 0x5000)]
    del flush
    gc.collect()


def test_nothing_is_owed_for_nothing() -> None:
    """If wrong, an upgrade costs a flush, or a warning."""
    Flush.nothing().perform(lambda *_: pytest.fail("nothing was to be flushed"))
    Flush.nothing()
    gc.collect()


def test_dropping_it_warns() -> None:
    """If wrong, a forgotten flush goes unnoticed."""
    flush = Flush(Scope.ALL)
    with pytest.warns(ResourceWarning, match=r"flush of Scope\.ALL was neither performed"):
        del flush


def test_dropping_it_fails_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """If wrong, a test in which a flush is forgotten passes: warnings are errors there.

    One raised in __del__ cannot be caught where it happened; pytest fails the test for it.
    """
    raised: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: raised.append(what.exc_value))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Flush(Scope.PAGE, 0x1000)
        gc.collect()
    assert [type(one) for one in raised] == [ResourceWarning]


def test_forgoing_takes_a_reason() -> None:
    """If wrong, flushes can be left out and nobody has to say why."""
    flush = Flush(Scope.ALL)
    with pytest.raises(ValueError, match="for a reason"):
        flush.forgo("")
    flush.forgo("nothing was mapped")
    del flush
    gc.collect()


def test_joined_flushes_are_owed_as_one() -> None:
    """If wrong, joining two flushes loses both, or both still warn."""
    one, other = Flush(Scope.PAGE, 0x1000), Flush(Scope.PAGE, 0x2000)
    both = one.merge(other)
    del one, other
    gc.collect()
    assert both.scope is Scope.ALL
    with pytest.warns(ResourceWarning, match="neither performed nor forgone"):
        del both
