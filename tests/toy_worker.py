"""The working process of a cohort with the toy methods: started in place of ``python -m neuroreg.cohort.worker``."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from neuroreg.methods import METHODS
from neuroreg.registry import Entry

PROGRAM = (sys.executable, __file__)
"""For ``neuroreg.cohort.process.PROGRAM``."""
_TOYS = ("Toy", "OutOfMemoryToy", "BrokenToy", "NotANumberToy", "KillToy", "HangToy", "MemoryToy")


def register_toys() -> None:
    """Make every toy a method, called by its name in lower case."""
    for name in _TOYS:
        METHODS[name.lower()] = Entry(f"pipeline_phantoms:{name}", "for tests")
    if (
        os.environ.get("TOY_SIDES") == "unjudged"
    ):  # two affine alignments a run, of phantoms that have no answer
        from neuroreg.pipeline import quality

        names = ("sides_fixed", "sides_moving")
        quality._sides = lambda *given, **options: (dict.fromkeys(names), ())  # type: ignore[assignment]


if __name__ == "__main__":
    from neuroreg.cohort import worker

    register_toys()
    worker.main()
