"""Preloaded by the Dask workers of the tests: their working processes know the toy methods."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import toy_worker

from neuroreg.cohort import process

process.PROGRAM = toy_worker.PROGRAM
