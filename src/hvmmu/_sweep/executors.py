"""Executors of cells: processes by default; threads, loky and dask on request.

Any other `concurrent.futures.Executor` serves as well: a `Pool` only adds how to end one at once,
and how to start again when a worker died.
"""

import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol, TypeVar, cast

import attrs

from hvmmu import log
from hvmmu._sweep.forkserver import sigint_blocked, start_forkserver
from hvmmu.errors import InputError
from hvmmu.params import did_you_mean, quote

T = TypeVar("T")


class Pool(Protocol):
    """An executor that can be ended and, if it has its own workers, started again."""

    @property
    def window(self) -> int:
        """Return how many cells are submitted at a time."""
        ...

    def start(self) -> Executor:
        """Return an executor whose workers are alive."""
        ...

    def end(self, *, at_once: bool) -> None:
        """End the workers; with *at_once* without waiting for their cells."""
        ...


def usable_cpus() -> int:
    """Return how many CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def init_worker_signals() -> None:
    """Initialise a worker: ignore SIGINT, send stdout to stderr, silence the log.

    The parent has logged every warning about a plugin or a parameter, once.
    """
    log.configure_with(_silence)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):
        os.dup2(2, 1)  # the output of a plugin must not get between the results


def _silence() -> None:
    import logging  # noqa: PLC0415 - imported with structlog, and not before it

    import structlog  # noqa: PLC0415 - the same

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def init_worker() -> None:
    """Initialise a worker that ends with its parent, however that ends."""
    init_worker_signals()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Processes(ProcessPoolExecutor):
    """A pool that Ctrl-C does not interrupt while it starts a worker."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:  # noqa: ANN401
        """Submit a call, with a new worker if none is idle."""
        with sigint_blocked():
            return super().submit(fn, *args, **kwargs)


@attrs.define
class Processes:
    """Our own processes: killed with us, and replaced if one dies."""

    jobs: int
    _executor: _Processes | None = None
    _others: set[Any] = attrs.field(factory=set)

    @property
    def window(self) -> int:
        """Return one more than there are workers, so that none is ever idle."""
        return self.jobs + 1

    def start(self) -> Executor:
        """Return the executor, a new one if the last has ended."""
        if self._executor is None:
            self._others = set(multiprocessing.active_children())
            start_forkserver()
            context = multiprocessing.get_context("forkserver")
            self._executor = _Processes(self.jobs, context, init_worker)
        return self._executor

    def end(self, *, at_once: bool) -> None:
        """End the workers; *at_once* kills them."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        if at_once:
            for process in set(multiprocessing.active_children()) - self._others:
                process.kill()
        executor.shutdown(wait=True, cancel_futures=at_once)


class _Threads(ThreadPoolExecutor):
    """A pool whose cells can be stopped in the middle."""

    def __init__(self, jobs: int) -> None:
        super().__init__(jobs)
        self.stopped = threading.Event()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:  # noqa: ANN401
        """Submit a call that checks now and then whether to go on."""
        return super().submit(fn, *args, **kwargs, is_stopped=self.stopped.is_set)


@attrs.define
class Threads:
    """Threads of this process."""

    jobs: int
    _executor: _Threads | None = None

    @property
    def window(self) -> int:
        """Return one more than there are workers."""
        return self.jobs + 1

    def start(self) -> Executor:
        """Return the executor."""
        if self._executor is None:
            self._executor = _Threads(self.jobs)
        return self._executor

    def end(self, *, at_once: bool) -> None:
        """Wait for the threads; *at_once* stops each at its next step."""
        if self._executor is not None:
            if at_once:
                self._executor.stopped.set()
            self._executor.shutdown(wait=True, cancel_futures=at_once)
            self._executor = None


@attrs.define
class Loky:
    """loky's processes, which serve a notebook's next sweep too."""

    jobs: int
    _executor: Any = None

    @property
    def window(self) -> int:
        """Return one more than there are workers."""
        return self.jobs + 1

    def start(self) -> Executor:
        """Return loky's executor, a new one if a worker of the last died."""
        loky = required("loky", "loky", "--executor loky")
        executor = loky.get_reusable_executor(self.jobs, initializer=init_worker_signals)
        self._executor = executor
        return cast("Executor", executor)

    def end(self, *, at_once: bool) -> None:
        """End the workers; *at_once* kills them."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=at_once)
            self._executor = None


@attrs.define
class Dask:
    """Workers of a dask cluster: at *scheduler*, or one on this machine."""

    jobs: int
    scheduler: str | None = None
    window: int = 4096
    _client: Any = None

    def start(self) -> Executor:
        """Return the client's executor."""
        if self._client is None:
            distributed = required("distributed", "dask", "--executor dask")
            try:
                self._client = distributed.Client(self.scheduler, **self._local(), timeout=10)
            except (OSError, ValueError) as error:
                where = quote(self.scheduler)
                raise InputError(f"--scheduler {where}: {error}; is it running?") from None
        return cast("Executor", self._client.get_executor(pure=False))

    def _local(self) -> dict[str, Any]:
        if self.scheduler is not None:
            return {}
        return {"n_workers": self.jobs, "threads_per_worker": 1, "dashboard_address": None}

    def end(self, *, at_once: bool) -> None:
        """Leave the cluster, and end it if it is our own; it drops our calls."""
        del at_once
        if self._client is not None:
            self._client.close()
            self._client = None


@attrs.define
class CallerExecutor:
    """The caller's own executor: used, and not ended."""

    executor: Executor
    window: int = 4096

    def start(self) -> Executor:
        """Return it."""
        return self.executor

    def end(self, *, at_once: bool) -> None:
        """Do nothing: the caller may use it again."""


POOLS: Mapping[str, Callable[..., Pool]] = {
    "process": Processes,
    "thread": Threads,
    "loky": Loky,
    "dask": Dask,
}
"""The named executors."""


def pool(executor: Executor | str, jobs: int | None, scheduler: str | None = None) -> Pool:
    """Return the pool of a caller's executor or of a name; raise InputError for an unknown name."""
    if not isinstance(executor, str):
        return CallerExecutor(executor)
    if executor not in POOLS:
        near = did_you_mean(executor, POOLS)
        raise InputError(f"no executor {quote(executor)}; there are {', '.join(POOLS)}{near}")
    if scheduler is not None and executor != "dask":
        raise InputError("--scheduler is dask's: add --executor dask")
    count = jobs or usable_cpus()
    if executor == "dask":
        required("distributed", "dask", "--executor dask")
        return Dask(count, scheduler)
    if executor == "loky":
        required("loky", "loky", "--executor loky")
    return POOLS[executor](count)


def required(module: str, extra: str, feature: str) -> Any:  # noqa: ANN401 - a module without types
    """Return an optional module; raise InputError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f"{feature} needs {module}: pip install 'hvmmu[{extra}]' ({error})"
        raise InputError(message) from None
