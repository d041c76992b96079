"""pycachesim as a TLB, fed with a part of a trace, by the call or in one batch.

What is timed is the simulation alone, without reading the trace and building Python's objects.
pycachesim has one first level: instructions and data share it.

    python benchmarks/peer_pycachesim.py TRACE ACCESSES call|batch
"""

import json
import sys
from pathlib import Path
from time import process_time

from cachesim import Cache, CacheSimulator, MainMemory
from peer_accesses import accesses

from hvmmu.arch import pfec as pf


def simulator() -> CacheSimulator:
    """Return 64 entries of 4 ways over 1,536 of 12: lines are pages."""
    memory = MainMemory()
    second = Cache("second", 128, 12, 4096, "LRU")
    memory.load_to(second)
    memory.store_from(second)
    first = Cache("first", 16, 4, 4096, "LRU", store_to=second, load_from=second)
    return CacheSimulator(first, memory)


def by_call(tlb: CacheSimulator, gva: list[int], writes: list[bool]) -> float:
    """Return the seconds of one call for each access."""
    load, store = tlb.load, tlb.store
    begun = process_time()
    for va, write in zip(gva, writes, strict=True):
        if write:
            store(va)
        else:
            load(va)
    return process_time() - begun


def in_batch(tlb: CacheSimulator, gva: list[int], writes: list[bool]) -> float:
    """Return the seconds of one call for all accesses, all taken as loads: nothing is faster."""
    del writes
    begun = process_time()
    tlb.load(gva)
    return process_time() - begun


def main(trace: str, most: str, way: str) -> None:
    """Print seconds, and the references they are of."""
    gva, kind, references = accesses(Path(trace), int(most))
    simulate = {"call": by_call, "batch": in_batch}[way]
    seconds = simulate(simulator(), list(gva), [bool(k & pf.W) for k in kind])
    print(json.dumps({"seconds": seconds, "references": references}))


if __name__ == "__main__":
    main(*sys.argv[1:])
