"""A finished pass and its traces: gradients, and the ways to score something else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hirescam import LayerError, OutputError, TargetError
from hirescam.passes import head, trace
from hirescam.passes.layout import simple
from hirescam.passes.targets import AllClasses, Classes, Contrast, Finer, TopK
from hirescam.passes.trace import Wish, forward, widen
from passes.made import call, close, laid_out, run, site
from toys import (
    CLASSES,
    After,
    Branching,
    FlattenNet,
    NormNet,
    PooledNet,
    SegNet,
    TwoLayerNet,
    images,
    ready,
)

GRID = simple((2, 6, 8, 8), 1)


def rest(model: TwoLayerNet, activations: Tensor) -> Tensor:
    return model.head(activations)


def brute_force(model: TwoLayerNet, activations: Tensor, classes: list[int]) -> Tensor:
    """Gradients ``(b, t, k, h, w)``, one class at a time."""
    leaf = activations.detach().clone().requires_grad_()
    rows = [torch.autograd.grad(rest(model, leaf)[:, label].sum(), leaf)[0] for label in classes]
    return torch.stack(rows, 1)


# What a trace holds ---------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_a_trace_holds_what_one_pass_showed(batch: int) -> None:
    model, x = ready(TwoLayerNet()), images(batch)
    traced = run(model, x, target=Classes(3, 0)).trace()
    activations = model.features(x).detach()
    close(traced.activations, activations)
    close(traced.output, activations)
    close(traced.gradients, brute_force(model, activations, [3, 0]))
    close(traced.logits, model(x).detach())
    close(traced.score, model(x).detach()[:, [3, 0]])
    assert traced.index.tolist() == [[3, 0]] * batch
    assert traced.images.data_ptr() == x.data_ptr()
    assert (traced.head_replayed, traced.held) == (True, False)
    assert traced.layout.space == (8, 8)
    tensors = (traced.activations, traced.gradients, traced.logits, traced.score, traced.output)
    assert not any(tensor.requires_grad for tensor in tensors)


def test_a_part_of_the_scores() -> None:
    model, x = ready(TwoLayerNet()), images(2)
    finished = run(model, x, target=AllClasses())
    whole, part = finished.trace(), finished.trace(slice(1, 3))
    for name in ("gradients", "score", "index"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[:, 1:3])
    others = torch.stack([whole.activations / 2, whole.activations * 0])
    close(part.rescore(others), whole.rescore(others)[..., 1:3])
    close(part.regrade(others[0]), whole.regrade(others[0])[:, 1:3])
    close(part.score_images(x[None]), whole.score_images(x[None])[..., 1:3])
    assert torch.equal(part.retrace(x + 1).index, whole.index[:, 1:3])
    directions = torch.randn_like(part.gradients)
    assert part.curvature(directions).shape == part.gradients.shape


def test_channels_may_be_last() -> None:
    class Last(FlattenNet):
        def __init__(self) -> None:
            super().__init__()
            self.turn = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            turned = self.turn(self.features(x).permute(0, 2, 3, 1))
            return self.head(turned.permute(0, 3, 1, 2).flatten(1))

    model = ready(Last())
    model.features[0] = nn.Conv2d(2, 6, 3, padding=1).double()
    model.head = nn.Linear(6 * 64, 5).double()
    x = images(2)
    site_ = site(model, "turn", layout=simple((2, 8, 8, 6), 3))
    traced = forward(site_, call(x), Wish(1)).trace()
    close(traced.activations, model.features(x).detach())
    close(traced.gradients[:, 0], model.head.weight[1].reshape(6, 8, 8).detach().expand(2, -1, -1, -1))
    close(traced.rescore(traced.activations[None] / 2)[0], run_rest(model, traced.activations / 2, 1))
    close(traced.output, traced.activations.permute(0, 2, 3, 1))


def run_rest(model: nn.Module, activations: Tensor, label: int) -> Tensor:
    return model.head(activations.flatten(1))[:, [label]].detach()


def test_half_precision_carries_activations_and_not_sums() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        finished = run(ready(FlattenNet(), dtype), images(2, dtype=dtype), target=1)
        traced = finished.trace()
        wide = (traced.activations, traced.gradients, traced.score)
        assert {tensor.dtype for tensor in wide} == {torch.float32}
        assert traced.logits.dtype == traced.output.dtype == dtype
        assert traced.rescore(traced.activations[None]).dtype == torch.float32
    assert widen(torch.ones(1).double()).dtype == torch.float64
    assert widen(torch.ones(1)).dtype == torch.float32


def test_differentiable_keeps_everything_on_the_tape() -> None:
    model, x = ready(TwoLayerNet()), images(2)
    traced = run(model, x, target=1, differentiable=True).trace()
    for tensor in (traced.activations, traced.gradients, traced.score, traced.logits):
        assert torch.autograd.grad(tensor.sum(), model.parameters(), retain_graph=True, allow_unused=True)
        assert tensor.requires_grad
    assert not traced.output.requires_grad


# Scoring something else -----------------------------------------------------------------------


def test_other_activations_are_scored_by_the_head_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = ready(TwoLayerNet()), images(2)
    traced = run(model, x, target=[1, 4]).trace()
    others = torch.stack([traced.activations * factor for factor in (1, 0.5, 0, -3)])
    monkeypatch.setattr(trace, "run_from", None)
    got = traced.rescore(others)
    with torch.no_grad():
        expected = torch.stack([rest(model, item).gather(1, traced.index) for item in others])
    close(got, expected)
    close(got[0], traced.score)
    assert not got.requires_grad


def test_where_the_list_of_calls_is_blind_the_whole_model_scores() -> None:
    model, x = ready(Branching(threshold=0.2)), images(2)
    traced = run(model, x, target=1).trace()
    assert not traced.head_replayed
    others = torch.stack([traced.activations, traced.activations * 0])
    with torch.no_grad():
        wanted = [(model.one if item.mean() > 0.2 else model.two)(item.flatten(1))[:, [1]] for item in others]
    assert float(traced.activations.mean()) > 0.2
    close(traced.rescore(others), torch.stack(wanted))
    with pytest.raises(LayerError, match="the head of layer='features' looks at values"):
        traced.regrade(traced.activations)


def test_the_order_of_classes_stays_when_others_would_be_nearer() -> None:
    model, x = ready(TwoLayerNet()), images(2)
    for target in (None, TopK(2), Finer()):
        finished = run(model, x, target=target)
        traced = finished.trace()
        others = -2 * traced.activations
        with torch.no_grad():
            logits = rest(model, others)
        close(traced.rescore(others[None])[0], finished.bound.score(logits))
        close(traced.retrace(-x).score, finished.bound.score(model(-x)).detach())


def test_many_activations_come_in_blocks_and_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = ready(TwoLayerNet()), images(2)
    seen: list[tuple[int, int]] = []
    finished = forward(
        site(model, progress=lambda done, total: seen.append((done, total)), layout=GRID), call(x), Wish(1)
    )
    others = torch.rand(5, 2, 6, 8, 8, dtype=torch.float64)
    expected = finished.trace().rescore(others)
    assert seen == [(5, 5)]
    seen.clear()
    monkeypatch.setattr(trace, "_RESCORE_BYTES", 2 * finished.leaf.nbytes)
    close(finished.trace().rescore(others), expected)
    assert seen == [(2, 5), (4, 5), (5, 5)]
    seen.clear()
    finished.trace().rescore(others[:1])
    assert seen == []


def test_gradients_at_other_activations() -> None:
    model, x = ready(TwoLayerNet()), images(2)
    traced = run(model, x, target=Classes(0, 2)).trace()
    others = traced.activations.flip(-1) - 0.3
    close(traced.regrade(others), brute_force(model, others, [0, 2]))
    close(traced.regrade(traced.activations), traced.gradients)


def test_other_images_are_scored_by_the_whole_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = ready(TwoLayerNet()), images(2)
    finished = run(model, x, target=[3, 1])
    others = torch.stack([x, x * 2, x - 1])
    with torch.no_grad():
        expected = torch.stack([model(item).gather(1, finished.bound.index) for item in others])
    close(finished.trace().score_images(others), expected)
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    monkeypatch.setattr(trace, "_IMAGES_TOGETHER", 5)
    close(finished.trace().score_images(others), expected)
    assert sizes == [4, 2]
    monkeypatch.setattr(trace, "_IMAGES_TOGETHER", 1)
    close(finished.trace().score_images(others), expected)
    assert sizes == [4, 2, 2, 2, 2]


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = TwoLayerNet()

    def forward(self, picture: Tensor, row: Tensor) -> Tensor:
        return self.net(picture) + row


def test_beside_other_inputs_images_go_one_batch_at_a_time() -> None:
    model, x = ready(TwoInputs()), images(2)
    row = torch.randn(2, CLASSES, dtype=torch.float64)
    traced = run(model, (x, row), "net.features", target=1).trace()
    others = torch.stack([x, -x])
    with torch.no_grad():
        close(traced.score_images(others), torch.stack([model(one, row)[:, [1]] for one in others]))
    close(traced.retrace(-x).logits, model(-x, row).detach())


def test_a_trace_of_other_images_is_of_the_same_scores() -> None:
    model, x = ready(TwoLayerNet()), images(2)
    traced = run(model, x, target=None).trace()
    again = traced.retrace(x.flip(-1))
    assert torch.equal(again.index, traced.index)
    wanted = run(model, x.flip(-1), target=traced.index).trace()
    close(again.gradients, wanted.gradients)
    contrast = run(model, x, target=Contrast(1, 2)).trace().retrace(-x)
    close(contrast.score, run(model, -x, target=Contrast(1, 2)).trace().score)


def test_retracing_keeps_divisors_held() -> None:
    model, x = ready(NormNet()), images(2)
    traced = run(model, x, target=1, hold=True).trace()
    assert traced.held
    assert traced.retrace(-x).held


def test_curvature_is_the_hessian_times_a_direction() -> None:
    model, x = ready(After(lambda a: a.sin() * a.mean())), images(2)
    traced = run(model, x, "conv", target=Classes(0, 3)).trace()
    directions = torch.randn_like(traced.gradients)
    got = traced.curvature(directions)

    def score(activations: Tensor, label: int) -> Tensor:
        return model.head(model.op(activations).flatten(1))[:, label].sum()

    for t, label in enumerate((0, 3)):
        _, wanted = torch.autograd.functional.hvp(
            lambda a, label=label: score(a, label), traced.activations, directions[:, t]
        )
        close(got[:, t], wanted)


@pytest.mark.parametrize("net", [FlattenNet, PooledNet])
def test_an_affine_head_has_no_curvature(net: type) -> None:
    traced = run(ready(net()), images(2), target=1).trace()
    assert not traced.curvature(torch.ones_like(traced.gradients)).any()
    piecewise = run(ready(TwoLayerNet()), images(2), target=1).trace()
    assert not piecewise.curvature(torch.ones_like(piecewise.gradients)).any()


# The pass itself ------------------------------------------------------------------------------


def test_scores_are_cut_so_that_gradients_stay_under_a_bound() -> None:
    finished = run(ready(FlattenNet()), images(2), target=AllClasses())
    one = finished.leaf.nbytes

    def cut(most: int) -> list[tuple[int, int]]:
        return [(part.start, part.stop) for part in finished.chunks(most)]

    assert cut(2 * one) == [(0, 2), (2, 4), (4, 5)]
    assert cut(2 * one - 1) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert cut(0) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert [(part.start, part.stop) for part in finished.chunks()] == [(0, 5)]


def test_the_jacobian_is_that_of_the_first_image() -> None:
    model, x = ready(TwoLayerNet()), images(3)
    finished = run(model, x, target=0)
    with torch.no_grad():
        got = finished.jacobian([4, 1])
    close(got, brute_force(model, model.features(x), [4, 1])[0])


def test_a_pass_answers_other_classes_without_another_pass() -> None:
    model, x = ready(TwoLayerNet()), images(2)
    finished = run(model, x, target=1)
    for target in (None, 3, TopK(2), Contrast(1, 2), Finer()):
        assert finished.answers(Wish(target))
        got = finished.about(Wish(target)).trace()
        wanted = run(model, x, target=target).trace()
        close(got.gradients, wanted.gradients)
        close(got.score, wanted.score)
        assert torch.equal(got.index, wanted.index)


def test_what_a_pass_does_not_answer() -> None:
    model, x = ready(NormNet()), images(2)
    finished = run(model, x, target=1)

    def score(output: Tensor) -> Tensor:
        return output[:, 0]

    assert not finished.answers(Wish(1, hold=True))
    assert not finished.answers(Wish(1, differentiable=True))
    assert not finished.answers(Wish(score))
    of_function = run(model, x, target=score)
    assert of_function.answers(Wish(score))
    assert not of_function.answers(Wish(lambda output: output[:, 0]))
    assert of_function.answers(Wish(2))
    held = run(model, x, target=1, hold=True)
    assert held.answers(Wish(2, hold=True))
    assert not held.answers(Wish(2))
    assert not run(model, x, target=1, differentiable=True).answers(Wish(1))


def test_locations_are_connected_whatever_the_weights() -> None:
    model, x = ready(FlattenNet()), images(2)
    with torch.no_grad():
        model.head.weight.view(5, 6, 64)[:, :, 7] = 0
    finished = run(model, x, target=1)
    assert bool(finished.connected(finished.trace().gradients).all())

    class Crop(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.pad(self.features(x)[..., :4], (0, 4)).flatten(1))

    finished = run(ready(Crop()), x, target=1)
    found = finished.connected(finished.trace().gradients)
    assert found[:, :4].all()
    assert not found[:, 4:].any()


def test_one_backward_pass_serves_all_targets_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    batched: list[bool] = []
    original = torch.autograd.grad

    def noted(*args: Any, **kwargs: Any) -> Any:
        batched.append(kwargs["is_grads_batched"])
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", noted)
    finished = run(ready(FlattenNet()), images(2), target=AllClasses())
    finished.trace()
    assert batched == [True]
    batched.clear()
    finished.trace(slice(0, 1))
    assert batched == [False]


def test_ops_that_take_no_batch_of_gradients_go_one_by_one() -> None:
    class Stubborn(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            if torch._C._functorch.is_batchedtensor(gradient):
                raise RuntimeError("one at a time")
            return gradient * 2

    model = ready(After(Stubborn.apply))
    plain = ready(After(lambda a: a * 2))
    plain.load_state_dict(model.state_dict())
    x = images(2)
    got = run(model, x, "conv", target=AllClasses()).trace().gradients
    close(got, run(plain, x, "conv", target=AllClasses()).trace().gradients)


# Functions as targets -------------------------------------------------------------------------


def test_what_a_target_function_does_is_watched() -> None:
    model, x = ready(FlattenNet()), images(2)
    clean = run(model, x, target=lambda out: out[:, 0] * 2)
    assert clean.cut.watch.events == []
    detached = run(model, x, target=lambda out: out[:, 0] * out.detach()[:, 1])
    assert [event.name for event in detached.cut.watch.events] == ["detach()"]
    lost = run(model, x, target=lambda out: out[:, 0].detach() + 0 * out[:, 0])
    assert lost.cut.watch.events
    close(detached.trace().score[:, 0], (model(x)[:, 0] * model(x)[:, 1]).detach())
    assert detached.bound.index.tolist() == [[-1], [-1]]


def test_an_output_that_is_not_what_it_was_is_an_event() -> None:
    class Exchanged(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            with torch._C.DisableTorchFunction():
                out.data = torch.ones_like(out)
            return out

    def first(out: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            score = out[:, 0] * 1
            score.data = torch.ones_like(score)
        return score

    model, x = ready(FlattenNet()), images(2)
    assert run(model, x).cut.watch.events == []
    assert run(model, x, target=first).cut.watch.events[0].lost
    assert run(ready(Exchanged()), x).cut.watch.events[0].lost


# Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "layer", "target", "error", "message"),
    [
        (None, "features", 9, TargetError, "target names class 9"),
        (None, "nothing", 1, LayerError, "layer='nothing' was not called"),
        ("unused", "unused", 1, LayerError, "the score does not depend on layer='unused'"),
        ("detached", "features", 1, LayerError, "the score does not depend on layer='features'"),
        ("overflow", "features", 1, OutputError, r"output for images\[0\] is NaN or infinite"),
        ("regrouped", "turn", 1, LayerError, r"layer='turn' gives shape \(4, 6, 8, 8\) for images"),
    ],
)
def test_what_cannot_be_explained_is_told(
    change: str | None, layer: str, target: int, error: type[Exception], message: str
) -> None:
    class Changed(FlattenNet):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.turn, self.nothing = nn.Conv2d(2, 6, 1), nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            features = self.features(x)
            if change == "unused":
                self.unused(x)
            if change == "detached":
                return self.head(features.detach().flatten(1)) + 0 * self.head.weight.sum()
            if change == "regrouped":
                return self.head(self.turn(torch.cat([features, features]))[:2].flatten(1))
            if change == "overflow":
                features = features / 0 - features / 0
            return self.head(features.flatten(1))

    with pytest.raises(error, match=message):
        run(ready(Changed()), images(2), layer, target).trace()


def test_a_layer_that_cannot_be_read_is_told() -> None:
    model, x = ready(FlattenNet()), images(2)
    for layout in (None, simple((2, 6, 4, 16), 1), simple((2, 384), 1)):
        with pytest.raises(
            LayerError,
            match=r"layer='features' gives shape \(2, 6, 8, 8\) for images of shape \(2, 2, 8, 8\)",
        ):
            forward(site(model, layout=layout), call(x), Wish(1))


def test_a_score_that_does_not_depend_on_the_layer_is_told_when_it_is_differentiated() -> None:
    model, x = ready(FlattenNet()), images(2)
    finished = run(model, x, target=1)
    stranger = finished.about(Wish(1))
    object.__setattr__(stranger, "score", (model.head.bias[None, :1] * 2).expand(2, 1))
    with pytest.raises(LayerError, match="the score does not depend on layer='features'"):
        stranger.trace()


def test_a_segmentation_is_scored_by_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    from hirescam import Region

    model, x = ready(SegNet()), images(2)
    mask = (torch.rand(8, 8) > 0.5).double()
    traced = forward(laid_out(site(model, output="out"), call(x)), call(x), Wish(Region(2, mask))).trace()
    score: Callable[[Tensor], Tensor] = lambda a: (  # noqa: E731
        (F.interpolate(model.classifier(a), (8, 8), mode="bilinear")[:, 2] * mask).sum((1, 2))
    )
    leaf = traced.activations.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(score(leaf).sum(), leaf)
    close(traced.gradients[:, 0], wanted)
    assert traced.logits.shape == (2, 5, 8, 8)
    assert head.batched is trace.batched
