"""The command line with the toy methods, for tests that need a process of its own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from neuroreg.cli import main
from neuroreg.methods import METHODS
from neuroreg.registry import Entry

for name in ("Toy", "OutOfMemoryToy", "BrokenToy"):
    METHODS[name.lower()] = Entry(f"pipeline_phantoms:{name}", "for tests")

if __name__ == "__main__":
    main()
