"""Measure the methods of claims.yaml on IXI test and OASIS bench, and write the page of claims and verdicts.

python examples/reproduce.py DATA OUT [--pairs N] [--ixi-pairs N] [--only NAME] [--threads N] [--page-only]

Works in the folder that holds weights/ and runs/. OUT gets methods.csv, ixi.csv and oasis/rows.csv, from which alone
--page-only builds the page again.
"""

import argparse
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from neuroreg import checkpoints
from neuroreg.benchmark import BenchmarkConfig, run_benchmark
from neuroreg.benchmark_claims import TISSUE_FIGURES, Claims, Contestant, load_claims
from neuroreg.benchmark_contenders import Contender
from neuroreg.benchmark_page import to_page
from neuroreg.benchmark_pairs import LabelledPair, folder_pairs, with_fewer_slices
from neuroreg.benchmark_rows import (
    METHOD_COLUMNS,
    OASIS_NAME,
    IxiRows,
    method_names,
    read_measurements,
    write_methods,
)
from neuroreg.benchmark_summary import machine
from neuroreg.errors import NeuroregError, NoInputError
from neuroreg.methods.base import Method
from neuroreg.pipeline.evaluate import parse_ids
from neuroreg.training import measure
from neuroreg.training.data import load_pack
from neuroreg.training.plan import is_exhausted, steps_done
from neuroreg.training.prepare import pack, pack_heads
from neuroreg.training.recipe import Recipe, load_recipe
from neuroreg.training.validation import validation_pairs

HERE = Path(__file__).resolve().parent
PACK, HEADS = Path("runs/ixi2mm-test.npz"), Path("runs/ixi2mm-heads-test.npz")


@dataclass
class Entry:
    """A method that can be measured."""

    asked: Contestant
    row: dict[str, str]
    """of methods.csv"""
    recipe: Recipe | None = None
    weights: Path | None = None
    failed: bool = False
    """on IXI: then it is not tried on the other pairs"""

    @property
    def name(self) -> str:
        """As claims.yaml calls it."""
        return self.row["name"]

    @property
    def contender(self) -> Contender:
        """How ``neuroreg register`` runs it."""
        words = ["--method", self.row["method"], *(["--weights", str(self.weights)] if self.weights else [])]
        words += [word for k, v in self.asked.options.items() for word in ("--set", f"{k}={json.dumps(v)}")]
        return Contender(self.name, (*words, *shlex.split(self.asked.register_options)))

    def load(self) -> tuple[Method, bool]:
        """The method for the pack, and whether it reads coarse images alone."""
        if self.recipe is None or self.weights is None:
            return measure.untrained_method(self.row["method"], dict(self.asked.options)), False
        return measure.trained_method(self.recipe, self.weights)


def find_entry(name: str, asked: Contestant) -> Entry:
    """Raises NoInputError when the recipe or the weights are not there."""
    row = dict.fromkeys(METHOD_COLUMNS, "") | {
        "name": name,
        "method": asked.method or "",
        "machine": machine(),
    }
    row["settings"] = json.dumps(asked.model_dump(mode="json", include={"options", "slices", "raw"}))
    entry = Entry(asked, row)
    if asked.recipe is not None:
        recipe = load_recipe(asked.recipe)
        places = (asked.recipe.with_suffix(".safetensors"), Path("runs") / recipe.name / "best.safetensors")
        weights = next((place for place in places if place.is_file()), None)
        if weights is None:
            raise NoInputError("no weights", remedy=f"neuroreg train {asked.recipe}")
        said, record = checkpoints.read_metadata(weights), checkpoints.find(weights)
        recipe = recipe.as_trained(said)
        entry = Entry(asked, row, recipe, weights)
        network = entry.load()[0].network
        row |= {"method": recipe.method, "parameters": str(sum(p.numel() for p in network.parameters()))}
        done = steps_done(weights.parent)
        if 0 < done < recipe.steps and not is_exhausted(recipe, weights.parent):
            row["note"] = f"its training is at step {done} of {recipe.steps}"
        row |= {"steps": said.get("step", str(record.steps or "")), "budget": said.get("budget", "")}
        if recipe.begins_with is not None:
            row["steps"] += f" after {recipe.begins_with}"
    row |= {"weights": entry.contender.weights(), "arguments": entry.contender.shown}
    return entry


@contextmanager
def noted(entry: Entry) -> Iterator[None]:
    """What goes wrong for one method is a note on it, and the others go on."""
    try:
        yield
    except NeuroregError as error:
        entry.row["note"], entry.failed = error.what, True
        say(f"{entry.name}: {error.what}")


def measure_ixi(entries: list[Entry], count: int, rows: IxiRows) -> None:
    """Every method on a pair before the next pair."""
    data, ready = load_pack(PACK), dict[str, tuple[Method, bool]]()
    heads = load_pack(HEADS) if any(entry.asked.raw for entry in entries) else data
    for entry in entries:
        rows.forget_older(entry.row)
    for number, (fixed, moving) in enumerate(validation_pairs(len(data), count)):
        pair = data.ids[fixed], data.ids[moving]
        for entry in entries:
            if entry.failed or rows.has(entry.row, pair) or number >= (entry.asked.pairs or count):
                continue
            with noted(entry):
                method, coarse = ready[entry.name] = ready.get(entry.name) or entry.load()
                change = measure.with_fewer_slices(entry.asked.slices) if entry.asked.slices else None
                subjects, lie = (heads, measure.raw_pair) if entry.asked.raw else (data, measure.packed_pair)
                found = measure.measure_pairs(
                    method, subjects, [(fixed, moving)], lie=lie, change=change, coarse=coarse
                )
                figures = asdict(next(found))
                rows.add(entry.row, pair, figures)
                say(
                    f"IXI {number + 1} of {count}: {entry.name}: Dice {figures['dice']:.4f}, {figures['seconds']:.1f} s"
                )


def measure_oasis(
    entries: list[Entry], pairs: tuple[LabelledPair, ...], out: Path, threads: int, tissues: frozenset[str]
) -> None:
    """Every method on a pair before the next pair; of the methods ``tissues`` the tissue maps too."""
    ids = parse_ids(str(HERE / "oasis-138-ids.txt"))
    for number, pair in enumerate(pairs):
        for entry in entries:
            if number >= (entry.asked.pairs or len(pairs)):
                continue
            own = pair if entry.name in tissues else replace(pair, tissues=None)
            if entry.asked.slices:
                own = with_fewer_slices(own, out / "images", keep=entry.asked.slices)
            config = BenchmarkConfig((own,), (entry.contender,), out / OASIS_NAME, ids, threads)
            (row,), _ = run_benchmark(config, progress=lambda line: say(f"OASIS: {line}"))
            if row.status != "ok":
                entry.row["note"] = f"OASIS, {row.moving} to {row.fixed}: {row.status}"


def measure_all(claims: Claims, given: argparse.Namespace) -> None:
    """Everything that is not measured yet."""
    entries, absent = [], []
    for name, asked in claims.methods.items():
        if given.only and name not in given.only:
            continue
        try:
            entries.append(find_entry(name, asked))
        except NeuroregError as error:
            say(f"{name}: left out: {error.what}{f' ({error.remedy})' if error.remedy else ''}")
            absent.append(dict.fromkeys(METHOD_COLUMNS, "") | {"name": name, "note": error.what})
    known = method_names(given.out)
    write_methods(given.out, [e.row for e in entries] + [row for row in absent if row["name"] not in known])
    if given.ixi_pairs:
        chosen = [entry for entry in entries if "ixi" in entry.asked.sets]
        wanted = [(pack, PACK)] + [(pack_heads, HEADS)] * any(entry.asked.raw for entry in chosen)
        for make, path in wanted:
            if not path.is_file():
                names = given.data / "labels" / "dlmuse.csv"
                make(given.data / "ixi", "test", path, names=names, progress=lambda done, of: None)
        measure_ixi(chosen, given.ixi_pairs, IxiRows(given.out))
    pairs = (
        folder_pairs(given.data / "oasis", "bench", tissues=True)[: given.pairs] if given.pairs != 0 else ()
    )
    chosen = [entry for entry in entries if "oasis" in entry.asked.sets]
    measure_oasis(chosen, pairs, given.out, given.threads, claims.methods_judged_by(TISSUE_FIGURES))
    write_methods(given.out, [entry.row for entry in entries])


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="holds ixi/, oasis/ and labels/")
    parser.add_argument("out", type=Path, help="folder of the rows")
    parser.add_argument("--pairs", type=int, help="only the first so many pairs of OASIS")
    parser.add_argument("--ixi-pairs", type=int, default=40)
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="these methods alone; may be repeated"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--claims", type=Path, default=HERE / "claims.yaml")
    parser.add_argument("--page", type=Path, default=HERE / "REPRODUCTION.md")
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    given = parser.parse_args()
    claims = load_claims(given.claims)
    if not given.page_only:
        torch.set_num_threads(given.threads)
        given.out.mkdir(parents=True, exist_ok=True)
        measure_all(claims, given)
    page = to_page(read_measurements(given.out), claims, command="examples/reproduce.sh DATA OUT")
    given.page.write_text(page, encoding="utf-8")
    print(given.page)


def say(line: str) -> None:
    """To whoever waits."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
