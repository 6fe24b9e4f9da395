"""The template builder on four small subjects that are known deformations of one phantom."""

import json
import runpy
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroreg import checkpoints, field
from neuroreg.errors import DataError, UsageError
from neuroreg.io.files import sha256
from neuroreg.pipeline.template import load_template
from neuroreg.preprocess import synthesis
from neuroreg.training import template as builder
from neuroreg.training.data import PackedSet
from neuroreg.training.publish import put_record
from neuroreg.volume import Geometry

SHAPE = (36, 44, 40)
GEOMETRY = Geometry((40, 44, 36), (2.0, 2.0, 2.0), (-41.0, -50.0, -20.0))
NAMES = {4: "inner", 23: "left"}


def phantom() -> tuple[torch.Tensor, torch.Tensor]:
    """Image 0..1 and labels, (1, 1, D, H, W): textured ellipsoid, two named regions and the unnamed 1 around."""
    d, h, w = (field.identity(SHAPE)[0] - torch.tensor([17.0, 22.0, 19.5]).reshape(3, 1, 1, 1)).unbind(0)
    head = (d / 13) ** 2 + (h / 17) ** 2 + (w / 15) ** 2 < 1
    texture = synthesis.smooth_noise(SHAPE, 1, sigma=1.5, generator=torch.Generator().manual_seed(0))[0, 0]
    image = torch.where(head, (0.6 + 0.12 * texture).clamp(0.3, 1.0), torch.zeros(()))
    labels = head.to(torch.uint8)
    labels[head & (d**2 + h**2 + w**2 < 81)] = 4
    labels[head & (d**2 + h**2 + (w - 9) ** 2 < 25)] = 23
    return image[None, None], labels[None, None]


@pytest.fixture(scope="module")
def data() -> PackedSet:
    image, labels = phantom()
    generator = torch.Generator().manual_seed(1)
    images, maps = [], []
    for _ in range(4):
        u = synthesis.random_displacement(SHAPE, sigma=5.0, size=1.8, generator=generator)
        images.append((field.warp(image, u, fill=0.0)[0, 0] * 200).round().to(torch.uint8))
        maps.append(field.warp(labels, u, mode="nearest", fill=0)[0, 0])
    ids = tuple(f"s{k}" for k in range(4))
    mirror = torch.arange(256, dtype=torch.uint8)
    return PackedSet(torch.stack(images), torch.stack(maps), ids, GEOMETRY, mirror)


@pytest.mark.slow
def test_the_average_sharpens_keeps_the_mean_shape_and_goes_on_from_its_cache(
    data: PackedSet, tmp_path: Path
) -> None:
    said: list[str] = []

    def made() -> builder.Template:
        return builder.build(data, tmp_path / "c", named=set(NAMES), subset=3, rounds=1, progress=said.append)

    first = made()
    assert first.sharpness[-1] > 1.1 * first.sharpness[0]
    assert set(first.labels.unique().tolist()) == {0, 4, 23}  # 1 has no name, so it is mask but no region
    assert first.labels[~first.mask].eq(0).all()
    assert first.intensity[~first.mask].eq(0).all()
    # Unbiased: the maps from the template to its subjects cancel on average.
    maps = torch.cat([builder._through(data, row, tmp_path / "c", 2) for row in range(4)])
    inside = first.mask
    assert float(maps.mean(dim=0).norm(dim=0)[inside].mean()) < 0.15 * float(
        maps.norm(dim=1)[:, inside].mean()
    )
    # Interrupted in the last round: what is missing is made again, to the same result.
    for gone in ("s1.npy", "template.npy", "back.npy"):
        (tmp_path / "c" / "round-2" / gone).unlink()
    kept = (tmp_path / "c" / "round-2" / "s0.npy").stat().st_mtime_ns
    second = made()
    assert torch.equal(first.intensity, second.intensity)
    assert torch.equal(first.labels, second.labels)
    assert (tmp_path / "c" / "round-2" / "s0.npy").stat().st_mtime_ns == kept
    assert said[0] == "round 1: subject 1 of 3"


def test_sharpening_reaches_what_is_wanted_and_keeps_the_background() -> None:
    image = field.smooth(phantom()[0], 0.8)
    wanted = 1.2 * builder.sharpness_of(image)
    crisp = builder.sharpen(image, wanted)
    assert builder.sharpness_of(crisp) == pytest.approx(wanted, rel=0.01)
    assert crisp[image == 0].eq(0).all()
    assert float(crisp.min()) >= 0


@pytest.mark.slow
def test_the_example_publishes_what_the_product_loads(
    data: PackedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {
        "images": data.images[:2].numpy(),
        "labels": data.labels[:2].numpy(),
        "ids": np.array(data.ids[:2]),
    }
    np.savez(tmp_path / "p.npz", geometry=json.dumps(asdict(GEOMETRY)), mirror=data.mirror.numpy(), **few)
    (tmp_path / "names.csv").write_text("label,name\n4,inner\n23,left\n")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "manifest.json").write_text('{"schema": 1, "defaults": {}, "models": []}')
    options = {
        "--names": "names.csv",
        "--packed": "p.npz",
        "--cache": "c",
        "--weights": "w",
        "--check": "p.npz",
    }
    words = [word for name, value in options.items() for word in (name, str(tmp_path / value))]
    example = Path(__file__).resolve().parents[1] / "examples" / "build_template.py"
    monkeypatch.setattr(sys, "argv", [example.name, "nowhere", *words, "--subset", "1", "--rounds", "0"])
    runpy.run_path(str(example), run_name="__main__")
    assert "2 subjects" in capsys.readouterr().out
    monkeypatch.setenv("NEUROREG_HOME", str(tmp_path / "w"))
    numbers = checkpoints.find("template-ixi2mm").numbers
    assert 0.3 < numbers["dice_affine"] < numbers["dice_aligned"] <= 1.0  # type: ignore[operator]
    found = load_template("template-ixi2mm")
    assert found.names == NAMES
    assert found.mask.data.sum() > 0


def _published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> builder.Template:
    image, labels = phantom()
    mask = labels[0, 0] > 0
    regions = torch.where(labels > 1, labels, 0)[0, 0].to(torch.int16)
    made = builder.Template(image[0, 0], regions, mask, GEOMETRY, (0.1, 0.2), 4)
    (folder / "manifest.json").write_text('{"schema": 1, "defaults": {}, "models": []}')
    builder.save(made, folder / "small.safetensors", names=NAMES)
    record: dict[str, object] = {
        "name": "small", "kind": "template", "file": "small.safetensors",
        "sha256": sha256(folder / "small.safetensors"), "spacing_mm": 2.0,
    }  # fmt: skip
    put_record(folder / "manifest.json", record)
    put_record(folder / "manifest.json", record)
    monkeypatch.setenv("NEUROREG_HOME", str(folder))
    return made


def test_a_saved_template_reads_back_with_its_geometry_and_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _published(tmp_path, monkeypatch)
    assert [record.name for record in checkpoints.manifest()] == ["small"]
    found = load_template("small")
    assert found.image.geometry == GEOMETRY
    assert torch.allclose(found.image.data[0], made.intensity, atol=0.5 / 200 + 1e-6)
    assert torch.equal(found.labels.data[0], made.labels)
    assert found.labels.is_label
    assert torch.equal(found.mask.data[0] > 0, made.mask)
    assert found.names == NAMES


def test_what_is_no_template_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _published(tmp_path, monkeypatch)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"kind": "template"', '"kind": "network", "method": "neuroreg"'))
    with pytest.raises(DataError, match="is no template"):
        load_template("small")
    with pytest.raises(UsageError, match="Did you mean 'small'"):
        load_template("smal")


def test_a_template_with_other_tensors_or_damaged_metadata_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    _published(tmp_path, monkeypatch)
    file, path = tmp_path / "small.safetensors", tmp_path / "manifest.json"

    def replace(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        old = sha256(file)
        save_file(tensors, file, metadata)
        path.write_text(path.read_text().replace(old, sha256(file)))

    voxel = torch.zeros(1, 1, 1, dtype=torch.uint8)
    replace({"intensity": voxel}, {"geometry": "{}"})
    with pytest.raises(DataError, match="holds intensity, labels and mask"):
        load_template("small")
    replace({"intensity": voxel, "labels": voxel.clone(), "mask": voxel.clone()}, {"geometry": "{"})
    with pytest.raises(DataError, match="metadata is damaged"):
        load_template("small")
