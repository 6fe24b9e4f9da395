"""The fault catalogue: every number, in order; and its table for people who have to look up an answer.

python tests/faults/catalogue.py        writes examples/FAULTS.md
"""

import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import catalogue_batch
import catalogue_files
import catalogue_geometry
import catalogue_system
import catalogue_text
import catalogue_values
from scene import Fault

NUMBERS = range(1, 70)
PAGE = Path(__file__).resolve().parents[2] / "examples" / "FAULTS.md"
_ROOMS = (
    catalogue_files, catalogue_values, catalogue_geometry, catalogue_system, catalogue_text, catalogue_batch,
)  # fmt: skip
FAULTS: tuple[Fault, ...] = tuple(
    sorted((fault for room in _ROOMS for fault in room.FAULTS), key=lambda fault: fault.number)
)

HEAD = """# What happens when things go wrong

Every fault below is played by `pytest -m faults tests/faults/test_catalogue.py`: the exit code, the line on stderr, the
same by `--json`, nothing at the final path, no temporary file left, no traceback without `--debug`. In quotation marks
stands what the command says after `neuroreg: error[CODE]:` or `neuroreg: warning:` (… for anything), when
`moving.nii.gz` is the file at fault. Exit codes are those of the README. `python tests/faults/catalogue.py` makes this
page.

| | fault | exit | answer |
|---|---|---|---|
"""


def row(fault: Fault) -> str:
    """One line of the table; the dollar sign and the bar mean something to some readers of Markdown."""
    words = fault.says if fault.play else f"“{fault.says}”"
    cells = str(fault.number), fault.name, str(fault.code), words
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page(faults: Iterable[Fault] = FAULTS) -> str:
    """The whole page."""
    return HEAD + "\n".join(row(fault) for fault in faults) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
