"""Tables, sentences and the document, from a result known by heart."""

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest

from hvmmu._report import conclusions, text
from hvmmu._report import document as documents
from hvmmu._report.document import Document

TABLE = """\
some (synthetic, pages 12) · engine reference · mmu.flood=4 (hvmmu.toml)

                              bare       left       left
                                      filter_    filter_
                                     faults=0   faults=1
guest
  accesses               2,345,678  2,345,678  2,345,678
  page faults                  161        161        161
    bypassed                   161          0        143
    injected                     0        161         18
  invlpg                        12         12         12
  CR3 loads                      1          1          1
hypervisor
  host faults                    0        321        321
  page-table writes              0        330        330
  guest PTE reads                0      3,248      3,248
  shadow pages                   0         23         23
  exits                          0        812        669
    FAULT                        ·        799        656
    INVLPG                       ·         13         13
  exits per page fault        0.00       5.04       4.16
hardware
  page-walk memory refs     93,824     93,824     93,824
  STLB misses               23,456     23,456     23,456
cycles (nehalem)
  exits                          0    819,308    675,021
  guest faults             175,973    175,973    175,973
  walks                  1,313,536  1,313,536  1,313,536
  total                  1,489,509  2,308,817  2,164,530
  of bare                    1.00x      1.55x      1.45x

All 3 runs are identical to the guest (161 faults since boot; fault-log and
page-table hashes agree).
filter_faults=1 kept 143 of 161 guest faults from exiting: 812 → 669 exits
(-17.6%); estimated cycles -6.2%.

Cycles are estimates of the cost model nehalem (Intel Nehalem: world switches,
exception delivery and page walks; the hypervisor's handlers are not costed):
  exits 1,009: Agesen et al., USENIX ATC 2012, exit round trip on Nehalem
    [approx]
  guest_faults 1,093: Adams & Agesen, ASPLOS 2006, a native page fault, delivery
    and return [approx]
  walks 14: SagePTE artifact's walk-cost model, an L2 hit, taken for every
    page-table reference
"""


def test_the_comparison_as_text(compared: Document) -> None:
    """What a person reads is not what the document says, or is wider than 80 columns."""
    made = text.comparison(compared, baseline="bare", width=None)
    assert made == TABLE
    assert all(len(line) <= 80 for line in made.splitlines())


def test_what_plugins_count_has_its_own_group(compared: Document) -> None:
    """What a plugin reports is measured and then shown to nobody."""
    compared["runs"][1]["counters"]["acme.seen"] = 1234
    made = text.comparison(compared, baseline="bare", width=None).splitlines()
    at = made.index("plugins")
    assert made[at + 1].split() == ["acme.seen", "·", "1,234", "·"]


def test_a_narrow_terminal_gets_more_tables(compared: Document) -> None:
    """On a narrow terminal columns are folded or digits are lost."""
    made = text.comparison(compared, baseline="bare", width=50)
    assert made.count("hypervisor") > 1
    for number in ("2,345,678", "2,308,817", "2,164,530"):
        assert number in made
    assert all(len(line) <= 50 for line in re.sub(r"\x1b\[[0-9;]*m", "", made).splitlines())


def test_a_single_run_shows_its_routes(compared: Document) -> None:
    """`run` does not say who took care of which fault."""
    del compared["runs"][:2]
    made = text.single(compared, baseline="bare", width=None)
    assert "left: filter_faults=1\n" in made
    assert "INJECT    not present  W|U             1    161\n" in made
    assert "SPURIOUS  none         ·               ·      1\n" in made
    assert "The guest took 161 faults" in made


def test_a_difference_is_told(compared: Document) -> None:
    """A run in which the guest saw something else passes as the same."""
    assert conclusions.differences(compared) == []
    compared["runs"][2]["guest"] |= {"faults": 160, "page_tables_sha256": "ef" * 32}
    assert conclusions.differences(compared) == [
        "left filter_faults=1 differs from bare in the number of its faults and its page tables"
    ]
    assert conclusions.verdict(compared).startswith("The runs DIFFER to the guest: left filter")


def test_an_effect_that_is_none(compared: Document) -> None:
    """A parameter without effect is said to have one, or divides by zero."""
    for run in compared["runs"]:
        run["counters"]["guest_faults_bypassed"] = 0
        run["counters"]["exits"]["total"] = 0
        run["cycles"]["total"] = 0
    assert list(conclusions.effects(compared)) == [
        (
            "filter_faults=1 kept none of 161 guest faults from exiting: 0 → 0 exits (no change); "
            "estimated cycles no change."
        )
    ]
    assert "·" in text.comparison(compared, baseline="bare", width=None)


def test_only_what_tells_runs_apart_names_them() -> None:
    """A heading repeats what all columns share, or misses what tells two apart."""
    runs = [
        {"backend": "a", "params": {"p": True, "q": 1}},
        {"backend": "b", "params": {"p": True, "q": 1}},
        {"backend": "b", "params": {"p": True, "q": 2}},
    ]
    assert conclusions.names(runs) == ["a", "b q=1", "b q=2"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [(812, 669, "-17.6%"), (100, 150, "+50.0%"), (3, 3, "no change"), (0, 3, "from none")],
)
def test_changes_in_percent(before: int, after: int, said: str) -> None:
    """A change has the wrong sign or size."""
    assert conclusions.change(before, after) == said


def test_the_document_obeys_its_schema(compared: Document) -> None:
    """A reader who trusts docs/json-schema.md cannot read what is printed."""
    jsonschema.Draft202012Validator.check_schema(documents.schema())
    jsonschema.validate(json.loads(documents.dumps(compared)), documents.schema())


@pytest.mark.parametrize(
    "path",
    [
        ("runs", 0, "counters", "guest_faults"),
        ("runs", 0, "counters", "exits", "by_reason"),
        ("runs", 0, "cycles", "total"),
        ("runs", 0, "guest", "fault_log_sha256"),
        ("cost_model", "costs", 0, "source"),
        ("workload", "name"),
        ("schema",),
    ],
)
def test_the_schema_misses_what_is_missing(compared: Document, path: tuple[str | int, ...]) -> None:
    """The schema lets a document pass that lacks what it promises."""
    broken = copy.deepcopy(compared)
    part = broken
    for step in path[:-1]:
        part = part[step]
    del part[path[-1]]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, documents.schema())


def test_the_document_as_text_is_fixed(compared: Document) -> None:
    """The same document gives other bytes, or bytes that are not ASCII."""
    compared["workload"]["name"] = "größer"
    made = documents.dumps(compared)
    assert made == documents.dumps(json.loads(made))
    assert made.isascii()
    assert made.endswith("}\n")


def test_every_key_is_documented() -> None:
    """A key of the document is in the schema, and a reader of the docs never hears of it."""
    schema = documents.schema()
    run = schema["$defs"]["run"]["properties"]
    counters = schema["$defs"]["counters"]["properties"]
    text = (Path(__file__).parents[2] / "docs" / "json-schema.md").read_text(encoding="utf-8")
    for key in (*schema["properties"], *run, *run["guest"]["properties"], *counters):
        assert f"`{key}`" in text
