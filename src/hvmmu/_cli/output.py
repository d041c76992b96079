"""Write a command's result to stdout, in one piece at its end."""

import sys

_ASCII = str.maketrans({"→": "->", "·": "-", "…": "..."})


def write_stdout(text: str) -> None:
    """Write *text* to stdout, in ASCII where stdout can take nothing else."""
    out = sys.stdout
    if out is None:
        return  # closed by the shell
    encoding = getattr(out, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    out.write(text)
    out.flush()


def terminal_width() -> int | None:
    """Return the columns of the terminal on stdout; None if it is no terminal."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    import shutil  # noqa: PLC0415 - only for a terminal

    return shutil.get_terminal_size().columns
