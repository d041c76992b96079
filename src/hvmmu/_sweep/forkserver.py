"""The process that workers are forked from, started while the rest of a command is imported."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker

_PRELOADED = (
    "hvmmu._sweep.worker",
    # Imported by the first cell; without these, each worker would import them.
    "hvmmu._hearing",
    "hvmmu._guest_books",
    "hvmmu._core.shadow_pages",
    "hvmmu.workloads._synthetic",
    "importlib.metadata",
)


def start_forkserver() -> None:
    """Start the process that workers are forked from; it imports their modules meanwhile.

    It is no copy of this process, whose threads and state a fork would carry along. Neither it nor
    a worker receives SIGINT from the keyboard, from its first moment on.
    """
    multiprocessing.set_forkserver_preload(list(_PRELOADED))
    resource_tracker.ensure_running()  # it would unblock the signal that is about to be blocked
    with sigint_blocked():
        forkserver.ensure_running()


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Delay Ctrl-C: a worker that is half started can neither be ended nor end by itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
