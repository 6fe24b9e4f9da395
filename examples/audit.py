"""Ask the advisory service about every pinned package, and say what it knows that nobody has explained.

python examples/audit.py [constraints.txt]      needs pip-audit (the extra dev) and the network

An explained finding has a row in examples/SECURITY.md: its id, the package, why it does not touch this program, and
until when that holds. Leaves with 1 for a finding without such a row or past its day. Where the service cannot be
asked, or does not know a package, that is said, with the words NOT AUDITED, and is no failure.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXPLAINED = ROOT / "examples" / "SECURITY.md"
_ROW = re.compile(
    r"^\| *(?P<id>[\w.-]+) *\| *(?P<package>[\w.-]+) *\| *(?P<why>[^|\s][^|]*?) *\| *(?P<until>\d{4}-\d\d-\d\d) *\|$"
)
_TIMEOUT_S = 600


def ask(constraints: Path) -> list[Mapping[str, Any]]:
    """What pip-audit says of every pinned package. Raises RuntimeError where it cannot be asked."""
    words = ["pip_audit", "-r", str(constraints), "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", *words, "-f", "json"],
            capture_output=True, text=True, check=False, timeout=_TIMEOUT_S,
        )  # fmt: skip
        found: list[Mapping[str, Any]] = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no answer within {_TIMEOUT_S} s") from error
    except (ValueError, KeyError, TypeError) as error:
        last = done.stderr.strip().splitlines()[-1:] or ["pip-audit said nothing"]
        raise RuntimeError(last[0][:200]) from error
    return found


def explained(text: str, today: date) -> dict[tuple[str, str], str]:
    """(id, package in lower case) -> why, of the rows whose day has not passed."""
    rows = filter(None, map(_ROW.match, text.splitlines()))
    return {
        (row["id"], row["package"].lower()): row["why"]
        for row in rows
        if date.fromisoformat(row["until"]) >= today
    }


def judge(
    answers: Sequence[Mapping[str, Any]], known: Mapping[tuple[str, str], str]
) -> tuple[list[str], list[str], list[str]]:
    """Lines on findings without an explanation, on explained ones, and the packages that were not looked up."""
    unexplained, accepted, skipped = [], [], []
    for answer in answers:
        name = str(answer["name"])
        if "skip_reason" in answer:
            skipped.append(name)
        for finding in answer.get("vulns", ()):
            ids = [finding["id"], *finding.get("aliases", ())]
            why = next((known[i, name.lower()] for i in ids if (i, name.lower()) in known), None)
            fixed = ", ".join(finding.get("fix_versions", ())) or "none yet"
            line = f"{name} {answer['version']}: {' '.join(ids)} (fixed in: {fixed})"
            (unexplained if why is None else accepted).append(line if why is None else f"{line}: {why}")
    return unexplained, accepted, skipped


def main(words: Sequence[str]) -> int:
    constraints = Path(words[0]) if words else ROOT / "constraints.txt"
    try:
        answers = ask(constraints)
    except RuntimeError as error:
        print(f"NOT AUDITED: the advisory service could not be asked ({error})")
        return 0
    known = explained(EXPLAINED.read_text(encoding="utf-8"), datetime.now(UTC).date())
    unexplained, accepted, skipped = judge(answers, known)
    looked = len(answers) - len(skipped)
    if (
        skipped
    ):  # pip-audit itself says "no known vulnerabilities" and leaves with 0 where it knew no package at all
        shown = ", ".join(skipped[:5]) + (f" and {len(skipped) - 5} more" if len(skipped) > 5 else "")
        print(f"NOT AUDITED: the advisory service does not know {len(skipped)} of {len(answers)}: {shown}")
    for line in accepted:
        print(f"explained: {line}")
    for line in unexplained:
        print(f"UNEXPLAINED: {line}")
    print(f"{looked} of {len(answers)} packages audited, {len(unexplained)} findings without an explanation")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
