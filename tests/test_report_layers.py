"""What a 3-D page holds: left is left, nothing is lost on the coarse grid, and no face is in it."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from finished_runs import MARKER_LPS, forget, image, save_record, slopes
from numpy.typing import NDArray
from pipeline_phantoms import grid, labels

from neuroreg.errors import DataError
from neuroreg.io.images import write_image
from neuroreg.io.nifti_writer import nifti_bytes
from neuroreg.pipeline import head_mask
from neuroreg.pipeline.finished import FinishedRun, open_run
from neuroreg.report.layers import OCTAVES, Layer, gather, make_layers, page_grid
from neuroreg.volume import Geometry, Volume


def embedded(layer: Layer, geometry: Geometry, folder: Path) -> sitk.Image:
    """A layer as another program reads it."""
    path = folder / f"{layer.key}.nii.gz"
    path.write_bytes(nifti_bytes(layer.codes, geometry))
    return sitk.ReadImage(str(path))


def layers_of(run: FinishedRun, spacing_mm: float = 3.0) -> tuple[dict[str, Layer], Geometry]:
    remains = gather(run, with_face=False)
    geometry = page_grid(remains, spacing_mm)
    return {layer.key: layer for layer in make_layers(remains, geometry)[0]}, geometry


def on_page(path: Path, page: sitk.Image, how: int) -> NDArray[np.float64]:
    """A file of the run on the grid of the page, by SimpleITK alone."""
    source = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat64)
    return sitk.GetArrayFromImage(sitk.Resample(source, page, sitk.Transform(), how, -1.0))


@pytest.fixture(scope="module")
def layers(finished_run: Path) -> tuple[dict[str, Layer], Geometry]:
    return layers_of(open_run(finished_run))


@pytest.mark.parametrize("key", ["fixed", "moved"])
def test_a_marker_on_the_left_lies_on_the_left(
    layers: tuple[dict[str, Layer], Geometry], key: str, tmp_path: Path
) -> None:
    page = embedded(layers[0][key], layers[1], tmp_path)
    codes = sitk.GetArrayFromImage(page)
    z, y, x = np.argwhere(codes == 255).mean(axis=0)
    place = page.TransformContinuousIndexToPhysicalPoint((x, y, z))  # LPS mm
    assert np.abs(np.array(place) - MARKER_LPS).max() <= 3.0  # one voxel
    assert page.GetDirection() == (-1, 0, 0, 0, -1, 0, 0, 0, 1)  # i right, j front, k up


def test_images_are_where_simpleitk_finds_them(
    layers: tuple[dict[str, Layer], Geometry], finished_run: Path, tmp_path: Path
) -> None:
    paths = {"fixed": finished_run.parent / "fixed.nii.gz", "moved": finished_run / "moved.nii.gz"}
    for key, path in paths.items():
        layer = layers[0][key]
        page = embedded(layer, layers[1], tmp_path)
        expected = on_page(path, page, sitk.sitkLinear)
        shown = layer.low + sitk.GetArrayFromImage(page) / 255.0 * (layer.high - layer.low)
        known = (expected >= layer.low) & (expected <= layer.high)
        assert known.sum() > 5000
        assert np.abs(shown - expected)[known].max() <= 0.51 * (layer.high - layer.low) / 255


def test_labels_keep_their_place_number_and_name(
    layers: tuple[dict[str, Layer], Geometry], finished_run: Path, tmp_path: Path
) -> None:
    remains = gather(open_run(finished_run), with_face=False)
    _, regions = make_layers(remains, layers[1])
    assert [(r.label, r.name) for r in regions] == [
        (4, "Outer"), (23, "Right blob"), (16_777_217, "Left blob"),
    ]  # fmt: skip
    assert len({r.colour for r in regions}) == 3
    page = embedded(layers[0]["fixed_labels"], layers[1], tmp_path)
    codes = sitk.GetArrayFromImage(page)
    ids = np.array([0, *(r.label for r in regions)])[codes]
    expected = on_page(finished_run.parent / "fixed_seg.nii.gz", page, sitk.sitkNearestNeighbor)
    inside = expected >= 0
    assert (ids == expected)[inside].mean() > 0.9999  # but for points midway between two voxels
    left = np.argwhere(codes == 3).mean(axis=0)[2]
    right = np.argwhere(codes == 2).mean(axis=0)[2]
    assert left < right  # i counts to the right


def test_the_jacobian_is_read_back_to_a_hundredth(
    layers: tuple[dict[str, Layer], Geometry], finished_run: Path, tmp_path: Path
) -> None:
    page = embedded(layers[0]["jacobian"], layers[1], tmp_path)
    codes = sitk.GetArrayFromImage(page).astype(float)
    shown = 2 ** ((codes - 128) / 127 * OCTAVES)
    expected = on_page(finished_run / "jacobian.nii.gz", page, sitk.sitkLinear)
    inside = codes > 0
    assert 10_000 < inside.sum() < 0.8 * codes.size
    assert np.abs(shown / expected - 1)[inside].max() < 0.01
    assert "folds" not in layers[0]


def test_every_fold_is_marked_however_coarse_the_page(own_run: Path, tmp_path: Path) -> None:
    geometry = grid()
    determinant = slopes(geometry)
    index = (24, 12, 20)  # x, y, z: one voxel of 3 mm, on a page of 8 mm
    determinant[0, index[2], index[1], index[0]] = -0.3
    determinant[0, 0, 0, 0] = -9.0  # outside the head: nobody's fold
    write_image(Volume(determinant, geometry), own_run / "jacobian.nii.gz", overwrite=True)
    inputs = json.loads((own_run / "run.json").read_text())["inputs"]
    save_record(own_run, {role: tmp_path / said["name"] for role, said in inputs.items()})
    run = open_run(own_run)
    found, coarse = layers_of(run, 8.0)
    page = embedded(found["folds"], coarse, tmp_path)
    codes = sitk.GetArrayFromImage(page)
    assert codes.sum() == 1
    fixed = sitk.ReadImage(str(tmp_path / "fixed.nii.gz"))
    world = fixed.TransformIndexToPhysicalPoint(index)
    assert codes[page.TransformPhysicalPointToIndex(world)[::-1]] == 1
    title, point = gather(run, with_face=False).places[0]
    assert title == "Worst fold"
    assert point == pytest.approx(world, abs=1e-3)


def test_the_place_the_record_names_is_offered(own_run: Path) -> None:
    record = json.loads((own_run / "run.json").read_text())
    for place, expected in (
        ([1.5, -2, 3], [(1.5, -2.0, 3.0)]),
        ([1, None, 3], []),
        ("here", []),
    ):
        qc = {"verdict": "look", "worst_place_lps_mm": place}
        (own_run / "run.json").write_text(json.dumps({**record, "qc": qc}))
        places = gather(open_run(own_run), with_face=False).places
        assert [point for title, point in places if title == "Worst local match"] == expected
    (own_run / "run.json").write_text(
        json.dumps({**record, "qc": {**qc, "worst_place_lps_mm": [1e999, 0, 0]}})
    )
    with pytest.raises(DataError, match="run record"):  # there is no Infinity in JSON
        open_run(own_run)


def test_many_regions_take_wider_numbers(own_run: Path, tmp_path: Path) -> None:
    geometry = grid()
    ids = torch.arange(geometry.size[0] * geometry.size[1] * geometry.size[2], dtype=torch.int32) // 100
    write_image(
        Volume(ids.reshape(1, *geometry.shape), geometry, is_label=True),
        own_run / "moved_labels.nii.gz",
        overwrite=True,
    )
    inputs = json.loads((own_run / "run.json").read_text())["inputs"]
    save_record(own_run, {role: tmp_path / said["name"] for role, said in inputs.items()})
    found, _ = layers_of(open_run(own_run))
    assert found["moved_labels"].codes.dtype == np.int16
    assert found["moved_labels"].codes.max() > 255


def test_what_is_not_there_is_left_out_and_said(own_run: Path, tmp_path: Path) -> None:
    forget(own_run, "moved.nii.gz", "jacobian.nii.gz", "moved_labels.nii.gz", "rois.csv")
    (tmp_path / "fixed_seg.nii.gz").unlink()
    remains = gather(open_run(own_run), with_face=False)
    assert {layer.key for layer in make_layers(remains, page_grid(remains, 6.0))[0]} == {"fixed"}
    assert [note.partition(" is left out")[0].partition(" are left")[0] for note in remains.notes] == [
        "the moved image", "the Jacobian", "the fixed labels",
    ]  # fmt: skip


def whole_head(own_run: Path, inputs: dict[str, Path]) -> FinishedRun:
    """The run of a head with a skull: 2.9 L above the background, around the brain of the phantom."""
    fine = grid(size=(60, 66, 52))
    geometry = Geometry((30, 33, 26), tuple(2 * s for s in fine.spacing), fine.origin, fine.direction)
    points = geometry.points() - torch.tensor([5.0, -8.0, 12.0], dtype=torch.float64)
    skull = ((points / torch.tensor([82.0, 92.0, 84.0])) ** 2).sum(-1) < 1
    data = torch.maximum(image(geometry).data, skull * 200.0)
    for path in (inputs["fixed"], own_run / "moved.nii.gz"):
        write_image(Volume(data, geometry), path, overwrite=True)
    brain = ((points / torch.tensor([44.0, 52.0, 42.0])) ** 2).sum(-1) < 1
    ids = torch.where(brain & (labels(geometry.points()) == 0), 7, labels(geometry.points()))
    for path in (inputs["fixed_labels"], own_run / "moved_labels.nii.gz"):
        write_image(Volume(ids[None].to(torch.int32), geometry, is_label=True), path, overwrite=True)
    write_image(Volume(slopes(geometry), geometry), own_run / "jacobian.nii.gz", overwrite=True)
    save_record(own_run, inputs)
    return open_run(own_run)


def test_a_whole_head_shows_its_brain_alone_where_the_labels_tell(own_run: Path, tmp_path: Path) -> None:
    inputs = {"fixed": tmp_path / "fixed.nii.gz", "fixed_labels": tmp_path / "fixed_seg.nii.gz"}
    run = whole_head(own_run, inputs)
    remains = gather(run, with_face=False)
    assert not remains.whole_head
    assert "the fixed image is masked to the brain by the fixed labels" in remains.notes
    assert "the moved image is masked to the brain by the moving labels" in remains.notes
    geometry = page_grid(remains, 6.0)
    q = (geometry.points() - torch.tensor([5.0, -8.0, 12.0])) / torch.tensor([44.0, 52.0, 42.0])
    outside = ((q**2).sum(-1) > 1.25**2).numpy()
    for layer in make_layers(remains, geometry)[0]:
        if layer.key in ("fixed", "moved"):
            assert layer.codes[outside].max() == 0
            assert layer.codes[~outside].max() == 255
    everything = gather(run, with_face=True)
    assert any("identifies a person" in note for note in everything.notes)
    shown = make_layers(everything, page_grid(everything, 6.0))[0][0].codes
    assert (shown > 0).sum() * 6.0**3 > 2.3e6  # mm3


def test_a_whole_head_without_mask_has_no_3d_view(own_run: Path, tmp_path: Path) -> None:
    run = whole_head(
        own_run, {"fixed": tmp_path / "fixed.nii.gz", "fixed_labels": tmp_path / "fixed_seg.nii.gz"}
    )
    forget(own_run, "moved_labels.nii.gz")
    (tmp_path / "fixed_seg.nii.gz").unlink()
    run = open_run(own_run)
    remains = gather(run, with_face=False)
    assert remains.whole_head
    assert sum("without 3-D view" in note for note in remains.notes) == 2
    assert not gather(run, with_face=True).whole_head


def test_a_brain_that_the_run_found_masks_both_images(
    own_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ellipsoid(head: Volume) -> Volume:
        q = (head.geometry.points() - torch.tensor([5.0, -8.0, 12.0])) / torch.tensor([44.0, 52.0, 42.0])
        return Volume(((q**2).sum(-1) < 1)[None].to(torch.uint8), head.geometry, is_label=True)

    monkeypatch.setattr(head_mask, "find_brain", ellipsoid)
    inputs = {"fixed": tmp_path / "fixed.nii.gz", "fixed_labels": tmp_path / "fixed_seg.nii.gz"}
    whole_head(own_run, inputs)
    forget(own_run, "moved_labels.nii.gz")
    inputs.pop("fixed_labels").unlink()
    save_record(own_run, inputs)
    record = json.loads((own_run / "run.json").read_text())
    record["config"]["find_brain"] = True
    (own_run / "run.json").write_text(json.dumps(record))
    remains = gather(open_run(own_run), with_face=False)
    assert not remains.whole_head
    assert [note for note in remains.notes if "masked" in note] == [
        f"the {name} image is masked to the brain by the brain found in the fixed image"
        for name in ("fixed", "moved")
    ]
    outside = ellipsoid(remains.fixed.volume).data == 0
    assert float(remains.fixed.volume.data[outside].max()) == 0
