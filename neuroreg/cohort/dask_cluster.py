"""A Dask cluster to run a batch on: one of our own on this machine, or one that runs already. Encrypted, always."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dask
from distributed import Client, LocalCluster, Security

from neuroreg.cohort import dask_worker
from neuroreg.cohort.config import BatchConfig
from neuroreg.errors import NoInputError, UnavailableError, UsageError

GPU = "GPU"
"""The worker resource that a case on a CUDA device takes one of."""

_CONNECT_S = 30.0
_FIRST_WORKER_S = 60.0
_CLOSE_S = 10.0


@contextmanager
def own_cluster(workers: int, folder: Path, *, gpu: bool) -> Iterator[LocalCluster]:
    """Processes on this machine, reachable from nowhere else, and by this user alone (temporary certificates).

    ``folder`` takes their temporary files; ``gpu``: each offers one GPU. Raises UnavailableError.
    """
    try:
        security = Security.temporary()
    except ImportError as error:
        raise UnavailableError(
            "cryptography is not installed", remedy="pip install 'neuroreg[batch]'"
        ) from error
    settings = {
        "temporary-directory": str(folder),  # also the scheduler's, else one that all users share
        "distributed.scheduler.http.routes": [],  # no pages about the cluster: their ports have no lock
        "distributed.worker.http.routes": [],
        "distributed.worker.preload": [*dask.config.get("distributed.worker.preload"), dask_worker.__name__],
    }
    with _safe_path(), dask.config.set(settings):  # as long as it lives: workers are started again
        try:
            cluster = _local_cluster(workers, security, {GPU: 1} if gpu else {})
        except (OSError, RuntimeError) as error:
            raise UnavailableError(
                f"no cluster could be started on this machine: {error}", remedy="use --engine serial"
            ) from error
        try:
            yield cluster
        finally:
            with suppress(TimeoutError):
                cluster.close(timeout=_CLOSE_S)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Processes started meanwhile take no module from the working directory: data lie there, perhaps other people's."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _local_cluster(workers: int, security: Security, resources: dict[str, int]) -> LocalCluster:
    local = "127.0.0.1"
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host=local,
        protocol="tls",
        security=security,
        dashboard_address=None,
        scheduler_kwargs={"allowed_failures": 1, "dashboard_address": f"{local}:0", "dashboard": False},
        memory_limit=0,  # ours is for each case
        silence_logs=logging.CRITICAL,
        resources=resources,
    )


def connect(config: BatchConfig) -> Client:
    """A client of the cluster that the configuration names, with a worker at least.

    Raises UsageError and NoInputError for the certificates, UnavailableError when nobody answers or no worker is there.
    """
    address = str(config.scheduler)
    security = _security(config)
    try:
        client = Client(address, security=security, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise UnavailableError(
            f"the scheduler {address} cannot be reached",
            remedy="is it running, and are these its certificates?",
        ) from error
    try:
        client.wait_for_workers(1, timeout=_FIRST_WORKER_S)
    except TimeoutError as error:
        client.close()
        raise UnavailableError(
            f"the cluster {address} has no worker", remedy="start some, then call again"
        ) from error
    return client


@contextmanager
def silence() -> Iterator[None]:
    """Nothing of what Dask logs on the terminal: what matters of it is in the errors raised here."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def visible_cards() -> tuple[str, ...]:
    """The CUDA devices of this machine that this process may use, as ``CUDA_VISIBLE_DEVICES`` calls them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if named is None else named.split(",")
    return tuple(name.strip() for name in names[:count])


def _security(config: BatchConfig) -> Security:
    given = {
        "tls_ca_file": config.tls_ca,
        "tls_client_cert": config.tls_cert,
        "tls_client_key": config.tls_key,
    }
    for path in given.values():
        if path is not None and not path.is_file():
            raise NoInputError("there is no such certificate or key", file=path, remedy="check the path")
    chosen = {name: str(path) for name, path in given.items() if path is not None}
    security = Security(require_encryption=True, **chosen)
    if not all(getattr(security, name) for name in given):
        raise UsageError(
            "the certificates of the cluster are not known",
            remedy="give --tls-ca, --tls-cert and --tls-key, or set them in the configuration of Dask",
        )
    try:
        security.get_connection_args("client")
    except OSError as error:
        raise UsageError(
            f"the certificates of the cluster cannot be used: {error}",
            remedy="give the certificates the scheduler was started with",
        ) from error
    return security
