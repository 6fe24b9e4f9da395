"""The command line with the toy methods, for tests that need a process of its own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import toy_worker

from neuroreg.cli import main
from neuroreg.cohort import process

toy_worker.register_toys()
process.PROGRAM = toy_worker.PROGRAM

if __name__ == "__main__":
    main()
