"""Unicorn with Python hooks: a loop with as many loads and stores an instruction as a program has.

The hooks hear loads and stores (memory), or fetches as well (all), as whoever simulates a whole TLB
has to. They count, no more. References are those that were heard.

    python benchmarks/peer_unicorn.py REFERENCES DATA_PER_INSTRUCTION memory|all
"""

import json
import sys
from time import process_time

from unicorn import UC_ARCH_X86, UC_HOOK_CODE, UC_HOOK_MEM_READ, UC_HOOK_MEM_WRITE, UC_MODE_64, Uc
from unicorn.x86_const import UC_X86_REG_RCX, UC_X86_REG_RDI, UC_X86_REG_RSI

CODE, DATA, SIZE = 0x400000, 0x10000000, 1 << 26
LOAD, STORE = bytes.fromhex("488b06"), bytes.fromhex("488907")  # mov rax,[rsi]; mov [rdi],rax
ADVANCE = bytes.fromhex("4883c6404883c740")  # add rsi,64; add rdi,64
INCREMENT = bytes.fromhex("48ffc0")  # inc rax
AGAIN = bytes.fromhex("48ffc90f85")  # dec rcx; jnz ...
PAIRS = 4


class Listener:
    """Hears of every reference, and counts."""

    def __init__(self) -> None:
        """Start from zero."""
        self.heard = 0

    def hear(self, *_: object) -> None:
        """Count one."""
        self.heard += 1


def loop(density: float) -> tuple[bytes, int]:
    """Return code with *density* loads and stores an instruction, and the instructions a round."""
    others = max(round(2 * PAIRS / density) - 2 * PAIRS, 4)  # advance and branch are four
    body = (LOAD + STORE) * PAIRS + INCREMENT * (others - 4) + ADVANCE
    back = -(len(body) + len(AGAIN) + 4)
    return body + AGAIN + back.to_bytes(4, "little", signed=True), 2 * PAIRS + others


def main(most: str, density: str, heard: str) -> None:
    """Print seconds, and the references they are of."""
    code, instructions = loop(float(density))
    rounds = min(max(int(most) // (instructions + 2 * PAIRS), 1), SIZE // 128)
    machine, listener = Uc(UC_ARCH_X86, UC_MODE_64), Listener()
    machine.mem_map(CODE, 1 << 12)
    machine.mem_map(DATA, SIZE)
    machine.mem_write(CODE, code)
    machine.hook_add(UC_HOOK_MEM_READ | UC_HOOK_MEM_WRITE, listener.hear)
    if heard == "all":
        machine.hook_add(UC_HOOK_CODE, listener.hear)
    machine.reg_write(UC_X86_REG_RSI, DATA)
    machine.reg_write(UC_X86_REG_RDI, DATA + SIZE // 2)
    machine.reg_write(UC_X86_REG_RCX, rounds)
    begun = process_time()
    machine.emu_start(CODE, CODE + len(code))
    seconds = process_time() - begun
    references = rounds * (2 * PAIRS + (instructions if heard == "all" else 0))
    if listener.heard != references:
        raise SystemExit(f"Unicorn made {listener.heard} references, not {references}")
    print(json.dumps({"seconds": seconds, "references": references}))


if __name__ == "__main__":
    main(*sys.argv[1:])
