"""What the campaigns have in common: the record each one leaves, and the page made of all of them.

python tests/campaigns/record.py            writes examples/CAMPAIGNS.md from tests/campaigns/results/*.json
"""

import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from neuroreg import __version__

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "campaigns" / "results"
PAGE = ROOT / "examples" / "CAMPAIGNS.md"

HEAD = """# Campaigns

What is too long for a test suite: kills, full disks, damaged files, made-up inputs, by the thousand. Every section
is the record of one script of `tests/campaigns/`, written by the script itself; its last line is the command that
repeats it. The same functions run with a few rounds in `pytest -m faults`. `python tests/campaigns/record.py` makes
this page.
"""


def save(
    name: str,
    *,
    law: str,
    passed: bool,
    found: Mapping[str, int | float | str],
    seconds: float,
    folder: Path = RESULTS,
) -> None:
    """Write ``<name>.json``: the law that was tried in one sentence, whether it held, and what was counted."""
    record = {
        "campaign": name,
        "law": law,
        "passed": passed,
        "found": dict(found),
        "seconds": round(seconds),
        "command": command(sys.argv),
        "version": __version__,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def machine() -> str:
    """What it ran on, as far as it matters for reading the seconds."""
    python = f"Python {platform.python_version()}"
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {python}"


def command(argv: list[str]) -> str:
    """The command as anyone can type it: no folder outside the repository is named."""
    words = ["python", f"tests/campaigns/{Path(argv[0]).name}"]
    return " ".join([*words, *(Path(word).name if Path(word).is_absolute() else word for word in argv[1:])])


def section(record: Mapping[str, object]) -> str:
    """One record as Markdown."""
    found = record["found"]
    assert isinstance(found, Mapping)
    rows = "\n".join(f"| {what} | {figure} |" for what, figure in found.items())
    verdict = "held" if record["passed"] else "**did not hold**"
    return (
        f"## {str(record['campaign']).replace('_', ' ')}: {verdict}\n\n{record['law']}\n\n"
        f"| | |\n|---|---|\n{rows}\n\n"
        f"{record['seconds']} s, version {record['version']}, {record['date']}, {record['machine']}.\n\n"
        f"`{record['command']}`\n"
    )


def page(folder: Path = RESULTS) -> str:
    """The whole page."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return "\n".join([HEAD, *(section(record) for record in records)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
