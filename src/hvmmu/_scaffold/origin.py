"""Where this hvmmu was installed from, so that a test environment can be given the same one.

PEP 610: pip leaves direct_url.json beside what came from a folder, an archive or a repository, and
nothing beside what an index gave.
"""

import json
import re
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import attrs

from hvmmu.errors import InputError

NAME = "hvmmu"
_LEADING = re.compile(r"[0-9]+")


@attrs.frozen
class Origin:
    """What another package must know of the hvmmu it is written for."""

    version: str
    """Its version."""
    python: str
    """The Pythons it runs on."""
    attrs: str
    """Its requirement of attrs."""
    url: str | None = None
    """Where it was installed from, as pip takes it after `hvmmu @`; None for an index."""

    @property
    def compatible(self) -> str:
        """Return the range of versions with the same interface: up to the next that may break."""
        public = self.version.partition("+")[0]
        major, minor = (int(number) for number in _LEADING.findall(public)[:2])
        below = f"0.{minor + 1}" if major == 0 else f"{major + 1}"
        return f">={public},<{below}"

    @property
    def is_gone(self) -> bool:
        """Return whether it was installed from a file or folder that is there no more."""
        split = urlsplit(self.url or "")
        return split.scheme == "file" and not Path(url2pathname(split.path)).exists()


def origin(found: Distribution | None = None) -> Origin:
    """Return the origin of the running hvmmu, or of the distribution *found*."""
    found = found or distribution(NAME)
    needed = next((r for r in found.requires or () if r.startswith("attrs")), "attrs")
    noted = found.read_text("direct_url.json")
    return Origin(
        version=found.version,
        python=found.metadata["Requires-Python"],
        attrs=needed,
        url=None if noted is None else _requirement(noted),
    )


def _requirement(noted: str) -> str:
    """Return the URL by which pip would get the same again."""
    try:
        direct: dict[str, Any] = json.loads(noted)
        url = direct["url"] + ""
        fragments = []
        if vcs := direct.get("vcs_info"):
            url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
        if folder := direct.get("subdirectory"):
            fragments.append(f"subdirectory={folder}")
        hashes = direct.get("archive_info", {}).get("hashes", {})
        if "sha256" in hashes and not url.startswith("file:"):  # a local one may be built anew
            fragments.append(f"sha256={hashes['sha256']}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"hvmmu's own direct_url.json cannot be read ({type(error).__name__}): install hvmmu"
            " again with pip"
        ) from None
    return f"{url}#{'&'.join(fragments)}" if fragments else url
