"""Algebraic laws over random heads and shapes, in float64."""

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import hirescam
from hirescam.rulebook.gradient import gradcam
from hirescam.rulebook.gradient import hirescam as hirescam_rule
from hirescam.trace import Trace

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
    from hirescam.layout import Layout

    space = tuple(activations.shape[2:])
    return Trace(
        activations, gradients, gradients.new_zeros(gradients.shape[:2]),
        torch.zeros(gradients.shape[:2], dtype=torch.int64), gradients.new_zeros(len(gradients), 3),
        Layout(1, space, space), activations, lambda a: a, True, False, activations, lambda a: a,
        lambda a: fake_trace(gradients, activations), lambda directions: directions * 0,
    )  # fmt: skip


tensors = st.tuples(shapes, st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 2))


def draw(case: tuple[tuple[int, ...], int, int, int]) -> tuple[Tensor, Tensor, torch.Generator]:
    shape, seed, batch, count = case
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(batch, *shape, generator=generator, dtype=torch.float64)
    gradients = torch.randn(batch, count, *shape, generator=generator, dtype=torch.float64)
    return gradients, activations, generator


@given(case=tensors)
def test_rules_do_not_care_about_channel_order(case: tuple[tuple[int, ...], int, int, int]) -> None:
    g, a, generator = draw(case)
    order = torch.randperm(a.shape[1], generator=generator)
    for rule in (hirescam_rule, gradcam):
        there = rule(fake_trace(g, a))
        shuffled = rule(fake_trace(g[:, :, order], a[:, order]))
        torch.testing.assert_close(there, shuffled, rtol=1e-12, atol=1e-12)


@given(case=tensors)
def test_rules_follow_a_permutation_of_space(case: tuple[tuple[int, ...], int, int, int]) -> None:
    g, a, generator = draw(case)
    order = torch.randperm(a.shape[-1], generator=generator)
    for rule in (hirescam_rule, gradcam):
        moved = rule(fake_trace(g[..., order], a[..., order]))
        torch.testing.assert_close(rule(fake_trace(g, a))[..., order], moved, rtol=1e-12, atol=1e-12)


@given(case=tensors, factor=st.floats(0.1, 10))
def test_rules_are_linear_in_the_gradient(case: tuple[tuple[int, ...], int, int, int], factor: float) -> None:
    g, a, generator = draw(case)
    other = torch.randn(g.shape, generator=generator, dtype=torch.float64)
    for rule in (hirescam_rule, gradcam):
        joint = rule(fake_trace(g + factor * other, a))
        apart = rule(fake_trace(g, a)) + factor * rule(fake_trace(other, a))
        torch.testing.assert_close(joint, apart, rtol=1e-9, atol=1e-9)


@given(case=tensors)
def test_images_of_a_batch_do_not_meet(case: tuple[tuple[int, ...], int, int, int]) -> None:
    g, a, _ = draw(case)
    for rule in (hirescam_rule, gradcam):
        whole = rule(fake_trace(g, a))
        alone = torch.cat([rule(fake_trace(g[i : i + 1], a[i : i + 1])) for i in range(len(a))])
        torch.testing.assert_close(whole, alone, rtol=1e-12, atol=1e-12)


@given(case=tensors)
def test_a_constant_gradient_makes_gradcam_hirescam(
    case: tuple[tuple[int, ...], int, int, int],
) -> None:
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
