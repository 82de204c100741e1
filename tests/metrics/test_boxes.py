"""Boxes around the highest part of the map."""

import math
import sys

import cv2
import numpy as np
import pytest
import torch
import torchvision.ops
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from hirescam.errors import InputError
from hirescam.metrics import estimate, get, thresholds
from hirescam.metrics.boxes import box_iou, max_box_acc, max_box_acc_v2, overlap
from hirescam.metrics.scales import stretched

# Two regions: 4 pixels that reach 1, and 6 pixels at 0.6. They touch nowhere, not even at a corner.
TWO = torch.tensor(
    [
        [1.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        [1.0, 1.0, 0.0, 0.6, 0.6, 0.6],
        [0.0, 0.0, 0.0, 0.6, 0.6, 0.6],
    ]
).unsqueeze(0)
HIGH = [torch.tensor([[[0, 0], [2, 2]]])]
WIDE = [torch.tensor([[[1, 3], [3, 6]]])]


def test_the_box_of_the_largest_region_by_hand():
    assert box_iou(TWO, HIGH).item() == 0  # the larger region is the lower one
    assert box_iou(TWO, WIDE).item() == 1
    assert box_iou(TWO, HIGH, level=0.7).item() == 1
    assert box_iou(TWO, [torch.tensor([[[1, 3], [3, 5]]])]).item() == pytest.approx(4 / 6)
    assert box_iou(TWO, [torch.cat([HIGH[0], WIDE[0]])]).item() == 1  # the object that fits best


def test_regions_are_connected_across_corners():
    values = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])
    assert box_iou(values, [torch.tensor([[[0, 0], [2, 2]]])]).item() == 1
    volume = torch.zeros(1, 3, 3, 3)
    volume[0, 0, 0, 0] = volume[0, 1, 1, 1] = 1
    assert box_iou(volume, [torch.tensor([[[0, 0, 0], [2, 2, 2]]])]).item() == 1


def test_of_equally_large_regions_the_heavier_is_taken():
    values = torch.tensor([[1.0, 0.0, 0.9]])
    first, last = [torch.tensor([[[0], [1]]])], [torch.tensor([[[2], [3]]])]
    assert box_iou(values, first).item() == 1
    assert box_iou(values.flip(1), last).item() == 1


def test_a_signal_and_a_volume():
    signal = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0]])
    assert box_iou(signal, [torch.tensor([[[1], [4]]])]).item() == pytest.approx(2 / 3)
    volume = torch.zeros(1, 4, 4, 4)
    volume[0, 1:3, 1:3, 1:3] = 1
    assert box_iou(volume, [torch.tensor([[[1, 1, 1], [3, 3, 4]]])]).item() == pytest.approx(8 / 12)


def test_accuracy_at_the_best_threshold_by_hand():
    curve = max_box_acc(TWO, HIGH, steps=10)
    assert curve.tolist() == [[0] * 6 + [1] * 4]  # 0.6 is cut off from 0.6 on: 153 > 153 is false
    assert max_box_acc(TWO, WIDE, steps=10).tolist() == [[1] * 6 + [0] * 4]
    # Shared: no threshold fits both samples.
    both = max_box_acc(torch.cat([TWO, TWO]), HIGH + WIDE, steps=10)
    assert get("max_box_acc").reduce(both) == 0.5


def test_all_regions_count_in_the_second_version():
    curve = max_box_acc_v2(TWO, HIGH, steps=10)
    assert curve.shape == (1, 3, 10)
    assert (curve == 1).all()
    assert max_box_acc_v2(TWO, WIDE, steps=10)[0, 0].tolist() == [1] * 6 + [0] * 4


def test_every_fit_has_its_own_best_threshold():
    near = [torch.tensor([[[1, 3], [3, 5]]])]  # IoU 4/6: fits at .3 and .5, not at .7
    values = max_box_acc_v2(TWO, near)
    assert get("max_box_acc_v2").reduce(values) == pytest.approx(2 / 3)
    assert get("max_box_acc_v2").reduce(values.new_tensor([[[1, 0], [0, 1], [0.0, 0]]])) == pytest.approx(
        2 / 3
    )
    assert max_box_acc(TWO, near, fit=0.7).max() == 0


def test_maps_that_say_nothing_and_samples_without_boxes():
    values = torch.stack([torch.zeros(4, 4), -torch.rand(4, 4) - 1, torch.ones(4, 4), torch.ones(4, 4)])
    corner = torch.tensor([[[0, 0], [1, 1]]])
    whole = torch.tensor([[[0, 0], [4, 4]]])
    boxes = [corner, whole, whole, torch.zeros(0, 2, 2)]
    for found in (
        box_iou(values, boxes),
        max_box_acc(values, boxes)[:, 0],
        max_box_acc_v2(values, boxes)[:, 0, 0],
    ):
        assert found[:3].tolist() == [0, 0, 1]
        assert math.isnan(found[3])
    assert estimate("max_box_acc", max_box_acc(values, boxes), resamples=9).undefined == 1


def test_the_references_ways_are_there_for_who_asks():
    corner = [torch.tensor([[[0, 0], [1, 1]]])]
    zeros = torch.zeros(1, 4, 4)
    assert max_box_acc_v2(zeros, corner).max() == 0
    assert max_box_acc_v2(zeros, corner, convention="reference").min() == 1  # a silent hit
    block = torch.zeros(1, 8, 8)
    block[0, 1:3, 1:3] = 1
    exact = [torch.tensor([[[1, 1], [3, 3]]])]
    assert max_box_acc_v2(block, exact)[0, 2].min() == 1
    longer = max_box_acc_v2(block, exact, convention="reference")  # 3 × 3 against 2 × 2: IoU 4/9
    assert longer[0, :, 0].tolist() == [1, 0, 0]
    negative = block - 2
    assert max_box_acc_v2(negative, exact).max() == 0
    assert max_box_acc_v2(negative, exact, convention="reference").max() == 1
    assert stretched(torch.full((1, 3), 7.0)).tolist() == [[0, 0, 0]]


def reference_curve(values: np.ndarray, truth: np.ndarray, steps: int) -> list[float]:
    """Best IoU at every threshold from OpenCV's contours, with ends read as the authors' code reads them.

    Written from the published definition: uint8, ``> int(τ · max)``, every contour, +1 in the IoU.
    """
    low, high = values.min(), values.max()
    image = (
        ((values - low) / (high - low) * 255).astype(np.uint8)
        if high > low
        else np.zeros(values.shape, np.uint8)
    )
    height, width = image.shape
    curve = []
    for tau in np.arange(0, 1, 1 / steps)[:steps]:
        marked = (image > int(tau * image.max())).astype(np.uint8) * 255
        contours = cv2.findContours(marked, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        ends = [[0, 0, 0, 0]] if not len(contours) else []
        for contour in contours:
            x, y, w, h = cv2.boundingRect(contour)
            ends.append([x, y, min(x + w, width - 1), min(y + h, height - 1)])
        best = 0.0
        for x0, y0, x1, y1 in ends:
            for (gy0, gx0), (gy1, gx1) in truth:
                gx1, gy1 = gx1 - 1, gy1 - 1  # inclusive, as in the annotations
                w, h = min(x1, gx1) - max(x0, gx0) + 1, min(y1, gy1) - max(y0, gy0) + 1
                both = max(0, w) * max(0, h)
                areas = (x1 - x0 + 1) * (y1 - y0 + 1) + (gx1 - gx0 + 1) * (gy1 - gy0 + 1)
                best = max(best, both / (areas - both))
        curve.append(best)
    return curve


@given(seed=st.integers(0, 10**6), smooth=st.sampled_from([0.0, 1.0, 2.0]))
def test_the_reference_convention_is_opencvs_contours_with_one_added(seed, smooth):
    random = np.random.default_rng(seed)
    values = ndimage.gaussian_filter(random.normal(size=(17, 23)), smooth)
    start = random.integers(0, (10, 15), size=(2, 2))
    truth = np.stack([start, start + random.integers(1, 8, size=(2, 2))], 1)
    fits = [0.1, 0.3, 0.5, 0.7]
    expected = np.array(reference_curve(values, truth, 20))[None] >= np.array(fits)[:, None]
    maps, boxes = torch.from_numpy(values)[None], [torch.from_numpy(truth)]
    found = max_box_acc_v2(maps, boxes, fits=fits, steps=20, convention="reference")
    assert found[0].bool().tolist() == expected.tolist()


def test_a_hole_is_a_box_only_for_the_reference():
    ring = torch.zeros(1, 9, 9)
    ring[0, 1:8, 1:8] = 1
    ring[0, 3:6, 3:6] = 0
    around_the_hole = [torch.tensor([[[2, 2], [7, 7]]])]  # 5 × 5, read as 6 × 6 from 2 on
    assert max_box_acc_v2(ring, around_the_hole, fits=[0.6], convention="plain").max() == 0  # 25/49
    assert max_box_acc_v2(ring, around_the_hole, fits=[0.69], convention="reference").min() == 1  # 25/36


def slow(values, boxes, steps) -> list[float]:
    """Flood fill by hand at every threshold, best IoU of the box of every component."""
    top = max(values.max().item(), 0)
    image = (values.clamp(min=0) / top * 255).floor() if top else values * 0
    curve = []
    for step in range(steps):
        marked = {tuple(p) for p in (image > (step * 255) // steps).nonzero().tolist()}
        best = 0.0
        while marked:
            stack, region = [marked.pop()], []
            while stack:
                p = stack.pop()
                region.append(p)
                close = {q for q in marked if all(abs(a - b) <= 1 for a, b in zip(p, q, strict=True))}
                marked -= close
                stack += close
            for start, stop in boxes.tolist():
                both = own = true = 1.0
                for axis, (a, b) in enumerate(zip(start, stop, strict=True)):
                    low, high = min(p[axis] for p in region), max(p[axis] for p in region) + 1
                    both *= max(0, min(high, b) - max(low, a))
                    own, true = own * (high - low), true * (b - a)
                best = max(best, both / (own + true - both))
        curve.append(best)
    return curve


@given(seed=st.integers(0, 10**6), axes=st.integers(1, 3))
def test_all_boxes_are_found_as_by_flood_fill(seed, axes):
    generator = torch.Generator().manual_seed(seed)
    size = (7, 5, 4)[:axes]
    values = torch.randn(size, generator=generator).double()
    start = torch.randint(0, 3, (2, 1, axes), generator=generator)
    boxes = torch.cat([start, start + torch.randint(1, 4, (2, 1, axes), generator=generator)], 1)
    fits = [0.2, 0.4, 0.6, 0.8]
    found = max_box_acc_v2(values[None], [boxes], fits=fits, steps=8)[0]
    expected = np.array(slow(values, boxes, 8))[None] >= np.array(fits)[:, None]
    assert found.bool().tolist() == expected.tolist()


def test_overlaps_of_boxes_agree_with_torchvision():
    corners = torch.rand(2, 6, 2, 2).double().cumsum(2)
    expected = torchvision.ops.box_iou(corners[0].flatten(1), corners[1].flatten(1))
    np.testing.assert_allclose(overlap(corners[0].numpy(), corners[1].numpy()), expected.numpy(), rtol=1e-12)
    point = np.zeros((1, 2, 2))
    assert overlap(point, point).tolist() == [[0]]


def test_the_second_version_is_never_below_the_first_at_its_fit():
    values, boxes = torch.randn(4, 9, 9).double(), [torch.tensor([[[2, 3], [6, 8]]])] * 4
    assert (max_box_acc_v2(values, boxes, fits=[0.5])[:, 0] >= max_box_acc(values, boxes)).all()


def test_a_mirror_and_the_order_of_samples_change_nothing():
    values = torch.randn(3, 8, 9).double()
    start = torch.randint(0, 4, (3, 2, 1, 2))
    boxes = list(torch.cat([start, start + torch.randint(1, 5, (3, 2, 1, 2))], 2))
    size = torch.tensor([8, 9])
    mirrored = [(size - one).flip(1) for one in boxes]
    for metric in (box_iou, max_box_acc, max_box_acc_v2):
        plain = metric(values, boxes)
        torch.testing.assert_close(metric(values.flip(1, 2), mirrored), plain)
        torch.testing.assert_close(metric(values[1:], boxes[1:]), plain[1:])
        torch.testing.assert_close(metric(values * 8, boxes), plain)


def test_what_does_not_fit_is_named():
    for metric in (box_iou, max_box_acc, max_box_acc_v2):
        with pytest.raises(InputError, match="boxes has 2 entries for 1 maps"):
            metric(TWO, HIGH + WIDE)
        with pytest.raises(InputError, match=r"boxes\[0\] has shape \(1, 2, 3\)"):
            metric(TWO, [torch.zeros(1, 2, 3)])
        with pytest.raises(InputError, match=r"maps\[0\] has NaN"):
            metric(TWO * math.nan, HIGH)
    with pytest.raises(InputError, match="level=1 must be"):
        box_iou(TWO, HIGH, level=1)
    with pytest.raises(InputError, match="steps=0 must be at least 1"):
        max_box_acc(TWO, HIGH, steps=0)
    with pytest.raises(InputError, match="convention='opencv' is unknown: give 'plain' or 'reference'"):
        max_box_acc_v2(TWO, HIGH, convention="opencv")


def test_without_scipy_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(InputError, match=r'pip install "hirescam\[metrics\]"'):
        box_iou(TWO, HIGH)


def test_no_sample_is_no_error():
    assert box_iou(TWO[:0], []).shape == (0,)
    curve = max_box_acc_v2(TWO[:0], [])
    assert curve.shape == (0, 3, 100)
    assert math.isnan(thresholds.best_mean(curve))
