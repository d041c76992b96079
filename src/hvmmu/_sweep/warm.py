"""The process that workers are forked from, on its way while the rest of a command is imported."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker

_NEEDED = (
    "hvmmu._sweep.work",
    # What a machine and a version ask for when the first cell runs: else each worker imports it.
    "hvmmu._hearing",
    "hvmmu._guest_books",
    "hvmmu._core.shadow_pages",
    "hvmmu.workloads._synthetic",
    "importlib.metadata",
    "email.parser",
    # What newer Pythons leave until a version is read.
    "importlib.metadata._adapters",
    "email.iterators",
    "email._encoded_words",
)


def warm_up() -> None:
    """Start the process that workers are forked from; it imports what they need meanwhile.

    It is no copy of this process, whose threads and state a fork would carry along. Neither it nor
    a worker hears the keyboard, from its first moment on.
    """
    multiprocessing.set_forkserver_preload(list(_NEEDED))
    resource_tracker.ensure_running()  # it would unblock what we are about to block
    with unheard():
        forkserver.ensure_running()


@contextmanager
def unheard() -> Iterator[None]:
    """Have Ctrl-C wait: a worker that is half made can neither be ended nor end in peace."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
