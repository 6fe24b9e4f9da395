"""Train every recipe whose weights are missing or weaker than its budget, and publish them.

python examples/train_all.py DATA [--dry-run] [--ablations] [--only NAME] [--device cpu|cuda] [--threads N] [--restart]

Works in the folder that holds weights/ and examples/ablations/; runs lie in runs/NAME. The budget is that of the
device: with --device cuda, and where there is a graphics card, a recipe's ``gpu`` options count. What a recipe
begins with is trained before it, an ablation too. Ablations are never published. One that fails stops no other.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from neuroreg.device import choose_device
from neuroreg.training.plan import Job, plan_training, without_spare

WEIGHTS, ABLATIONS, RUNS = Path("weights"), Path("examples/ablations"), Path("runs")
PUBLISH = Path(__file__).with_name("publish_weights.py")
MEANING = {"keep": "nothing to do", "conflict": "left alone, give --restart to train it anew"}


def describe(job: Job) -> str:
    """One line: what happens, and why."""
    if job.action in MEANING:
        return f"{job.recipe.name}: {MEANING[job.action]} ({job.why})"
    first = f"train {job.recipe.steps} steps" if job.action == "train" else ""
    then = "publish" if job.publishes else ""
    return f"{job.recipe.name}: {' and '.join(filter(None, (first, then)))} ({job.why})"


def commands(job: Job, given: argparse.Namespace) -> list[list[str]]:
    """The programs that do the job."""
    todo = []
    if job.action == "train" or (job.action == "conflict" and given.restart):
        train = [sys.executable, "-m", "neuroreg", "train", str(job.path), "--output", str(job.run)]
        train += ["--device", given.device, "--prepare", str(given.data / "ixi")]
        train += ["--restart"] if job.action == "conflict" else []
        todo.append([*train, *(["--threads", str(given.threads)] if given.threads else [])])
    if job.publishes and (todo or job.action == "publish"):
        todo.append([sys.executable, str(PUBLISH), str(job.path), str(job.run)])
    return todo


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="holds ixi/ and labels/")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--ablations", action="store_true", help="also train examples/ablations/*.yaml")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="these recipes alone; may be repeated"
    )
    parser.add_argument("--device", default="auto", help="as for neuroreg train")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--restart", action="store_true", help="train anew where another recipe was trained")
    given = parser.parse_args()
    device = choose_device(given.device).type
    manifest = WEIGHTS / "manifest.json"
    recipes, ablations = [*WEIGHTS.glob("*.yaml")], [*ABLATIONS.glob("*.yaml")]
    jobs = plan_training(recipes, unpublished=ablations, manifest=manifest, runs=RUNS, device=device)
    if not (given.ablations or given.only):
        jobs = without_spare(jobs)
    wrong = []
    for job in jobs:
        if given.only and job.recipe.name not in given.only:
            continue
        print(describe(job), flush=True)
        if given.dry_run:
            continue
        codes = (subprocess.run(command, check=False).returncode for command in commands(job, given))
        if any(codes) or (job.action == "conflict" and not given.restart):
            wrong.append(job.recipe.name)
    if wrong:
        print(f"not done: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
