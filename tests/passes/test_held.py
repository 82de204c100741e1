"""Normalisers with their divisor held: the value of the real ones, and an affine map."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hirescam
from hirescam.passes.held import HELD, normalisation
from hirescam.passes.taps import function_name
from toys import After, NormNet, images, ready

C, SIDE = 6, 8
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def vector(size: int, low: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(low, low + 1.5, size, dtype=dtype)


def calls(x: Tensor) -> dict[str, Call]:
    """Every normaliser under every name and order of arguments, with numbers of which none is neutral."""
    w, b, plane = vector(C, 0.3, x.dtype), vector(C, -1, x.dtype), (SIDE, SIDE)
    W, B = (vector(SIDE**2, low, x.dtype).view(plane) for low in (0.3, -1))
    mean, var, eps = vector(C, -2, x.dtype), vector(C, 0.7, x.dtype), 0.3
    sizes = (len(x), C, SIDE**2, 3)
    aten = torch.ops.aten
    return {
        "layer_norm": (F.layer_norm, (x, plane, W, B, eps), {}),
        "layer_norm, bare": (F.layer_norm, (x, plane), {}),
        "layer_norm, named": (
            F.layer_norm,
            (),
            {"input": x, "normalized_shape": [SIDE], "bias": B[0], "eps": eps},
        ),
        "layer_norm of torch": (torch.layer_norm, (x, plane, W, B, eps, False), {}),
        "layer_norm of aten": (aten.layer_norm.default, (x, plane, W, B, eps, False), {}),
        "native_layer_norm": (torch.native_layer_norm, (x, plane, W, B, eps), {}),
        "native_layer_norm of aten": (aten.native_layer_norm.default, (x, plane, None, B, eps), {}),
        "group_norm": (F.group_norm, (x, 3, w, b, eps), {}),
        "group_norm, bare": (F.group_norm, (x, 2), {}),
        "group_norm, named": (F.group_norm, (x,), {"num_groups": 2, "weight": w, "eps": eps}),
        "group_norm of torch": (torch.group_norm, (x, 3, w, b, eps, False), {}),
        "native_group_norm": (torch.native_group_norm, (x, w, b, *sizes, eps), {}),
        "native_group_norm, bare": (aten.native_group_norm.default, (x, None, None, *sizes, eps), {}),
        "instance_norm": (F.instance_norm, (x, None, None, w, b, True, 0.1, eps), {}),
        "instance_norm, bare": (F.instance_norm, (x,), {}),
        "instance_norm, own though others are known": (
            F.instance_norm,
            (x, mean, var, w, b, True, 0.1, eps),
            {},
        ),
        "instance_norm, running": (F.instance_norm, (x, mean, var, w, b, False, 0.1, eps), {}),
        "instance_norm, running, bare": (F.instance_norm, (x, mean, var), {"use_input_stats": False}),
        "instance_norm of torch": (torch.instance_norm, (x, w, b, None, None, True, 0.1, eps, False), {}),
        "instance_norm of torch, running": (
            torch.instance_norm,
            (x, w, b, mean, var, False, 0.1, eps, False),
            {},
        ),
        "instance_norm of aten": (
            aten.instance_norm.default,
            (x, w, b, None, None, True, 0.1, eps, False),
            {},
        ),
        "rms_norm": (F.rms_norm, (x, plane, W, eps), {}),
        "rms_norm, bare": (F.rms_norm, (x, [SIDE]), {}),
        "rms_norm of torch": (torch.rms_norm, (x, plane, W, eps), {}),
        "_fused_rms_norm": (torch._fused_rms_norm, (x, plane, W, eps), {}),
        "_fused_rms_norm, bare": (torch._fused_rms_norm, (x, plane, None, None), {}),
        "normalize": (F.normalize, (x,), {}),
        "normalize, p": (F.normalize, (x, 1.5, 2), {}),
        "normalize, axes": (F.normalize, (x,), {"dim": (2, 3), "p": float("inf")}),
        "normalize, eps": (F.normalize, (x,), {"eps": 3.0}),
    }


NAMES = list(calls(torch.randn(2, C, SIDE, SIDE)))
every = pytest.mark.parametrize("name", NAMES)


def sample(dtype: torch.dtype = torch.float64) -> Tensor:
    """Channels and images of other means and scales."""
    scale = torch.tensor([0.4, 3.0]).view(2, 1, 1, 1) * vector(C, 0.5, torch.float32).view(1, C, 1, 1)
    return (scale * (torch.randn(2, C, SIDE, SIDE) + vector(C, -1, torch.float32).view(1, C, 1, 1))).to(dtype)


def real(call: Call) -> Any:
    function, args, options = call
    return function(*args, **options)


def held_of(call: Call) -> Callable[[Tensor], Any]:
    function, args, options = call
    found = normalisation(function_name(function), args, options)
    assert found is not None
    return found.hold()


def first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


@every
def test_a_single_image_is_held_as_in_a_batch(name: str) -> None:
    x = sample()
    expected = first(real(calls(x)[name]))[:1]
    call = calls(x[:1])[name]
    torch.testing.assert_close(first(held_of(call)(x[:1])), expected)


def test_every_normaliser_is_called() -> None:
    assert {function_name(call[0]) for call in calls(sample()).values()} == set(HELD)


@every
def test_held_at_its_own_input_it_is_the_real_one(name: str) -> None:
    x = sample()
    call = calls(x)[name]
    torch.testing.assert_close(held_of(call)(x), real(call), rtol=1e-12, atol=1e-12)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_lower_precision_too(name: str, dtype: torch.dtype) -> None:
    """To the rounding of one number: torch computes half precision in float32, a missing eps included."""
    x = sample(dtype) * (1e-3 if "rms" in name else 1)
    call = calls(x)[name]
    found, expected = first(held_of(call)(x)), first(real(call))
    assert found.dtype is dtype
    torch.testing.assert_close(
        found, expected, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps
    )


@every
def test_it_is_affine_with_the_slope_that_autograd_gives(name: str) -> None:
    held = held_of(calls(sample())[name])
    x, y, direction = (sample() for _ in range(3))
    mixed = first(held(0.3 * x + 0.7 * y))
    torch.testing.assert_close(mixed, 0.3 * first(held(x)) + 0.7 * first(held(y)), rtol=1e-11, atol=1e-11)
    leaf = x.clone().requires_grad_()
    weights = torch.randn_like(x)
    (gradient,) = torch.autograd.grad((weights * first(held(leaf))).sum(), leaf)
    rise = (weights * (first(held(x + direction)) - first(held(x)))).sum()
    torch.testing.assert_close((gradient * direction).sum(), rise, rtol=1e-10, atol=1e-10)


@every
def test_its_divisor_is_that_of_the_input_it_is_held_at(name: str) -> None:
    x = sample()
    held = held_of(calls(x)[name])
    change = first(held(2 * x)) - first(held(x))
    twice = first(held(3 * x)) - first(held(2 * x))
    torch.testing.assert_close(change, twice, rtol=1e-10, atol=1e-10)
    assert change.abs().max() > 1e-3


def test_the_mean_is_taken_off_what_comes_in() -> None:
    """Centring is linear and stays: a constant added to the input is gone again, but for running means."""
    x = sample()
    for name, call in calls(x).items():
        held = held_of(call)
        unchanged = torch.allclose(first(held(x + 5)), first(held(x)), atol=1e-9)
        assert unchanged is not any(word in name for word in ("running", "rms", "normalize")), name


def test_a_small_input_is_divided_by_eps() -> None:
    """The L2 norm is cut off from below, so that nothing is divided by zero."""
    x = torch.zeros(1, 4, 3, dtype=torch.float64)
    assert held_of((F.normalize, (x,), {}))(x + 1e-12).allclose(torch.ones_like(x))
    assert not held_of((F.normalize, (x,), {}))(x).any()


def test_the_divisor_carries_no_gradient() -> None:
    x = sample().requires_grad_()
    for name, call in calls(x).items():
        held = held_of(call)
        assert not first(held(sample())).requires_grad, name


def test_a_call_of_something_else_is_no_normaliser() -> None:
    x = sample()
    assert normalisation("batch_norm", (x, None, None), {"training": True}) is None
    assert normalisation("layer_norm", (x,), {}) is None
    assert normalisation("layer_norm", (x, [SIDE]), {"out": x}) is None
    assert normalisation("", (), {}) is None


def test_the_arguments_are_known_by_name() -> None:
    x, w = sample(), vector(C, 0.3)
    call = normalisation("instance_norm", (x, w, None, None, None, True, 0.1, 0.3, False), {})
    assert call is not None
    assert call.input is x
    assert call.arguments["weight"] is w
    assert call.arguments["eps"] == 0.3
    left_out = normalisation("group_norm", (x, 2), {})
    assert left_out is not None
    assert left_out.arguments["weight"] is None


@pytest.mark.parametrize(
    ("depends", "expected"),
    [((), True), (("x",), True), (("x", "bias"), False), (("weight",), False), (("x", "weight"), False)],
)
def test_it_becomes_affine_only_in_its_input(depends: tuple[str, ...], expected: bool) -> None:
    given = {"x": sample(), "weight": vector(C, 0.3), "bias": vector(C, -1)}
    marked = [id(given[name]) for name in depends]
    call = normalisation("group_norm", (given["x"], 3, given["weight"], given["bias"]), {})
    assert call is not None
    assert call.normalises(lambda tensor: id(tensor) in marked) is expected


def test_with_running_statistics_it_is_affine_as_it_stands() -> None:
    for name, (function, args, options) in calls(sample()).items():
        call = normalisation(function_name(function), args, options)
        assert call is not None
        assert call.normalises(lambda tensor: False) is not ("running" in name), name


@every
def test_a_head_with_it_is_conditional_and_its_map_obeys_the_laws(name: str) -> None:
    """Whatever is graded as a normaliser is held when the map is made."""

    def op(x: Tensor) -> Tensor:
        return first(real(calls(x)[name]))

    result = hirescam.explain(ready(After(op)), images(), layer="conv", target=1)
    assert result.certificate.guarantee == ("exact" if "running" in name else "conditional"), str(
        result.certificate
    )
    assert result.certificate.completeness_error < 1e-10
    assert result.certificate.location_error < 1e-10


MODULATED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "group": lambda x, gate: F.group_norm(x, 3, gate),
    "group, bias": lambda x, gate: F.group_norm(x, 3, None, gate),
    "instance": lambda x, gate: F.instance_norm(x, weight=gate),
    "layer": lambda x, gate: F.layer_norm(x.movedim(1, -1), [C], gate),
    "rms": lambda x, gate: F.rms_norm(x.movedim(1, -1), [C], gate),
}


@pytest.mark.parametrize("name", MODULATED)
def test_a_weight_or_bias_from_the_image_is_seen_in_the_structure(name: str) -> None:
    """What is held keeps both as they were, so that no map of it could be right."""
    op = MODULATED[name]
    certificate = hirescam.certify(ready(After(lambda x: op(x, x.mean((0, 2, 3))))), images(), "conv")
    assert certificate.guarantee == "none"
    assert "weaker verdict" not in certificate.reason


NORMS: dict[str, nn.Module] = {
    "layer norm": nn.LayerNorm(6),
    "rms norm": nn.RMSNorm(6),
    "group norm": nn.GroupNorm(2, 6),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_normaliser_before_the_linear_layer_is_conditional(name: str) -> None:
    model = ready(NormNet(NORMS[name]))
    for parameter in NORMS[name].parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    certificate = hirescam.certify(model, images())
    assert certificate.guarantee == "conditional", str(certificate)
    assert certificate.completeness_error < 1e-10
    assert certificate.location_error < 1e-10
    assert certificate.layer == "features"


@pytest.mark.parametrize(
    "norm",
    [
        nn.GroupNorm(3, 6),
        nn.InstanceNorm2d(6, affine=True),
        nn.InstanceNorm2d(6, track_running_stats=True),
        lambda x: F.normalize(x, dim=1),
        lambda x: F.layer_norm(x, [SIDE, SIDE]),
    ],
    ids=["group", "instance", "instance, running", "l2", "layer over space"],
)
def test_normalisers_over_maps_hold_their_divisor(norm: Callable[[Tensor], Tensor]) -> None:
    norm = ready(norm) if isinstance(norm, nn.Module) else norm
    model = ready(After(norm))
    result = hirescam.explain(model, images(), layer="conv", target=1)
    assert result.certificate.guarantee in ("conditional", "exact"), str(result.certificate)
    assert result.certificate.location_error < 1e-10
    zero_offset = result.offset
    other = hirescam.explain(model, images(2) * 3 + 1, layer="conv", target=1).offset
    torch.testing.assert_close(zero_offset, other, rtol=1e-8, atol=1e-10)  # a constant of the model
