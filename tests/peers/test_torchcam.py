"""Where torchcam differs from the definitions, asserted; agreement is in test_agreement.py.

The docstrings of the tests named ``test_difference_...`` are the list on docs/agreement.md.
"""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("torchcam", reason="needs torchcam")
pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam")
pytest.importorskip("captum", reason="needs captum")

import hirescam
import oracles
from hirescam.rulebook.registry import get
from peers.agreement import CLASS, Setting, apart, setting, torchcam_map
from toys import After, images, ready

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchcam import methods


def raw(where: Setting, rule: str, **options: object) -> Tensor:
    chosen = get(rule).configure(options)
    return hirescam.explain(where.model, where.images, target=CLASS, layer=where.layer, rule=chosen).raw[:, 0]


def of_flatten_head(where: Setting) -> tuple[Tensor, Tensor]:
    """Gradients ``(b, k, *s)`` and activations, straight from the network."""
    activations = where.model.features(where.images).detach()
    gradients = where.model.head.weight[CLASS].detach().reshape(activations.shape[1:])
    return gradients.expand_as(activations), activations


def test_difference_the_sign_is_lost_even_without_normalisation() -> None:
    """`normalized=False` still applies the ReLU to the map.

    That is so for every gradient method and for Score-CAM; only `CAM` is signed.
    """
    where = setting("flatten")
    signed = raw(where, "gradcam")
    shown = torchcam_map("GradCAM", where)
    assert bool((signed < 0).any())
    assert bool((shown >= 0).all())
    assert apart(signed.relu(), shown) < 1e-12


def test_difference_gradcam_pp_never_divides() -> None:
    """`GradCAMpp` divides a copy and throws it away.

    `alpha[mask].div_(…)` changes what the index copied, so the weights are sums of cubed positive
    gradients, not equation 19.
    """
    where = setting("flatten")
    gradients, activations = of_flatten_head(where)
    theirs = torchcam_map("GradCAMpp", where)
    cubes = (gradients.relu() ** 3).sum((2, 3), keepdim=True)
    assert apart((cubes * activations).sum(1).relu(), theirs) < 1e-12
    expected = oracles.gradcam_pp(gradients[:, None], activations)[:, 0]
    assert apart(raw(where, "gradcam_pp"), expected) < 1e-12
    assert apart(expected / expected.max(), theirs / theirs.max()) > 0.02


def test_difference_smooth_gradcam_pp_sums_the_wrong_product() -> None:
    """`SmoothGradCAMpp` sums the product of activations and cubed gradients over space.

    The formula multiplies the sum of the activations by each location's gradient; the two are equal
    only on pooled heads. It also takes the gradient of its last noisy copy for their mean, and
    multiplies by the activations of that copy.
    """
    where = setting("flatten")
    gradients, activations = of_flatten_head(where)
    factor = 1e6
    torch.manual_seed(3)
    theirs = torchcam_map("SmoothGradCAMpp", where, factor=factor, num_samples=3, std=0.5)
    torch.manual_seed(3)
    noise = [torch.distributions.Normal(0, 0.5).sample(where.images.shape) for _ in range(3)]
    last = where.model.features(where.images + noise[-1]).detach()
    steep = factor * gradients
    product = (activations * steep**3).sum((2, 3), keepdim=True)
    weights = (steep**2 / (2 * steep**2 + product) * steep.relu()).sum((2, 3), keepdim=True)
    assert apart((weights * last).sum(1).relu(), theirs) < 1e-6

    total = activations.sum((2, 3), keepdim=True)
    right = (steep**2 / (2 * steep**2 + total * steep**3) * steep.relu()).sum((2, 3), keepdim=True)

    def score(logits: Tensor) -> Tensor:
        return factor * logits[:, CLASS]

    chosen = get("smooth_gradcam_pp").configure({"samples": 3, "noise": 0.5})
    ours = hirescam.explain(where.model, where.images, target=score, layer=where.layer, rule=chosen).raw[:, 0]
    assert apart(ours, (right * activations).sum(1)) < 1e-9
    assert apart(theirs / theirs.max(), ours / ours.max()) > 0.05


def test_difference_is_cam_adds_up_its_factors() -> None:
    """`ISCAM` shows the masked image times 1/n, 3/n, 6/n … up to (n + 1)/2.

    Its factors accumulate, so that many of its images are brighter than the image itself; `is_cam` goes
    from 1/n to 1 in equal steps.
    """
    where = setting("two layers")
    theirs = torchcam_map("ISCAM", where, num_samples=4)
    activations = where.model.features(where.images).detach()

    def path(factors: list[float]) -> Tensor:
        return oracles.score_weighted(
            activations,
            where.images,
            (CLASS,),
            where.model,
            lambda mask: [mask * factor for factor in factors],
        )[:, 0]

    assert apart(path([0.25, 0.75, 1.5, 2.5]), theirs) < 1e-6
    assert apart(path([0.25, 0.5, 0.75, 1.0]), raw(where, "is_cam", steps=4)) < 1e-10
    assert apart(raw(where, "is_cam", steps=4), theirs) > 1e-3


def test_difference_scorecam_scales_before_it_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ScoreCAM` stretches its masks to 0…1 at the layer's resolution and resamples them afterwards.

    On the image they no longer reach 1; the paper resamples first. With the order changed it agrees
    with `scorecam`.
    """
    where = setting("resnet18, 64 channels")
    ours = raw(where, "scorecam")
    theirs = torchcam_map("ScoreCAM", where)
    assert apart(ours.relu(), theirs) > 1e-4
    resample = methods.ScoreCAM._upsample

    def stretched(self: methods.ScoreCAM, masks: Tensor) -> Tensor:
        return self._normalize(resample(self, masks), masks.ndim - 2)

    monkeypatch.setattr(methods.ScoreCAM, "_upsample", stretched)
    mended = torchcam_map("ScoreCAM", where)
    assert apart(ours.relu(), mended) < 1e-5
    assert apart(ours.relu(), mended) < apart(ours.relu(), theirs) / 10


def test_difference_noise_comes_from_the_global_generator() -> None:
    """`SSCAM` and `SmoothGradCAMpp` draw from the global generator.

    A map cannot be repeated without seeding everything, and making one changes the run around it.
    `ss_cam` and `smooth_gradcam_pp` have seeds of their own.
    """
    where = setting("flatten")
    for method, rule in (("SSCAM", "ss_cam"), ("SmoothGradCAMpp", "smooth_gradcam_pp")):
        before = torch.get_rng_state()
        torchcam_map(method, where, num_samples=1)
        assert not torch.equal(torch.get_rng_state(), before)
        before = torch.get_rng_state()
        assert torch.equal(raw(where, rule, samples=1), raw(where, rule, samples=1))
        assert torch.equal(torch.get_rng_state(), before)


def test_difference_in_place_operations_change_the_layer() -> None:
    """Activations are stored, and differentiated, without a copy.

    An operation in place after the layer (leaky ReLU, SiLU, `+=`) changes both, so that the map is that
    of another layer.
    """
    model = ready(After(lambda x: F.leaky_relu(x, 0.1, inplace=True)))
    where = Setting(model, images(), "conv")
    kept = model.conv(where.images).detach().clone()
    weight = model.head.weight[CLASS].detach().reshape(6, 8, 8)
    gradients = weight * (0.1 + 0.9 * (kept > 0).double())
    expected = (gradients.mean((2, 3), keepdim=True) * kept).sum(1)
    assert apart(raw(where, "gradcam"), expected) < 1e-12
    assert apart(torchcam_map("GradCAM", where), expected.relu()) > 0.01


def test_difference_layers_are_fused_by_their_maximum() -> None:
    """Given several layers, `fuse_cams` takes the largest value.

    For LayerCAM it is that of tanh of twice the map; pytorch-grad-cam averages stretched maps. Here
    layers are never fused behind the caller's back.
    """
    maps = [torch.rand(1, 4, 4), torch.rand(1, 4, 4)]
    fused = methods.GradCAM.fuse_cams(maps)
    assert torch.equal(fused, torch.maximum(*maps))
    assert apart(fused, (maps[0] + maps[1]) / 2) > 0.1
