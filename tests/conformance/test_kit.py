"""The kit itself: its report, its ways in, and what it makes of a backend that misbehaves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hvmmu import testing
from hvmmu._cli import main
from hvmmu.errors import ConfigError, InputError
from hvmmu.testing import BackendConformance, check_backend, suite
from hvmmu.testing.check import LEVELS, Check, check
from hvmmu.testing.suite import checks

Acme = Any
Capsys = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]
ALL_ACCESSES = {
    f"architecture.{of}"
    for of in ("access-rights", "error-codes", "cr2", "translations", "accessed-bits", "dirty-bits")
}
SCHEMA = json.loads((Path(testing.__file__).parent / "schema.json").read_text(encoding="utf-8"))


def test_every_check_has_a_rule_and_a_reference() -> None:
    """A failure does not say which rule was broken, or where the rule is from."""
    for one in checks():
        assert one.id.partition(".")[0] == LEVELS[one.level]
        assert one.rule.endswith(".")
        assert one.reference


def test_a_check_has_its_name_to_itself() -> None:
    """Two checks share an id, and one of them is never run."""
    with pytest.raises(ValueError, match=r"two checks packaging\.loads"):
        check("packaging.loads", rule="Any.", reference="none")(lambda _: None)


def test_the_report_is_a_document(acme: Acme) -> None:
    """A report cannot be read by what reads the others, or differs from one time to the next."""
    one, other = (check_backend(acme, level=1, seed=7) for _ in range(2))
    assert one.to_json() == other.to_json()
    document = json.loads(one.to_json())
    jsonschema.validate(document, SCHEMA)
    assert document["seed"] == 7
    assert document["counts"]["passed"] == sum(c["outcome"] == "passed" for c in document["checks"])


def test_a_failure_has_everything_in_it(acme: Acme) -> None:
    """Whoever sees a failure must look elsewhere for id, rule, values or reference."""
    broken = type("Broken", (acme,), {"summary": "two\nlines <b>"})
    report = check_backend(broken, level=0)
    assert not report.ok
    [failure] = report.failures
    for text in (failure.id, failure.rule, failure.message, failure.reference):
        assert text in str(report)
    shown = report._repr_html_()
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown


def test_the_first_failure_ends_it_if_asked(acme: Acme) -> None:
    """Somebody who wants to know only whether a backend is right waits for all the rest."""
    broken = type("Broken", (acme,), {"summary": ""})
    report = check_backend(broken, first_only=True)
    assert report.results[-1].id == "packaging.members"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out checks that lay out every access there is, but for one: that takes a while."""

    def chosen(level: int, kind: str) -> tuple[Check, ...]:
        found = checks(level, kind)
        left = tuple(one for one in found if one.id not in ALL_ACCESSES)
        assert len(left) == len(found) - len(ALL_ACCESSES)
        return left

    monkeypatch.setattr(suite, "checks", chosen)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "error", [RuntimeError("it rains"), SystemExit(3), KeyError(), RecursionError("deep")]
)
def test_an_exception_is_the_checks_failure(acme: Acme, error: BaseException) -> None:
    """A backend that raises ends the tool, with a traceback of ours."""

    def create_vcpu(*_: object) -> None:
        raise error

    report = check_backend(type("Broken", (acme,), {"create_vcpu": create_vcpu}), level=2)
    assert report.failures
    for failure in report.failures:
        assert failure.message.isprintable()
        assert type(error).__name__ in failure.message
        assert "create_vcpu, line" in failure.message


@pytest.mark.usefixtures("quick")
def test_what_is_printed_does_not_spoil_the_report(acme: Acme, capsys: Capsys) -> None:
    """A backend that prints spoils the document on stdout."""

    def page_faults(self: Acme) -> int:
        print("here I am")  # noqa: T201 - as people do
        return acme.page_faults(self)

    check_backend(type("Loud", (acme,), {"page_faults": page_faults}), level=2)
    assert capsys.readouterr() == ("", "")


def test_what_is_no_backend_is_refused() -> None:
    """A slip in a name or an instance instead of the class ends in a traceback."""
    with pytest.raises(InputError, match="no backend 'natiev'; did you mean 'native'"):
        check_backend("natiev")
    with pytest.raises(InputError, match="a backend is a class or a name"):
        check_backend(3)


def test_the_kit_needs_no_pytest(tmp_path: Path) -> None:
    """Somebody without pytest cannot use check_backend or `hvmmu check`."""
    code = (
        "import sys; sys.modules['pytest'] = sys.modules['hypothesis'] = None\n"
        "from hvmmu.testing import check_backend\n"
        "assert check_backend('native', level=0).ok\n"
        "try:\n    from hvmmu.testing import BackendConformance\n"
        "except ImportError as error:\n    print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "the conformance classes need pytest: pip install pytest\n"


# On the command line.


def run(capsys: Capsys, *argv: str) -> tuple[int, str, str]:
    """Run `hvmmu check`; return exit code, stdout and stderr."""
    code = main(["check", *argv])
    return code, *capsys.readouterr()


def test_a_pass_on_the_command_line(capsys: Capsys) -> None:
    """A right backend's exit code is not 0, or a level is missing from what is printed."""
    code, out, err = run(capsys, "native", "--examples", "1")
    assert (code, err) == (0, "")
    for level, name in enumerate(LEVELS):
        assert f"\nlevel {level}  {name}" in out


def test_json_on_the_command_line(capsys: Capsys, tmp_path: Path) -> None:
    """The document is not the same in a file and on stdout, or leaves something beside it."""
    arguments = ("native", "--level", "1", "--seed", "5", "--json")
    code, out, _ = run(capsys, *arguments, "-")
    assert code == 0
    assert run(capsys, *arguments, str(tmp_path / "report.json"))[0] == 0
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == out
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    jsonschema.validate(json.loads(out), SCHEMA)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nativ"], "no backend 'nativ'; did you mean 'native'?"),
        (["native", "--level", "7"], "7 is not in the range 0<=x<=6"),
        (["native", "--examples", "0"], "0 is not in the range"),
        (["native", "--json", "no/such/folder"], "a folder that does not exist"),
        (["native", "--json", "."], "is a folder; name a file"),
        ([], "Missing argument 'NAME'"),
    ],
)
def test_bad_input(capsys: Capsys, arguments: list[str], message: str) -> None:
    """What is typed wrong gives no clear line, or another exit code than 2."""
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


# Under pytest.

SUITE = """
from hvmmu._native import NativeBackend
from hvmmu.testing import BackendConformance

class Odd(NativeBackend):
    summary = ""

class TestOdd(BackendConformance):
    backend = Odd
    level = 1
    expected_failures = {expected}
"""


def pytest_on(tmp_path: Path, expected: dict[str, str]) -> tuple[int, str]:
    """Run pytest on a class with these expected failures; return exit code and output."""
    (tmp_path / "test_odd.py").write_text(
        SUITE.replace("{expected}", repr(expected)), encoding="utf-8"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-c", "/dev/null", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return ended.returncode, ended.stdout


def test_each_check_is_a_test(tmp_path: Path) -> None:
    """Checks cannot be told apart, chosen by id, or seen to fail under pytest."""
    code, out = pytest_on(tmp_path, {})
    assert code == 1
    assert "TestOdd::test_conformance[packaging.members] FAILED" in out
    assert "the rule: The backend class has every member" in out
    assert "TestOdd::test_conformance[parameters.unsupported] PASSED" in out
    assert "architecture" not in out  # level 2 was not asked for


def test_expected_failures_are_strict(tmp_path: Path) -> None:
    """A failure that is known fails the suite, or one that has been mended goes unnoticed."""
    code, out = pytest_on(tmp_path, {"packaging.members": "no summary yet"})
    assert code == 0
    assert re.search(r"\[packaging\.members\] XFAIL", out)
    reasons = {"packaging.members": "no summary yet", "parameters.unsupported": "long mended"}
    code, out = pytest_on(tmp_path, reasons)
    assert code == 1
    assert "parameters.unsupported was expected to fail (long mended), and passes" in out


def test_an_unknown_expected_failure_is_an_error() -> None:
    """An id with a slip in it is expected to fail for ever, and nobody notices."""
    with pytest.raises(ConfigError, match=r"no check 'routing.trap'; did you mean 'routing.trap-f"):
        type(
            "TestIt",
            (BackendConformance,),
            {"backend": "native", "expected_failures": {"routing.trap": ""}},
        )


def test_the_page_lists_every_check() -> None:
    """Somebody looks a failed check up, and the page does not know it, or has another rule."""
    page = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{one.id}` | {one.rule} |" for one in checks()]
