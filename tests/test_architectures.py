"""The certificate on real architectures with random weights: verdicts follow from the head's structure."""

import warnings

import pytest
import torch
from torch import nn

import hirescam

timm = pytest.importorskip("timm", reason="needs the extra 'vision'")
torchvision = pytest.importorskip("torchvision", reason="needs the extra 'vision'")

POOLED = "global average pooling and one linear layer: affine, and the same everywhere"
TOKENS = "a linear layer on the class token: affine, but it reads one position"
NORMED = "pooling, layer norm, linear: affine once the divisor is held"
NORM_FIRST = "layer norm, then pooling and linear: affine after the norm"

VIDEO = (3, 8, 64, 64)
SMALL = (3, 64, 64)
FULL = (3, 224, 224)

# (network, shape of one input, guarantee, layer, why)
CASES = [
    ("torchvision:resnet18", SMALL, "exact", "layer4", POOLED),
    ("torchvision:resnet50", SMALL, "exact", "layer4", POOLED),
    ("torchvision:resnext50_32x4d", SMALL, "exact", "layer4", POOLED),
    ("torchvision:densenet121", SMALL, "exact", "relu()", POOLED + "; the last ReLU is a call, in place"),
    ("torchvision:googlenet", (3, 96, 96), "exact", "inception5b", POOLED),
    ("torchvision:mobilenet_v2", SMALL, "exact", "features", POOLED),
    ("torchvision:mnasnet0_5", SMALL, "exact", "layers", POOLED),
    ("torchvision:efficientnet_b0", SMALL, "exact", "features", POOLED),
    ("torchvision:regnet_y_400mf", SMALL, "exact", "trunk_output", POOLED),
    ("torchvision:shufflenet_v2_x0_5", SMALL, "exact", "conv5", POOLED),
    ("torchvision:squeezenet1_1", SMALL, "exact", "classifier.2", "a map for each class, then pooling"),
    ("torchvision:vgg16", FULL, "local", "features", "three linear layers with ReLU between"),
    ("torchvision:alexnet", FULL, "local", "features", "three linear layers with ReLU between"),
    ("torchvision:mobilenet_v3_small", SMALL, "none", "features", "two linear layers with Hardswish between"),
    ("torchvision:convnext_tiny", SMALL, "conditional", "features", NORMED),
    ("torchvision:swin_t", SMALL, "exact", "norm", NORM_FIRST),
    ("torchvision:swin_v2_t", SMALL, "exact", "norm", NORM_FIRST),
    ("torchvision:vit_b_16", FULL, "exact", "encoder", TOKENS),
    ("torchvision:r3d_18", VIDEO, "exact", "layer4", POOLED),
    ("torchvision:mc3_18", VIDEO, "exact", "layer4", POOLED),
    ("torchvision:r2plus1d_18", VIDEO, "exact", "layer4", POOLED),
    ("torchvision:swin3d_t", VIDEO, "exact", "norm", NORM_FIRST),
    ("timm:resnetv2_50", SMALL, "exact", "norm", POOLED),
    ("timm:efficientnet_lite0", SMALL, "exact", "bn2", POOLED),
    ("timm:dla34", SMALL, "exact", "level5", POOLED),
    ("timm:nfnet_l0", SMALL, "exact", "final_act", POOLED),
    ("timm:ghostnet_100", SMALL, "local", "blocks", "convolution and ReLU after the pooling"),
    ("timm:convnext_atto", SMALL, "conditional", "stages", NORMED),
    ("timm:poolformer_s12", SMALL, "conditional", "stages", NORMED),
    ("timm:swin_tiny_patch4_window7_224", FULL, "exact", "norm", NORM_FIRST),
    ("timm:vit_tiny_patch16_224", FULL, "exact", "norm", TOKENS),
    ("timm:beit_base_patch16_224", FULL, "conditional", "norm", "mean of patch tokens, layer norm, linear"),
    ("timm:resmlp_12_224", FULL, "exact", "blocks", "an affine norm, mean of the tokens, linear"),
    ("timm:mobilevit_xxs", (3, 256, 256), "exact", "final_conv", POOLED),
]  # fmt: skip


def build(spec: str) -> nn.Module:
    source, name = spec.split(":")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if source == "timm":
            return timm.create_model(name).eval()
        return torchvision.models.get_model(name, weights=None).eval()


def batch(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


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
            self.patches = nn.Conv2d(3, 16, 8, stride=8)
            self.order = nn.Identity()
            self.classifier = nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.patches(x).flatten(2).transpose(1, 2)[:, :6]
            return self.classifier(self.order(tokens * 1).mean(1))

    model = Tokens().eval()
    x = torch.randn(1, 3, 32, 32)
    with pytest.raises(hirescam.LayerError, match=r"Explainer\(model, grid=\(rows, columns\)\)"):
        hirescam.explain(model, x, layer="order")
    result = hirescam.explain(model, x, layer="order", grid=(2, 3))
    assert result.raw.shape == (1, 1, 2, 3)
    with pytest.raises(hirescam.LayerError, match=r"grid=\(5, 5\) does not fit"):
        hirescam.explain(model, x, layer="order", grid=(5, 5))
