"""The demo's subject is what it claims to be, and its errors are measured against the truth."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from neuroreg import cli, field
from neuroreg.cli.demo import _write_report
from neuroreg.io.images import read_image, read_labels
from neuroreg.io.transforms import read_transform
from neuroreg.metrics.deformation import percent_folded
from neuroreg.pipeline import demo
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.template import Template
from neuroreg.preprocess import synthesis
from neuroreg.transforms import Affine, Chain
from neuroreg.volume import Geometry, Volume

GEOMETRY = Geometry((40, 48, 40), (4.0, 4.0, 4.0), (-73.0, -90.0, -82.0))


@pytest.fixture(scope="module")
def template() -> Template:
    """A textured ellipsoid of 130 x 160 x 120 mm with a notch on the left and two regions."""
    points = GEOMETRY.points() - GEOMETRY.centre_mm
    head = ((points / torch.tensor([65.0, 80.0, 60.0])) ** 2).sum(-1) < 1
    head &= (points - torch.tensor([60.0, 30.0, 10.0])).norm(dim=-1) > 25
    texture = synthesis.smooth_noise(
        GEOMETRY.shape, 1, sigma=2.0, generator=torch.Generator().manual_seed(5)
    )[0]
    image = torch.where(head, (0.6 + 0.15 * texture[0]).clamp(0.2, 1.2), torch.zeros(()))
    labels = torch.zeros(GEOMETRY.shape, dtype=torch.int16)
    labels[head & (points[..., 0] > 10)] = 47
    labels[head & (points[..., 1] < -20) & (points[..., 0] <= 10)] = 48

    def volume(data: torch.Tensor, *, is_label: bool) -> Volume:
        return Volume(data[None], GEOMETRY, is_label=is_label)

    return Template(
        volume(image, is_label=False),
        volume(labels, is_label=True),
        volume(head.to(torch.uint8), is_label=True),
        {47: "left", 48: "front"},
    )


Subject = tuple[Volume, Volume, Volume, Chain]


@pytest.fixture(scope="module")
def made(template: Template) -> Subject:
    """The subject of seed 0: image, labels, mask and the known map."""
    return demo.synthesise(template, seed=0)


@pytest.fixture(scope="module")
def outcome(template: Template, tmp_path_factory: pytest.TempPathFactory) -> demo.DemoOutcome:
    """One demo by the affine, its page written as the command writes it."""
    settings = RegisterConfig(
        fixed=Path(), moving=Path(), method="affine", threads=1, outputs=("transform", "affine", "report")
    )
    folder = tmp_path_factory.mktemp("demo") / "out"
    return demo.demo(folder, settings=settings, template=template, reporter=_write_report)


def test_the_subject_is_the_template_read_through_the_truth(template: Template, made: Subject) -> None:
    subject, labels, mask, truth = made
    # By hand, voxel by voxel: the label of the template's voxel nearest to where the truth leads.
    points = labels.geometry.points()[::7, ::5, ::6].reshape(-1, 3)
    matrix = GEOMETRY.world_to_voxel
    index = torch.floor(truth(points) @ matrix[:3, :3].T + matrix[:3, 3] + 0.5).long()
    inside = ((index >= 0) & (index < torch.tensor(GEOMETRY.size))).all(dim=1)
    x, y, z = index.clamp(min=0).minimum(torch.tensor(GEOMETRY.size) - 1).unbind(1)
    expected = torch.where(inside, template.labels.data[0, z, y, x], 0)
    assert torch.equal(labels.data[0, ::7, ::5, ::6].flatten(), expected.to(labels.data.dtype))
    assert subject.data[mask.data == 0].eq(0).all()
    assert float(subject.data[mask.data > 0].min()) >= 0
    # The brain is where the affine's scales say: its volume is the template's over 1.06 x 0.95 x 1.03.
    litres = [float(m.data.sum()) * m.geometry.voxel_volume_mm3 for m in (mask, template.mask)]
    assert litres[0] == pytest.approx(litres[1] / (1.06 * 0.95 * 1.03), rel=0.05)
    assert mask.data[0, [0, -1]].sum() == mask.data[0, :, [0, -1]].sum() == mask.data[..., [0, -1]].sum() == 0


def test_the_known_map_is_one_to_one_and_of_the_size_it_should_have(made: Subject) -> None:
    _, _, mask, truth = made
    residual, affine = truth.parts
    assert percent_folded(residual) == 0.0
    assert float(field.jacobian_determinant(residual.to_voxels()).min()) > 0.1
    points = mask.geometry.points()[mask.data[0] > 0]
    size = float((residual(points) - points).square().sum(dim=1).mean().sqrt())
    assert size == pytest.approx(3.5, rel=0.35)
    shift = float((affine(points) - points).norm(dim=1).mean())
    assert shift > 30  # 40 mm of shift between the centres


def test_a_seed_is_a_subject(template: Template, made: Subject) -> None:
    first, (again, other) = made[0].data, (demo.synthesise(template, seed=seed)[0].data for seed in (0, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_errors_are_distances_from_the_truth(template: Template, made: Subject) -> None:
    _, labels, mask, truth = made
    exact = demo.measure(truth, truth, template.labels, labels, mask)
    assert (exact.mean_mm, exact.p95_mm, exact.dice) == (0.0, 0.0, 1.0)
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = torch.tensor([3.0, -4.0, 0.0])
    off = demo.measure(Chain((*truth.parts, Affine(shift))), truth, template.labels, labels, mask)
    assert (off.mean_mm, off.p95_mm) == pytest.approx((5.0, 5.0))
    assert 0.5 < off.dice < 1.0


def test_the_demo_registers_the_files_it_has_written(outcome: demo.DemoOutcome, made: Subject) -> None:
    assert outcome.before.mean_mm > 30
    # The affine cannot follow the deformation of 3.5 mm, but it takes away the rest.
    assert outcome.affine.mean_mm < 6
    assert outcome.after.mean_mm == pytest.approx(outcome.affine.mean_mm, abs=1e-3)
    assert outcome.before.dice < 0.5 < 0.75 < outcome.after.dice
    assert outcome.record.qc.figures["dice_mean"] == pytest.approx(outcome.after.dice, abs=1e-6)
    assert outcome.report == outcome.folder / "report.html"
    folder = outcome.folder.parent
    subject = read_image(folder / "subject.nii.gz").volume
    labels = read_labels(folder / "subject_labels.nii.gz").volume
    expected, expected_labels, _, truth = made
    assert torch.allclose(subject.data, expected.data)
    assert torch.equal(labels.data.long(), expected_labels.data.long())
    points = subject.geometry.points()[::9, ::9, ::9]
    assert torch.allclose(read_transform(folder / "truth.h5")(points), truth(points), atol=1e-3)


def test_the_command_shows_the_errors(
    template: Template,
    outcome: demo.DemoOutcome,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(demo, "load_template", lambda: template)
    monkeypatch.chdir(tmp_path)
    assert cli.run(["demo", "-o", "out", "--method", "afine"]) == 2
    assert not (tmp_path / "out").exists()
    words = ["demo", "-o", str(outcome.folder.parent), "--method", "affine", "--threads", "1", "-q"]
    assert cli.run(words) == 73  # what an earlier demo left is kept
    capsys.readouterr()
    asked: dict[str, Any] = {}

    def done(folder: Path, **options: Any) -> demo.DemoOutcome:
        asked.update(folder=folder, **options)
        return outcome

    monkeypatch.setattr(demo, "demo", done)
    assert cli.run([*words, "--json", "--seed", "3"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["errors"]["affine"]["mean_mm"] == outcome.affine.mean_mm < said["errors"]["before"]["mean_mm"]
    assert (asked["folder"], asked["seed"], asked["settings"].method) == (outcome.folder.parent, 3, "affine")
    assert asked["reporter"] is _write_report
