"""The parcellation network: codes are means of class vectors, coordinates follow the head, boxes change nothing."""

import torch
import torch.nn.functional as F
from torch import Tensor

from neuroreg import field
from neuroreg.box import bounding_box
from neuroreg.nn.anatomy import CLASSES, AnatomyNetwork, coordinates

SHAPE = (20, 24, 18)


def network(codes: int = 6) -> AnatomyNetwork:
    torch.manual_seed(2)
    return AnatomyNetwork((4, 8, 8), 8, codes).eval()


def brain(shift: int = 0) -> Tensor:
    image = torch.zeros(1, 1, *SHAPE)
    texture = torch.rand(8, 10, 6, generator=torch.Generator().manual_seed(1))
    image[0, 0, 6 + shift : 14 + shift, 7:17, 6:12] = 0.3 + 0.5 * texture
    return image


def test_class_vectors_have_unit_length_and_the_background_none() -> None:
    lengths = network().codebook.norm(dim=1)
    assert float(lengths[0]) == 0.0
    torch.testing.assert_close(lengths[1:], torch.ones(CLASSES - 1))


@torch.no_grad()
def test_a_certain_voxel_has_the_code_of_its_class() -> None:
    made = network()
    made.classify.weight.zero_()
    made.classify.bias.fill_(-100.0)
    made.classify.bias[41] = 100.0
    codes, regions, image = made(brain()), made.regions(brain()), brain()
    inside = image[0, 0] > 0
    torch.testing.assert_close(codes[0][:, inside], made.codebook[41][:, None].expand(-1, int(inside.sum())))
    assert (regions[0, 0][inside] == 41).all()
    assert not codes[0][:, ~inside].any()
    assert not regions[0, 0][~inside].any()


@torch.no_grad()
def test_codes_are_means_over_the_class_probabilities() -> None:
    made, image = network(), brain()
    box = bounding_box(image > 0, before=2, after=2)
    assert box is not None
    near = image[:, :, *box]
    logits = made.classify(made.features(near).movedim(1, -1))
    expected = logits.softmax(-1) @ made.codebook * (near[:, 0] > 0)[..., None]
    torch.testing.assert_close(made(image)[:, :, *box].movedim(1, -1), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_batch_is_its_parts() -> None:
    made, images = network(), torch.cat((brain(), brain(shift=4)))
    torch.testing.assert_close(made(images), torch.cat([made(one) for one in images.split(1)]))


@torch.no_grad()
def test_air_around_the_head_changes_nothing() -> None:
    made, image = network(), brain()
    padded = F.pad(image, (8, 0, 0, 16, 8, 8))
    torch.testing.assert_close(made(padded)[..., 8:-8, :-16, 8:], made(image), atol=1e-5, rtol=1e-4)


def test_coordinates_follow_the_head() -> None:
    still, moved = coordinates(brain()), coordinates(brain(shift=4))
    torch.testing.assert_close(still[:, :, :-4], moved[:, :, 4:])
    assert abs(float((still * (brain() > 0)).sum())) < 1e-3
    step = still[0, 1, 0, 5, 0] - still[0, 1, 0, 1, 0]
    assert float(step) > 0


def test_an_empty_image_has_no_codes() -> None:
    assert not network()(torch.zeros(1, 1, *SHAPE)).any()


def test_a_few_steps_learn_two_regions() -> None:
    made, image = network(), brain()
    labels = torch.where(field.identity(SHAPE)[:, :1] < 10, 7, 30) * (image > 0)
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        optimizer.zero_grad()
        loss = made.cross_entropy(image, labels, 200, generator)
        loss.backward()
        optimizer.step()
    assert (made.regions(image) == labels)[image > 0].float().mean() > 0.9
