"""What the pages say in prose and tables, held against what the code says."""

import re
from importlib.metadata import requires
from pathlib import Path

import pytest

from hvmmu.costs import MODELS
from hvmmu.workloads import descriptions

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
CITED = re.compile(r'\b(?:SDM|APM)\s+((?:"[^"]+"(?:,\s+|\s+(?:and|under)\s+)?)+)')
TITLE = re.compile(r'"([^"]+)"')


def page(name: str) -> str:
    """Return the text of a page."""
    return (DOCS / name).read_text(encoding="utf-8")


def cited() -> set[str]:
    """Return the manuals' section titles that the code names."""
    sources = [*ROOT.glob("src/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    texts = [" ".join(path.read_text(encoding="utf-8").split()) for path in sources]
    return {
        title for text in texts for found in CITED.findall(text) for title in TITLE.findall(found)
    }


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name: str) -> None:
    """A reader of the repository follows a link to a file that is not there."""
    for target in LINK.findall((ROOT / name).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_every_page_can_be_found() -> None:
    """A page is in no table of contents, or README sends nobody to the documentation."""
    index = page("index.md")
    names = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    assert {line for line in index.splitlines() if line in names} == names - {"index"}


def test_every_cost_has_its_source_on_the_page() -> None:
    """A number is used in estimates that the page of costs does not account for."""
    text = page("costs.md")
    for model in MODELS.values():
        exits, *others = model.costs
        assert re.search(
            rf"\| `{model.name}`.* \| {exits.cycles} \| {re.escape(exits.source)} \|", text
        )
        for cost in others:
            assert re.search(
                rf"\| `{cost.name}`.* \| {cost.cycles} \| {re.escape(cost.source)} \|", text
            )


def test_every_dependency_has_its_reason() -> None:
    """A package is installed for users, and nobody says why."""
    text = page("dependencies.md")
    for requirement in requires("hvmmu") or ():
        name = re.match(r"[\w.-]+", requirement)[0]
        assert f"\n{name}\n:" in text, name


def test_every_synthetic_workload_is_described() -> None:
    """A workload exists that the page of workloads does not know."""
    text = page("workloads.md")
    for name in descriptions():
        assert f"\n{name}\n:" in text, name


def test_every_cited_title_is_on_the_page_of_manuals() -> None:
    """The code cites a section that the reader cannot look up."""
    text = page("manuals.md")
    titles = cited()
    assert len(titles) > 10
    assert {title for title in titles if f"| {title} |" not in text} == set()
