"""How many registrations an hour: a shell loop over `neuroreg register`, `neuroreg batch`, and two Dask workers.

python examples/throughput.py DATA OUT [--pairs 40] [--method jointaffine] [--flat N] [--page FILE]

DATA holds t1/, seg/ and splits.csv; its first `--pairs` scans, stripped by their labels, are registered to the
template that comes with the package. The three ways take turns in one run on one machine: half of the loop, the two
batches, the other half. `--flat N` registers N cases in one batch (the scans again and again) and watches the memory of
its processes. OUT gets throughput.json; the page is made of it, so a part that is not asked for keeps its figures.
"""

import argparse
import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import SimpleITK as sitk

from neuroreg.cohort.process import resident_mb
from neuroreg.cohort.template import template_files

PROGRAM = [sys.executable, "-m", "neuroreg"]


def strip(data: Path, folder: Path, count: int) -> list[Path]:
    """The first scans of the data as brains without skulls: inside the labels, closed and filled."""
    folder.mkdir(parents=True, exist_ok=True)
    with (data / "splits.csv").open() as table:
        names = [row["id"] for row in csv.DictReader(table)][:count]
    found = []
    for name in names:
        path = folder / f"{name}.nii.gz"
        if not path.exists():
            scan = sitk.ReadImage(str(data / "t1" / f"{name}.nii.gz"))
            labels = sitk.ReadImage(str(data / "seg" / f"{name}.nii.gz"))
            inside = sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(labels > 0, (2, 2, 2)))
            sitk.WriteImage(sitk.Mask(scan, inside), str(path))
        found.append(path)
    return found


def settings(given: argparse.Namespace) -> list[str]:
    """The options that all ways share."""
    return ["--method", given.method, "--outputs", given.outputs, "--quiet"]


def measured(command: list[str], log: Path) -> dict[str, float]:
    """Wall and CPU seconds of a command and of everything it starts. Raises SystemExit when it fails."""
    before, start = os.times(), time.monotonic()
    with log.open("ab") as stream:
        code = subprocess.run(command, stdout=stream, stderr=stream, check=False).returncode
    after = os.times()
    if code not in (0, 3):
        raise SystemExit(f"{' '.join(command)} ended with {code}: see {log}")
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return {"wall_s": time.monotonic() - start, "cpu_s": cpu}


def loop(scans: list[Path], fixed: Path, out: Path, given: argparse.Namespace) -> dict[str, float]:
    """One `neuroreg register` after the other, as a shell script does it."""
    script = out / "loop.sh"
    lines = [
        subprocess.list2cmdline(
            [*PROGRAM, "register", str(fixed), str(scan), "-o", str(out / scan.name[:-7])]
        )
        + " "
        + " ".join(settings(given))
        for scan in scans
    ]
    script.write_text("set -e\n" + "\n".join(lines) + "\n")
    return measured(["bash", str(script)], out / "log")


def batch(scans: list[Path], out: Path, given: argparse.Namespace, *options: str) -> dict[str, float]:
    """The same by one `neuroreg batch`."""
    manifest = out.parent / f"{out.name}.csv"
    rows = [f"{number:05d},{scan.name}" for number, scan in enumerate(scans)]
    manifest.write_text("id,moving\n" + "\n".join(rows) + "\n")
    log = out.parent / f"{out.name}.log"
    root = ["--root", str(scans[0].parent)]
    return measured(
        [*PROGRAM, "batch", str(manifest), "-o", str(out), *root, *settings(given), *options], log
    )


def throughput(given: argparse.Namespace, scans: list[Path], fixed: Path) -> dict[str, object]:
    """All ways in turn, and what the batch says of itself."""
    work = given.out / "runs"
    shutil.rmtree(work, ignore_errors=True)
    for name in ("loop", "loop2"):
        (work / name).mkdir(parents=True)
    half = len(scans) // 2
    first = loop(scans[:half], fixed, work / "loop", given)
    serial = batch(scans, work / "serial", given)
    dask = batch(scans, work / "dask", given, "--engine", "dask", "--workers", "2")
    second = loop(scans[half:], fixed, work / "loop2", given)
    resume = batch(scans, work / "serial", given, "--resume")
    records = [json.loads(path.read_text()) for path in (work / "serial").glob("*/run.json")]
    sizes = [sum(one["bytes"] for one in record["outputs"].values()) for record in records]
    stages = {name: median(r["seconds"].get(name, 0.0) for r in records) for name in records[0]["seconds"]}
    return {
        "pairs": len(scans),
        "method": given.method,
        "outputs": given.outputs,
        "cores": os.cpu_count(),
        "ways": {
            "shell loop over `neuroreg register`": {name: first[name] + second[name] for name in first},
            "`neuroreg batch`": serial,
            "`neuroreg batch --engine dask --workers 2`": dask,
        },
        "resume_s": resume["wall_s"],
        "journal_bytes": (work / "serial" / "journal.jsonl").stat().st_size / len(scans),
        "case_mb": median(sizes) / 1e6,
        "stages_s": stages,
    }


def flat(given: argparse.Namespace, scans: list[Path]) -> dict[str, object]:
    """Memory of the coordinator and of its worker while one batch goes through many cases."""
    work = given.out / "flat"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    manifest = work / "many.csv"
    repeated = [scans[number % len(scans)] for number in range(given.flat)]
    rows = [f"{number:05d},{scan.name}" for number, scan in enumerate(repeated)]
    manifest.write_text("id,moving\n" + "\n".join(rows) + "\n")
    out = work / "out"
    root = ["--root", str(scans[0].parent)]
    command = [*PROGRAM, "batch", str(manifest), "-o", str(out), *root, *settings(given), "--retries", "0"]
    samples = []
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            time.sleep(2.0)
            done = sum(1 for _ in out.glob("*/run.json"))
            samples.append((done, resident_mb(process.pid)))
            for path in out.glob("*/moved.nii.gz"):  # the disk of a test machine is not that of a cohort
                path.with_name("transform.h5").unlink(missing_ok=True)
                path.unlink(missing_ok=True)
    edges = [given.flat * part // 10 for part in range(11)]
    parts = [
        {"from": low, "to": high, "mb": median(found)}
        for low, high in itertools.pairwise(edges)
        if (found := [mb for done, mb in samples if low <= done < high and mb > 0])
    ]
    return {"cases": given.flat, "exit_code": process.returncode, "resident": parts, **spent(out)}


def spent(out: Path) -> dict[str, float]:
    """What a batch says of its own time."""
    summary = json.loads((out / "summary.json").read_text())
    return {"wall_s": summary["seconds"], "journal_s": summary["journal_seconds"]}


def page(found: dict[str, dict]) -> str:
    """The tables of what was measured, and what follows from it by arithmetic."""
    rates = found["throughput"]
    base = next(iter(rates["ways"].values()))["wall_s"]
    rows = [
        f"| {name} | {one['wall_s']:.0f} | {one['cpu_s']:.0f} | {rates['pairs'] / one['wall_s'] * 3600:.0f} "
        f"| {base / one['wall_s']:.2f} x |"
        for name, one in rates["ways"].items()
    ]
    return PAGE.format(
        command=found["command"],
        method=rates["method"],
        outputs=rates["outputs"],
        pairs=rates["pairs"],
        cores=rates["cores"],
        rows="\n".join(rows),
        resume=rates["resume_s"],
        line=rates["journal_bytes"],
        size=rates["case_mb"],
        memory=memory(found.get("flat")),
        **arithmetic(rates),
    )


def memory(found: dict | None) -> str:
    """The table of a long batch."""
    if found is None:
        return ""
    rows = [f"| {one['from']} to {one['to']} | {one['mb']:.0f} |" for one in found["resident"]]
    share = 100 * found["journal_s"] / found["wall_s"]
    head = [
        f"One batch of {found['cases']} cases: the journal took {found['journal_s']:.2f} s of {found['wall_s']:.0f} s "
        f"({share:.2f} %). Resident memory of all its processes, median in each tenth:"
    ]
    return "\n".join([*head, "", "| cases | MB |", "|---|---|", *rows, ""])


SCANS, NODES, CORES_OF_A_NODE, CORES_BESIDE_A_GPU = 10_000, 64, 32, 16


def arithmetic(rates: dict) -> dict[str, float]:
    """What 10,000 scans would cost, from the CPU seconds of one case."""
    serial = rates["ways"]["`neuroreg batch`"]
    cpu = serial["cpu_s"] / rates["pairs"]
    network = rates["stages_s"].get(rates["method"], 0.0) / rates["stages_s"]["total"]
    rate = NODES * CORES_OF_A_NODE / cpu
    return {
        "here_h": SCANS * serial["wall_s"] / rates["pairs"] / 3600,
        "disk_gb": SCANS * rates["case_mb"] / 1e3,
        "core_h": SCANS * cpu / 3600,
        "nodes_s": SCANS / rate,
        "network": 100 * network,
        "rest": (1 - network) * cpu,
        "gpu_h": SCANS * (1 - network) * cpu / CORES_BESIDE_A_GPU / 3600,
        "rate": rate,
        "gb_s": rate * rates["case_mb"] / 1e3,
        "resume_min": rates["resume_s"] / rates["pairs"] * SCANS / 60,
        "journal_mb": SCANS * rates["journal_bytes"] / 1e6,
    }


PAGE = """# Throughput

`{command}`

{pairs} stripped brains at 2 mm onto the template, method `{method}`, no refinement, outputs {outputs}, {cores} cores,
no GPU. Seconds are good for their ratios.

| | wall s | CPU s | an hour | against the loop |
|---|---|---|---|---|
{rows}

`--resume` over the {pairs} finished cases, every input and output read and hashed: {resume:.1f} s, imports
included. The journal takes {line:.0f} bytes a case, the outputs {size:.1f} MB.

{memory}
## 10,000 such scans, on paper

Arithmetic from the figures above; nothing of it was run.

- **This machine**: {here_h:.1f} h, {disk_gb:.0f} GB of outputs.
- **64 nodes of 32 cores** (`--shard 1/64` to `64/64`): {core_h:.1f} core hours, so {nodes_s:.0f} s of computing.
  Starting the processes takes as long, and so does one case that is retried: a few nodes do as well.
- **One GPU**: the network's stage is {network:.0f} % of a case here. If a GPU did it in no time, {rest:.1f} CPU
  seconds a case would remain (reading, affine, judging, writing): {gpu_h:.1f} h with 16 cores beside it (`--jobs 8`
  or more). The cores are the limit then, not the GPU.

What breaks first, in this order:

1. The shared file system. 64 nodes end {rate:.0f} cases a second at best; with {size:.1f} MB each that is
   {gb_s:.1f} GB/s, and an fsync for every file. Fewer outputs (`--outputs transform`) or fewer nodes help.
2. Checking what is done. `--resume` reads every input and output: {resume_min:.0f} min at the rate above.
3. `group.html`: 4.6 kB a case make 46 MB, which a browser opens slowly. `group.csv` does not care.
4. Not the journal: {journal_mb:.0f} MB, and one process that writes it.
"""


def main() -> None:
    """Measure what is asked for, keep the rest, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--method", default="jointaffine")
    parser.add_argument("--outputs", default="image,transform")
    parser.add_argument("--flat", type=int, default=0)
    parser.add_argument("--flat-only", action="store_true")
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    scans = strip(given.data, given.out / "scans", given.pairs)
    fixed, prepare = template_files(given.out)
    (given.out / "template").mkdir(exist_ok=True)
    prepare()
    kept = given.out / "throughput.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    if not given.flat_only:
        found["throughput"] = throughput(given, scans, fixed)
        options = f" --method {given.method} --outputs {given.outputs}"
        found["command"] = f"python examples/throughput.py DATA OUT --pairs {given.pairs}{options} --flat N"
    if given.flat:
        found["flat"] = flat(given, scans)
    kept.write_text(json.dumps(found, indent=1))
    if "throughput" in found:
        text = page(found)
        print(text)
        if given.page:
            given.page.write_text(text + "\n")


if __name__ == "__main__":
    main()
