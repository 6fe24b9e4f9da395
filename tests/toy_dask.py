"""Preloaded by the Dask workers of the tests: the program that their working processes run stands in TOY_PROGRAM."""

import json
import os

from neuroreg.cohort import process

process.PROGRAM = tuple(json.loads(os.environ["TOY_PROGRAM"]))
