"""A third party's package to begin with: rendered from the template beside this file, and written.

What is written is a backend that works, not a skeleton: whoever edits it breaks a test first.
"""

from hvmmu.scaffold.naming import check_name
from hvmmu.scaffold.origin import Origin, origin
from hvmmu.scaffold.rendering import render
from hvmmu.scaffold.writing import write

__all__ = ["Origin", "check_name", "origin", "render", "write"]
