"""Boxes as masks, and which pairs take part in the pointing game."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hirescam.errors import InputError
from hirescam.metrics.ground_truth import boxes_to_masks, counts, hard


def drawn(boxes, size) -> torch.Tensor:
    """The slow oracle: every pixel, every box."""
    mask = torch.zeros(size, dtype=torch.bool)
    for place in torch.cartesian_prod(*[torch.arange(length) for length in size]).reshape(-1, len(size)):
        for start, stop in boxes.tolist():
            inside = all(a <= p + 0.5 < b for a, p, b in zip(start, place.tolist(), stop, strict=True))
            mask[tuple(place.tolist())] |= inside
    return mask


def test_a_box_covers_stop_minus_start_pixels_on_each_axis():
    mask = boxes_to_masks([torch.tensor([[[1, 0], [3, 4]]])], (4, 5))
    expected = torch.zeros(4, 5, dtype=torch.bool)
    expected[1:3, 0:4] = True
    assert torch.equal(mask[0], expected)


def test_a_pixel_belongs_to_a_box_by_its_centre():
    boxes = [torch.tensor([[[0.5], [2.5]]]), torch.tensor([[[0.6], [2.6]]])]
    assert boxes_to_masks(boxes, (4,)).int().tolist() == [[1, 1, 0, 0], [0, 1, 1, 0]]


def test_the_mask_is_the_union_and_is_cut_at_the_border():
    two = torch.tensor([[[0, 0], [2, 2]], [[1, 1], [9, 9]]])
    none = torch.zeros(0, 2, 2)
    masks = boxes_to_masks([two, none], (3, 3))
    assert masks.int().tolist() == [[[1, 1, 0], [1, 1, 1], [0, 1, 1]], [[0, 0, 0], [0, 0, 0], [0, 0, 0]]]


@given(seed=st.integers(0, 10**6), axes=st.integers(1, 3), k=st.integers(0, 3), whole=st.booleans())
def test_boxes_are_drawn_as_slow_loops_draw_them(seed, axes, k, whole):
    generator = torch.Generator().manual_seed(seed)
    corners = (torch.rand(k, 2, axes, generator=generator) * 9 - 2).sort(1).values
    corners = corners.round() if whole else corners
    size = (4, 5, 3)[:axes]
    assert torch.equal(boxes_to_masks([corners], size)[0], drawn(corners, size))


@pytest.mark.parametrize(
    ("boxes", "text"),
    [
        (torch.zeros(2, 2), r"boxes\[0\] has shape \(2, 2\): expected \(k, 2, 2\)"),
        (torch.zeros(1, 2, 3), r"boxes\[0\] has shape \(1, 2, 3\): expected \(k, 2, 2\)"),
        (torch.tensor([[[2, 2], [1, 3]]]), r"boxes\[0\] has a box that stops before it starts"),
    ],
)
def test_boxes_of_another_form_are_refused(boxes, text):
    with pytest.raises(InputError, match=text):
        boxes_to_masks([boxes], (4, 4))


def test_a_pair_is_left_out_only_if_all_its_boxes_are_difficult():
    assert counts([False])
    assert counts([True, False, True])
    assert not counts([True, True])
    assert not counts([])


def test_hard_pairs_are_small_and_have_company():
    quarter = torch.zeros(8, 8, dtype=torch.bool)
    quarter[:4, :4] = True
    less = quarter.clone()
    less[0, 0] = False
    masks = torch.stack([less, less, quarter])
    assert hard(masks, torch.tensor([1, 0, 5])).tolist() == [True, False, False]
    assert hard(masks, torch.tensor([1, 0, 5]), share=0.3).tolist() == [True, False, True]
