"""Stored displacements: files, drawing and validating pairs that have one, and finding them."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from training_phantoms import NO_AUGMENTATION, SHAPE, ToyMethod, recipe, save_pack, toy_set

from neuroreg import field
from neuroreg.errors import DataError, NoInputError
from neuroreg.methods.base import Batch, Stage
from neuroreg.training import run, targets
from neuroreg.training.data import PackedSet, draw_pair
from neuroreg.training.distributed import Workers
from neuroreg.training.fields import StoredFields, load_fields, pack_displacement
from neuroreg.training.log import Event
from neuroreg.training.recipe import Recipe
from neuroreg.training.targets import make_fields, random_pairs, tissue_map
from neuroreg.training.trainer import Setup, train
from neuroreg.training.validation import fixed_batches


def smooth_field(size: float = 1.0) -> Tensor:
    noise = torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(4))
    u = field.smooth(noise, 4.0)
    return u * size / u.abs().max()


def stored(u: Tensor, pairs: list[tuple[int, int]]) -> StoredFields:
    displacements = torch.stack([pack_displacement(u)] * len(pairs))
    return StoredFields(displacements, torch.tensor(pairs), SHAPE)


def save(fields: StoredFields, path: Path, ids: tuple[str, ...] = toy_set().ids) -> Path:
    np.savez(
        path,
        displacements=fields.displacements.numpy(),
        pairs=fields.pairs.numpy(),
        shape=np.array(fields.shape),
        ids=np.array(ids),
    )
    return path


def test_a_displacement_is_kept_to_a_thousandth_voxel_on_every_second_one() -> None:
    u = 10 * smooth_field()
    found = stored(u, [(0, 1)]).displacement(0)
    assert found.shape == u.shape
    torch.testing.assert_close(found[..., ::2, ::2, ::2], u[..., ::2, ::2, ::2], atol=1.01 / 1024, rtol=0)
    assert float((found - u).abs().mean()) < 0.1  # linear between


def test_a_file_reads_back_whole_and_belongs_to_its_pack(tmp_path: Path) -> None:
    fields = stored(smooth_field(), [(0, 1), (2, 0)])
    path = save(fields, tmp_path / "f.npz")
    found = load_fields(path, toy_set().ids)
    assert torch.equal(found.displacements, fields.displacements)
    assert found.pairs.tolist() == [[0, 1], [2, 0]]
    assert found.shape == SHAPE
    assert len(found) == 2
    with pytest.raises(DataError, match="of another packed set"):
        load_fields(path, ("a", "b"))


def test_missing_and_damaged_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match=r"f\.npz.*--prepare"):
        load_fields(tmp_path / "f.npz", toy_set().ids)
    whole = save(stored(smooth_field(), [(0, 1)]), tmp_path / "whole.npz").read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        (tmp_path / "f.npz").write_bytes(content)
        with pytest.raises(DataError, match="make it again"):
            load_fields(tmp_path / "f.npz", toy_set().ids)
    with pytest.raises(DataError, match="not a file of displacements"):
        load_fields(save_pack(toy_set(), tmp_path / "pack.npz"), toy_set().ids)


def warped_set(u: Tensor) -> PackedSet:
    """Subject 1 is the moving image, subject 0 what u makes of it: u is exactly the displacement from 0 to 1."""
    data = toy_set()
    images = data.images.clone()
    smooth = field.smooth(data.image(1), 1.5)
    images[1] = (200 * smooth[0, 0]).round().to(torch.uint8)
    images[0] = (200 * field.warp(smooth, u)[0, 0]).round().to(torch.uint8)
    return dataclasses.replace(data, images=images)


@pytest.mark.parametrize("augmented", [False, True])
def test_the_displacement_follows_mirror_and_affines(augmented: bool) -> None:
    linear = field.upsample_field(
        torch.randn(1, 3, 8, 9, 10, generator=torch.Generator().manual_seed(1)), SHAPE
    )
    u = stored(field.smooth(linear, 2.5), [(0, 1)]).displacement(0)
    data, fields = warped_set(u), stored(u, [(0, 1)])
    changes = {"mirror": 0.5, "shared_affine": 0.1, "moving_affine": 0.05, "moving_shift": 0.05}
    augmentation = NO_AUGMENTATION.model_copy(update=changes if augmented else {})
    assert float(u.abs().max()) > 1
    for seed in range(4):  # mirrored and not
        batch = draw_pair(data, augmentation, torch.Generator().manual_seed(seed), fields=fields)
        assert batch.displacement is not None
        moved = field.warp(batch.moving, batch.displacement)
        inside = torch.zeros_like(moved, dtype=torch.bool)
        inside[..., 4:-4, 4:-4, 4:-4] = True
        error = (moved - batch.fixed).abs()[inside]
        apart = (batch.moving - batch.fixed).abs()[inside]
        assert float(error.mean()) < 0.25 * float(apart.mean())
        if not augmented:
            torch.testing.assert_close(batch.displacement, u, atol=1e-4, rtol=0)


def test_only_stored_pairs_are_drawn() -> None:
    data, fields = toy_set(), stored(smooth_field(), [(2, 0), (1, 2)])
    seen = set()
    for seed in range(12):
        batch = draw_pair(data, NO_AUGMENTATION, torch.Generator().manual_seed(seed), fields=fields)
        rows = [
            i
            for x in (batch.fixed, batch.moving)
            for i in range(3)
            if torch.allclose(x, data.image(i), atol=2e-3)
        ]
        seen.add(tuple(rows))
    assert seen == {(2, 0), (1, 2)}


def test_validation_sees_the_same_batches_every_time() -> None:
    data, fields = toy_set(), stored(smooth_field(), [(2, 0), (1, 2)])
    for known in (fields, None):
        once, again = (list(fixed_batches(data, 2, known)) for _ in range(2))
        assert len(once) == 2
        for one, two in zip(once, again, strict=True):
            assert torch.equal(one.fixed, two.fixed)
            assert (one.displacement is None) == (known is None)
            assert one.generator is not None
            assert two.generator is not None
            assert torch.equal(torch.rand(3, generator=one.generator), torch.rand(3, generator=two.generator))
    torch.testing.assert_close(next(fixed_batches(data, 1, fields)).fixed, data.image(2))


class Regressor(ToyMethod):
    """Learns the mean stored displacement."""

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of a constant."""
        assert batch.displacement is not None
        shift: Tensor = self.network["shift"]  # type: ignore[index]
        return {"displacement": (batch.displacement.mean((0, 2, 3, 4)) - shift).square().mean()}

    def score(self, batch: Batch) -> float:
        """1 less the error."""
        return 1.0 - float(self.objective(batch)["displacement"])

    def stages(self, steps: int, learning_rate: float) -> tuple[Stage, ...]:
        parameters = tuple(self.network.parameters())
        return (Stage("all", parameters, steps, learning_rate, self.objective, score_pair=self.score),)


def test_training_learns_from_stored_displacements_and_is_judged_by_them(tmp_path: Path) -> None:
    shift = torch.tensor([0.5, -1.0, 0.25])
    fields = stored(shift.reshape(1, 3, 1, 1, 1).expand(1, 3, *SHAPE), [(0, 1), (1, 2)])
    made = recipe(
        steps=60, learning_rate=0.1, validate_every=30, weight_decay=0.0,
        augmentation=NO_AUGMENTATION.model_dump(),
    )  # fmt: skip
    method, events, data = Regressor(), list[Event](), toy_set()
    workers = Workers(torch.device("cpu")).with_loss_scaling(made.precision)
    setup = Setup(made, method, data, data, tmp_path, workers, events.append, fields=(fields, fields))
    outcome = train(setup)
    torch.testing.assert_close(method.network["shift"].detach(), shift, atol=0.05, rtol=0)
    assert outcome.best_dice == pytest.approx(1.0, abs=0.01)
    assert events[-1].losses["displacement"] < 0.01


@pytest.mark.parametrize("option", [{"symmetric": True}, {"coarse_steps": 3}, {"coarse_steps": [0, 2]}])
def test_a_displacement_known_one_way_goes_with_neither_swapped_nor_coarse_pairs(
    option: dict[str, object],
) -> None:
    data = {"train": "a", "val": "b", "fields": {"train": "c", "val": "d"}}
    assert recipe(data=data).data.fields is not None
    with pytest.raises(ValueError, match="neither symmetric nor coarse_steps"):
        recipe(data=data, **option)
    with pytest.raises(ValueError, match="neither symmetric nor coarse_steps"):
        recipe(data=data, gpu={"coarse_steps": 5})


def test_random_pairs_are_different_and_fair() -> None:
    found = random_pairs(7, 14)
    assert len(set(found)) == 14
    assert all(fixed != moving for fixed, moving in found)
    assert found == random_pairs(7, 14)
    assert len(random_pairs(3, 50)) == 6
    assert sorted(fixed for fixed, _ in random_pairs(7, 7)) == list(range(7))


def test_the_engine_finds_displacements_that_match_better(tmp_path: Path) -> None:
    data, seen = toy_set(), []
    make_fields(
        data, tmp_path / "f.npz", targets="gaussnewton", pairs=1, progress=lambda n, of: seen.append((n, of))
    )
    fields = load_fields(tmp_path / "f.npz", data.ids)
    assert seen == [(1, 1)]
    fixed, moving = (data.image(int(row)) for row in fields.pairs[0])
    moved = field.warp(moving, fields.displacement(0))
    assert float((moved - fixed).abs().mean()) < 0.7 * float((moving - fixed).abs().mean())


def test_tissues_are_merged_from_the_labels() -> None:
    labels = torch.zeros(1, 1, *SHAPE, dtype=torch.uint8)
    for slab, region in enumerate((0, 51, 59, 81)):  # background, ventricle, thalamus, frontal white matter
        labels[..., 5 * slab : 5 * slab + 5] = region
    middle = tissue_map(labels)[0, 0, 8, 9, 2::5]
    torch.testing.assert_close(middle, torch.tensor([0.0, 1 / 3, 2 / 3, 1.0]), atol=0.02, rtol=0)


@pytest.mark.oracle
def test_the_papers_protocol_improves_on_syn() -> None:
    if importlib.util.find_spec("ants") is None:
        pytest.skip("antspyx is not there")
    data = toy_set()
    u = targets.TEACHERS["syn_demons"]()(data, 0, 1)
    assert u.shape == (1, 3, *SHAPE)
    assert bool(torch.isfinite(u).all())
    tissues = [tissue_map(data.label(row)) for row in (0, 1)]
    moved = field.warp(tissues[1], u)
    assert float((moved - tissues[0]).abs().mean()) < 0.7 * float((tissues[1] - tissues[0]).abs().mean())


def test_preparing_a_recipe_finds_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_pack(toy_set(), tmp_path / "train.npz")
    save_pack(toy_set(2), tmp_path / "val.npz")
    u = smooth_field()
    monkeypatch.setitem(targets.TEACHERS, "gaussnewton", lambda: lambda _data, _fixed, _moving: u)
    made = recipe(
        data={
            "train": "train.npz",
            "val": "val.npz",
            "fields": {"train": "ft.npz", "val": "fv.npz", "pairs": 4, "val_pairs": 9},
        }
    )
    path = tmp_path / "r.yaml"
    path.write_text(made.model_dump_json(), encoding="utf-8")  # JSON is YAML
    told: list[tuple[str, int, int]] = []
    files = run.prepare(path, tmp_path, tmp_path / "names.csv", lambda *what: told.append(what))
    assert [file.name for file in files] == ["ft.npz", "fv.npz"]
    assert told[3] == ("ft", 4, 4)
    assert told[-1] == ("fv", 2, 2)  # two subjects have two ordered pairs
    assert len(load_fields(tmp_path / "ft.npz", toy_set().ids)) == 4
    assert run.prepare(path, tmp_path, tmp_path / "names.csv", lambda *_: None) == []


def test_a_recipe_without_fields_prepares_none() -> None:
    assert Recipe.model_validate(recipe().model_dump()).data.fields is None
