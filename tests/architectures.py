"""Real architectures with random weights, and the verdict that follows from the structure of each head."""

import warnings

import torch
from torch import nn

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
    """Make a network from seed 0, in evaluation mode."""
    source, name = spec.split(":")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if source == "timm":
            import timm

            return timm.create_model(name).eval()
        import torchvision

        return torchvision.models.get_model(name, weights=None).eval()


def batch(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
