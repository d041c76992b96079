"""The commands in README, docs and examples: each is run, and what is shown as its output compared.

Fences are read in the order of the page, in one folder: `console` runs; `toml` or `python` that
begins with a file's name writes that file. A line of three dots stands for any number of lines,
dots at the end of a line for the rest of it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*/README.md"))
FENCE = re.compile(r"^```(console|toml|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
FILE = re.compile(r"# (\S+\.(?:toml|py))\n")
SHOWN = ("hvmmu-vmx", "hvmmu-svm")
"""The plugins that are installed on every page."""
LAUNCHER = """#!{python}
import sys
from hvmmu._cli import main
from hvmmu._plugins import loading

def shown(discover=loading.discover):
    points, damaged = discover()
    return [point for point in points if point.distribution in {shown}], damaged

loading.discover = shown
if __name__ == "__main__":
    sys.exit(main())
"""
"""The command `hvmmu` as it is where no other plugins are installed."""
ALSO_SHOWN = {"hvmmu-vtlb": ("hvmmu-pvm", "hvmmu-xen")}
"""The other examples that an example's page shows."""


def need(*modules: str) -> None:
    """Skip unless these plugins are installed."""
    for module in modules:
        pytest.importorskip(module, reason="the page shows this plugin")


def snippets(page: Path) -> list[tuple[str, str]]:
    """Return a page's fences: their language and text."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def run(command: str, cwd: Path, *plugins: str) -> str:
    """Run a shell command with this environment's hvmmu; return stdout and stderr as one text."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("COVERAGE", "HVMMU_"))}
    launcher = cwd / ".bin" / "hvmmu"
    launcher.parent.mkdir(exist_ok=True)
    launcher.write_text(LAUNCHER.format(python=sys.executable, shown=(*SHOWN, *plugins)))
    launcher.chmod(0o755)
    parts = (str(launcher.parent), str(Path(sys.executable).parent), os.environ["PATH"])
    path = os.pathsep.join(parts)
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=cwd,
        env=clean | {"PATH": path, "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    refused, failed = ended.stdout.startswith("hvmmu: error"), " failed\n" in ended.stdout
    assert ended.returncode == (2 if refused else 1 if failed else 0), ended.stdout
    return ended.stdout


def pattern(shown: str) -> str:
    """Return a regular expression for output as it is shown."""
    lines = [
        r"(?:.*\n)*?"
        if line == "..."
        else re.escape(line.removesuffix("...")) + (r".*\n" if line.endswith("...") else r"\n")
        for line in shown.splitlines()
    ]
    return "".join(lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_print_what_is_shown(page: Path, tmp_path: Path) -> None:
    """A page shows a command that does not run, or output that nobody would get."""
    need("hvmmu_vmx", "hvmmu_svm")
    run_page(page, tmp_path)


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.parent.name)
def test_an_example_says_what_is_so(page: Path, tmp_path: Path) -> None:
    """An example's page claims figures that nobody would get."""
    plugins = (page.parent.name, *ALSO_SHOWN.get(page.parent.name, ()))
    need(*(plugin.replace("-", "_") for plugin in plugins))
    run_page(page, tmp_path, *plugins)


def run_page(page: Path, tmp_path: Path, *plugins: str) -> None:
    """Run a page's commands in order; fail at the first that prints something else."""
    for language, text in snippets(page):
        if language != "console":
            if named := FILE.match(text):
                (tmp_path / named[1]).write_text(text, encoding="utf-8")
            continue
        commands = COMMAND.findall(text)
        assert commands, f"no command in {text!r}"
        for command, shown in commands:
            if "hvmmu record" in command and not shutil.which("valgrind"):
                pytest.skip("valgrind is not installed: the rest of the page is not run")
            printed = run(command, tmp_path, *plugins)
            assert not shown or re.fullmatch(pattern(shown), printed), f"{command}\n{printed}"


@pytest.mark.parametrize("update_on_write", [0, 1])
def test_exits_per_fault(update_on_write: int, tmp_path: Path) -> None:
    """README's table of exits per demand-zero fault has a number that was not measured."""
    need("hvmmu_vmx", "hvmmu_svm")
    setting = f"-p mmu.update_on_write={update_on_write}"
    document = json.loads(run(f"hvmmu compare --json demand-zero:pages=1000 {setting}", tmp_path))
    counted = [run["counters"] for run in document["runs"] if run["backend"] != "native"]
    cells = [f"{c['exits']['total'] / c['guest_faults']:.2f}" for c in counted]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith(f"| `{setting}`"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == cells
    expected = ["3.00", "3.00", "2.00"] if not update_on_write else ["2.00", "2.00", "1.00"]
    assert cells == expected
