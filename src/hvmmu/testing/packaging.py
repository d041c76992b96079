"""Level 0: the package of a backend, and the members of its class."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from hvmmu._plugins.contributions import BUILT_INS, check_backends, check_contributions
from hvmmu._plugins.contributions import MMU as MMUS
from hvmmu.backend import API_VERSION, Caps
from hvmmu.errors import PluginError
from hvmmu.params import printable
from hvmmu.testing.check import BOTH, MMU, CheckFailure, Need, NotApplicable, check
from hvmmu.testing.import_scan import is_public, package_of, private_imports

if TYPE_CHECKING:
    from hvmmu.testing.context import Context

_PAGE = "plugins"
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)")
_LOWER, _UPPER, _BOTH = re.compile(r">=?\s*\d"), re.compile(r"<=?\s*\d"), re.compile(r"[~=]=\s*\d")
_PATIENCE = 60  # seconds that an import may take


@check(
    "packaging.loads",
    rule="The plugin loads: it is found through its entry point in the group hvmmu, and imports"
    " without an exception.",
    reference=_PAGE,
    of=BOTH,
)
def loads(context: Context) -> None:
    """Skip a backend without a plugin; one whose plugin is broken fails before its checks run."""
    if context.plugin is None:
        raise NotApplicable("it is from no installed plugin")


@check(
    "packaging.members",
    rule="The backend class has every member of hvmmu.backend.Backend, a usable name, and the"
    " api_version of this hvmmu.",
    reference="hvmmu.backend: Backend",
)
def members(context: Context) -> None:
    """Check it as the registry does, then api_version, caps and summary."""
    backend = context.backend
    if backend not in BUILT_INS.values():
        try:
            check_backends([backend])
        except PluginError as error:
            raise CheckFailure(str(error)) from None
    if backend.api_version != API_VERSION:
        raise CheckFailure(f"api_version is {backend.api_version!r}, and this is {API_VERSION}")
    if not isinstance(backend.caps, Caps):
        raise CheckFailure(f"caps is {type(backend.caps).__name__}, not hvmmu.backend.Caps")
    _check_summary(backend.summary)


def _check_summary(summary: object) -> None:
    if not isinstance(summary, str) or not summary.isprintable() or not summary.strip():
        raise CheckFailure(f"summary is {summary!r}, which is not one line of text")


@check(
    "packaging.mmu-members",
    rule="The MMU class has every member of hvmmu.mmu.Mmu, and a name that can be used.",
    reference="hvmmu.mmu: Mmu",
    of=(MMU,),
)
def mmu_members(context: Context) -> None:
    """Check the class as the registry does, then an instance."""
    mmu = context.mmu
    assert mmu is not None
    if mmu not in MMUS.built_in.values():
        try:
            check_contributions(MMUS, [mmu])
        except PluginError as error:
            raise CheckFailure(str(error)) from None
    _check_summary(mmu.summary)
    with context.machine(context.settings()[0]) as platform:
        made = platform.vcpu.mmu
        counts = made.built, made.zapped
        if not all(type(count) is int for count in counts):
            raise CheckFailure(f"built and zapped are {counts!r}, and should be counts")
        if made.user_root is not None:
            raise CheckFailure(f"user_root is {made.user_root!r} while the guest has paging off")


@check(
    "packaging.requires-hvmmu",
    rule="The distribution requires hvmmu, with a lower and an upper bound of its version.",
    reference=_PAGE,
    needs=(Need.DISTRIBUTION,),
    of=BOTH,
)
def requires_hvmmu(context: Context) -> None:
    """Read the requirements of the distribution."""
    assert context.distribution is not None
    required = [_REQUIREMENT.match(one) for one in context.distribution.requires or ()]
    ours = [one[2].strip() for one in required if one and one[1].lower() == "hvmmu"]
    if not ours:
        raise CheckFailure("it does not require hvmmu")
    bounded = _BOTH.search(ours[0]) or (_LOWER.search(ours[0]) and _UPPER.search(ours[0]))
    if not bounded:
        wanted = f'"hvmmu>={version("hvmmu")},<..."'
        raise CheckFailure(
            f"it requires hvmmu {printable(ours[0])!r}; write something like {wanted}"
        )


@check(
    "packaging.imports-in-silence",
    rule="Importing the plugin writes nothing to stdout or stderr.",
    reference=_PAGE,
    needs=(Need.DISTRIBUTION,),
    of=BOTH,
)
def imports_in_silence(context: Context) -> None:
    """Import it in a separate process."""
    ended = subprocess.run(  # noqa: S603 - the Python that runs this, on a module that it runs
        [sys.executable, "-c", f"import {context.module}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_PATIENCE,
        check=False,
    )
    written = printable(" ".join((ended.stdout + ended.stderr).decode("utf-8", "replace").split()))
    if ended.returncode or written:
        raise CheckFailure(
            f"import {context.module} ends with {ended.returncode}, and writes {written!r}"
        )


@check(
    "packaging.public-imports",
    rule="The package imports only the public modules of hvmmu.",
    reference="plugins: What a plugin may import",
    needs=(Need.DISTRIBUTION,),
    of=BOTH,
)
def public_imports(context: Context) -> None:
    """Read the source of every module of the package."""
    found = [
        f"{path}:{line} imports {name}"
        for path, line, name in private_imports(package_of(context.module))
        if not is_public(name)
    ]
    if found:
        more = f" (and {len(found) - 1} more)" if found[1:] else ""
        raise CheckFailure(found[0] + more)


@check(
    "packaging.typed",
    rule="The package has a py.typed, without which type checkers ignore its annotations.",
    reference="PEP 561",
    needs=(Need.DISTRIBUTION,),
    of=BOTH,
)
def typed(context: Context) -> None:
    """Look for the file."""
    package = package_of(context.module)
    if package.is_dir() and not (package / "py.typed").is_file():
        raise CheckFailure(f"{package.name}/py.typed is missing")
