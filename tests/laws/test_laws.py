"""Algebraic laws over random heads and shapes, in float64."""

from collections.abc import Callable
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import hirescam
from hirescam.passes.trace import Trace
from hirescam.rulebook.gradient import gradcam
from hirescam.rulebook.gradient import hirescam as hirescam_rule
from hirescam.rulebook.registry import get, rules

EXACT = 1e-10


class AffineHead(nn.Module):
    """Features as they are, then a random chain of affine ops and one linear layer."""

    def __init__(self, shape: tuple[int, ...], ops: list[str], classes: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.features = nn.Identity()
        self.ops = ops
        self.scale = torch.randn(shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            size = self._chain(torch.zeros(1, *shape, dtype=torch.float64)).shape[1]
        self.weight = torch.randn(classes, size, generator=generator, dtype=torch.float64)
        self.bias = torch.randn(classes, generator=generator, dtype=torch.float64)

    def _chain(self, x: Tensor) -> Tensor:
        for op in self.ops:
            if op == "scale":
                x = x * self.scale
            elif op == "shift":
                x = x + self.scale
            elif op == "flip":
                x = x.flip(-1)
            elif op == "roll":
                x = x.roll(1, -1)
            elif op == "residual":
                x = x + x * self.scale
            elif op == "split":
                a, b = x.split([1, x.shape[1] - 1], dim=1) if x.shape[1] > 1 else (x, x)
                x = torch.cat([b, a], dim=1)[:, : x.shape[1]]
        return x.mean(tuple(range(2, x.ndim))) if "pool" in self.ops else x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x * 1.0)
        return self._chain(features) @ self.weight.T + self.bias


shapes = st.integers(1, 3).flatmap(lambda ndim: st.tuples(st.integers(1, 4), *[st.integers(2, 4)] * ndim))
chains = st.lists(
    st.sampled_from(["scale", "shift", "flip", "roll", "residual", "split", "pool"]), max_size=4
)


@given(shape=shapes, ops=chains, seed=st.integers(0, 2**31), batch=st.integers(1, 3))
def test_an_affine_head_obeys_both_laws(
    shape: tuple[int, ...], ops: list[str], seed: int, batch: int
) -> None:
    model = AffineHead(shape, ops, 3, seed).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    images = torch.randn(batch, *shape, generator=generator, dtype=torch.float64)

    result = hirescam.explain(model, images, target=1, layer="features")

    assert result.certificate.guarantee == "exact", str(result.certificate)
    zero = model(torch.zeros_like(images))[:, 1]
    total = (result.score[:, 0] - zero).abs().clamp_min(1e-3)
    assert ((result.raw.flatten(2).sum(-1)[:, 0] - (result.score[:, 0] - zero)).abs() / total).max() < EXACT
    flat = images.flatten(2)
    for s in range(flat.shape[2]):
        without = flat.clone()
        without[:, :, s] = 0
        lost = result.score[:, 0] - model(without.reshape(images.shape))[:, 1]
        size = result.raw.abs().max().clamp_min(1e-3)
        assert ((result.raw.flatten(2)[:, 0, s] - lost).abs() / size).max() < EXACT


def fake_trace(gradients: Tensor, activations: Tensor) -> Trace:
    """The trace of a linear head after a curved layer: images go through asinh."""
    from hirescam.passes.layout import simple

    def score(many: Tensor) -> Tensor:
        return torch.einsum("btk...,nbk...->nbt", gradients, many)

    return Trace(
        activations=activations,
        gradients=gradients,
        score=score(activations[None])[0],
        index=torch.zeros(gradients.shape[:2], dtype=torch.int64),
        logits=gradients.new_zeros(len(gradients), 3),
        layout=simple(tuple(activations.shape), 1),
        output=activations,
        rescore=score,
        regrade=lambda changed: gradients,
        head_replayed=True,
        held=False,
        precision=gradients.dtype,
        images=activations.sinh(),
        score_images=lambda many: score(many.asinh()),
        retrace=lambda images: fake_trace(gradients, images.asinh()),
        curvature=lambda directions: directions * 0,
    )


ALL = sorted(set(rules()) - {"cam"})
"""Every rule that takes any head; `cam` is a multiple of Grad-CAM where it is defined."""

QUICK = {
    "ss_cam": {"samples": 2},
    "is_cam": {"steps": 2},
    "shapley": {"samples": 2},
    "smooth_gradcam_pp": {"samples": 2},
    "fem": {"sigmas": 0.4},
    "group": {"groups": 2, "keep": 0.6},
}


def apply(name: str, gradients: Tensor, activations: Tensor) -> Tensor:
    rule = get(name).configure(QUICK.get(name, {}))
    return rule.function(fake_trace(gradients, activations))


Case = tuple[tuple[int, ...], int, int, int]
tensors = st.tuples(shapes, st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 2))


def draw(case: Case) -> tuple[Tensor, Tensor, torch.Generator]:
    shape, seed, batch, count = case
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(batch, *shape, generator=generator, dtype=torch.float64)
    gradients = torch.randn(batch, count, *shape, generator=generator, dtype=torch.float64)
    return gradients, activations, generator


def close(one: Tensor, other: Tensor) -> None:
    """Equal but for rounding; components of a matrix are as exact as the gap to the next one allows."""
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7 * (1 + float(other.abs().max())))


# --- each law is a function that compares two maps; it holds for some rules and fails for others ----------


def channel_order(name: str, case: Case) -> None:
    g, a, generator = draw(case)
    order = torch.randperm(a.shape[1], generator=generator)
    close(apply(name, g[:, :, order], a[:, order]), apply(name, g, a))


def place_order(name: str, case: Case) -> None:
    g, a, generator = draw(case)
    order = torch.randperm(a.shape[-1], generator=generator)
    close(apply(name, g[..., order], a[..., order]), apply(name, g, a)[..., order])


def neighbours(name: str, case: Case) -> None:
    g, a, _ = draw(case)
    close(torch.cat([apply(name, g[i : i + 1], a[i : i + 1]) for i in range(len(a))]), apply(name, g, a))


def one_target_at_a_time(name: str, case: Case) -> None:
    g, a, _ = draw(case)
    close(torch.cat([apply(name, g[:, t : t + 1], a) for t in range(g.shape[1])], dim=1), apply(name, g, a))


def scaled_score(name: str, case: Case) -> None:
    g, a, _ = draw(case)
    close(apply(name, 3.7 * g, a), 3.7 * apply(name, g, a))


def scaled_layer(name: str, case: Case) -> None:
    """Activations in other units, which leave the score and so change the gradients the other way."""
    g, a, _ = draw(case)
    close(apply(name, g / 3.7, 3.7 * a), apply(name, g, a))


def linear_in_the_gradient(name: str, case: Case) -> None:
    g, a, generator = draw(case)
    other = torch.randn(g.shape, generator=generator, dtype=torch.float64)
    close(apply(name, g - 1.3 * other, a), apply(name, g, a) - 1.3 * apply(name, other, a))


LINEAR = {"hirescam", "gradcam", "xgradcam", "shapleycam", "reciprocam", "removal", "shapley"}
MULTIPLIED = {"layercam", "abscam", "elementwise", "normgrad", "eigen_gradcam", "seg_eigencam", "group"}

PLUS_PLUS = {"gradcam_pp", "smooth_gradcam_pp"}

# What is said here is said of linear heads: there smooth_gradcam_pp sees no noise.
LAWS: dict[Callable[[str, Case], None], set[str]] = {
    channel_order: set(ALL) - {"random", "group"},
    place_order: set(ALL) - {"ss_cam"},
    neighbours: set(ALL),
    one_target_at_a_time: set(ALL),
    scaled_score: LINEAR | MULTIPLIED,
    scaled_layer: (LINEAR | MULTIPLIED | PLUS_PLUS) - {"group"},
    linear_in_the_gradient: LINEAR,
}


def pairs(holds: bool) -> list[object]:
    return [
        pytest.param(law, name, id=f"{law.__name__}-{name}")
        for law, names in LAWS.items()
        for name in ALL
        if (name in names) == holds
    ]


@pytest.mark.parametrize(("law", "name"), pairs(True))
@given(case=tensors)
@settings(max_examples=10)
def test_a_law_holds(law: Callable[[str, Case], None], name: str, case: Case) -> None:
    law(name, case)


def holds(law: Callable[[str, Case], None], name: str, case: Case) -> bool:
    try:
        law(name, case)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(("law", "name"), pairs(False))
def test_a_law_fails_where_it_is_not_claimed(law: Callable[[str, Case], None], name: str) -> None:
    """So the lists above are no shorter than they could be, and every check can fail."""
    assert not all(holds(law, name, ((4, 4, 4), seed, 2, 2)) for seed in range(5))


def test_noise_on_the_image_does_not_follow_a_permutation_of_space() -> None:
    """Behind a head with curvature smooth_gradcam_pp depends on where the noise falls."""
    g, a, _ = draw(((3, 4), 5, 1, 1))

    def curved(images: Tensor, scale: Tensor) -> Trace:
        known = fake_trace(scale * images.cos(), images.asinh())
        return replace(known, images=images, retrace=lambda other: curved(other, scale))

    rule = get("smooth_gradcam_pp").function
    images, order = a.sinh(), torch.tensor([2, 0, 3, 1])
    with pytest.raises(AssertionError, match="not close"):
        close(rule(curved(images[..., order], g[..., order])), rule(curved(images, g))[..., order])


def test_a_check_for_neighbours_can_fail() -> None:
    """No rule lets the images or targets of a batch meet; one that did would be seen."""
    _, a, _ = draw(((3, 2, 2), 1, 2, 2))
    with pytest.raises(AssertionError, match="not close"):
        close(a[:1].sum(1) / a[:1].max(), (a.sum(1) / a.max())[:1])


@given(case=tensors)
def test_bounds_between_rules(case: Case) -> None:
    g, a, _ = draw(case)
    ours, sizes = apply("hirescam", g, a), apply("normgrad", g, a)
    assert bool((apply("elementwise", g, a) >= ours - EXACT).all())
    assert bool((ours.abs() <= sizes + EXACT).all())
    close(apply("layercam", g.abs(), a), apply("hirescam", g.abs(), a))
    close(apply("layercam", -g.abs(), a), 0 * ours)


@given(case=tensors)
def test_a_linear_head_makes_one_rule_of_five(case: Case) -> None:
    g, a, _ = draw(case)
    for name in ("reciprocam", "removal", "shapley"):
        close(apply(name, g, a), apply("hirescam", g, a))
    close(apply("xgradcam", g, a).flatten(2).sum(-1), apply("hirescam", g, a).flatten(2).sum(-1))


@given(case=tensors)
def test_without_noise_the_smoothed_rules_are_the_plain_ones(case: Case) -> None:
    g, a, _ = draw(case)
    known = fake_trace(g, a)
    quiet = {"samples": 2, "noise": 0.0}
    close(get("smooth_gradcam_pp").configure(quiet).function(known), apply("gradcam_pp", g, a))
    close(get("ss_cam").configure(quiet).function(known), apply("scorecam", g, a))
    close(get("is_cam").configure({"steps": 1}).function(known), apply("scorecam", g, a))
    close(get("faster_scorecam").configure({"channels": 9}).function(known), apply("scorecam", g, a))


@given(case=tensors)
def test_a_constant_gradient_makes_gradcam_hirescam(case: Case) -> None:
    g, a, _ = draw(case)
    constant = g.flatten(3).mean(-1).reshape(*g.shape[:3], *[1] * (g.ndim - 3)).expand_as(g)
    torch.testing.assert_close(
        gradcam(fake_trace(constant, a)),
        hirescam_rule(fake_trace(constant, a)),
        rtol=1e-12,
        atol=1e-12,
    )


@given(seed=st.integers(0, 2**31))
@settings(max_examples=10)
def test_a_contrast_is_the_difference_of_two_maps(seed: int) -> None:
    torch.manual_seed(seed)
    model = AffineHead((3, 3, 3), ["scale"], 4, seed).eval()
    images = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    both = hirescam.explain(model, images, target=hirescam.Classes(0, 2), layer="features").raw
    contrast = hirescam.explain(model, images, target=hirescam.Contrast(0, 2), layer="features").raw
    torch.testing.assert_close(contrast[:, 0], both[:, 0] - both[:, 1], rtol=1e-10, atol=1e-10)
