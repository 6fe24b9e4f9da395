"""Damaged headers and gzip streams through ``doctor FILE`` and ``convert``: an error, or what the bytes say.

python tests/campaigns/mutations.py [--rounds 10000] [--large 40] [--seed 0] [--jobs 1] [--minutes N] [--keep FOLDER]

Header fields are set to the edges of their types, lines of text headers are lost, doubled and changed, bytes flip,
streams are cut, lengthened and joined. Whatever is accepted is held to an independent reading of the same bytes, by
nibabel or SimpleITK, of what ``convert`` wrote, read by SimpleITK. ``tests/faults/test_fuzz.py`` does the like at the
level of the reader, and lends the files and the judgement.
"""

import argparse
import gzip
import json
import os
import pickle
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "faults")]

import nibabel  # noqa: E402
import SimpleITK as sitk  # noqa: E402
import test_fuzz as fuzz  # noqa: E402
import torch  # noqa: E402
from commands import Outcome, Shell  # noqa: E402
from nifti_bytes import nifti, phantom  # noqa: E402
from record import save  # noqa: E402

from neuroreg.volume import Geometry, Volume  # noqa: E402

TABLE = {0, 2, 65, 66, 73, 74, 75}
SECONDS = 10.0
CRASHED = "unjudged: the other reader crashes"
CONSTANT = 16 << 20  # beside the voxels: buffers of 1 MB, what the libraries keep
WORDS = [
    "", "0", "1", "-1", "3", "nan", "inf", "-inf", "1e400", "1e-400", "0.5", "99999999999999999999", "1 2", "0 0 0",
    "1 0 0 0 1 0 0 0 1", "1 1 1", "-1 1 1", "nan 1 1", "1e38 1 1", "True", "False", "LOCAL", "LIST", "../a.raw",
    "/dev/zero", "a%d.raw 1 9 1", "1_0", "0x10", "٣", "(1,0,0) (0,1,0) (0,0,1)", "none", "left-posterior-superior",
    "RAS", "MET_DOUBLE", "float", "gzip", "raw", "big", "x" * 70_000,
]  # fmt: skip
NUMBERS = [0.0, -0.0, 1.0, -1.0, 2.0, 3.0, 0.5, 1e-3, 1e3, 1e10, -1e10, 1e38, 1e-38, 1e300, float("nan"), float("inf"),
           float("-inf")]  # fmt: skip
WHOLE = [0, 1, -1, 2, 3, 4, 5, 7, 8, 10, 16, 64, 127, 128, 255, 256, 348, 540, 1006, 1007, 1024, 2047, 32000, 2**31 - 1,
         2**31, 2**32 - 1, 2**62, 2**63 - 1, -(2**31), -(2**63)]  # fmt: skip
Random = np.random.Generator
Mutate = Callable[[bytes, Random], bytes]


@dataclass(frozen=True)
class Kind:
    """One kind of file, and what befalls it."""

    file: str
    make: Callable[[Path], bytes]
    mutate: Mutate
    packed: bool = False
    """compressed after the damage was done"""
    sealed: bool = False
    """every byte is under a checksum: what is accepted is what was written"""
    outputs: tuple[str, ...] = ("o.nii.gz", "o.nii", "o.mha", "o.nrrd")
    """what it is converted to, in turn"""


def fields(header: np.dtype, order: str = "<") -> Mutate:
    """One to three numbers of a binary header set to the edges of their types."""
    layout = header.newbyteorder(order)

    def mutate(content: bytes, random: Random) -> bytes:
        out = bytearray(content)
        head = np.frombuffer(out, layout, 1)  # a view: what is set is set in the file
        for _ in range(int(random.integers(1, 4))):
            name = str(random.choice(layout.names))
            target = head[name].reshape(-1)
            if target.dtype.kind == "S":
                target[0] = random.bytes(target.dtype.itemsize)
                continue
            edges = NUMBERS if target.dtype.kind == "f" else WHOLE
            value = edges[int(random.integers(len(edges)))]
            with np.errstate(all="ignore"):
                target[int(random.integers(target.size))] = np.array([value]).astype(target.dtype)[0]
        return bytes(out)

    return mutate


def scattered(reach: int | bytes | None = None) -> Mutate:
    """Accidents among the first bytes, or all."""

    def mutate(content: bytes, random: Random) -> bytes:
        end = len(content) if reach is None else reach if isinstance(reach, int) else content.index(reach)
        return fuzz.damaged(content, end, random)

    return mutate


def lines(end: bytes | None) -> Mutate:
    """Lines of a text header lost, doubled, exchanged, or with another value. ``end``: the last of the header."""

    def mutate(content: bytes, random: Random) -> bytes:
        stop = len(content) if end is None else content.index(end) + len(end)
        rows = content[:stop].split(b"\n")
        for _ in range(int(random.integers(1, 3))):
            one, two = (int(random.integers(len(rows))) for _ in range(2))
            match int(random.integers(6)):
                case 0 if len(rows) > 1:
                    del rows[one]
                case 1:
                    rows.insert(two, rows[one])
                case 2:
                    rows[one], rows[two] = rows[two], rows[one]
                case _:
                    separator = b"=" if b"=" in rows[one] else b":"
                    key, _, value = rows[one].partition(separator)
                    rows[one] = key + separator + b" " + another(value, random)
        return b"\n".join(rows) + content[stop:]

    return mutate


def another(value: bytes, random: Random) -> bytes:
    """Another value of a line: any word, or one of its own words changed."""
    words = value.split()
    word = str(random.choice(WORDS)).encode()
    if not words or random.integers(3) == 0:
        return word
    words[int(random.integers(len(words)))] = word
    return b" ".join(words)


def numbers(content: bytes, random: Random) -> bytes:
    """Numbers of two, four and eight bytes anywhere set to the edges of their types."""
    out = bytearray(content)
    for _ in range(int(random.integers(1, 3))):
        code = str(random.choice(list("hiqfd")))
        size = struct.calcsize(code)
        place = int(random.integers(max(1, min(len(out), 4000) - size)))
        edges = np.array(NUMBERS) if code in "fd" else np.array(WHOLE, object)
        value = edges[int(random.integers(len(edges)))]
        with np.errstate(all="ignore"):
            raw = np.float64(value).astype(code).tobytes() if code in "fd" else (
                (int(value) % (1 << 8 * size)).to_bytes(size, "little"))  # fmt: skip
        out[place : place + size] = raw[: len(out) - place]
    return bytes(out)


def stream(content: bytes, random: Random) -> bytes:
    """A gzip stream flipped, cut, lengthened, with another checksum or length, or followed by another member."""
    packed = bytearray(gzip.compress(content, 1, mtime=0))
    place = int(random.integers(len(packed)))
    match int(random.integers(9)):
        case 0:
            packed[place] ^= 1 << int(random.integers(8))
        case 1:
            packed[int(random.integers(10))] = int(random.integers(256))
        case 2:
            del packed[place:]
        case 3:
            del packed[len(packed) - int(random.integers(1, 12)) :]
        case 4:
            packed[place:place] = random.bytes(int(random.integers(1, 9)))
        case 5:
            packed[-8 + int(random.integers(8))] ^= 1 << int(random.integers(8))
        case 6:
            rest = [
                bytes(9),
                b"x",
                random.bytes(30),
                content,
                bytes(2_000_000),
                gzip.compress(content[:100])[:-3],
            ]
            chosen = rest[int(random.integers(len(rest)))]
            packed += gzip.compress(chosen, 1) if random.integers(2) else chosen
        case 7:  # two members that together are the file: not damage
            cut = int(random.integers(len(content)))
            packed = bytearray(gzip.compress(content[:cut], 1) + gzip.compress(content[cut:], 1))
        case _:
            start, length = int(random.integers(len(packed))), int(random.integers(1, 200))
            packed[place:place] = packed[start : start + length]
    return bytes(packed)


NIFTI1, NIFTI2 = nibabel.nifti1.header_dtype, nibabel.nifti2.header_dtype
MAPS, FIELDS = ("o.h5",), ("o.h5", "o.nii.gz")
AFFINES = ("o.tfm", "o.mat", "o.h5")


def unpacked_field(folder: Path) -> bytes:
    """A displacement field, not compressed."""
    return gzip.decompress(fuzz.KINDS["field"].make(folder))


def sound(name: str) -> Callable[[Path], bytes]:
    """The sound file of that kind in ``test_fuzz.py``."""
    return fuzz.KINDS[name].make


KINDS = {
    "NIfTI-1 fields": Kind("a.nii", sound("NIfTI-1"), fields(NIFTI1)),
    "NIfTI-1 fields, big": Kind("a.nii", sound("NIfTI-1, big"), fields(NIFTI1, ">")),
    "NIfTI-1 fields, packed": Kind("a.nii.gz", sound("NIfTI-1"), fields(NIFTI1), packed=True),
    "NIfTI-2 fields": Kind("a.nii", sound("NIfTI-2"), fields(NIFTI2)),
    "NIfTI-1 header bytes": Kind("a.nii", sound("NIfTI-1"), scattered(352)),
    "NIfTI-2 header bytes": Kind("a.nii.gz", sound("NIfTI-2"), scattered(544), packed=True),
    "gzip stream": Kind("a.nii.gz", sound("NIfTI-1"), stream, sealed=True),
    "MetaImage lines": Kind("a.mha", sound("MetaImage"), lines(b"LOCAL")),
    "MetaImage bytes": Kind("a.mha", sound("MetaImage"), scattered(b"LOCAL")),
    "NRRD lines": Kind("a.nrrd", sound("NRRD"), lines(b"\n\n")),
    "NRRD bytes": Kind("a.nrrd", sound("NRRD"), scattered(b"\n\n")),
    "field's header": Kind("f.nii.gz", unpacked_field, fields(NIFTI1), packed=True, outputs=FIELDS),
    "field's gzip stream": Kind("f.nii.gz", unpacked_field, stream, sealed=True, outputs=FIELDS),
    "MATLAB numbers": Kind("t.mat", sound("MATLAB"), numbers, outputs=AFFINES),
    "MATLAB bytes": Kind("t.mat", sound("MATLAB"), scattered(), outputs=AFFINES),
    "text lines": Kind("t.tfm", sound("text"), lines(None), outputs=AFFINES),
    "text bytes": Kind("t.tfm", sound("text"), scattered(), outputs=AFFINES),
    "HDF5": Kind("t.h5", sound("HDF5"), scattered(), sealed=True, outputs=MAPS),
    "HDF5 of ITK, numbers": Kind("t.h5", sound("HDF5 of ITK"), numbers, outputs=MAPS),
    "HDF5 of ITK, bytes": Kind("t.h5", sound("HDF5 of ITK"), scattered(), outputs=MAPS),
}


@dataclass
class Tally:
    """What was counted."""

    doctor: Counter[int | None] = field(default_factory=Counter)
    convert: Counter[int | None] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    """laws that did not hold: kind, number, which"""
    crashes: int = 0
    hangs: int = 0
    slowest: float = 0.0
    beyond: int = 0
    """the most memory used beyond twice the voxels, bytes"""


def converted(path: Path, notes: list[str]) -> object:
    """What ``convert`` wrote, read by SimpleITK or nibabel, in the form that the judges of ``test_fuzz`` take."""
    if path.name in ("o.h5", "o.tfm", "o.mat"):
        read = sitk.ReadTransform(str(path))
        return lambda points: torch.tensor(
            [read.TransformPoint(p) for p in points.tolist()], dtype=torch.float64
        )
    image = sitk.ReadImage(str(path))
    if image.GetNumberOfComponentsPerPixel() == 3:
        moved = sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))
        return lambda points: torch.tensor(
            [moved.TransformPoint(p) for p in points.tolist()], dtype=torch.float64
        )
    grid = Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    data = torch.from_numpy(sitk.GetArrayFromImage(image).astype("f4"))[None]
    return SimpleNamespace(volume=Volume(data, grid), notes=notes)


def judged_field(path: Path, found: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """A field against nibabel: at the centre of a voxel, the point and its vector, in LPS by the intent code."""
    try:
        theirs = nibabel.load(path)
        vectors = np.asarray(theirs.dataobj, np.float64)
        frames = [theirs.header.get_qform(coded=True)[0], theirs.header.get_sform(coded=True)[0]]
    except Exception:  # noqa: BLE001  # whatever another reader does with damaged files
        return "nibabel refuses it"
    sides = np.array(vectors.shape[:3])
    index = np.random.default_rng(0).integers(0, sides, (40, 3))
    to_lps = np.array([-1.0, -1.0, 1.0])
    u = vectors[tuple(index.T)].reshape(-1, 3) * (
        to_lps if int(theirs.header["intent_code"]) == 1006 else 1.0
    )
    for frame in frames:
        if frame is not None:
            points = (nibabel.affines.apply_affine(frame, index)) * to_lps
            if np.allclose(found(torch.from_numpy(points)).numpy(), points + u, rtol=1e-5, atol=2e-3):
                return "as nibabel reads it"
    return "wrong"


def verdict(kind: Kind, path: Path, output: Path, notes: list[str], before: bytes) -> str:
    """How the accepted file compares. ``before``: what the sound file was converted to."""
    found = converted(output, notes)
    same = unchanged(output, before)
    if kind.sealed:
        return "as before the damage" if same else "wrong"
    with tempfile.TemporaryDirectory() as place:
        asked = for_itk(path, Path(place)) if path.suffix == ".mha" else path
        judged = judged_field(path, found) if path.name == "f.nii.gz" else fuzz.judged(asked, found)
    if judged.endswith("refuses it"):
        return "as before the damage" if same else f"noted, {judged}" if notes else f"unjudged: {judged}"
    return "noted" if judged == "wrong" and notes else judged


def unchanged(output: Path, before: bytes) -> bool:
    """Whether the same was written as of the sound file."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / output.name).write_bytes(before)
        return fuzz.same(converted(output, []), converted(Path(place) / output.name, []))


def for_itk(path: Path, folder: Path) -> Path:
    """The same MetaImage with the right CompressedDataSize.

    ITK believes that line, whatever the stream says of its end, and gives back memory nobody has written to where it
    is wrong; the stream has a checksum, and needs no such line.
    """
    header, mark, body = path.read_bytes().partition(b"LOCAL\n")
    rows = [row for row in header.split(b"\n") if not row.startswith(b"CompressedDataSize")]
    if mark and len(rows) > 1:
        rows.insert(-1, b"CompressedDataSize = %d" % len(body))
    (folder / path.name).write_bytes(b"\n".join(rows) + mark + body)
    return folder / path.name


def apart(call: Callable[[], str]) -> str:
    """The answer of ``call`` from a process of its own: other readers may crash or hang on damaged files."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(int(SECONDS))
        with os.fdopen(writing, "wb") as answer, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            try:
                pickle.dump(call(), answer)
            except Exception as error:  # noqa: BLE001  # said in the answer
                pickle.dump(f"wrong: {type(error).__name__}: {error}", answer)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return pickle.loads(said) if said else CRASHED  # our own child's


def laws(name: str, outcome: Outcome, tally: Tally) -> Iterator[str]:
    """The laws of one command that did not hold."""
    if outcome.code is None:
        tally.hangs += outcome.hung
        tally.crashes += not outcome.hung
        yield f"{name} {'hung' if outcome.hung else 'crashed'}"
        return
    if outcome.code not in TABLE:
        yield f"{name} left with {outcome.code}: {outcome.err[-200:]}"
    if len(outcome.errors) != (outcome.code != 0):
        yield f"{name} left with {outcome.code} and {len(outcome.errors)} lines of error"
    if outcome.foreign:
        yield f"{name} let through: {outcome.foreign[0][:100]}"


def declared(facts: dict | None, least: int) -> int:
    """Bytes of the voxels in single precision, or as stored where that is wider; of a field, its vectors."""
    image = (facts or {}).get("image")
    if not image:
        return least
    return int(np.prod(image["grid"]["size"])) * max(4, np.dtype(image["pixel_type"]).itemsize)


def one(shell: Shell, kind: Kind, content: bytes, before: bytes, output: Path, tally: Tally) -> Iterator[str]:
    """One damaged file through both commands; what broke."""
    path = output.parent / kind.file
    path.write_bytes(gzip.compress(content, 1) if kind.packed else content)
    output.unlink(missing_ok=True)
    start = time.monotonic()
    examined, made = shell.run("doctor", "--json", path), shell.run("convert", path, output)
    tally.slowest = max(tally.slowest, time.monotonic() - start)
    tally.doctor[examined.code] += 1
    tally.convert[made.code] += 1
    yield from laws("doctor", examined, tally)
    yield from laws("convert", made, tally)
    there = {entry.name for entry in output.parent.iterdir()} - {path.name}
    if there != ({output.name} if made.code == 0 else set()):
        yield f"convert left with {made.code} and these files: {sorted(there)}"
    if None in (examined.code, made.code):
        return
    if examined.code != made.code:
        yield f"doctor left with {examined.code}, convert with {made.code}: {made.err[-200:]}"
    facts = json.loads(examined.out)["files"][0] if examined.out else None
    beyond = max(examined.grown, made.grown) - 2 * declared(facts, len(content))
    tally.beyond = max(tally.beyond, beyond)
    if beyond >= CONSTANT:
        yield f"{beyond / 2**20:.1f} MiB beyond twice the voxels (doctor {examined.grown}, convert {made.grown})"
    if made.code == 0 and examined.code == 0:
        notes = [line for line in made.err.splitlines() if "warning" in line]
        yield from told_apart(facts, output)
        answer = apart(lambda: verdict(kind, path, output, notes, before))
        if answer == CRASHED and apart(lambda: str(unchanged(output, before))) == "True":
            answer = "as before the damage; the other reader crashes or hangs"
        tally.verdicts[answer] += 1
        if answer.startswith(("wrong", "unjudged")):
            yield answer


def told_apart(facts: dict, output: Path) -> Iterator[str]:
    """Where what doctor said of an image is not what convert made of it."""
    image = facts["image"]
    if image is None:
        return
    read = sitk.ReadImage(str(output))
    voxels = sitk.GetArrayViewFromImage(read)
    said = (*image["grid"]["size"], *image["grid"]["spacing_mm"], image["minimum"], image["maximum"])
    found = (*read.GetSize(), *read.GetSpacing(), voxels.min(), voxels.max())
    if not np.allclose(said, found, rtol=1e-5, atol=1e-5):
        yield f"doctor says {said}, convert wrote {found}"


def campaign(
    rounds: int, seed: int, *, kinds: dict[str, Kind] = KINDS, keep: Path | None = None, minutes: float = 1e9,
    part: tuple[int, int] = (0, 1),
) -> Tally:  # fmt: skip
    """``rounds`` damaged files, the kinds in turn; fewer where the ``minutes`` are over before.

    ``part`` (i, n): only every n-th, from the i-th on.
    """
    tally, start = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as place, Shell(seconds=SECONDS) as shell:
        ready = [
            (name, kind, *prepared(shell, kind, Path(place) / str(n)))
            for n, (name, kind) in enumerate(kinds.items())
        ]
        for number in range(part[0], rounds, part[1]):
            if time.monotonic() - start > 60 * minutes:
                break
            turn, order = divmod(number, len(ready))
            name, kind, folder, content, before = ready[order]
            out = kind.outputs[turn % len(kind.outputs)]
            mutated = kind.mutate(content, np.random.default_rng((seed, order, number)))
            for fault in one(shell, kind, mutated, before[out], folder / out, tally):
                tally.broken.append(f"{name}, {number}: {fault}")
                print(tally.broken[-1], file=sys.stderr, flush=True)
                if keep is not None:
                    keep.mkdir(exist_ok=True)
                    shutil.copy(folder / kind.file, keep / f"{order}_{number}_{kind.file}")
            (folder / out).unlink(missing_ok=True)
            if (number + 1) % 500 == 0:
                print(
                    f"{number + 1} of {rounds}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True
                )
    return tally


def shared(rounds: int, seed: int, *, jobs: int, keep: Path | None, minutes: float) -> Tally:
    """The same campaign by so many processes."""
    whole_ = Tally()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        parts = [
            pool.submit(campaign, rounds, seed, keep=keep, minutes=minutes, part=(n, jobs))
            for n in range(jobs)
        ]
        for tally in (part.result() for part in parts):
            whole_.doctor += tally.doctor
            whole_.convert += tally.convert
            whole_.verdicts += tally.verdicts
            whole_.broken += tally.broken
            whole_.crashes += tally.crashes
            whole_.hangs += tally.hangs
            whole_.slowest = max(whole_.slowest, tally.slowest)
            whole_.beyond = max(whole_.beyond, tally.beyond)
    return whole_


def prepared(shell: Shell, kind: Kind, folder: Path) -> tuple[Path, bytes, dict[str, bytes]]:
    """A folder for one kind, its sound file, and what that is converted to."""
    folder.mkdir()
    content = kind.make(folder)
    for entry in folder.iterdir():
        entry.unlink()
    return folder, content, {out: whole(shell, kind, content, folder / out) for out in kind.outputs}


def whole(shell: Shell, kind: Kind, content: bytes, output: Path) -> bytes:
    """What the sound file is converted to."""
    path = output.parent / kind.file
    packed = kind.packed or (kind.sealed and kind.file.endswith(".gz"))
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    made = shell.run("convert", path, output)
    assert made.code == 0, made.err
    written = output.read_bytes()
    output.unlink()
    path.unlink()
    return written


def large_kinds() -> dict[str, Kind]:
    """Images of an ordinary size, where memory counts."""
    shape = (192, 192, 160)
    return {
        f"large {dtype}": Kind(
            "a.nii", lambda _, d=dtype: nifti(phantom(shape, d)), fields(NIFTI1), outputs=("o.nii",)
        )
        for dtype in ("f4", "i2")
    }


def main() -> int:
    """Run it, save the record, leave with 1 where a law did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, default=1e9, help="stop after these, whatever is done by then"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--keep", type=Path, help="folder for the files that broke a law")
    asked = parser.parse_args()
    start = time.monotonic()
    large = campaign(asked.large, asked.seed, kinds=large_kinds(), keep=asked.keep)
    tally = shared(asked.rounds, asked.seed, jobs=asked.jobs, keep=asked.keep, minutes=asked.minutes)
    found: dict[str, int | float | str] = {
        "damaged files": (tally.doctor + large.doctor).total(),
        **{f"doctor left with {code}": n for code, n in sorted((tally.doctor + large.doctor).items())},
        **{f"convert left with {code}": n for code, n in sorted((tally.convert + large.convert).items())},
        **{f"accepted: {what}": n for what, n in sorted((tally.verdicts + large.verdicts).items())},
        "crashes": tally.crashes + large.crashes,
        "hangs (10 s)": tally.hangs + large.hangs,
        "silently wrong": sum(n for what, n in tally.verdicts.items() if what.startswith("wrong")),
        "laws broken": len(tally.broken + large.broken),
        "slowest pair of commands, s": round(max(tally.slowest, large.slowest), 2),
        "most memory beyond twice the voxels, MiB": round(tally.beyond / 2**20, 1),
        "the same, 192 x 192 x 160, MiB": round(large.beyond / 2**20, 1),
    }
    passed = not (tally.broken or large.broken)
    law = (
        "A damaged file is refused with one line and a code of the table, the same by doctor and convert, and nothing "
        "is left at the output; or what is written is what nibabel or SimpleITK reads in the same bytes. No crash, no "
        f"hang, and no more memory than twice the voxels in single precision and {CONSTANT >> 20} MiB."
    )
    save("mutations", law=law, passed=passed, found=found, seconds=time.monotonic() - start)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
