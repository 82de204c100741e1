"""From targets to scores."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hirescam import TargetError
from hirescam.passes import targets
from hirescam.passes.targets import (
    AllClasses,
    Binary,
    Classes,
    Contrast,
    Finer,
    Labels,
    Region,
    TopK,
    bind,
    first_class,
    is_class_target,
    is_indexed,
)

Z = torch.tensor([[1.0, 4.0, 2.0, -3.0], [0.5, -1.0, 2.5, 2.0]], dtype=torch.float64)
OTHER = torch.arange(8.0, dtype=torch.float64).reshape(2, 4).square()


# Kinds ----------------------------------------------------------------------------------------


def function(output: Tensor) -> Tensor:
    return output[:, 0] * output[:, 1]


KINDS = [
    (None, True, True),
    (3, True, True),
    ([1, 2], True, True),
    (torch.tensor([1, 2]), True, True),
    (TopK(2), True, True),
    (Classes(1), True, True),
    (AllClasses(), True, True),
    (Contrast(1), False, True),
    (Finer(1), False, True),
    (Region(1, torch.ones(1)), False, True),
    (Labels(torch.ones(2, 4)), False, True),
    (Binary(0), False, True),
    (function, False, False),
]


@pytest.mark.parametrize(("target", "indexed", "affine"), KINDS, ids=lambda value: str(value)[:20])
def test_kinds_of_targets(target: Any, indexed: bool, affine: bool) -> None:
    assert (is_indexed(target), is_class_target(target)) == (indexed, affine)


FIRST = [
    (None, None),
    (3, 3),
    (torch.tensor(3), 3),
    (Classes(4, 1), 4),
    (Classes(), None),
    ([5, 6, 7], [5, 6]),
    ((5, 6, 7), (5, 6)),
    ([5, 6], None),
    ([[5, 1], [6, 1], [7, 1]], None),
    (torch.tensor([5, 6, 7]), [[5], [6]]),
    (torch.tensor([[5, 1], [6, 1], [7, 1]]), [[5], [6]]),
    (torch.zeros(3, 1, 1), None),
    (torch.tensor([5, 6]), None),
    (TopK(2), None),
    (AllClasses(), None),
    (Contrast(1), None),
    (Finer(1), None),
    (Region(1, torch.ones(3)), None),
    (function, None),
]


@pytest.mark.parametrize(("target", "expected"), FIRST, ids=lambda value: str(value)[:20])
def test_one_class_of_each_of_the_first_images(target: Any, expected: Any) -> None:
    found = first_class(target, 3, 2)
    assert (found.tolist() if isinstance(found, Tensor) else found) == expected


# Classes --------------------------------------------------------------------------------------

CLASSES = [
    (None, [[1], [2]]),
    (0, [[0], [0]]),
    (torch.tensor(3), [[3], [3]]),
    (np.int64(3), [[3], [3]]),
    ([3, 0], [[3], [0]]),
    ((3, 0), [[3], [0]]),
    (np.array([3, 0], np.uint8), [[3], [0]]),
    (torch.tensor([3, 0], dtype=torch.int32), [[3], [0]]),
    ([[3, 3, 1], [0, 1, 2]], [[3, 3, 1], [0, 1, 2]]),
    (TopK(1), [[1], [2]]),
    (TopK(4), [[1, 2, 0, 3], [2, 3, 0, 1]]),
    (Classes(3, 0, 3), [[3, 0, 3], [3, 0, 3]]),
    (AllClasses(), [[0, 1, 2, 3], [0, 1, 2, 3]]),
]


@pytest.mark.parametrize(("target", "index"), CLASSES, ids=lambda value: str(value)[:20])
def test_classes_are_named_and_stay_what_they_are(target: Any, index: list[list[int]]) -> None:
    bound = bind(target, Z.clone().requires_grad_())
    assert bound.index.tolist() == index
    assert bound.index.dtype == torch.int64
    assert bound.index.is_contiguous()
    assert not bound.index.requires_grad
    assert torch.equal(bound.score(Z), Z.gather(1, torch.tensor(index)))
    assert torch.equal(bound.score(OTHER), OTHER.gather(1, torch.tensor(index)))


def test_indices_from_inference_mode_can_be_saved() -> None:
    with torch.inference_mode():
        index = Z.argmax(1)
    assert not bind(index, Z).index.is_inference()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (4, "target names class 4, but the model has 4 classes: use 0 to 3"),
        (-1, "target names class -1"),
        ([0, 9], "target names class 9"),
        (True, "target=True is a bool: pass a class index"),
        (1.5, "target must hold integer class indices, got torch.float32: 1.5"),
        (torch.tensor([True, False]), "integer class indices, got torch.bool"),
        (torch.tensor([1j, 0]), "integer class indices, got torch.complex64"),
        ("cat", "target='cat' cannot be read: pass an int"),
        ([[1], [2, 3]], "cannot be read"),
        ([1, 2, 3], r"target has shape \(3,\) for 2 image\(s\): give one class for each"),
        ([1], r"target has shape \(1,\) for 2"),
        (torch.zeros(2, 1, 1, dtype=torch.int64), r"target has shape \(2, 1, 1\) for 2"),
        (torch.zeros(2, 0, dtype=torch.int64), r"target has shape \(2, 0\) for 2"),
        (10**30, "target names class 1000000000000000000000000000000, but the model has 4 classes"),
        (Classes(0, -(10**30)), "target names class -1000000000000000000000000000000"),
        (Contrast(10**30), "target names class 1000000000000000000000000000000"),
        (Finer(10**30), "target names class 1000000000000000000000000000000"),
        (TopK(2.0), r"TopK\(k=2.0\): 2.0 is a float, expected an int"),  # type: ignore[arg-type]
        (TopK(True), "True is a bool, expected an int"),
        (Classes([1, 2]), r"\[1, 2\] is a list, expected an int"),  # type: ignore[arg-type]
        (Contrast([0], [1]), r"\[0\] is a list, expected an int"),  # type: ignore[arg-type]
        (Contrast(0, 1.0), "1.0 is a float, expected an int"),  # type: ignore[arg-type]
        (Finer(1.0), "1.0 is a float, expected an int"),  # type: ignore[arg-type]
        (Finer(1, k=1.5), "1.5 is a float, expected an int"),  # type: ignore[arg-type]
        (TopK(0), r"TopK\(0\): k must be from 1 to 4"),
        (TopK(5), r"TopK\(5\): k must be from 1 to 4"),
        (Classes(), r"Classes\(\) is empty: name at least one class"),
        (Classes(0, 4), "target names class 4"),
        (Contrast(4), "target names class 4"),
        (Contrast(1, 4), "target names class 4"),
        (Contrast(1, -1), "target names class -1"),
        (Finer(4), "target names class 4"),
        (Finer(1, k=0), r"Finer\(k=0\): k must be from 1 to 3, the other classes"),
        (Finer(1, k=4), r"Finer\(k=4\): k must be from 1 to 3"),
        (Region(4, torch.ones(1)), "target names class 4"),
        (Region(1, torch.ones(1)), "this model gives one score per class: name the class"),
        (lambda out: out.sum(), r"the target function returned a Tensor of shape \(\) for 2 image"),
        (lambda out: out[:1], r"returned a Tensor of shape \(1, 4\) for 2 image"),
        (lambda out: out[:, :, None], r"returned a Tensor of shape \(2, 4, 1\)"),
        (lambda out: [1.0, 2.0], r"returned a list of 2 entries of shape \(\)"),
        (lambda out: out[:, 0].numpy(), r"returned a ndarray, expected a tensor \(b,\) or \(b, t\)"),
    ],
)
def test_targets_that_cannot_be_are_refused(target: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        bind(target, Z)


HOT = [[0, 0, 1, 1], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    "target",
    [HOT, torch.tensor(HOT), torch.tensor(HOT).bool(), torch.tensor(HOT).double(), [[1, 1, 0, 1]] * 2],
)
def test_multi_hot_labels_are_no_class_indices(target: Any) -> None:
    with pytest.raises(TargetError, match=r"of shape \(2, 4\) looks like multi-hot labels.*hirescam.Labels"):
        bind(target, Z)


@pytest.mark.parametrize("target", [[[0, 1]] * 2, [[1, 0], [0, 1]]])
def test_multi_hot_labels_of_two_classes(target: Any) -> None:
    with pytest.raises(TargetError, match="multi-hot"):
        bind(target, Z[:, :2])


def test_indices_that_are_few_or_others_are_none_of_it() -> None:
    assert bind([[0, 1]] * 2, Z).index.tolist() == [[0, 1]] * 2
    assert bind([[0, 1, 2, 3]] * 2, Z).index.tolist() == [[0, 1, 2, 3]] * 2
    assert bind([0, 0], Z[:, :1]).index.tolist() == [[0], [0]]


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float32, torch.uint8])
def test_positive_classes_of_each_image(kind: torch.dtype) -> None:
    bound = bind(Labels(torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0]]).to(kind)), Z)
    assert bound.index.tolist() == [[1, 3], [2, -1]]
    assert bound.score(Z).tolist() == [[float(Z[0, 1]), float(Z[0, 3])], [float(Z[1, 2]), 0.0]]
    assert bound.score(2 * Z).tolist() == (2 * bound.score(Z)).tolist()
    assert bind(Labels([[0, 0, 0, 0], [1, 1, 1, 1]]), Z).index.tolist() == [[-1] * 4, [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.ones(2, 3), r"Labels needs a matrix of zeros and ones of shape \(2, 4\).* got \(2, 3\)"),
        (torch.ones(4), r"got \(4,\) with values from 1.0 to 1.0"),
        (torch.full((2, 4), 2), "values from 2.0 to 2.0"),
        (torch.zeros(0, 4), "values from nothing to nothing"),
        (torch.full((2, 4), float("nan")), "values from nan"),
        (torch.zeros(2, 4), "Labels has no positive class for any image"),
    ],
)
def test_labels_that_cannot_be(matrix: Tensor, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        bind(Labels(matrix), Z)


@pytest.mark.parametrize(
    ("label", "signs"),
    [
        (1, [1, 1]),
        (0, [-1, -1]),
        ([0, 1], [-1, 1]),
        (torch.tensor([1, 0]), [1, -1]),
        (torch.tensor([[1], [0]]), [1, -1]),
    ],
)
def test_evidence_for_a_label_of_one_logit(label: Any, signs: list[int]) -> None:
    bound = bind(Binary(label), Z[:, :1])
    assert bound.index.tolist() == [[-1], [-1]]
    assert torch.equal(bound.score(Z[:, :1]), Z[:, :1] * torch.tensor(signs)[:, None])


def test_binary_is_for_one_logit_and_two_labels() -> None:
    with pytest.raises(TargetError, match="Binary needs a model with one logit, this one has 4 classes"):
        bind(Binary(1), Z)
    for label in (2, [0, 1, 1], [-1, 0]):
        with pytest.raises(TargetError, match="Binary needs labels 0 or 1, one or one for each of the 2"):
            bind(Binary(label), Z[:, :1])
    for label in (1, [0, 1], [1, 1]):
        with pytest.raises(
            TargetError, match=r"the model has one logit: .* target=hirescam.Binary\(labels\)"
        ):
            bind(label, Z[:, :1])


def test_classes_that_maps_are_made_of() -> None:
    index = torch.tensor([[3, -1], [1, 3]])
    assert targets.classes_in([1, 2], index) == [1, 3]
    assert targets.classes_in(Labels(torch.ones(2, 4)), index) == [1, 3]
    assert targets.classes_in(Binary(0), torch.tensor([[-1]])) == [0]
    for target in (Contrast(1), Finer(1), Region(1, torch.ones(1)), function):
        assert targets.classes_in(target, index) is None


def test_one_score_has_no_others() -> None:
    with pytest.raises(TargetError, match="Contrast needs at least two classes"):
        bind(Contrast(0), Z[:, :1])


# Scores that are no class's -------------------------------------------------------------------


def test_contrasts() -> None:
    pair = bind(Contrast(3, 1), Z)
    assert pair.index.tolist() == [[3], [3]]
    assert torch.equal(pair.score(OTHER), OTHER[:, [3]] - OTHER[:, [1]])
    rest = bind(Contrast(2), Z)
    torch.testing.assert_close(rest.score(OTHER)[:, 0], OTHER[:, 2] - OTHER[:, [0, 1, 3]].mean(1))
    assert torch.equal(bind(Contrast(2, 2), Z).score(OTHER), torch.zeros(2, 1, dtype=torch.float64))
    assert rest.score(OTHER).dtype == torch.float64


def test_what_sets_a_class_apart() -> None:
    bound = bind(Finer(2, k=2, strength=0.7), Z)
    assert bound.index.tolist() == [[2], [2]]
    near = torch.tensor([[0, 1], [3, 0]])  # |z − z[2]|: 1, 2, -, 5 and 2, 3.5, -, 0.5
    expected = OTHER[:, [2]] - 0.7 * OTHER.gather(1, near).mean(1, keepdim=True)
    torch.testing.assert_close(bound.score(OTHER), expected)
    predicted = bind(Finer(k=1), Z)
    assert predicted.index.tolist() == [[1], [2]]
    torch.testing.assert_close(predicted.score(Z), torch.tensor([[2.0], [0.5]], dtype=torch.float64))
    assert bind(Finer(k=3), Z).score(Z)[0, 0] == 4.0


def test_regions() -> None:
    dense = torch.arange(2 * 3 * 4.0).reshape(2, 3, 2, 2).sin()
    mask = torch.tensor([[True, False], [True, True]])
    bound = bind(Region(1, mask), dense)
    assert bound.index.tolist() == [[1], [1]]
    torch.testing.assert_close(bound.score(dense + 1)[:, 0], ((dense + 1)[:, 1] * mask).sum((1, 2)))
    each = torch.rand(2, 2, 2, dtype=torch.float64)
    score = bind(Region(2, each), dense).score(dense)
    assert score.dtype == torch.float32
    torch.testing.assert_close(score[:, 0], (dense[:, 2] * each.float()).sum((1, 2)))
    with pytest.raises(TargetError, match=r"mask has shape \(3, 2\), expected \(2, 2\) or \(2, 2, 2\)"):
        bind(Region(1, torch.ones(3, 2)), dense)
    with pytest.raises(TargetError, match=r"shape \(2, 3, 2, 2\), one score per position: use target=Region"):
        bind(1, dense)


@pytest.mark.parametrize(
    ("function", "width"), [(function, 1), (lambda out: out[:, :3] * 2, 3)], ids=["one", "three"]
)
def test_functions(function: Callable[[Tensor], Tensor], width: int) -> None:
    bound = bind(function, Z)
    assert bound.index.tolist() == [[-1] * width] * 2
    torch.testing.assert_close(bound.score(OTHER), function(OTHER).reshape(2, width))
    dense = bind(lambda out: function(out.mean(2)), torch.zeros(2, 4, 5))  # no business of ours
    assert dense.index.tolist() == [[-1] * width] * 2


def test_scores_have_two_axes() -> None:
    assert torch.equal(targets.two_axes(Z[:, 0]), Z[:, :1])
    assert targets.two_axes(Z) is Z
    with pytest.raises(TargetError, match=r"the target function returned a float, expected a tensor"):
        targets.two_axes(1.0)
