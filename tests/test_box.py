"""The box of a mask, counted by hand."""

import torch

from neuroreg.box import bounding_box


def test_the_box_holds_the_mask_its_margins_and_whole_multiples() -> None:
    mask = torch.zeros(1, 1, 21, 30, 17, dtype=torch.bool)
    mask[0, 0, 6, 9, 4] = mask[0, 0, 11, 20, 13] = True
    assert bounding_box(mask, before=0, after=0) == (slice(6, 12), slice(9, 21), slice(4, 14))
    assert bounding_box(mask, before=2, after=3) == (slice(4, 15), slice(7, 24), slice(2, 17))
    assert bounding_box(mask, before=2, after=3, multiple=4) == (slice(4, 16), slice(4, 24), slice(0, 16))
    assert bounding_box(mask[0, 0], before=9, after=9, multiple=2) == (
        slice(0, 20),
        slice(0, 30),
        slice(0, 16),
    )


def test_a_batch_has_the_box_of_all_and_nothing_has_none() -> None:
    masks = torch.zeros(2, 1, 8, 8, 8, dtype=torch.bool)
    assert bounding_box(masks, before=1, after=1) is None
    masks[0, 0, 2, 3, 4] = masks[1, 0, 5, 3, 4] = True
    assert bounding_box(masks, before=0, after=0) == (slice(2, 6), slice(3, 4), slice(4, 5))
