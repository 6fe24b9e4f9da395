"""Programs for tests of other people's pipelines: a neuroreg that pretends, the real one, and what starts them."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from neuroreg.cli import ALIASES, load_command

ROOT = Path(__file__).resolve().parents[1]
PIPELINES = ROOT / "examples" / "pipelines"

_PRETENDS = """#!/usr/bin/env bash
# Notes its words; leaves with the number that a file is called exit<number> by, else leaves run.json, or a group page.
cat > /dev/null
printf '%s\\0' "$@" >> "$NOTES"
printf '\\n' >> "$NOTES"
kind=$1 out="" code=0 late=""
while (($#)); do
  case ${1##*/} in
    -o | --output) out=$2 ;;
    late*) late=3 ;;
    exit*) code=${1##*exit}; exit "${code%%.*}" ;;
  esac
  shift
done
if [[ $kind == report ]]; then echo page > "$out"; exit; fi
if [[ -n $out ]]; then [[ -d $out ]] || mkdir "$out" || exit 73; echo "{}" > "$out/run.json"; fi
exit ${late:-0}
"""

_REAL = f"""#!/usr/bin/env bash
export PYTHONPATH={shlex.quote(str(ROOT))} OMP_NUM_THREADS=1
exec {shlex.quote(sys.executable)} -m neuroreg "$@"
"""


class Place:
    """A folder to work in, with programs of its own in ``bin``."""

    def __init__(self, folder: Path, *, real: bool = False) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.program("neuroreg", _REAL if real else _PRETENDS)

    def program(self, name: str, text: str) -> None:
        """Put a program on the path."""
        path = self.folder / "bin" / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def run(self, *words: object, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program here; ``given`` is its standard input."""
        found = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PBS_"))},
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "NOTES": str(self.folder / "notes"),
            **environment,
        }
        return subprocess.run(
            list(map(str, words)),
            cwd=self.folder,
            env=found,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )

    def notes(self) -> list[list[str]]:
        """The words that the pretending neuroreg was called with, call by call; forgotten then."""
        path = self.folder / "notes"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.split("\0")[:-1] for line in lines]


def understood(words: Sequence[str]) -> dict[str, object]:
    """What the real command line makes of the words after ``neuroreg``; fails where it would refuse them."""
    name = ALIASES.get(words[0], words[0])
    with load_command(name).make_context(name, list(words[1:])) as context:
        return {key: value for key, value in context.params.items() if value not in (None, False)}
