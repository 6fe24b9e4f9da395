"""Registers a cohort on a PBS cluster by Dask: dask_slurm.py for OpenPBS and PBS Pro.

python examples/pipelines/dask_pbs.py --workers 8 -- COHORT -o OUT [options of neuroreg batch]

The same options. ``--gpu`` asks for ``ngpus=1`` in the chunk of each job.
"""

import argparse
import sys
from typing import Any

from dask_slurm import main


def pbs(asked: argparse.Namespace) -> dict[str, Any]:
    """The chunk of a job, for PBS."""
    chunk = f"select=1:ncpus={asked.cores}:mem={asked.memory.lower()}"
    return {"resource_spec": chunk + (":ngpus=1" if asked.gpu else "")}


if __name__ == "__main__":
    from dask_jobqueue import PBSCluster

    sys.exit(main(PBSCluster, pbs, sys.argv[1:]))
