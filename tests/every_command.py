"""Every command of the program on small phantoms, one after the other in one process; what each said, as JSON lines.

python tests/every_command.py FOLDER [hostile] [thorough]

``hostile``: all names and texts are made to do harm. ``thorough``: every module is imported, the
trained networks and the demo run too.
"""

import csv
import importlib
import json
import os
import pkgutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import toy_worker
import yaml

import neuroreg
from neuroreg.cli import run
from neuroreg.cohort import process

HOSTILE = (
    "=cmd|' \x1b]0;t\x07\x1b[31m\x9b2J\u202e\u200b\u2028",
    '<script>alert(1)<&lt;script>"><img src=x onerror=alert(2)>',
    "[red][&] {{ 7*7 }} {% x %} ${y} $x_{ %s %n ;`id`|$(id)",
)
"""For file names without a slash; the first one acts in a spreadsheet and a terminal, the others in a page."""
TEXT = HOSTILE[0] + "</script><script>alert(3)</script><!-- [/] \t-- " + HOSTILE[1] + HOSTILE[2]
"""For cells and labels, which may be longer and hold a slash and a tab."""


ROLES = ("fixed", "moving", "fixed_seg", "moving_seg")
QUICK = "quick=--method demons --affine none --set iterations=[1,1,1]"
TOY = ["--method", "toy", "--affine", "none", "--threads", "1"]


@dataclass(frozen=True)
class Said:
    """What one command left on its streams, the lines of native libraries among them."""

    words: list[str]
    code: int
    out: str
    err: str
    seconds: float


def tell(words: Sequence[str]) -> Said:
    """Run one command, both streams caught below Python."""
    start, kept = time.monotonic(), [os.dup(1), os.dup(2)]
    paths = [Path(".out"), Path(".err")]
    sys.stdout.flush()
    for number, path in enumerate(paths, start=1):
        with path.open("wb") as stream:
            os.dup2(stream.fileno(), number)
    try:
        code = run(words)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, handle in enumerate(kept, start=1):
            os.dup2(handle, number)
            os.close(handle)
    out, err = (path.read_bytes().decode("utf-8", "replace") for path in paths)
    return Said([*words], code, out, err, round(time.monotonic() - start, 2))


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> str:
    """A table by hand; returns its name."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def save_inputs(names: Sequence[str]) -> dict[str, str]:
    """A labelled pair under these names, tables, a recipe with its data, a BIDS dataset: role -> path."""
    from bids_phantoms import MANY, phantom_dataset
    from pipeline_phantoms import save_labels, save_pair
    from training_phantoms import recipe, save_pack, toy_set

    save_pair(Path())
    save_labels(Path())
    found = {}
    for role, name in zip(ROLES, (*names, names[0]), strict=True):
        found[role] = f"{role[0]}{'s' * role.endswith('seg')}{name}.nii.gz"
        Path(f"{role}.nii.gz").rename(found[role])
    for split in ("train", "val"):
        save_pack(toy_set(), Path(f"{split}.npz"))
    Path("recipe.yaml").write_text(yaml.safe_dump(json.loads(recipe().model_dump_json(exclude_none=True))))
    phantom_dataset(Path("data") / "raw", MANY[1:3])
    return found


def commands(files: dict[str, str], text: str) -> Iterator[list[str]]:
    """Every command, each of them on what the former ones left."""
    fixed, moving, fixed_seg, moving_seg = files.values()
    names = write_rows(
        Path("names.csv"), [{"label": label, "name": text} for label in ("4", "23", "16777217")]
    )
    groups = write_rows(Path("groups.csv"), [{"label": "4", "group": text}, {"label": "23", "group": "b"}])
    points = [{"name": text, "x": "5", "y": "-8", "z": "12"}, {"name": "b", "x": "9", "y": "-4", "z": "2"}]
    landmarks = write_rows(Path("points.csv"), points)
    run_folder = f"o{Path(fixed).name[1:-7]}"
    labels = ["--fixed-labels", fixed_seg, "--moving-labels", moving_seg, "--label-names", names]
    yield ["register", fixed, moving, "-o", run_folder, *TOY, *labels, "-v"]
    yield ["affine", fixed, moving, "-o", "affine", "--dry-run"]
    transform = f"{run_folder}/transform.h5"
    yield ["apply", transform, "--to", fixed, moving, "-o", f"a{moving}"]
    yield ["apply", transform, "--to", fixed, moving_seg, "--labels", "-o", f"l{moving}"]
    yield ["compose", transform, f"{run_folder}/affine.mat", "-o", f"c{fixed[:-7]}.h5"]
    yield ["invert", transform, "-o", f"i{fixed[:-7]}.h5"]
    yield ["jacobian", transform, "--to", fixed, "-o", f"j{fixed}"]
    yield ["convert", moving, f"v{moving[:-7]}.mha"]
    yield ["evaluate", fixed_seg, f"l{moving}", "--label-names", names, "--groups", groups, "--csv", f"e{fixed}.csv",
           "--transform", transform, "--fixed-landmarks", landmarks, "--moving-landmarks", landmarks]  # fmt: skip
    yield ["report", run_folder, "--overwrite", "--viewer"]
    yield ["report", run_folder, "--overwrite"]
    yield from tables(files, text, names, groups)
    yield from batches(files, text)
    yield from faults(files, text)
    yield ["bids", "data/raw", "data/out", "participant", "--to", "first-session", *TOY, "--outputs", "image"]
    yield ["bids", "data/raw", "data/out", "group"]
    yield ["train", "recipe.yaml", "-o", f"t{fixed[:-7]}", "--device", "cpu"]
    for words in (["methods"], ["models", "list"], ["models", "verify"], ["models", "path"], ["doctor"]):
        yield words
        if words[-1] != "path":
            yield [*words, "--json"]


def faults(files: dict[str, str], text: str) -> Iterator[list[str]]:
    """What is refused, and says in its line what it is: names, options, a traceback."""
    fixed, moving, *_ = files.values()
    to = ["-o", "nowhere"]
    yield ["register", fixed, f"bad{fixed}", *to, *TOY]
    yield ["register", fixed, f"no{moving}", *to, *TOY, "--json"]
    yield ["register", fixed, f"no{moving}", *to, *TOY, "--debug"]
    yield ["register", fixed, moving, *to, "--method", text]
    yield ["register", fixed, moving, *to, "--weights", text]
    yield ["register", fixed, moving, *to, *TOY, "--set", f"{text}=1"]
    yield ["register", fixed, moving, *to, *TOY, "--set", f"amplitude={text}", "--debug"]
    yield ["register", fixed, moving, *to, *TOY, f"--{text}"]
    yield [text]
    yield ["register", fixed, moving, *to, *TOY, "--device", text]
    for value in (text, "a\0b", "\ud800", "x" * 300):
        Path("settings.json").write_text(json.dumps({"fixed": value, "moving": value, "method": "toy"}))
        yield ["register", "--config", "settings.json", *to]
    Path("settings.json").write_text(json.dumps({text: text}))
    yield ["register", fixed, moving, "--config", "settings.json", *to]
    for folder in ("a\udcff", "x" * 300):
        yield ["register", fixed, moving, "-o", folder, *TOY]


def tables(files: dict[str, str], text: str, names: str, groups: str) -> Iterator[list[str]]:
    """A table of pairs scored and compared, pairs measured by two methods."""
    fixed, moving, fixed_seg, moving_seg = files.values()
    pair = {"fixed_labels": fixed_seg, "moved_labels": f"l{moving}"}
    odd = "" if text == "word" else "=$x_{<b>[red]{{ 7*7 }}%s"
    rows = [{"id": f"{k}", "method": f"{odd}{m}", **pair} for k in range(2) for m in "ab"]
    if odd:
        refused = write_rows(Path("refused.csv"), [{"id": text, "method": text, **pair}])
        yield ["evaluate", "--pairs", refused, "-o", "refused"]
    table = write_rows(Path("pairs.csv"), rows)
    yield ["evaluate", "--pairs", table, "-o", "scores", "--label-names", names, "--groups", groups]
    yield ["evaluate", "--compare", "scores/rois.csv", "--csv", "tests.csv", "--plot", "box.svg"]
    data = [{"fixed": fixed, "moving": moving, "fixed_labels": fixed_seg, "moving_labels": moving_seg}]
    measured = write_rows(Path(f"b{fixed[:-7]}.csv"), data)
    yield ["benchmark", measured, "--method", QUICK, "--threads", "1", "-o", "measured"]


def batches(files: dict[str, str], text: str) -> Iterator[list[str]]:
    """A batch with a case that fails, how it stands, the page of the cohort."""
    fixed, moving, *_ = files.values()
    Path(f"bad{fixed}").write_bytes(b"nothing")
    rows = [{"id": "one", "fixed": fixed, "moving": moving, "site": text}]
    rows += [{"id": "two", "fixed": fixed, "moving": f"bad{fixed}", "site": text}]
    cohort = write_rows(Path(f"cohort{fixed[:-7]}.csv"), rows)
    words = ["batch", cohort, "-o", "batch", *TOY, "--engine", "serial"]
    yield [*words, "--verbose"]
    yield ["batch", "--status", "batch"]
    yield [*words, "--resume", "--json"]
    yield ["report", "--group", "batch", "--overwrite"]


def networks(files: dict[str, str]) -> Iterator[list[str]]:
    """What takes its time: every trained network, the affine alone, the demo."""
    from neuroreg import checkpoints

    for name in checkpoints.defaults():
        yield ["register", files["fixed"], files["moving"], "-o", name, "--method", name, "--threads", "2"]
    yield ["affine", files["fixed"], files["moving"], "-o", "affine", "--threads", "2"]
    yield ["demo", "--threads", "2"]


def import_everything() -> None:
    """Every module of the package; those of extras that are not here are left out."""
    for module in pkgutil.walk_packages(neuroreg.__path__, "neuroreg."):
        if module.name != "neuroreg.__main__":
            with suppress(ModuleNotFoundError):
                importlib.import_module(module.name)


def main() -> None:
    """Run all of them in the folder given."""
    toy_worker.register_toys()
    process.PROGRAM = toy_worker.PROGRAM
    is_hostile, is_thorough = "hostile" in sys.argv[2:], "thorough" in sys.argv[2:]
    if is_thorough:
        import_everything()
    os.chdir(sys.argv[1])
    files = save_inputs(HOSTILE if is_hostile else ("", "_a", "_b"))
    for words in [
        *commands(files, TEXT if is_hostile else "word"),
        *(networks(files) if is_thorough else ()),
    ]:
        print(json.dumps(asdict(tell(words))), flush=True)


if __name__ == "__main__":
    main()
