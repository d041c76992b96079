"""Named cost models: cycles = counts x costs, every cost with its source.

A model prices world switches, exception delivery and page walks. The instructions of the
hypervisor's own handlers are left out: no published figure per outcome exists.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from hvmmu.errors import InputError

_AGESEN = "Agesen et al., USENIX ATC 2012, exit round trip on {cpu} [approx]"
_PVM = (
    "PVM, SOSP 2023, Xeon 8269CY at 2.5 GHz, single level: 2 world switches (out and in) "
    "x 0.105 us x 2500 cycles/us"
)
_PVM_SWITCH_PS = 105_000
_PVM_MHZ = 2500


_EXIT = "exits."


class Cost(NamedTuple):
    """One number of a model: the cycles of one event of this name, and its source."""

    name: str
    cycles: int
    source: str


class CostModel(NamedTuple):
    """A named set of costs, each under the name of its event.

    `exits`: a VM exit of any reason; `exits.REASON`: one of this reason, in place of that price.
    `guest_faults`: a fault that the guest handles. `walks`: a memory reference of a hardware page
    walk. Any other name: one unit of the counter of that name, reported by a plugin.
    """

    name: str
    description: str
    costs: tuple[Cost, ...]

    def cycles(self, name: str) -> int:
        """Return the cycles of one event."""
        return next(cost.cycles for cost in self.costs if cost.name == name)


GUEST_FAULT = Cost(
    "guest_faults",
    1093,
    "Adams & Agesen, ASPLOS 2006, a native page fault, delivery and return [approx]",
)
WALK = Cost(
    "walks",
    14,
    "SagePTE artifact's walk-cost model, an L2 hit, taken for every page-table reference",
)


def estimate(model: CostModel, counters: Mapping[str, Any]) -> dict[str, int]:
    """Return estimated cycles by part, and their `total`, from a run's counters.

    `exits`: exits x a round trip. `guest_faults`: faults that the guest handled, bypassed or
    injected, x exception delivery and return. `walks`: page-walk memory references x the latency
    of one cache level. Then a part for each plugin counter that the model prices.
    """
    prices = {cost.name: cost.cycles for cost in model.costs}
    by_reason = counters["exits"]["by_reason"]
    parts = {
        "exits": sum(
            count * prices.get(f"{_EXIT}{reason}", prices.get("exits", 0))
            for reason, count in by_reason.items()
        ),
        "guest_faults": counters["guest_faults"] * prices.get("guest_faults", 0),
        "walks": counters["page_walk_refs"] * prices.get("walks", 0),
    }
    for name, cycles in prices.items():
        if name not in parts and not name.startswith(_EXIT):
            parts[name] = counters.get(name, 0) * cycles
    return {**parts, "total": sum(parts.values())}


def cost_model(name: str) -> CostModel:
    """Return the model of this name; raise InputError with the names of all models."""
    if name not in MODELS:
        raise InputError(f"no cost model {name!r}; there are {', '.join(MODELS)}")
    return MODELS[name]


def _model(name: str, cpu: str, exit_cycles: int, source: str) -> CostModel:
    return CostModel(
        name,
        f"{cpu}: world switches, exception delivery and page walks; the hypervisor's "
        "handlers are not costed",
        (Cost("exits", exit_cycles, source), GUEST_FAULT, WALK),
    )


def _agesen(name: str, cpu: str, cycles: int) -> CostModel:
    return _model(name, f"Intel {cpu}", cycles, _AGESEN.format(cpu=cpu))


_ALL = (
    _agesen("sandy-bridge", "Sandy Bridge", 784),
    _agesen("westmere", "Westmere", 761),
    _agesen("nehalem", "Nehalem", 1009),
    _agesen("penryn", "Penryn", 1266),
    _agesen("merom", "Merom", 1579),
    _agesen("prescott", "Prescott", 3963),
    _model("pvm-xeon", "Intel Xeon 8269CY", 2 * _PVM_SWITCH_PS * _PVM_MHZ // 1_000_000, _PVM),
)
MODELS: Mapping[str, CostModel] = {model.name: model for model in _ALL}
"""Every cost model by name; the first is the default."""
