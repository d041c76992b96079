"""Cost models: every number sourced, and the arithmetic."""

import pytest

from hvmmu.costs import MODELS, Cost, CostModel, cost_model, estimate
from hvmmu.errors import InputError

# Round trips in cycles as Agesen et al. 2012 list them, and two of PVM's world switches.
EXITS = {
    "sandy-bridge": 784,
    "westmere": 761,
    "nehalem": 1009,
    "penryn": 1266,
    "merom": 1579,
    "prescott": 3963,
    "pvm-xeon": 525,
}


COUNTERS = {
    "exits": {"total": 10, "by_reason": {"CHEAP": 6, "DEAR": 4}},
    "guest_faults": 3,
    "page_walk_refs": 100,
}


def test_the_models_are_those_with_a_source() -> None:
    """A model prices exits with a number that its source does not have."""
    assert {name: model.cycles("exits") for name, model in MODELS.items()} == EXITS
    assert next(iter(MODELS)) == "sandy-bridge"


@pytest.mark.parametrize("name", EXITS)
def test_every_number_has_its_source(name: str) -> None:
    """A number is printed that nobody can check, or one from memory without its label."""
    model = MODELS[name]
    assert model.name == name
    assert "not costed" in model.description
    assert [cost.name for cost in model.costs] == ["exits", "guest_faults", "walks"]
    for cost in model.costs:
        assert cost.cycles > 0
        assert cost.source
        assert ("ATC 2012" in cost.source or "ASPLOS 2006" in cost.source) == (
            "[approx]" in cost.source
        )


def test_cycles_are_counts_times_costs() -> None:
    """A part is priced with another part's cost, or the total is not the sum."""
    assert estimate(MODELS["nehalem"], COUNTERS) == {
        "exits": 10_090,
        "guest_faults": 3 * 1093,
        "walks": 1400,
        "total": 10_090 + 3 * 1093 + 1400,
    }


def test_a_reason_may_have_its_own_price_and_a_plugin_its_own_counter() -> None:
    """A cheap way out of the guest is priced like a dear one, or a plugin's counter not at all."""
    costs = (Cost("exits", 1000, "s"), Cost("exits.CHEAP", 10, "s"), Cost("mine.seen", 7, "s"))
    model = CostModel("m", "d", costs)
    assert estimate(model, COUNTERS | {"mine.seen": 3}) == {
        "exits": 4 * 1000 + 6 * 10,
        "guest_faults": 0,
        "walks": 0,
        "mine.seen": 21,
        "total": 4081,
    }
    assert estimate(model, COUNTERS)["mine.seen"] == 0


def test_an_unknown_model_is_met_with_the_known() -> None:
    """A wrong name ends in a KeyError."""
    with pytest.raises(InputError, match="no cost model 'x'; there are sandy-bridge, westmere"):
        cost_model("x")
