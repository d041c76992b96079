"""A ChampSim trace of the first instructions of a compact trace: 64 bytes each, packed with gzip.

python benchmarks/peer_champsim.py TRACE INSTRUCTIONS OUTPUT
"""

import gzip
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from peer_accesses import accesses

from hvmmu.arch import pfec as pf

RECORD = struct.Struct("<QBB2B4B2Q4Q")
"""Instruction pointer, branch or not and taken or not, registers, then what it writes and reads."""
WRITES, READS = 2, 4


def records(trace: Path, most: int) -> Iterator[bytes]:
    """Yield one record for each of *most* instructions, with its loads and stores."""
    gva, kind, _ = accesses(trace, 3 * most)
    at, reads, writes, made = 0, [], [], 0
    for va, k in zip(gva, kind, strict=True):
        if k & pf.ID:
            if at:
                yield packed(at, reads, writes)
                made += 1
            if made == most:
                return
            at, reads, writes = va, [], []
        elif k & pf.W:
            writes.append(va)
        else:
            reads.append(va)


def packed(at: int, reads: list[int], writes: list[int]) -> bytes:
    """Return an instruction's record; what has no room in it is left out."""
    reads, writes = (reads + [0] * READS)[:READS], (writes + [0] * WRITES)[:WRITES]
    return RECORD.pack(at, 0, 0, *bytes(6), *writes, *reads)


def main(trace: str, most: str, output: str) -> None:
    """Write the trace; print how many references it has."""
    references = instructions = 0
    with gzip.open(output, "wb") as out:
        for record in records(Path(trace), int(most)):
            out.write(record)
            instructions += 1
            references += 1 + sum(map(bool, RECORD.unpack(record)[9:]))
    print(json.dumps({"instructions": instructions, "references": references}))


if __name__ == "__main__":
    main(*sys.argv[1:])
