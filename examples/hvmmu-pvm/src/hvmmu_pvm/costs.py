"""Cost models with the PVM paper's own figures, for a hypervisor on the host and inside a VM.

An exit's price is a round trip. What leaves a guest under hardware virtualization is dear where
the hypervisor itself is a guest; PVM's exits cost the same in either place, and are named apart.
"""

from hvmmu.costs import GUEST_FAULT, WALK, Cost, CostModel
from hvmmu_pvm.structures import ExitReason

_MHZ = 2500
_PVM_SWITCH_PS, _HYPERCALL_PS = 179_000, 460_000
_PAPER = "PVM, SOSP 2023, Xeon 8269CY at 2.5 GHz"

DIRECT_SWITCHES = "pvm.direct_switches"


def _cycles(picoseconds: int) -> int:
    """Return whole cycles, half of one rounded up."""
    return (picoseconds * _MHZ + 500_000) // 1_000_000


def _pvms_own() -> tuple[Cost, ...]:
    round_trip = f"{_PAPER}: 2 world switches (out and in) x 0.179 us x 2500 cycles/us"
    hypercall = f"{_PAPER}: a hypercall's round trip, 0.46 us x 2500 cycles/us"
    made = []
    for reason in ExitReason:
        called = reason.name.startswith("HC_")
        price, source = (_HYPERCALL_PS, hypercall) if called else (2 * _PVM_SWITCH_PS, round_trip)
        made.append(Cost(f"exits.{reason.name}", _cycles(price), source))
    once = f"{_PAPER}: 1 world switch x 0.179 us x 2500 cycles/us, rounded up from 447.5"
    return (*made, Cost(DIRECT_SWITCHES, _cycles(_PVM_SWITCH_PS), once))


def _model(name: str, where: str, switch_ps: int, figure: str) -> CostModel:
    source = f"{_PAPER}, {where}: 2 world switches (out and in) x {figure} us x 2500 cycles/us"
    return CostModel(
        name,
        f"Intel Xeon 8269CY, hypervisor {where}: world switches, PVM's own among them, exception"
        " delivery and page walks; what the hypervisor's handlers execute is not costed",
        (Cost("exits", _cycles(2 * switch_ps), source), *_pvms_own(), GUEST_FAULT, WALK),
    )


MODELS = (
    _model("pvm-single", "on the host (single level)", 105_000, "0.105"),
    _model("pvm-nested", "inside a VM (nested)", 1_300_000, "1.3"),
)
