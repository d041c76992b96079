"""A deprivileged guest's accesses, run in stretches of one privilege each.

Hardware tells an ordinary guest's user from its supervisor by U in each access. Where it runs the
whole guest as user, U is always set, and the privilege is changed between stretches.
"""

from hvmmu._switch import WorldSwitch
from hvmmu.arch import pfec as pf
from hvmmu.engine import Engine, HwThread
from hvmmu.types import Buffer

_AS_USER = bytes(kind | pf.U for kind in range(256))
_WHOSE = bytes(kind & pf.U for kind in range(256))


class Stretches:
    """Runs accesses as an engine does, and stops where it does."""

    def __init__(self, engine: Engine, switch: WorldSwitch) -> None:
        self._engine, self._switch = engine, switch
        self._kind: Buffer = b""
        self._whose = self._as_user = b""
        """The kinds of the last batch: whose they are, and as hardware is given them."""

    def run(
        self,
        core: HwThread,
        gva: Buffer,
        kind: Buffer,
        start: int,
        translated: Buffer | None = None,
    ) -> int:
        """Run accesses from *start* on; return the index of the one that stopped, or len(gva)."""
        whose, as_user = self._translated(kind, start)
        vas, out = memoryview(gva), None if translated is None else memoryview(translated)
        at = start
        while at < len(vas):
            end = whose.find(whose[at] ^ pf.U, at)
            end = len(vas) if end < 0 else end
            self._switch.be(user=bool(whose[at]))
            part = None if out is None else out[:end]
            at = self._engine.run(core, vas[:end], memoryview(as_user)[:end], at, part)
            if at < end:
                break
        return at

    def promote(self, gva: Buffer, kind: Buffer) -> None:
        """Make pages the most recent ones of their sets in the TLB, where they are cached."""
        self._engine.promote(gva, kind)

    def _translated(self, kind: Buffer, start: int) -> tuple[bytes, bytes]:
        """Translate a batch where it begins; it is gone on with after each stop.

        In between the guest's handler makes single accesses, which are no batch to go on with.
        """
        if start and kind is self._kind:
            return self._whose, self._as_user
        kinds = memoryview(kind).tobytes()
        whose, as_user = kinds.translate(_WHOSE), kinds.translate(_AS_USER)
        if len(kinds) > 1:
            self._kind, self._whose, self._as_user = kind, whose, as_user
        return whose, as_user
