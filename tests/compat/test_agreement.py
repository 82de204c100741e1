"""Numeric agreement with pytorch-grad-cam after its own post-processing, and every asserted difference.

The differences, with their place in that library's source (1.5.7):

- targets are zipped with the outputs, so that too few leave maps without a target (base_cam.py)
- the model is put into evaluation mode, and gradients of its parameters are overwritten (base_cam.py)
- an IndexError in the `with` block is swallowed (base_cam.py)
- activations are stored without a copy, so an op in place changes them (activations_and_gradients.py)
- Grad-CAM++ adds 1e-6 to a denominator of squared gradients (grad_cam_plusplus.py)
- Score-CAM aligns the corners of its masks, unlike the paper's code (score_cam.py)
- Ablation-CAM subtracts 1e7 from channels where the smallest activation is not zero (ablation_layer.py)
- FEM weights activations by shares of marked places instead of marked places by means (fem.py)
- a principal component has whatever sign the linear algebra gives (svd_on_activations.py)
- volumes are resized by cubic splines, which leave the range (utils/image.py)
- ShapleyCAM forgets the reshape transform where it weights the activations (shapley_cam.py)
- HiResCAM goes through a layer norm's divisor, and then says nothing (hirescam.py)
"""

import os
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hirescam
import hirescam.compat.pytorch_grad_cam as compat
from hirescam.compat.pytorch_grad_cam.utils import image as our_image
from hirescam.compat.pytorch_grad_cam.utils import model_targets as our_targets
from hirescam.compat.pytorch_grad_cam.utils import reshape_transforms as our_transforms
from hirescam.rulebook import masking, principal
from toys import FlattenNet, NormNet, PooledNet, SegNet, TwoLayerNet, images, ready

os.environ.setdefault("TQDM_DISABLE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peer = pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam")
    from pytorch_grad_cam.utils import image as peer_image
    from pytorch_grad_cam.utils import model_targets as peer_targets
    from pytorch_grad_cam.utils import reshape_transforms as peer_transforms
torchvision = pytest.importorskip("torchvision")


@pytest.fixture(autouse=True)
def quiet_destructor(monkeypatch) -> None:
    """Their destructor calls it, and it fails where gradients are views; release() does the rest."""
    monkeypatch.setattr(peer.ActivationsAndGradients, "clear", lambda self: None)


ALIKE = ["GradCAM", "HiResCAM", "GradCAMElementWise", "XGradCAM", "LayerCAM", "ShapleyCAM", "AblationCAM"]
UP_TO_SIGN = ["EigenCAM", "EigenGradCAM", "SegEigenCAM", "KPCA_CAM"]
SUMMING = [*ALIKE, "GradCAMPlusPlus", "ScoreCAM"]
CLASS = 3
CLOSE = 1e-5


def resnet18() -> nn.Module:
    return torchvision.models.resnet18(weights=None)


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], str]] = {
    "flatten": (FlattenNet, lambda: images(3, dtype=torch.float32), "features"),
    "pooled": (PooledNet, lambda: images(3, dtype=torch.float32), "features"),
    "two layers": (TwoLayerNet, lambda: images(3, dtype=torch.float32), "features"),
    "volume": (lambda: FlattenNet(3, side=4), lambda: images(2, 3, 4, torch.float32), "features"),
    "resnet18": (resnet18, lambda: torch.randn(2, 3, 64, 64), "layer4"),
}


def net(name: str) -> tuple[nn.Module, Tensor, list[nn.Module]]:
    build, batch, layer = NETS[name]
    model = ready(build(), torch.float32)
    return model, batch(), [model.get_submodule(layer)]


def both(name, model, x, layers, targets=None, **smooth) -> tuple[np.ndarray, np.ndarray]:
    """Our maps and theirs; targets are names of target classes with their arguments."""
    mine = theirs = None
    if targets is not None:
        mine = [getattr(our_targets, kind)(*arguments) for kind, *arguments in targets]
        theirs = [getattr(peer_targets, kind)(*arguments) for kind, *arguments in targets]
    found = getattr(compat, name)(model=model, target_layers=layers)(x, targets=mine, **smooth)
    expected = getattr(peer, name)(model=model, target_layers=layers)(x.clone(), targets=theirs, **smooth)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    return found, expected


def one_class(x: Tensor) -> list[tuple[str, int]]:
    return [("ClassifierOutputTarget", CLASS)] * len(x)


def assert_close(found: np.ndarray, expected: np.ndarray, atol: float = CLOSE) -> None:
    np.testing.assert_allclose(found, expected, atol=atol, rtol=0)


def flip_components(monkeypatch) -> None:
    """Let every principal component have its other sign."""
    settle = principal.turned
    monkeypatch.setattr(principal, "turned", lambda component, towards: -settle(component, towards))


# Their AblationCAM repeats pictures only, not volumes.
BOTH = [(name, method) for name in NETS for method in ALIKE if (name, method) != ("volume", "AblationCAM")]


@pytest.mark.parametrize(("name", "method"), BOTH)
def test_same_maps(name, method):
    model, x, layers = net(name)
    assert_close(*both(method, model, x, layers, one_class(x)))


@pytest.mark.parametrize("method", ["GradCAM", "HiResCAM", "ShapleyCAM", "AblationCAM"])
def test_same_maps_of_the_predicted_classes(method):
    model, x, layers = net("flatten")
    assert_close(*both(method, model, x, layers, None))


@pytest.mark.parametrize("method", UP_TO_SIGN)
@pytest.mark.parametrize("name", ["flatten", "pooled", "two layers", "resnet18"])
def test_same_components_up_to_their_sign(name, method, monkeypatch):
    model, x, layers = net(name)
    found, expected = both(method, model, x, layers, one_class(x))
    flip_components(monkeypatch)
    other, _ = both(method, model, x, layers, one_class(x))
    assert_same_up_to_sign(found, other, expected)


def assert_same_up_to_sign(found, other, expected):
    for one, turned, theirs in zip(found, other, expected, strict=True):
        assert min(np.abs(one - theirs).max(), np.abs(turned - theirs).max()) < 2 * CLOSE


@pytest.mark.parametrize("method", SUMMING)
@pytest.mark.parametrize("name", ["flatten", "two layers"])
def test_same_eigen_smooth_up_to_its_sign(name, method, monkeypatch):
    model, x, layers = net(name)
    targets = large(x) if method == "GradCAMPlusPlus" else one_class(x)
    monkeypatch.setattr(our_targets, "Large", Large, raising=False)
    monkeypatch.setattr(peer_targets, "Large", Large, raising=False)
    found, expected = both(method, model, x, layers, targets, eigen_smooth=True)
    flip_components(monkeypatch)
    other, _ = both(method, model, x, layers, targets, eigen_smooth=True)
    assert_same_up_to_sign(found, other, expected)


class Large:
    """A class's logit, ten thousand times as large, so that small constants do not weigh."""

    def __call__(self, output: Tensor) -> Tensor:
        return 1e4 * output[..., CLASS]


def large(x: Tensor) -> list[tuple[str]]:
    return [("Large",)] * len(x)


@pytest.mark.parametrize("method", ["GradCAM", "HiResCAM", "LayerCAM"])
def test_same_aug_smooth(method):
    model, x, layers = net("resnet18")
    assert_close(*both(method, model, x, layers, one_class(x), aug_smooth=True))


@pytest.mark.parametrize("method", ["GradCAM", "HiResCAM", "XGradCAM"])
def test_same_mean_over_layers(method):
    model, x, _ = net("resnet18")
    assert_close(*both(method, model, x, [model.layer2, model.layer3, model.layer4], one_class(x)))


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_same_finer_cam(alpha):
    model, x, layers = net("flatten")
    assert_close(*both("FinerCAM", model, x, layers, None, alpha=alpha))
    assert_close(*both("FinerCAM", model, x, layers, None, comparison_categories=[1, 2], target_idx=2))


def test_same_refine_cam():
    model, x, _ = net("resnet18")
    layers = [model.layer3, model.layer4]
    kind = {"base_method": compat.LayerCAM}, {"base_method": peer.LayerCAM}
    found = compat.RefineCAM(model, layers, **kind[0])(x, [our_targets.ClassifierOutputTarget(CLASS)] * 2)
    expected = peer.RefineCAM(model, layers, **kind[1])(x, [peer_targets.ClassifierOutputTarget(CLASS)] * 2)
    assert_close(found, expected)


@pytest.mark.parametrize(
    "targets",
    [
        [("ClassifierOutputSoftmaxTarget", 1), ("ClassifierOutputTarget", 2), ("ClassifierOutputReST", 3)],
        [("FinerWeightedTarget", 0, [1, 2], 0.7)] * 3,
    ],
)
@pytest.mark.parametrize("method", ["GradCAM", "HiResCAM", "ShapleyCAM", "AblationCAM"])
def test_same_targets(method, targets):
    model, x, layers = net("flatten")
    assert_close(*both(method, model, x, layers, targets))


@pytest.mark.parametrize(
    "target",
    [("BinaryClassifierOutputTarget", 0), ("BinaryClassifierOutputTarget", 1), ("RawScoresOutputTarget",)],
)
def test_same_targets_of_a_single_output(target):
    model, x, layers = net("flatten")
    model.head = nn.Linear(model.head.in_features, 1)
    assert_close(*both("HiResCAM", model, x, layers, [target] * len(x)))


def test_same_region_of_a_segmentation():
    net_of_maps = ready(SegNet(), torch.float32)

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net_of_maps

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)["out"]

    model, x = Dense().eval(), images(2, dtype=torch.float32)
    mask = np.zeros((8, 8), np.float32)
    mask[2:5, 3:] = 1
    targets = [("SemanticSegmentationTarget", 2, mask)] * 2
    for method in ("GradCAM", "HiResCAM", "LayerCAM"):
        assert_close(*both(method, model, x, [net_of_maps.features], targets))


class Tokens(nn.Module):
    """Patches and a class token, mixed by attention; the class token is read."""

    def __init__(self, patch: int = 4, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, width, patch, stride=patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.block = nn.Identity()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.block(torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1))
        return self.head(tokens + self.attention(tokens, tokens, tokens)[0])[:, 0]


def tokens() -> tuple[nn.Module, Tensor, Callable[[Tensor], Tensor]]:
    def transform(output: Tensor) -> Tensor:
        return our_transforms.vit_reshape_transform(output, 4, 4)

    return ready(Tokens(), torch.float32), images(2, side=16, dtype=torch.float32), transform


@pytest.mark.parametrize("method", ["GradCAM", "HiResCAM", "GradCAMElementWise", "XGradCAM", "LayerCAM"])
def test_same_maps_of_tokens(method):
    model, x, transform = tokens()
    found, expected = (
        getattr(library, method)(model, [model.block], transform)(
            x, [targets.ClassifierOutputTarget(CLASS)] * 2
        )
        for library, targets in ((compat, our_targets), (peer, peer_targets))
    )
    assert_close(found, expected)


def test_shapley_cam_of_tokens_works_here_and_fails_there():
    model, x, transform = tokens()
    found = compat.ShapleyCAM(model, [model.block], transform)(
        x, [our_targets.ClassifierOutputTarget(CLASS)] * 2
    )
    whole = model.patches(x).flatten(2).transpose(1, 2)
    whole = torch.cat([model.token.expand(2, -1, -1), whole], dim=1).detach().requires_grad_()
    score = model.head(whole + model.attention(whole, whole, whole)[0])[:, 0, CLASS].sum()
    (gradient,) = torch.autograd.grad(score, whole, create_graph=True)
    (along,) = torch.autograd.grad((gradient * whole.detach()).sum(), whole)
    weights = transform(gradient - along / 2).mean((2, 3), keepdim=True)
    raw = (weights * transform(whole)).sum(1).clamp(min=0).detach().numpy()
    once = our_image.scale_cam_image(raw, (16, 16))
    assert_close(found, our_image.scale_cam_image(once))
    with pytest.raises(ValueError, match="Invalid activation shape"):
        peer.ShapleyCAM(model, [model.block], transform)(x, None)


def test_same_reshape_transforms():
    tokens = torch.randn(2, 197, 5)
    vit = our_transforms.vit_reshape_transform(tokens), peer_transforms.vit_reshape_transform(tokens)
    swin = tokens[:, :49]
    torch.testing.assert_close(*vit)
    torch.testing.assert_close(
        our_transforms.swinT_reshape_transform(swin), peer_transforms.swinT_reshape_transform(swin)
    )


# --- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"use_rgb": True}, {"image_weight": 0.8}, {"colormap": 11}])
def test_same_overlay(options):
    generator = np.random.default_rng(0)
    picture, mask = generator.random((16, 16, 3), np.float32), np.linspace(0, 1, 256).reshape(16, 16)
    found = our_image.show_cam_on_image(picture, mask, **options)
    expected = peer_image.show_cam_on_image(picture, mask, **options)
    assert found.dtype == expected.dtype
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [None, (7, 5), (32, 40), (9, 3)])
def test_same_scaling(size):
    maps = np.random.default_rng(0).normal(size=(3, 8, 6)).astype(np.float32)
    assert_close(our_image.scale_cam_image(maps, size), peer_image.scale_cam_image(maps, size), 1e-6)


def test_same_preprocessing_and_back():
    picture = np.random.default_rng(0).random((5, 6, 3), np.float32)
    for given in (picture, (picture * 255).astype(np.uint8)):
        found = our_image.preprocess_image(given, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
        expected = peer_image.preprocess_image(given, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
        torch.testing.assert_close(found, expected)
    np.testing.assert_array_equal(our_image.deprocess_image(picture), peer_image.deprocess_image(picture))


# --- asserted differences ----------------------------------------------------------------------


def test_too_few_targets_are_an_error_here_and_an_empty_map_there():
    model, x, layers = net("flatten")
    theirs = peer.HiResCAM(model, layers)(x, [peer_targets.ClassifierOutputTarget(CLASS)])
    assert theirs[0].max() > 0.99
    assert theirs[1:].max() == 0
    with pytest.raises(hirescam.TargetError, match="1 entries for 3 image"):
        compat.HiResCAM(model, layers)(x, [our_targets.ClassifierOutputTarget(CLASS)])


def test_training_mode_is_an_error_here_and_ended_for_good_there():
    model, x, layers = net("pooled")
    cam = compat.GradCAM(model.train(), layers)
    with pytest.raises(hirescam.ModelError, match=r"model\.eval\(\)"):
        cam(x)
    assert model.training
    peer.GradCAM(model, layers)
    assert not model.training


def test_gradients_of_parameters_are_kept_here_and_overwritten_there():
    model, x, layers = net("flatten")
    ones = torch.ones_like(model.head.weight)
    model.head.weight.grad = ones.clone()
    compat.GradCAM(model, layers)(x)
    assert torch.equal(model.head.weight.grad, ones)
    peer.GradCAM(model, layers)(x, None)
    assert not torch.equal(model.head.weight.grad, ones)


def test_index_errors_go_on_here_and_are_swallowed_there():
    model, _, layers = net("flatten")
    with peer.GradCAM(model, layers):
        raise IndexError("mine")
    with pytest.raises(IndexError, match="mine"), compat.GradCAM(model, layers):
        raise IndexError("mine")


def test_frozen_models_work_here_and_fail_there():
    model, x, layers = net("flatten")
    expected = compat.HiResCAM(model, layers)(x)
    model.requires_grad_(False)
    assert_close(compat.HiResCAM(model, layers)(x), expected)
    with pytest.raises(RuntimeError):
        peer.HiResCAM(model, layers)(x, None)


class Shifts(nn.Module):
    """Adds to the layer that is explained, in place or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.features = nn.Conv2d(2, 6, 3, padding=1)
        self.head = nn.Linear(6 * 64, 5)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        found = self.features(x)
        found = found.add_(3) if self.in_place else found + 3
        return self.head(found.flatten(1))


def test_an_op_in_place_after_the_layer_changes_only_their_activations():
    model, x = ready(Shifts(True), torch.float32), images(2, dtype=torch.float32)
    plain = ready(Shifts(False), torch.float32)
    plain.load_state_dict(model.state_dict())
    in_place = both("HiResCAM", model, x, [model.features], one_class(x))
    not_in_place = both("HiResCAM", plain, x, [plain.features], one_class(x))
    assert_close(in_place[0], not_in_place[0])
    assert_close(*not_in_place)
    assert np.abs(in_place[1] - in_place[0]).max() > 0.1


@pytest.mark.parametrize("name", ["flatten", "pooled", "resnet18"])
def test_their_constant_drowns_small_gradients_in_gradcam_pp(name, monkeypatch):
    for module in (our_targets, peer_targets):
        monkeypatch.setattr(module, "Large", Large, raising=False)
    model, x, layers = net(name)
    assert_close(*both("GradCAMPlusPlus", model, x, layers, large(x)))
    found, expected = both("GradCAMPlusPlus", model, x, layers, one_class(x))
    assert 10 * CLOSE < np.abs(found - expected).max() < 0.1


def test_score_cam_differs_by_the_aligned_corners_of_their_masks(monkeypatch):
    model, x, _ = net("resnet18")
    x, layers = x[:1], [model.layer1]
    found, expected = both("ScoreCAM", model, x, layers, one_class(x))
    assert np.abs(found - expected).max() > 1e-3

    def aligned(trace, maps):
        size = trace.images.shape[2:]
        return masking.stretched(F.interpolate(maps, size, mode="bilinear", align_corners=True))

    monkeypatch.setattr(masking, "on_image", aligned)
    assert_close(compat.ScoreCAM(model, layers)(x, [our_targets.ClassifierOutputTarget(CLASS)]), expected)


@pytest.mark.parametrize("name", ["flatten", "pooled", "two layers"])
def test_same_score_cam_where_masks_are_as_fine_as_images(name):
    model, x, layers = net(name)
    assert_close(*both("ScoreCAM", model, x, layers, one_class(x)))


def test_ablation_sets_to_zero_here_and_far_below_zero_there():
    model, x = ready(Shifts(False), torch.float32), images(3, dtype=torch.float32)
    found, expected = both("AblationCAM", model, x, [model.features], one_class(x))
    assert np.abs(found - expected).max() > 0.01
    activations = model.features(x).detach()
    score = model(x)[:, CLASS].detach()
    raw = torch.zeros(3, 8, 8)
    for channel in range(activations.shape[1]):
        without = activations.clone()
        without[:, channel] = 0
        left = model.head((without + 3).flatten(1))[:, CLASS].detach()
        raw += ((score - left) / score).reshape(-1, 1, 1) * activations[:, channel]
    assert_close(found, our_image.scale_cam_image(raw.clamp(min=0).numpy()))


def test_fem_weights_marks_by_means_here_and_activations_by_marks_there():
    model, x, layers = net("flatten")
    found, expected = both("FEM", model, x, layers, one_class(x))
    activations = model.features(x).detach()
    mean = activations.mean((2, 3), keepdim=True)
    marked = (activations > mean + 2 * activations.std((2, 3), correction=0, keepdim=True)).float()
    paper, other = (mean * marked).sum(1), (marked.mean((2, 3), keepdim=True) * activations).sum(1)
    assert_close(found, our_image.scale_cam_image(paper.numpy()))
    assert_close(expected, our_image.scale_cam_image(other.numpy()))


def test_volumes_stay_in_the_range_here_and_leave_it_there():
    maps = (np.random.default_rng(0).random((1, 3, 4, 5)) > 0.5).astype(np.float32)
    found = our_image.scale_cam_image(maps, (15, 12, 9))
    expected = peer_image.scale_cam_image(maps, (15, 12, 9))
    assert found.shape == expected.shape
    assert found.min() >= 0
    assert found.max() <= 1
    assert expected.min() < -0.01 or expected.max() > 1.01


def test_hirescam_holds_a_layer_norms_divisor_here_and_sums_to_nothing_there():
    model, x = ready(NormNet(), torch.float32), images(2, dtype=torch.float32)
    found, expected = both("HiResCAM", model, x, [model.features], one_class(x))
    result = hirescam.explain(model, x, target=CLASS, layer="features")
    assert result.certificate.guarantee == "conditional"
    assert_close(found, our_image.scale_cam_image(result.raw[:, 0].clamp(min=0).numpy()))
    assert np.abs(found - expected).max() > 0.01


def test_random_cam_is_the_same_at_every_call_and_leaves_numpys_generator_alone():
    model, x, layers = net("flatten")
    before = np.random.get_state()[1].copy()
    first, again = (compat.RandomCAM(model, layers)(x) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(before, np.random.get_state()[1])
