"""Where the cells of a grid run: in processes here (loky) or on a cluster (dask, ray), all of which see its folder."""

import concurrent.futures
import contextlib
import importlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Literal, get_args

import joblib

GridBackend = Literal["loky", "dask", "ray"]
GRID_BACKENDS: tuple[GridBackend, ...] = get_args(GridBackend)

EXTRAS = {"dask": ("distributed", "dask"), "ray": ("ray", "ray")}
"""The package that a backend imports, and the extra that it comes with."""

WATCH = 0.2
"""Seconds between two looks of a worker at the process that started it."""

PATIENCE = 5
"""Seconds in which a cluster has to answer."""


@contextlib.contextmanager
def running_on(name: str, jobs: int, address: str | None = None) -> Iterator[None]:
    """Let `joblib.Parallel` run its tasks on this backend inside the block, each on one thread.

    Args:
        name: one of GRID_BACKENDS.
        jobs: the number of tasks at a time; a cluster that has an address decides by its own size.
        address: the address of a dask scheduler or a ray cluster; if None, one is started here, and stopped at the end.

    Raises:
        ValueError: if there is no backend of that name, its package is not installed, or the cluster does not answer.
        BrokenExecutor: if a worker process was killed.
    """
    if name not in GRID_BACKENDS:
        raise ValueError(f"backend {name!r}: it must be one of {', '.join(GRID_BACKENDS)}")
    if jobs < 1:
        raise ValueError(f"jobs {jobs}: at least 1 is needed")
    if name == "loky":
        if address is not None:
            raise ValueError(f"address {address}: the backend loky runs here; dask and ray take an address")
        workers = {"initializer": live_with, "initargs": (os.getpid(),)} if jobs > 1 else {}
        with joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1, **workers):
            yield
        return
    package, extra = EXTRAS[name]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"backend {extra}: {package} is not installed; pip install 'vmp-toolkit[{extra}]'"
        ) from error
    with _dask(jobs, address) if name == "dask" else _ray(jobs, address):
        yield


def live_with(parent: int) -> None:
    """Let this process end as soon as `parent` has ended, and leave an interrupt from the terminal to `parent`.

    A worker whose parent was killed would otherwise finish its task, and then wait for others.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _dask(jobs: int, address: str | None) -> Iterator[None]:
    import distributed

    with contextlib.ExitStack() as stack:
        if address is None:
            # No dashboard: its port may be taken, and nobody is told of it.
            cluster = distributed.LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
            address = stack.enter_context(cluster).scheduler_address
        try:
            client = distributed.Client(address, timeout=PATIENCE)
        except (OSError, ValueError) as error:
            raise ValueError(f"address {address}: no dask scheduler answers there: {error}") from error
        stack.enter_context(client)
        stack.enter_context(joblib.parallel_config("dask"))
        try:
            yield
        except distributed.KilledWorker as error:
            raise concurrent.futures.BrokenExecutor(str(error)) from error


@contextlib.contextmanager
def _ray(jobs: int, address: str | None) -> Iterator[None]:
    import ray
    from ray.util.joblib import register_ray

    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():
            # Ray itself would try for minutes.
            socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        ray.init(
            address, num_cpus=jobs if address is None else None, include_dashboard=False, log_to_driver=False
        )
    except OSError as error:
        raise ValueError(f"address {address}: no ray cluster answers there: {error}") from error
    try:
        register_ray()
        with joblib.parallel_config("ray", n_jobs=jobs if address is None else -1):
            yield
    except ray.exceptions.RayActorError as error:
        raise concurrent.futures.BrokenExecutor(str(error)) from error
    finally:
        ray.shutdown()
