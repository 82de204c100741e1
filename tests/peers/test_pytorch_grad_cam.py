"""Where pytorch-grad-cam differs from the definitions, asserted; agreement is in test_agreement.py.

The docstrings of the tests named ``test_difference_...`` are the list on docs/agreement.md.
"""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam")
pytest.importorskip("torchcam", reason="needs torchcam")
pytest.importorskip("captum", reason="needs captum")

import hirescam
import oracles
from hirescam.errors import TargetError
from hirescam.rulebook.registry import get
from peers.agreement import CLASS, CurvedNet, Setting, aligned, apart, pgc_maps, setting
from toys import After, FlattenNet, PooledNet, images, ready

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_grad_cam as pgc


def raw(where: Setting, rule: str, **options: object) -> Tensor:
    chosen = get(rule).configure(options)
    return hirescam.explain(where.model, where.images, target=CLASS, layer=where.layer, rule=chosen).raw[:, 0]


def test_difference_sign_and_size_are_lost() -> None:
    """Every method ends in ReLU, min-max, resizing and min-max again.

    A map that is negative everywhere comes back as zeros, and a score a thousand times larger gives the
    same picture.
    """
    where = setting("pooled")
    _, shown, _ = pgc_maps("HiResCAM", where)
    _, larger, _ = pgc_maps("HiResCAM", where, factor=1000.0)
    assert apart(larger, shown) < 1e-4
    everything = Setting(where.model, where.images, where.layer)
    negative = -1.0 if float(raw(where, "hirescam").mean()) > 0 else 1.0
    found, returned, _ = pgc_maps("HiResCAM", everything, factor=negative)
    below = (found <= 0).all(axis=(1, 2))
    assert below.any()
    assert (returned[below] == 0).all()


def test_difference_gradcam_pp_drowns_small_gradients() -> None:
    """`GradCAMPlusPlus` adds 1e-6 to a denominator in units of the squared gradient.

    With small gradients the map becomes the sum of cubed gradients, no longer equation 19. `gradcam_pp`
    adds nothing.
    """
    where, factor = setting("flatten"), 1e-4
    theirs, _, _ = pgc_maps("GradCAMPlusPlus", where, factor=factor)

    def small(logits: Tensor) -> Tensor:
        return factor * logits[:, CLASS]

    def explain(rule: str) -> hirescam.Explanation:
        return hirescam.explain(where.model, where.images, target=small, layer=where.layer, rule=rule)

    gradients = where.model.head.weight[CLASS].detach().reshape(1, 6, 8, 8).expand(2, -1, -1, -1) * factor
    activations = where.model.features(where.images).detach()
    expected = oracles.gradcam_pp(gradients[:, None], activations)[:, 0]
    assert apart(explain("gradcam_pp").raw[:, 0], expected) < 1e-12
    assert apart(theirs, expected) > 0.5
    cubes = (gradients.relu() ** 3).sum((2, 3), keepdim=True) / 1e-6
    assert apart((cubes * activations).sum(1), theirs) < 0.05


def test_difference_eigencam_is_centred_and_of_either_sign() -> None:
    """`EigenCAM` and `EigenGradCAM` are centred, and of either sign.

    They subtract each channel's mean, which the paper does not, and keep the sign that the linear
    algebra happens to return: of two dozen images some maps rise where the activations do and some fall
    there, and the ReLU then cuts the object away. `eigencam` follows the paper and turns the component.
    """
    model = ready(PooledNet())
    where = Setting(model, images(24), "features")
    theirs, _, _ = pgc_maps("EigenCAM", where)
    plain, centred = raw(where, "eigencam"), raw(where, "eigencam", centred=True)
    assert bool((plain >= -1e-12).all())
    assert apart(plain, theirs) > 0.1
    same = (torch.as_tensor(theirs) * centred).flatten(1).sum(1) > 0
    assert 0 < int(same.sum()) < len(same)
    assert apart(aligned(centred, torch.as_tensor(theirs).double()), theirs) < 1e-6


def test_difference_fem_has_other_weights() -> None:
    """`FEM` multiplies the activations by the share of strong locations.

    The paper (and Xplique) add binary maps, each weighted by its channel's mean, and so does `fem`.
    """
    where = setting("flatten")
    theirs, _, _ = pgc_maps("FEM", where)
    ours = raw(where, "fem")
    activations = where.model.features(where.images).detach()
    flat = activations.flatten(2)
    strong = flat > flat.mean(-1, keepdim=True) + 2 * flat.std(-1, correction=0, keepdim=True)
    share = strong.double().mean(-1).reshape(2, 6, 1, 1)
    assert apart((share * activations).sum(1), theirs) < 1e-6
    assert apart(ours, theirs) > 0.1
    cosine = F.cosine_similarity(ours.flatten(1), torch.as_tensor(theirs).flatten(1).double())
    assert float(cosine.max()) < 0.95


def test_difference_scorecam_stretches_the_corners(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ScoreCAM` resamples its masks with `align_corners=True`, which moves every cell outwards.

    With that one word changed it agrees with `scorecam`.
    """
    where = setting("resnet18, 64 channels")
    ours = raw(where, "scorecam")
    theirs, _, _ = pgc_maps("ScoreCAM", where)
    assert apart(ours, theirs) > 1e-4

    def honest(size: torch.Size) -> nn.Module:
        return nn.Upsample(size=size, mode="bilinear", align_corners=False)

    monkeypatch.setattr(nn, "UpsamplingBilinear2d", honest)
    mended, _, _ = pgc_maps("ScoreCAM", where)
    assert apart(ours, mended) < 1e-5
    assert apart(ours, mended) < apart(ours, theirs) / 10


def test_difference_ablationcam_invents_activations() -> None:
    """`AblationCAM` sets a removed channel to ten million below the smallest activation.

    It does so wherever the smallest activation is not exactly zero, as after a convolution, SiLU or batch
    norm; the map then measures that number. `ablationcam` removes a channel by setting it to
    zero.
    """
    model = ready(After(lambda x: x))
    where = Setting(model, images(), "conv")
    theirs, _, _ = pgc_maps("AblationCAM", where)
    ours = raw(where, "ablationcam")
    expected = oracles.ablationcam(
        model.conv(where.images).detach(), (CLASS,), lambda a: model.head(a.flatten(1))
    )
    assert apart(ours, expected[:, 0]) < 1e-10
    assert np.abs(theirs).max() > 1e4 * float(ours.abs().max())


@pytest.mark.parametrize("method", ["ScoreCAM", "AblationCAM"])
def test_difference_perturbation_is_flat(method: str) -> None:
    """`ScoreCAM` and `AblationCAM` fail on volumes, and every method refuses signals.

    All rules here take one, two or three axes.
    """
    with pytest.raises((RuntimeError, ValueError, NotImplementedError)):
        pgc_maps(method, setting("flatten 3-D"))
    line = setting("flatten 1-D")
    with pytest.raises(ValueError, match="Only 2D or 3D"):
        getattr(pgc, method)(line.model, [line.module])(line.images, [lambda output: output[CLASS]] * 2)


def test_difference_elementwise_is_not_hirescam() -> None:
    """`GradCAMElementWise` cuts negative products off before the channels are summed.

    It is `elementwise` here: larger than HiResCAM wherever channels disagree, and not complete on any
    head.
    """
    where = setting("flatten")
    theirs, _, _ = pgc_maps("GradCAMElementWise", where)
    faithful = raw(where, "hirescam")
    assert apart(theirs, faithful) > 0.5
    assert bool((torch.as_tensor(theirs) >= faithful - 1e-12).all())


def test_difference_layers_are_averaged_after_rescaling() -> None:
    """Given several layers, the maps are stretched to 0…1 one by one and averaged.

    torchcam takes their maximum, so the same request gives different pictures in the two libraries, and
    neither adds up to anything.
    """
    model, batch = ready(PooledNet()), images()
    layers = [model.features[0], model.features]
    target = [lambda output: output[CLASS]] * 2
    with pgc.LayerCAM(model, layers) as cam:
        both = cam(batch, target)
    each = []
    for layer in layers:
        with pgc.LayerCAM(model, [layer]) as cam:
            each.append(cam(batch, target))
    assert apart(pgc.utils.image.scale_cam_image(np.mean(each, axis=0)), both) < 1e-5
    assert apart(pgc.utils.image.scale_cam_image(np.max(each, axis=0)), both) > 0.02


def test_difference_randomcam_has_no_seed() -> None:
    """`RandomCAM` draws from NumPy's global generator.

    A run cannot be repeated by itself and disturbs what follows; `random` has a seed of its own.
    """
    where = setting("flatten")
    (first, _, _), (second, _, _) = (pgc_maps("RandomCAM", where) for _ in range(2))
    assert apart(first, second) > 0.1
    state = np.random.get_state()[1].copy()
    ours = raw(where, "random")
    assert torch.equal(ours, raw(where, "random"))
    assert (np.random.get_state()[1] == state).all()


def test_difference_shapleycam_fails_on_flatten_heads() -> None:
    """`ShapleyCAM` cannot release its hooks where the head flattens the layer.

    The error is `Can't detach views in-place`. `shapleycam` is Grad-CAM there, as the head has no
    curvature.
    """
    where = setting("flatten")
    cam = pgc.ShapleyCAM(where.model, [where.module])
    cam(where.images, [lambda output: output[CLASS]] * 2)
    with pytest.raises(RuntimeError, match="Can't detach views"):
        cam.activations_and_grads.release()
    cam.activations_and_grads.gradients.clear()
    cam.activations_and_grads.release()
    assert apart(raw(where, "shapleycam"), raw(where, "gradcam")) < 1e-12


def test_difference_activations_are_read_after_they_were_overwritten() -> None:
    """Stored activations share memory with the network's.

    Where the next operation works in place (leaky ReLU, SiLU, `+=`), activation and gradient belong to
    different tensors and HiResCAM is wrong without a word.
    """
    model = ready(After(lambda x: F.leaky_relu(x, 0.1, inplace=True)))
    where = Setting(model, images(), "conv")
    theirs, _, _ = pgc_maps("HiResCAM", where)
    kept = model.conv(where.images).detach().clone()
    weight = model.head.weight[CLASS].detach().reshape(6, 8, 8)
    expected = (kept * weight * (0.1 + 0.9 * (kept > 0).double())).sum(1)
    assert apart(raw(where, "hirescam"), expected) < 1e-12
    assert apart(theirs, expected) > 0.01


def test_difference_missing_targets_are_dropped() -> None:
    """With fewer targets than images the remaining images silently get maps of zeros.

    Here it is an error that names both numbers.
    """
    where = setting("flatten")
    with pgc.HiResCAM(where.model, [where.module]) as cam:
        returned = cam(where.images, [lambda output: output[CLASS]])
    assert (returned[1] == 0).all()
    with pytest.raises(TargetError, match="2 image"):
        hirescam.explain(where.model, where.images, target=[CLASS], layer=where.layer)


def test_the_curved_head_has_curvature() -> None:
    """Otherwise the agreement on ShapleyCAM would be one on Grad-CAM."""
    where = setting("curved")
    assert isinstance(where.model, CurvedNet)
    assert apart(raw(where, "shapleycam"), raw(where, "gradcam")) > 0.1
    assert isinstance(setting("flatten").model, FlattenNet)
