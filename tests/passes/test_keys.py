"""What tells one call from another; tests/test_planning.py has the plans that are kept by it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hirescam import Classes, Contrast, Region
from hirescam.passes.borrow import as_call
from hirescam.passes.input_axes import InputAxes
from hirescam.passes.keys import equal, key_of, others_of
from hirescam.passes.targets import Target

IMAGES, ROW = torch.randn(2, 3, 8, 8), torch.randn(2, 5)


def key(images: Any = IMAGES, target: Target = None, axes: str | None = None) -> tuple[object, ...]:
    return key_of(as_call(images, axes and InputAxes(axes)), target)


def test_batches_of_any_size_and_classes_of_any_number_are_one_kind() -> None:
    for images in (IMAGES[:1], IMAGES.repeat(3, 1, 1, 1), IMAGES * 2):
        assert key(images) == key()
    assert key(target=3) == key(target=Classes(1, 2)) == key()


def test_sizes_types_and_other_inputs_are_other_kinds() -> None:
    kinds = [
        key(),
        key(IMAGES[..., :7]),
        key(IMAGES.double()),
        key((IMAGES, ROW)),
        key({"x": IMAGES, "row": ROW}),
        key(target=lambda output: output[:, 0]),
        key(target=Region(1, torch.ones(1))),
    ]
    with torch.autocast("cpu", torch.bfloat16):
        kinds.append(key())
    assert len(set(kinds)) == len(kinds)


def test_the_whole_shape_counts_where_the_batch_is_not_first() -> None:
    assert key(IMAGES, axes="wbhc") != key(IMAGES[:, :2], axes="wbhc")


def around(label: int) -> Callable[[Tensor], Tensor]:
    return lambda output: output[:, label]


def test_functions_around_the_same_values_are_one() -> None:
    assert key(target=around(1)) == key(target=around(1)) != key(target=around(2))
    assert key(target=partial(around, 1)) == key(target=partial(around, 1))  # type: ignore[arg-type]
    assert key(target=around(1)) != key(target=around(True))
    region = Region(1, torch.ones(1))
    assert key(target=region) == key(target=region) != key(target=Region(1, torch.ones(1)))
    contrast = Contrast(0, 1)
    assert key(target=contrast) == key()


class Untold:
    """Does not say whether it is equal to another."""

    def __eq__(self, other: object) -> bool:
        raise ValueError

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (ROW, ROW.clone(), True),
        (ROW, ROW + 1, False),
        (ROW, ROW.double(), False),
        (ROW.numpy(), ROW.numpy().copy(), True),
        (ROW.numpy(), ROW.numpy() + 1, False),
        (ROW.numpy(), ROW.numpy().astype(np.float16), False),
        ("a", "a", True),
        (1, True, False),
        ([ROW, {"k": 2}], [ROW.clone(), {"k": 2}], True),
        ([ROW, {"k": 2}], [ROW.clone(), {"k": 3}], False),
        (Untold(), Untold(), False),
    ],
    ids=range(11),
)
def test_other_inputs_are_compared_by_value(before: Any, after: Any, same: bool) -> None:
    kept, now = (others_of(as_call((IMAGES, item), input=0)) for item in (before, after))
    assert equal(kept, now) is same


def test_what_is_kept_does_not_change_with_the_callers_own() -> None:
    row = ROW.clone()
    kept = others_of(as_call((IMAGES, row), input=0))
    row += 1
    assert not equal(kept, others_of(as_call((IMAGES, row), input=0)))
    assert equal(others_of(as_call(IMAGES)), ())
