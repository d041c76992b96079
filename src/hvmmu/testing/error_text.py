"""Format a plugin's exception in one line, with its innermost frame outside hvmmu."""

from __future__ import annotations

from hvmmu._hooks import told


def error_text(error: BaseException) -> str:
    """Return an exception as one line, with the innermost place that is not hvmmu's own."""
    place, trace = "", error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        module = str(frame.f_globals.get("__name__", ""))
        if module != "hvmmu" and not module.startswith("hvmmu."):
            place = f" (in {module}.{frame.f_code.co_qualname}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return f"{told(error)}{place}"
