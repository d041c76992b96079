"""The compiled engine over all accesses of a part of a trace, nothing left out, from memory.

What is timed is the run alone, faults included, without reading the trace.

    python benchmarks/peer_unreduced.py TRACE ACCESSES
"""

import json
import sys
from pathlib import Path
from time import process_time

from peer_accesses import accesses

from hvmmu._native import NativeBackend
from hvmmu._trace.hvt import HvtTrace
from hvmmu.machine import Machine, MachineConfig
from hvmmu.steps import Accesses


def main(trace: str, most: str) -> None:
    """Print seconds, and the references they are of."""
    gva, kind, references = accesses(Path(trace), int(most))
    machine = Machine(MachineConfig(NativeBackend, NativeBackend.params()))
    machine.step(next(HvtTrace(Path(trace)).steps()))
    begun = process_time()
    machine.step(Accesses(gva, kind))
    seconds = process_time() - begun
    machine.close()
    print(json.dumps({"seconds": seconds, "references": references}))


if __name__ == "__main__":
    main(*sys.argv[1:])
