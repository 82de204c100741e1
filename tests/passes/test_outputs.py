"""From what a model returns to logits."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hirescam import OutputError
from hirescam.passes.outputs import check_finite, logits_of

Z = torch.tensor([[1.0, 4.0, 2.0, -3.0], [0.5, -1.0, 2.5, 2.0]], dtype=torch.float64)

FOUND = [
    (Z, None),
    ((Z,), None),
    ([Z], None),
    ({"only": Z}, None),
    ({"logits": Z, "out": Z + 1, "x": Z + 2}, None),
    ({"x": Z + 1, "out": Z}, None),
    (SimpleNamespace(logits=Z, x=Z + 1), None),
    ((Z + 1, Z), 1),
    ((Z + 1, Z), -1),
    ({"a": Z + 1, "b": Z}, "b"),
    ({0: Z}, 0),
    (SimpleNamespace(a=Z, logits=Z + 1), "a"),
    ({"a": [Z + 1, Z]}, lambda out: out["a"][1]),
]


@pytest.mark.parametrize(("output", "selector"), FOUND, ids=range(len(FOUND)))
def test_logits_are_found(output: Any, selector: Any) -> None:
    assert logits_of(output, selector, 2) is Z


def test_one_score_per_image_gets_an_axis() -> None:
    assert torch.equal(logits_of(Z[:, 0], None, 2), Z[:, :1])
    dense = torch.zeros(2, 3, 4, 4)
    assert logits_of(dense, None, 2) is dense


@pytest.mark.parametrize(
    ("output", "selector", "message"),
    [
        ((Z, Z), None, r"the model returned a tuple of 2 entries, .* Explainer\(model, output=0\)"),
        ([], None, "the model returned a list of 0 entries"),
        ({"b": Z, "a": Z}, None, r"the model returned a dict with the keys \['a', 'b'\]"),
        ({"logits": 3, "a": 1}, None, r"a dict with the keys \['a', 'logits'\]"),
        (SimpleNamespace(logits=3), None, "the model returned a SimpleNamespace"),
        (None, None, "the model returned a NoneType"),
        (Z, lambda out: [out], "the model returned a Tensor, which is not one tensor of scores"),
        ((Z,), 1, "output=1 does not exist .* a tuple of 1 entries"),
        ({"a": Z}, "b", r"output='b' does not exist .* keys \['a'\]"),
        (SimpleNamespace(a=Z), "b", "output='b' does not exist .* a SimpleNamespace"),
        (3, 0, "output=0 does not exist .* a int"),
        (Z[0], None, r"output has shape \(4,\) for 2 image\(s\)"),
        (torch.tensor(1.0), None, r"output has shape \(\) for 2"),
        (Z[:1], None, r"output has shape \(1, 4\) for 2 image\(s\), expected \(b, classes\)"),
        (Z.argmax(1), None, "output is torch.int64, expected float scores"),
    ],
)
def test_outputs_that_cannot_be_are_refused(output: Any, selector: Any, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        logits_of(output, selector, 2)


def test_scores_must_be_finite() -> None:
    check_finite(Z)
    for value in (torch.nan, torch.inf):
        broken = Z.clone()
        broken[1, 2] = value
        with pytest.raises(OutputError, match=r"output for images\[1\] is NaN or infinite"):
            check_finite(broken)
