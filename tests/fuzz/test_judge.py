"""The judge itself: true verdicts pass, and every kind of false one is found."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fuzz.asking import TARGETS
from fuzz.grammar import (
    Affine,
    Around,
    Branch,
    Count,
    Coupled,
    Curved,
    Hooked,
    Launder,
    Meddled,
    Normalise,
    Opaque,
    Pick,
    Piecewise,
    Program,
    Random,
    Readout,
    Stateful,
)
from fuzz.judge import Snapshot, violations
from fuzz.node import Step
from fuzz.truth import Subject, Truth, affine

FLAT = Readout("flatten")


class Said(SimpleNamespace):
    """A certificate that claims something."""

    guarantee: str
    text: str

    def __str__(self) -> str:
        return self.text


def said(guarantee: str, text: str = "") -> Said:
    return Said(guarantee=guarantee, text=text)


def truth_of(*steps: Step, target: str = "one", **fields: Any) -> Truth:
    program = Program(steps=steps, target=target, **fields)
    return Truth(Subject(program.build(), program.images(), TARGETS[target]))


def answer(truth: Truth, raw: Tensor, **other: Tensor) -> SimpleNamespace:
    index = truth.subject.ask.index
    target = torch.full_like(truth.scores, -1, dtype=torch.int64) if index is None else index(truth.logits)
    true = {"raw": raw, "logits": truth.logits, "score": truth.scores, "target": target}
    return SimpleNamespace(**true | other)


def gradient_map(truth: Truth) -> Tensor:
    """Gradient times activation, by autograd on the real model."""
    leaf = truth.activations.clone().requires_grad_()
    handle = truth.subject.model.layer.register_forward_hook(lambda module, inputs, output: leaf.clone())
    with torch.enable_grad():
        scores = truth.score(truth.subject.model(truth.subject.images)).sum(0)
        maps = [torch.autograd.grad(score, leaf, retain_graph=True)[0] * leaf.detach() for score in scores]
    handle.remove()
    return torch.stack(maps, 1).sum(2)


AFFINE: list[tuple[Step, ...]] = [
    (FLAT,),
    (Affine("conv"), Affine("batch norm"), Readout("mean")),
    (Hooked("a backward hook that watches"), FLAT),
    (Piecewise("clamp far away"), FLAT),
]


@pytest.mark.parametrize("steps", AFFINE, ids=str)
@pytest.mark.parametrize("target", ["one", "predicted", "all", "contrast", "finer", "weighted"])
def test_a_true_exact_passes(steps: tuple[Step, ...], target: str) -> None:
    truth = truth_of(*steps, target=target)
    result = answer(truth, gradient_map(truth))
    assert violations(truth, said("exact", "a constant of the model"), result) == []
    assert affine(truth)


@pytest.mark.parametrize("ndim", [1, 3])
@pytest.mark.parametrize("ends", ["pool", "relu", "conv"])
def test_a_true_exact_passes_on_signals_and_volumes(ndim: int, ends: str) -> None:
    truth = truth_of(FLAT, ndim=ndim, ends=ends, batch=3, target="all")
    assert violations(truth, said("exact"), answer(truth, gradient_map(truth))) == []


NOT_EXACT: list[tuple[Step, ...]] = [
    (Piecewise("relu"), FLAT),
    (Piecewise("maximum"), FLAT),
    (Curved("silu"), FLAT),
    (Curved("truncating division"), FLAT),
    (Curved("batch statistics"), FLAT),
    (Normalise("nn.LayerNorm"), FLAT),
    (Launder(), FLAT),
    (Launder(hidden="detach"), FLAT),
    (Launder(value="pattern above", computed="inference_mode"), FLAT),
    (Branch(), FLAT),
    (Count(), FLAT),
    (Count(count="numel", use="slice"), FLAT),
    (Pick("crop around the peak"), FLAT),
    (Pick("expert"), FLAT),
    (Opaque("script with a branch"), FLAT),
    (Opaque("gate in a thread"), FLAT),
    (Around("add the image's mean"), FLAT),
    (Around("multiply by a number of the image"), FLAT),
    (Around("add an early feature, detached"), FLAT),
    (Coupled("less the batch's mean"), FLAT),
    (Coupled("mean of pairs"), FLAT),
    (Coupled("divide by the size of the batch"), FLAT),
    (Random("noise"), FLAT),
    (Random("dropout that is on"), FLAT),
    (Stateful("use the count of calls"), FLAT),
    (Stateful("use the average of earlier calls"), FLAT),
    (FLAT, Curved("softmax")),
]


@pytest.mark.parametrize("steps", NOT_EXACT, ids=str)
def test_a_false_exact_is_found(steps: tuple[Step, ...]) -> None:
    truth = truth_of(*steps)
    found = violations(truth, said("exact"))
    assert [kind.split(":")[0] for kind in found] == ["false exact"]
    assert not affine(truth)


@pytest.mark.parametrize("name", ["use the count of calls", "use the average of earlier calls"])
def test_a_layer_after_what_changes_from_call_to_call_may_be_exact(name: str) -> None:
    """What the score makes of that layer is the same in every call; its activations are not."""
    steps = (Stateful(name), FLAT)
    there = replace(truth_of(*steps).subject, layer="steps.0")
    assert violations(Truth(there), said("exact")) == []
    assert Truth(there).unsteady


@pytest.mark.parametrize("target", ["rescaled", "squared"])
def test_a_false_exact_by_the_target_is_found(target: str) -> None:
    assert violations(truth_of(FLAT, target=target), said("exact"))


def test_locations_that_do_not_add_up_are_a_false_exact() -> None:
    """A router that takes the same way for all mixtures: only removing locations shows it."""
    truth = truth_of(Pick("expert"), FLAT)
    assert truth.curved == ""
    assert "one by one" in violations(truth, said("exact"))[0]


WRONG = {
    "one location": lambda raw: raw.index_put(
        (torch.tensor(1), torch.tensor(0), *torch.tensor([2, 3])), raw.amax()
    ),
    "scaled": lambda raw: raw * 1.01,
    "another image's": lambda raw: raw.flip(0),
    "moved": lambda raw: raw.roll(1, -1),
    "averaged": lambda raw: raw.mean((2, 3), keepdim=True).expand_as(raw),
    "not a number": lambda raw: raw * torch.tensor(float("nan")),
    "another shape": lambda raw: raw[..., 1:],
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("guarantee", ["exact", "conditional"])
def test_a_wrong_map_is_found(name: str, guarantee: str) -> None:
    truth = truth_of(FLAT)
    found = violations(truth, said(guarantee), answer(truth, WRONG[name](gradient_map(truth))))
    assert [kind.split(":")[0] for kind in found] == ["wrong map"]


@pytest.mark.parametrize("op", ["a hook that doubles gradients", "a hook that clips gradients"])
@pytest.mark.parametrize("guarantee", ["exact", "local"])
def test_a_wrong_gradient_is_found(op: str, guarantee: str) -> None:
    truth = truth_of(Meddled(op), FLAT)
    found = violations(truth, said(guarantee), answer(truth, gradient_map(truth)))
    assert [kind.split(":")[0] for kind in found] == ["wrong map"]


def test_maps_of_other_rules_are_not_held_against_the_verdict() -> None:
    truth = truth_of(FLAT)
    result = answer(truth, WRONG["averaged"](gradient_map(truth)))
    assert violations(truth, said("exact"), result, "gradcam") == []


def held_map(truth: Truth) -> Tensor:
    return truth.removals(held=True)[0]


@pytest.mark.parametrize("op", ["nn.LayerNorm", "group_norm", "rms_norm", "normalize", "instance_norm"])
def test_a_true_conditional_passes(op: str) -> None:
    truth = truth_of(Normalise(op), FLAT)
    text = "a constant of the model"
    assert violations(truth, said("conditional", text), answer(truth, held_map(truth))) == []
    assert not affine(truth)


def test_a_conditional_map_is_that_of_the_held_head() -> None:
    truth = truth_of(Normalise("layer_norm of the map"), FLAT)
    found = violations(truth, said("conditional"), answer(truth, gradient_map(truth)))
    assert [kind.split(":")[0] for kind in found] == ["wrong map"]


@pytest.mark.parametrize(
    "step", [Launder(value="gate", hidden="detach"), Piecewise("relu"), Coupled("add the next image")]
)
def test_a_false_conditional_is_found(step: Step) -> None:
    found = violations(truth_of(Normalise("layer_norm of channels"), step, FLAT), said("conditional"))
    assert [kind.split(":")[0] for kind in found] == ["false conditional"]


@pytest.mark.parametrize(
    "steps", [(Normalise("bias, then layer_norm"), FLAT), (FLAT, Normalise("layer_norm"))]
)
def test_an_offset_that_is_no_constant_of_the_model_is_found(steps: tuple[Step, ...]) -> None:
    truth = truth_of(*steps)
    result = answer(truth, held_map(truth))
    assert violations(truth, said("conditional", "of this image"), result) == []
    found = violations(truth, said("conditional", "a constant of the model"), result)
    assert [kind.split(":")[0] for kind in found] == ["wrong offset claim"]


def test_an_offset_that_depends_on_another_input_is_found() -> None:
    program = Program(steps=(FLAT,))
    model, shift = program.build(), torch.tensor([[0.5, 1.5, 2.5, 3.5]], dtype=torch.float64)
    subject = Subject(
        model,
        program.images(),
        TARGETS["one"],
        call=lambda model, images: model(images, extra=shift),
        elsewhere=lambda model, images: model(images, extra=2 * shift),
    )
    found = violations(Truth(subject), said("exact", "a constant of the model"))
    assert [kind.split(":")[0] for kind in found] == ["wrong offset claim"]
    assert violations(Truth(subject), said("exact", "for these other inputs")) == []


LOCAL = ["relu", "leaky_relu", "max_pool", "sort", "relu in place", "times a comparison", "abs"]


@pytest.mark.parametrize("op", LOCAL)
def test_a_true_local_passes(op: str) -> None:
    truth = truth_of(Piecewise(op), FLAT, target="all")
    assert violations(truth, said("local"), answer(truth, gradient_map(truth))) == []


NOT_LOCAL: list[tuple[Step, ...]] = [
    (Curved("silu"), FLAT),
    (Launder(), FLAT),
    (Piecewise("relu"), Around("add the image's mean"), FLAT),
    (Piecewise("relu"), Random("noise"), FLAT),
    (Piecewise("relu"), Coupled("less the batch's mean"), FLAT),
    (Piecewise("relu"), FLAT, Curved("softmax")),
]


@pytest.mark.parametrize("steps", NOT_LOCAL, ids=str)
def test_a_false_local_is_found(steps: tuple[Step, ...]) -> None:
    found = violations(truth_of(*steps), said("local"))
    assert [kind.split(":")[0] for kind in found] == ["false local"]


def test_a_local_map_that_misses_a_part_of_the_slope_is_found() -> None:
    truth = truth_of(Piecewise("relu"), Opaque("detached"), FLAT)
    found = violations(truth, said("local"), answer(truth, gradient_map(truth)))
    assert [kind.split(":")[0] for kind in found] == ["wrong map"]


def test_nothing_is_claimed_by_none() -> None:
    truth = truth_of(Curved("silu"), FLAT)
    assert violations(truth, said("none"), answer(truth, gradient_map(truth))) == []


@pytest.mark.parametrize("name", ["logits", "score", "target"])
def test_wrong_numbers_are_found(name: str) -> None:
    truth = truth_of(FLAT)
    true = {"logits": truth.logits, "score": truth.scores, "target": torch.ones(2, 1, dtype=torch.int64)}
    wrong = {name: true[name].roll(1, -1) + 1}
    if name == "target":
        wrong["score"] = truth.logits[:, 2:3]
    found = violations(truth, said("none"), answer(truth, gradient_map(truth), **wrong))
    assert f"wrong {name}" in [kind.split(":")[0] for kind in found]


def test_removing_from_all_images_at_once_gives_way_to_one_at_a_time() -> None:
    truth = truth_of(Coupled("add the next image"), FLAT, batch=3)
    costs, totals = truth.removals(held=False)
    for image in range(3):
        changed = truth.activations.clone()
        changed[image] = 0
        assert torch.allclose(totals[image], (truth.scores - truth.plain(changed))[image])
        for place in range(16):
            changed = truth.activations.clone()
            changed[image].flatten(1)[:, place] = 0
            cost = (truth.scores - truth.plain(changed))[image]
            assert torch.allclose(costs[image].flatten(1)[:, place], cost)


def test_a_head_that_torch_cannot_differentiate_is_no_refusal() -> None:
    assert truth_of(Affine("scale"), FLAT).without_gradient == ""
    assert "inference" in truth_of(Launder(computed="inference_mode"), FLAT).without_gradient.lower()


def change_buffer(model: torch.nn.Module) -> None:
    model.get_submodule("steps.0").register_buffer("slot", torch.ones(1))


def change_grad(model: torch.nn.Module) -> None:
    next(model.parameters()).grad = torch.zeros_like(next(model.parameters()))


LEFT = {
    "hooks": lambda model: model.layer.register_forward_hook(print),
    "mode": lambda model: model.layer.train(),
    "weights": lambda model: next(model.parameters()).data.mul_(2),
    "requires_grad": lambda model: next(model.parameters()).requires_grad_(False),
    "gradient": change_grad,
    "attribute": lambda model: setattr(model.layer, "left", 1),
    "buffer": change_buffer,
    "random numbers": lambda model: torch.rand(1),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_behind_is_found(name: str) -> None:
    model = Program(steps=(FLAT,)).build()
    snapshot = Snapshot(model)
    assert snapshot.changes() == []
    LEFT[name](model)
    assert snapshot.changes()


def test_the_judge_leaves_nothing_behind() -> None:
    program = Program(steps=(Affine("batch norm"), Normalise("nn.LayerNorm"), FLAT))
    model = program.build()
    snapshot = Snapshot(model)
    truth = Truth(Subject(model, program.images(), TARGETS["one"]))
    violations(truth, said("conditional", "a constant of the model"), answer(truth, held_map(truth)))
    violations(truth, said("local"))
    assert truth.without_gradient == ""
    assert snapshot.changes() == []
