"""The reverse map against the obvious one: a list of triples."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hvmmu._core.py_rmap import Rmap

LEAVES = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 20).map(lambda n: 8 * n), st.sampled_from([1, 2])),
    unique_by=lambda leaf: leaf[1],
    max_size=15,
)


@given(leaves=LEAVES, left=st.data())
def test_against_a_list(leaves: list[tuple[int, int, int]], left: st.DataObject) -> None:
    """If wrong, a table is write-protected in fewer places than it is mapped."""
    rmap = Rmap()
    for leaf in leaves:
        rmap.add(*leaf)
    gone = left.draw(st.lists(st.sampled_from(leaves), unique=True)) if leaves else []
    for _, sptep, _ in gone:
        rmap.remove(sptep)
    kept = [leaf for leaf in leaves if leaf not in gone]
    assert sorted(rmap.items()) == sorted(kept)
    assert len(rmap) == len(kept)
    for gfn in range(6):
        for level in (1, 2):
            mine = [sptep for g, sptep, at in kept if (g, at) == (gfn, level)]
            assert rmap.leaves(gfn, level) == mine  # oldest first
