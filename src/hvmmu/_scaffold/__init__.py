"""A third party's package to begin with: rendered from the template beside this file, and written.

What is written is a backend that works, not a skeleton: whoever edits it breaks a test first.
"""

from hvmmu._scaffold.naming import check_name
from hvmmu._scaffold.origin import Origin, origin
from hvmmu._scaffold.rendering import render
from hvmmu._scaffold.writing import write

__all__ = ["Origin", "check_name", "origin", "render", "write"]
