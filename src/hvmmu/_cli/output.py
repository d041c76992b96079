"""Where results go: all of one command's text in one piece, at its end."""

import sys

_ASCII = str.maketrans({"→": "->", "·": "-", "…": "..."})


def say(text: str) -> None:
    """Write *text* to stdout, in ASCII where that is all stdout can take."""
    out = sys.stdout
    if out is None:
        return  # closed by the shell: nobody wants it
    encoding = getattr(out, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    out.write(text)
    out.flush()


def width() -> int | None:
    """Return the columns of the terminal on stdout; None if it is no terminal."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    import shutil  # noqa: PLC0415 - asked once, when a table is printed on one

    return shutil.get_terminal_size().columns
