"""The certificate on real architectures with random weights: verdicts follow from the head's structure."""

import pytest
import torch
from torch import nn

import hirescam
from architectures import CASES, POOLED, SMALL, TOKENS, batch, build

timm = pytest.importorskip("timm", reason="needs the extra 'vision'")
torchvision = pytest.importorskip("torchvision", reason="needs the extra 'vision'")


@pytest.mark.parametrize(("spec", "shape", "guarantee", "layer", "why"), CASES, ids=[c[0] for c in CASES])
def test_the_verdict_follows_from_the_head(
    spec: str, shape: tuple[int, ...], guarantee: str, layer: str, why: str
) -> None:
    model = build(spec)
    certificate = hirescam.certify(model, batch(shape))
    assert (certificate.guarantee, certificate.layer) == (guarantee, layer), f"{why}\n{certificate}"
    assert bool(certificate.breaks) == (guarantee != "exact")
    assert not certificate.bypass
    assert bool(certificate.advice) == (guarantee in ("local", "none") or why is TOKENS)
    if why == TOKENS:
        assert certificate.positions == 1
        assert certificate.single_token
        assert f"Only 1 of {certificate.locations} positions can get credit" in str(certificate)
    if POOLED in why:
        assert certificate.same_as_gradcam
    if guarantee in ("exact", "conditional") and certificate.completeness_error < 1:
        # Random weights can put the score below the precision of its own terms (GoogLeNet).
        assert certificate.completeness_error < 1e-4
        assert certificate.location_error < 5e-4


def test_convnext_adds_up_only_with_the_divisor_held() -> None:
    model, x = build("torchvision:convnext_tiny"), batch(SMALL)
    result = hirescam.explain(model, x)
    total = result.raw.sum() + result.offset.sum()
    torch.testing.assert_close(total, result.logits.max(), rtol=1e-4, atol=1e-5)
    assert result.raw.sum().abs() > 0.1 * result.score.abs().max()
    # Plain gradient times activation through a layer norm says nothing about the score.
    plain = plain_gradient_times_activation(model, x)
    assert plain.sum().abs() < 1e-3 * result.score.abs().max()


def plain_gradient_times_activation(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    features = model.features(x).detach().requires_grad_()
    score = model.classifier(model.avgpool(features)).max()
    (gradient,) = torch.autograd.grad(score, features)
    return (gradient * features).detach()


def test_hugging_face_tokens_and_outputs() -> None:
    """A look-alike: output with logits, layers that return tuples, tokens behind a class token."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(16)
            self.mix = nn.Linear(16, 16)

        def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
            return tokens + torch.tanh(self.mix(self.norm(tokens))), None

    class Output:
        def __init__(self, logits: torch.Tensor) -> None:
            self.logits = logits

    class LookAlike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 16, 8, stride=8)
            self.token = nn.Parameter(torch.randn(1, 1, 16))
            self.blocks = nn.ModuleList([Block(), Block()])
            self.classifier = nn.Linear(16, 5)

        def forward(self, pixel_values: torch.Tensor) -> Output:
            tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1)
            for block in self.blocks:
                tokens = block(tokens)[0]
            return Output(self.classifier(tokens[:, 1:].mean(1)))

    torch.manual_seed(0)
    model = LookAlike().eval()
    x = torch.randn(2, 3, 32, 64)
    result = hirescam.explain(model, {"pixel_values": x})
    assert result.layer == "blocks.1"
    assert result.raw.shape == (2, 1, 33)
    assert result.on_grid.shape == (2, 1, 4, 8)
    assert result.certificate.guarantee == "exact"
    assert result.certificate.positions == 32
    assert result.view().values.shape == (2, 1, 32, 64)


def test_a_grid_that_cannot_be_seen_must_be_given() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.mix = nn.Conv2d(3, 16, 8, stride=8), nn.Linear(16, 6)
            self.order = nn.Identity()
            self.classifier = nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.mix(self.patches(x).flatten(2)).transpose(1, 2)
            return self.classifier(self.order(tokens * 1).mean(1))

    torch.manual_seed(0)
    model = Tokens().eval()
    x = torch.randn(1, 3, 32, 32)
    with pytest.raises(hirescam.LayerError, match=r"Explainer\(model, grid=\(rows, columns\)\)"):
        hirescam.explain(model, x, layer="order")
    result = hirescam.explain(model, x, layer="order", grid=(2, 3))
    assert result.raw.shape == (1, 1, 2, 3)
    with pytest.raises(hirescam.LayerError, match=r"grid=\(5, 5\) does not fit"):
        hirescam.explain(model, x, layer="order", grid=(5, 5))
