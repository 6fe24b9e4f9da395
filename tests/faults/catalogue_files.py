"""Faults 1 to 19 of the catalogue: files that are not what their name says. Each spoils the moving image of a pair."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

from nifti_bytes import patched
from scene import TOY, Fault, Scene

MOVING = "moving.nii.gz"
AGAIN = "copy or export the file again"


def whole(folder: Path) -> bytes:
    """The bytes of the moving image, inflated."""
    return gzip.decompress((folder / MOVING).read_bytes())


def spoil(
    act: Callable[[bytes], bytes], *, name: str = MOVING, packed: bool = True
) -> Callable[[Path], object]:
    """A maker: the inflated moving image through ``act``, packed again, in ``name``."""

    def make(folder: Path) -> None:
        content = act(whole(folder))
        (folder / name).write_bytes(gzip.compress(content, 1, mtime=0) if packed else content)

    return make


def header(**fields: object) -> Callable[[Path], object]:
    """A maker: other fields in the header of the moving image."""
    return spoil(lambda content: patched(content, **fields))


def raw(act: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """A maker: the packed bytes of the moving image through ``act``."""

    def make(folder: Path) -> None:
        path = folder / MOVING
        path.write_bytes(act(path.read_bytes()))

    return make


def flipped(content: bytes) -> bytes:
    """One bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]


def bomb(folder: Path) -> None:
    """A megabyte that would become a gigabyte: 1000 cubed zeros. Members in a row are one stream."""
    start = patched(whole(folder)[:352], dim=[3, 1000, 1000, 1000, 1, 1, 1, 1], datatype=2, bitpix=8)
    (folder / MOVING).write_bytes(gzip.compress(start, 1) + gzip.compress(bytes(1_000_000)) * 1000)


def folder_instead(folder: Path) -> None:
    """A folder under the name of the image."""
    (folder / MOVING).unlink()
    (folder / MOVING).mkdir()


def hostile_names(scene: Scene) -> None:
    """Unicode, blanks, quotes, shell words and rich markup in names are only letters."""
    for name in ("sub[bold] $(rm -r x); ü.nii.gz", "x[red] '\"&.nii.gz", "größe 脳.nii.gz", "`id`;|>.nii.gz"):
        (scene.folder / name).write_bytes((scene.folder / MOVING).read_bytes())
        answer = scene.run("register", "fixed.nii.gz", name, *TOY)
        assert answer.code == 0, answer.err
        assert answer.out == f"{name.removesuffix('.nii.gz')}_to_fixed\n"
        assert (scene.folder / answer.out.strip() / "run.json").exists()


def not_a_file(folder: Path) -> None:
    """A pipe under the name of the image: opening it would wait for ever."""
    (folder / MOVING).unlink()
    os.mkfifo(folder / MOVING)


FAULTS = (
    Fault(1, "missing file", 66, "no such file; moving.nii.gz; check the path", lambda f: (f / MOVING).unlink()),
    Fault(1, "missing folder", 66, "no such file; a.nii; check the path", moving="none/a.nii"),
    Fault(2, "zero bytes", 65,
          "empty file; moving.nii.gz; get the file again from its source", raw(lambda content: b"")),
    Fault(3, "text renamed .nii.gz", 65,
          "this is not a NIfTI file; moving.nii.gz; check what the file is: its name promises NIfTI",
          raw(lambda content: b"subject,age\n1,30\n" * 40)),
    Fault(4, ".nii.gz cut in half", 65,
          "the compressed data is cut off; moving.nii.gz; get the file again from its source",
          raw(lambda content: content[: len(content) // 2])),
    Fault(4, ".nii.gz without its last four bytes", 65,
          "the compressed data is cut off; moving.nii.gz; get the file again from its source",
          raw(lambda content: content[:-4])),
    Fault(5, ".nii cut", 65,
          "the file is truncated: its header declares 241920 bytes of voxels, only 241820 are there; m.nii; get"
          " the file again from its source", spoil(lambda c: c[:-100], name="m.nii", packed=False), "m.nii"),
    Fault(5, ".nii cut within its header", 65,
          "the file is truncated inside its header; m.nii; check what the file is: its name promises NIfTI",
          spoil(lambda c: c[:200], name="m.nii", packed=False), "m.nii"),
    Fault(6, "a flipped bit in the gzip body", 65,
          "the compressed data is damaged (incorrect data check); moving.nii.gz; get the file again from its source",
          raw(flipped)),
    Fault(6, "a wrong gzip checksum", 65,
          "the compressed data is damaged (incorrect data check); moving.nii.gz; get the file again from its source",
          raw(lambda c: c[:-8] + bytes([c[-8] ^ 1]) + c[-7:])),
    Fault(7, "plain NIfTI named .gz", 0,
          "moving.nii.gz: the name ends in .gz but the file is not compressed", spoil(lambda c: c, packed=False)),
    Fault(7, "gzip named .nii", 0,
          "m.nii: the file is compressed although its name does not end in .gz",
          spoil(lambda c: c, name="m.nii"), "m.nii"),
    Fault(8, "wrong magic", 65,
          "wrong magic number b'abc\\x00': this is not NIfTI (an Analyze file does not say where left is); "
          "moving.nii.gz; convert it to NIfTI with the tool that made it", header(magic=b"abc\0")),
    Fault(8, "no magic: Analyze", 65,
          "wrong magic number b'\\x00\\x00\\x00\\x00': this is not NIfTI (an Analyze file does not say where left "
          "is); moving.nii.gz; convert it to NIfTI with the tool that made it", header(magic=bytes(4))),
    Fault(9, "vox_offset past the end", 65,
          "vox_offset 10000000 lies past the end; moving.nii.gz; get the file again from its source",
          header(vox_offset=1e7)),
    Fault(9, "vox_offset no number", 65,
          "vox_offset nan cannot be where the voxels start; moving.nii.gz; get the file again",
          header(vox_offset=float("nan"))),
    Fault(10, "unknown number type", 65,
          "unknown datatype code 99; moving.nii.gz; get the file again", header(datatype=99)),
    Fault(11, "a side of zero", 65,
          "the image has a side of 0 voxels: 42 x 0 x 36; moving.nii.gz; get the file again from its source",
          header(dim=[3, 42, 0, 36, 1, 1, 1, 1])),
    Fault(12, "a negative side", 65,
          "the image has a side of -40 voxels: 42 x -40 x 36; moving.nii.gz; get the file again from its source",
          header(dim=[3, 42, -40, 36, 1, 1, 1, 1])),
    Fault(13, "32000 voxels a side", 65,
          "the header declares 32000 x 32000 x 32000 voxels, more than the 452984832 allowed; moving.nii.gz; "
          "raise --max-voxels if this is true", header(dim=[3, 32000, 32000, 32000, 1, 1, 1, 1])),
    Fault(14, "a gzip bomb, declared", 65,
          "the header declares 1000 x 1000 x 1000 voxels, more than the 452984832 allowed; moving.nii.gz; raise"
          " --max-voxels if this is true", bomb),
    Fault(14, "a gzip bomb behind the image", 65,
          "the file goes on beyond the size its header declares; moving.nii.gz; the header and the data do not "
          "belong together: get the file again", spoil(lambda c: c + bytes(50_000_000))),
    Fault(15, "junk after the gzip stream", 65,
          "there are bytes after the end of the image; moving.nii.gz; the file is damaged or two files were "
          "joined: get it again", raw(lambda c: c + b"junk")),
    Fault(15, "zeros after the gzip stream", 0,
          "moving.nii.gz: 512 zero bytes after the end of the image were ignored", raw(lambda c: c + bytes(512))),
    Fault(16, "a folder", 2,
          "the path is a folder; moving.nii.gz; give the path of a file", folder_instead),
    Fault(16, "no extension", 2,
          "the file type (none) is not read; scan; use .nii, .nii.gz, .hdr, .img, .mha, .mhd, .nrrd, .nhdr",
          lambda f: (f / MOVING).rename(f / "scan"), "scan"),
    Fault(17, "unicode, blanks, quotes, $(…) in names", 0, "they work, and are only letters", play=hostile_names),
    Fault(18, "a name that is not UTF-8", 2,
          "the file name is not valid UTF-8; a\\udcff.nii.gz; rename the file", moving="a\udcff.nii.gz"),
    Fault(19, "a pipe", 2,
          "the path is a pipe or device, not a file; moving.nii.gz; save it to a file first", not_a_file),
    Fault(19, "a device", 2,
          "the path is a pipe or device, not a file; zero; save it to a file first", moving="/dev/zero"),
    Fault(19, "standard input", 2,
          "standard input and output hold no files; give a path instead of -", moving="-"),
)  # fmt: skip
