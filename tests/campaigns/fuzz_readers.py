"""Coverage-guided fuzzing of everything that reads tables, JSON, TOML, YAML and weight files: only our errors leave it.

python tests/campaigns/fuzz_readers.py [--seconds 60] [--seed 1] [--only NAME] [--corpus FOLDER]

Needs atheris (``pip install atheris``; it has wheels for Linux and macOS), and says so where it is missing. Each reader
runs in a process of its own, from a corpus of sound files that the script makes. A crash, 10 seconds on one input, or
1 GB of memory ends that process, and its input is kept in the corpus folder.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

CHILD = "--reader" in sys.argv
if CHILD:
    import atheris

with atheris.instrument_imports(include=["neuroreg", "yaml"]) if CHILD else nullcontext():
    from schema_records import JOURNAL_1, RUN_1, RUN_2

    from neuroreg import checkpoints
    from neuroreg.cohort.journal import read_journal
    from neuroreg.cohort.manifest import read_manifest
    from neuroreg.errors import NeuroregError
    from neuroreg.io import tables
    from neuroreg.pipeline.config import read_config
    from neuroreg.pipeline.finished import open_run, read_index
    from neuroreg.pipeline.record import read_record
    from neuroreg.training.recipe import load_recipe

SECONDS, MEGABYTES, LONGEST = 10, 1024, 8192


@dataclass(frozen=True)
class Reader:
    """One reader, the name of the file it is given, and sound ones to start from."""

    file: str
    read: Callable[[Path], object]
    seeds: Sequence[bytes]


def weights(path: Path) -> object:
    """All that is done with a weight file that was named."""
    return checkpoints.load_tensors(checkpoints.find(path))


def home(path: Path) -> object:
    """The list of weights in the folder of ``path``."""
    os.environ["NEUROREG_HOME"] = str(path.parent)
    return checkpoints.manifest(), checkpoints.defaults()


def recipe_beside(path: Path) -> object:
    """The recipe of a weight file that does not say itself what it is."""
    (path.parent / "w.safetensors").write_bytes(safetensors({}))
    return checkpoints.find(path.parent / "w.safetensors")


def safetensors(metadata: dict[str, str]) -> bytes:
    """A weight file with one tensor, by hand."""
    header = json.dumps(
        {"__metadata__": metadata, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + bytes(8)


def as_json(*records: object) -> bytes:
    """One record a line."""
    return b"\n".join(json.dumps(record).encode() for record in records)


RECIPE = b"""name: a
method: voxelmorph
config: {levels: 3}
data: {root: ixi, spacing_mm: 2.0}
steps: 10
learning_rate: 1.0e-3
coarse_steps: [5, 1]
augmentation: {noise: 0.1}
"""
CONFIG = {
    "method": "affine",
    "fixed": "f.nii",
    "options": {"dof": 6},
    "also": ["a.nii"],
    "threads": 2,
    "overwrite": True,
}
LISTED = {
    "schema": 1, "defaults": {"voxelmorph": "a"},
    "models": [{"name": "a", "method": "voxelmorph", "file": "a.safetensors", "sha256": "0" * 64, "also": {},
                "config": {"k": [1, 2.5, None]}, "numbers": {"dice": 0.8}}],
}  # fmt: skip
READERS = {
    "table": Reader("a.csv", tables.read_csv, [
        b"id,name\n1,a\n", b"sep=;\nid;x\n1;\"a;b\"\n", b"\xef\xbb\xbfa\tb\n001\tNA\n"]),
    "label names": Reader("a.csv", tables.read_label_names, [b"id,name\n1,a\n2,b\n", b"label;region\n7;x\n"]),
    "groups": Reader("a.csv", tables.read_groups, [b"label,group\n1,a\n1,b\n2,a\n"]),
    "landmarks": Reader("a.csv", tables.read_points, [b"name,x,y,z\na,1,2.5,-3\nb,1e3,0,0\n"]),
    "manifest": Reader("a.csv", lambda p: read_manifest(p, {}, output=p.parent / "out"), [
        b"id,moving\na,m.nii\n", b"ID;fixed;moving;set;seed\n1;f.nii;m.nii;dof=6;3\n",
        b"id,moving,root,output,method\na,m.nii,.,a,affine\nb,../m.nii,,,\n"]),
    "run.json": Reader("run.json", lambda p: read_record(p.parent), [as_json(RUN_2), as_json(RUN_1)]),
    "finished run": Reader("run.json", lambda p: open_run(p.parent).recorded.reasons, [
        as_json(RUN_2), as_json(RUN_1)]),
    "files.json": Reader("files.json", lambda p: read_index(p.parent), [b'{"moved.nii.gz": "../anat/a.nii.gz"}']),
    "journal": Reader("journal.jsonl", read_journal, [
        as_json(*JOURNAL_1) + b"\n", as_json(JOURNAL_1[0]) + b'\n{"event']),
    "configuration": Reader("a.json", lambda p: read_config(p, given=set()), [
        as_json(CONFIG), as_json(RUN_2), as_json({**RUN_2, "weights": {"sha256": "0"}, "inputs": {}}),
        as_json({**RUN_2, "inputs": {"fixed": {"name": "a.json", "sha256": "0"}}})]),
    "configuration, TOML": Reader("a.toml", lambda p: read_config(p, given={"fixed"}), [
        b'method = "affine"\nseed = 3\nalso = ["a.nii"]\n[options]\ndof = 6\nwhen = 2020-01-01\n']),
    "weights' list": Reader("manifest.json", home, [as_json(LISTED)]),
    "recipe": Reader("a.yaml", load_recipe, [RECIPE, b"a: &x [1, 2]\nb: [*x, *x]\nc: 2020-01-01\n"]),
    "recipe beside weights": Reader("w.yaml", recipe_beside, [
        b"method: affine\nconfig: {a: 1}\ninference: {b: [1]}\n"]),
    "weights": Reader("w.safetensors", weights, [
        safetensors({"method": "affine", "config": "{}"}), safetensors({"method": "affine", "config": '{"a": [1]}'}),
        safetensors({})]),
}  # fmt: skip
"""name -> what is fuzzed"""


def once(reader: Reader, folder: Path, content: bytes) -> None:
    """One input: the reader may return, or refuse with one line. Whatever else it does leaves this function."""
    path = folder / reader.file
    path.write_bytes(content)
    try:
        reader.read(path)
    except NeuroregError as error:
        if error.exit_code == 70 or "\n" in str(error):
            raise AssertionError(f"this is no line for a user: {error}") from error


def fuzz(name: str, corpus: Path, folder: Path, seconds: int, seed: int) -> None:
    """Hand one reader to libFuzzer, whose log goes to a file in its corpus; does not return."""
    import logging

    logging.disable()
    reader, place = READERS[name], corpus / name
    log = os.open(place / "log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.setdefault("NEUROREG_HOME", str(HERE.parents[1] / "weights"))
    words = [
        f"-max_total_time={seconds}", f"-seed={seed}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}",
        f"-max_len={LONGEST}", "-print_final_stats=1", f"-artifact_prefix={place}/", str(place / "found"),
        str(place / "seeds"),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *words], lambda content: once(reader, folder, content))
    atheris.Fuzz()


def serve(corpus: Path, seconds: int, seed: int, names: Sequence[str]) -> None:
    """Fuzz one reader after the other, each in a fork of this process: what it has imported is imported once."""
    memory = Path("/dev/shm")  # no disk is needed for a file that lives a millisecond
    for name in names:
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
            child = os.fork()
            if child == 0:
                fuzz(name, corpus, Path(place), seconds, seed)
            _, status = os.waitpid(child, 0)
        (corpus / name / "code").write_text(str(os.waitstatus_to_exitcode(status)))
        print(f"{name}: {told(corpus / name)}", file=sys.stderr, flush=True)


def campaign(names: Sequence[str], seconds: int, seed: int, corpus: Path) -> dict[str, dict[str, int]]:
    """Each reader for so many seconds: inputs tried, features covered, and 1 where one broke it."""
    for name in names:
        for folder in ("seeds", "found"):
            (corpus / name / folder).mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(READERS[name].seeds):
            (corpus / name / "seeds" / str(number)).write_bytes(content)
    words = [str(corpus), str(seconds), str(seed), *names]
    subprocess.run(
        [sys.executable, __file__, "--reader", *words], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True
    )
    counts = {name: told(corpus / name) for name in names}
    for name in names:
        if counts[name]["broken"]:
            print(name, (corpus / name / "log").read_text(errors="replace")[-4000:], file=sys.stderr)
    return counts


def told(place: Path) -> dict[str, int]:
    """What the log of one reader says."""
    return counted((place / "log").read_text(errors="replace"), int((place / "code").read_text()))


def counted(said: str, code: int) -> dict[str, int]:
    """What libFuzzer's log says."""
    units = re.findall(r"stat::number_of_executed_units:\s*(\d+)", said) or re.findall(
        r"^#(\d+)", said, re.MULTILINE
    )
    features = re.findall(r" ft: (\d+)", said)
    peak = re.findall(r"stat::peak_rss_mb:\s*(\d+)", said)
    return {
        "inputs": int(units[-1]) if units else 0, "features": int(features[-1]) if features else 0,
        "peak MB": int(peak[-1]) if peak else 0, "broken": int(code != 0),
    }  # fmt: skip


def main() -> int:
    """Run it, save the record, leave with 1 where a reader broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=list(READERS))
    parser.add_argument("--corpus", type=Path, help="keep the corpus here")
    asked = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("skipped: atheris is not installed; it has wheels for Linux and macOS only", file=sys.stderr)
        return 0
    from record import save

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        names = [asked.only] if asked.only else list(READERS)
        counts = campaign(names, asked.seconds, asked.seed, asked.corpus or Path(place))
    broken = sum(count["broken"] for count in counts.values())
    found: dict[str, int | float | str] = {
        "readers": len(counts),
        "inputs": sum(count["inputs"] for count in counts.values()),
        **{
            name: f"{c['inputs']} inputs, {c['features']} features, {c['peak MB']} MB"
            for name, c in counts.items()
        },
        "crashes, hangs (10 s) and beyond 1 GB": broken,
    }
    law = (
        "Whatever stands in a table, a JSON, TOML or YAML file or a weight file, its reader returns, or refuses with "
        "one line: no crash, no 10 seconds on one input, no gigabyte of memory."
    )
    if asked.only is None:
        save("fuzz_readers", law=law, passed=not broken, found=found, seconds=time.monotonic() - start)
    return int(broken > 0)


if __name__ == "__main__":
    if CHILD:
        serve(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
        sys.exit()
    sys.exit(main())
