"""Registers a cohort on a SLURM cluster by Dask: jobs come as workers, and cases go to whichever is free.

python examples/pipelines/dask_slurm.py --workers 8 -- COHORT -o OUT [options of neuroreg batch]

Needs dask-jobqueue (pip install dask-jobqueue). Runs where jobs can be submitted from and stays there until the batch
has ended: in tmux, or in a small job of its own. The scheduler of Dask runs in this process; it and the workers talk by
TLS, with a key made for this run that lies in a folder of the working directory only you can read (workers read it
there, so the file system must be the same). ``--gpu`` asks for a graphics card per job, which the worker then offers as
``GPU=1``, and computes on it. A job whose time is over does not come again: ask for enough, or use --resume.
Without dask-jobqueue use slurm_array.sh: it needs nothing.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed.security import Security

Special = Callable[[argparse.Namespace], dict[str, Any]]
"""What one kind of cluster is asked for in its own words."""


def slurm(asked: argparse.Namespace) -> dict[str, Any]:
    """The cores of a job and its graphics card, for SLURM."""
    return {"job_cpu": asked.cores, "job_extra_directives": ["--gres=gpu:1"] if asked.gpu else []}


def make_keys(folder: Path) -> tuple[Security, dict[str, Path]]:
    """A certificate and its key for one run, as files in ``folder``: what Dask takes, and the files by their option."""
    made = Security.temporary()
    files = {
        "--tls-ca": made.tls_ca_file,
        "--tls-cert": made.tls_client_cert,
        "--tls-key": made.tls_client_key,
    }
    paths = {option: folder / f"{option.removeprefix('--tls-')}.pem" for option in files}
    for option, text in files.items():
        paths[option].touch(mode=0o600)
        paths[option].write_text(text, encoding="ascii")
    roles = ("client", "scheduler", "worker")
    named = {f"tls_{role}_{part}": str(paths[f"--tls-{part}"]) for role in roles for part in ("cert", "key")}
    return Security(tls_ca_file=str(paths["--tls-ca"]), require_encryption=True, **named), paths


def start(kind: Any, special: Special, asked: argparse.Namespace, security: Security) -> Any:
    """The cluster; no worker yet. A worker has one case at a time, which has all the cores of the job."""
    return kind(
        cores=1,
        processes=1,
        memory=asked.memory,
        walltime=asked.walltime,
        queue=asked.queue,
        interface=asked.interface,
        protocol="tls://",
        security=security,
        scheduler_options={
            "allowed_failures": 1,  # a case that kills its worker is tried twice, not until no worker is left
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
        },
        worker_extra_args=["--no-dashboard", *(["--resources", "GPU=1"] if asked.gpu else [])],
        job_script_prologue=["export DASK_DISTRIBUTED__WORKER__HTTP__ROUTES='[]'"],  # pages without a lock
        **special(asked),
    )


def command(address: str, keys: dict[str, Path], asked: argparse.Namespace) -> list[str]:
    """What registers the cohort on the cluster at ``address``."""
    tls = [word for option, path in keys.items() for word in (option, str(path))]
    usual = ["--threads", str(asked.cores), *(["--device", "cuda"] if asked.gpu else [])]
    program = [sys.executable, "-m", "neuroreg", "batch", *usual, *asked.batch]
    return [*program, "--engine", "dask", "--scheduler", address, *tls]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The settings of the cluster, and the words after ``--``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=4, help="jobs at once")
    parser.add_argument("--cores", type=int, default=2, help="of each job")
    parser.add_argument("--memory", default="6GB", help="of each job")
    parser.add_argument("--walltime", default="04:00:00", help="of each job")
    parser.add_argument("--queue", help="partition or queue")
    parser.add_argument("--interface", help="network interface of the cluster's inside, such as ib0")
    parser.add_argument("--gpu", action="store_true", help="a graphics card for each job")
    parser.add_argument("batch", nargs="+", metavar="COHORT -o OUT ...", help="after --: for neuroreg batch")
    return parser.parse_args(arguments)


@contextmanager
def running(kind: Any, special: Special, asked: argparse.Namespace) -> Iterator[tuple[Any, dict[str, Path]]]:
    """The cluster, with its jobs submitted, and the files of its key; both gone at the end."""
    with tempfile.TemporaryDirectory(prefix=".neuroreg-tls-", dir=Path.cwd()) as folder:
        security, keys = make_keys(Path(folder))
        routes = {"distributed.scheduler.http.routes": []}
        with dask.config.set(routes), start(kind, special, asked, security) as cluster:
            cluster.scale(jobs=asked.workers)
            yield cluster, keys


def main(kind: Any, special: Special, arguments: Sequence[str]) -> int:
    """Start the cluster, register, and leave with the exit code of the batch."""
    asked = parse(arguments)
    with running(kind, special, asked) as (cluster, keys):
        words = command(cluster.scheduler_address, keys, asked)
        print("waiting for the first of the jobs", file=sys.stderr)
        cluster.wait_for_workers(1)
        print("+", *words, file=sys.stderr)
        return subprocess.run(words, check=False).returncode


if __name__ == "__main__":
    from dask_jobqueue import SLURMCluster

    sys.exit(main(SLURMCluster, slurm, sys.argv[1:]))
