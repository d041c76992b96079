"""The reverse map: which leaf entries map a guest frame."""

from collections.abc import Iterator


class Rmap:
    """From gfn to the leaf entries (sptep) that map it, oldest first; large leaves by first gfn."""

    def __init__(self) -> None:
        self._by_gfn: dict[int, dict[int, int]] = {}
        self._by_sptep: dict[int, int] = {}

    def add(self, gfn: int, sptep: int, level: int) -> None:
        """Note that the leaf at *sptep* maps *gfn* at *level*."""
        self._by_gfn.setdefault(gfn, {})[sptep] = level
        self._by_sptep[sptep] = gfn

    def remove(self, sptep: int) -> None:
        """Forget the leaf at *sptep*."""
        gfn = self._by_sptep.pop(sptep)
        leaves = self._by_gfn[gfn]
        del leaves[sptep]
        if not leaves:
            del self._by_gfn[gfn]

    def leaves(self, gfn: int, level: int) -> list[int]:
        """Return the leaves of *level* whose first frame is *gfn*."""
        return [sptep for sptep, at in self._by_gfn.get(gfn, {}).items() if at == level]

    def items(self) -> Iterator[tuple[int, int, int]]:
        """Yield every (gfn, sptep, level)."""
        for gfn, leaves in self._by_gfn.items():
            for sptep, level in leaves.items():
                yield gfn, sptep, level

    def __len__(self) -> int:
        """Count the leaves."""
        return len(self._by_sptep)
