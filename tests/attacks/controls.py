"""Heads that are what they look like: each must get its verdict, or the certificate refuses too much."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hirescam
from attacks.table import (
    CONDITIONAL,
    EXACT,
    LOCAL,
    NONE,
    WEAKER,
    Kind,
    Net,
    Scene,
    add,
    head,
    model,
    pictures,
    pooled,
    rounded,
    within,
)

TIGHT = 1e-4
exact = partial(head, Kind.CONTROL, right=EXACT, tolerance=TIGHT)
row = partial(model, Kind.CONTROL, right=EXACT, tolerance=TIGHT)


@exact("average pooling and one linear layer")
def average_pooling(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(a))


@exact("flatten and one linear layer")
def flatten(net: Net, a: Tensor) -> Tensor:
    return net.flat(a.flatten(1))


@head(Kind.CONTROL, "two linear layers with a ReLU between them", LOCAL)
def two_layers(net: Net, a: Tensor) -> Tensor:
    return net.fc(torch.relu(net.gate(pooled(a))))


@head(Kind.CONTROL, "a layer norm without a bias before it", CONDITIONAL)
def layer_norm(net: Net, a: Tensor) -> Tensor:
    return net.fc(F.layer_norm(pooled(a), (8,)))


@head(Kind.CONTROL, "an L2 normalisation", CONDITIONAL)
def normalize(net: Net, a: Tensor) -> Tensor:
    return net.fc(F.normalize(pooled(a), dim=1))


@row("a batch norm in evaluation mode")
class BatchNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        nn.init.uniform_(self.norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)

    def head(self, a: Tensor) -> Tensor:
        return self.flat(self.norm(a).flatten(1))


# Constants ------------------------------------------------------------------------------------


@row("a branch on an attribute, a divisor `int(buffer)`, a factor `float(buffer)`")
class ConstantsThatAreRead(Net):
    def __init__(self) -> None:
        super().__init__()
        self.how = "sum"
        self.register_buffer("count", torch.tensor(16))
        self.register_buffer("factor", torch.tensor(1.5))

    def head(self, a: Tensor) -> Tensor:
        z = a.sum((2, 3)) if self.how == "sum" else a.amax((2, 3))
        return self.fc(float(self.factor) * z / int(self.count))


@exact("divisors that are sizes: `a.shape`, `a.numel()`, `len(a)`")
def sizes(net: Net, a: Tensor) -> Tensor:
    return net.fc(a.sum((2, 3)) / (a.shape[2] * a.size(3)) * (a.numel() / len(a) / 128))


@exact("literals: `torch.tensor([...])`, `torch.arange`, `torch.linspace`, `a.new_zeros`")
def literals(net: Net, a: Tensor) -> Tensor:
    ramp = torch.arange(4.0).to(a) + torch.linspace(0, 1, 4).to(a)
    weights = torch.tensor([1.0, -2, 3, 4, 1, 1, 2, 0]).to(a)
    return net.fc(pooled(a * ramp) * weights + a.new_zeros(8))


@row("buffers that take the features' shape, type and device: `expand_as`, `type_as`, `to(features)`")
class ShapesOfTheFeatures(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.rand(1, 8, 1, 1))

    def head(self, a: Tensor) -> Tensor:
        both = self.weights.expand_as(a) + self.weights.type_as(a) + self.weights.to(a)
        return self.flat((both * a).flatten(1))


@row("a choice of channels by a constant mask and by constant indices")
class ConstantChoice(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keep", torch.arange(8) % 2 == 0)

    def head(self, a: Tensor) -> Tensor:
        z = pooled(a)
        chosen = z[:, self.keep] + z.index_select(1, torch.tensor([1, 1, 0, 3])) + z[:, [4, 5, 6, 7]]
        return self.fc(torch.cat([chosen, z.split([4, 4], 1)[1]], 1))


@exact("scatter, roll, cumulative sum and einsum")
def moved_about(net: Net, a: Tensor) -> Tensor:
    z = torch.einsum("bchw,kc->bkhw", a, net.gate.weight).roll(1, 2).cumsum(3)
    at = torch.tensor([7, 6, 5, 4, 3, 2, 1, 0]).expand(len(a), 8)
    return net.fc(torch.zeros_like(pooled(z)).scatter_add(1, at, pooled(z)))


@exact("`torch.lerp` with a constant, `channel_shuffle`, circular padding, interpolation")
def rarer_operations(net: Net, a: Tensor) -> Tensor:
    mixed = torch.lerp(a, net.gate.bias.view(1, 8, 1, 1).expand_as(a), 0.3)
    wide = F.pad(torch.channel_shuffle(mixed, 2), (1, 1, 1, 1), mode="circular")
    return net.flat(F.interpolate(wide, size=(4, 4), mode="bilinear").flatten(1))


@exact("padding: the features are written into zeros")
def written_into_zeros(net: Net, a: Tensor) -> Tensor:
    canvas = a.new_zeros(len(a), 8, 6, 6)
    canvas[..., 1:5, 1:5] = a
    return net.flat(canvas[..., :4, 2:6].flatten(1))


@exact("in place: add, multiply, fill a part")
def in_place(net: Net, a: Tensor) -> Tensor:
    h = a.clone().mul_(2).add_(1)
    h[:, :2] = 0
    h[:, 2:].mul_(0.5)
    return net.flat(h.flatten(1))


@exact("a Fourier transform, a constant filter, and back")
def fourier(net: Net, a: Tensor) -> Tensor:
    spectrum = torch.fft.rfft2(a)
    ramp = torch.linspace(1, 2, spectrum.shape[-1]).to(a)
    return net.flat(torch.fft.irfft2(spectrum * ramp, s=(4, 4)).flatten(1))


@exact("a product of complex numbers with constant ones")
def complex_numbers(net: Net, a: Tensor) -> Tensor:
    z = torch.view_as_complex(pooled(a).view(-1, 4, 2).contiguous())
    turned = z * torch.complex(z.real.new_tensor(0.6), z.real.new_tensor(0.8))
    return net.fc(torch.view_as_real(turned).flatten(1))


@head(Kind.CONTROL, "the modulus of complex numbers", NONE)
def modulus(net: Net, a: Tensor) -> Tensor:
    return net.fc(torch.fft.rfft2(a).abs().mean((2, 3)))


# Ways to write a model ------------------------------------------------------------------------


@row("`weight_norm` on the layer and on the head")
def weight_norm() -> Net:
    net = Net()
    nn.utils.parametrizations.weight_norm(net.layer[0])
    nn.utils.parametrizations.weight_norm(net.fc)
    return net


@row("`spectral_norm` on the head, in evaluation mode")
def spectral_norm() -> Net:
    net = Net()
    nn.utils.parametrizations.spectral_norm(net.fc)
    return net


class Adapter(nn.Module):
    """A linear layer and a low-rank one beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.rand(2, base.in_features))
        self.up = nn.Parameter(torch.rand(base.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.5 * (x @ self.down.T) @ self.up.T


@row("a low-rank adapter beside the linear layer")
def adapter() -> Net:
    net = Net()
    net.fc = Adapter(net.fc)
    return net


@exact("`torch.func.functional_call` with the model's own weights, scaled")
def functional_call(net: Net, a: Tensor) -> Tensor:
    own = {name: 2 * one for name, one in net.fc.named_parameters()}
    return torch.func.functional_call(net.fc, own, (pooled(a),))


@exact("`checkpoint(..., use_reentrant=False)` around the head")
def checkpointed(net: Net, a: Tensor) -> Tensor:
    return checkpoint(lambda h: net.fc(pooled(h)), a, use_reentrant=False)


class Watched(Net):
    """A module of the head has a hook that watches gradients, and its output is written to."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.gate.register_full_backward_hook(lambda *given: None)
        self.change = change

    def head(self, a: Tensor) -> Tensor:
        z = self.gate(pooled(a))
        self.change(z)
        return self.fc(z)


add(
    "backward_hook_and_rectified",
    Kind.CONTROL,
    "what a module with a backward hook returns is given to `nn.ReLU(inplace=True)`",
    LOCAL,
    build=partial(Watched, nn.ReLU(inplace=True)),
)


@exact("the same around a batch norm, for a single image", images=partial(pictures, 1))
def checkpointed_batch_norm(net: Net, a: Tensor) -> Tensor:
    mean, var = net.fc.weight.mean(0).detach(), 0.5 + net.fc.weight.var(0).detach()
    return net.fc(pooled(checkpoint(F.batch_norm, a, mean, var, use_reentrant=False)))


@head(Kind.CONTROL, "the same around a layer norm", CONDITIONAL)
def checkpointed_layer_norm(net: Net, a: Tensor) -> Tensor:
    return net.fc(checkpoint(F.layer_norm, pooled(a), (8,), use_reentrant=False))


@row("a part that `torch.fx` traced")
def traced_by_fx() -> Net:
    net = Net()
    net.fc = torch.fx.symbolic_trace(nn.Sequential(net.gate, net.fc))
    return net


@row("hooks that only store: outputs, and gradients of a module and of a tensor")
def hooks_that_store() -> Net:
    stored: list[Any] = []

    def store(_module: nn.Module, _inputs: Any, output: Any) -> None:
        stored.append(output.detach() if isinstance(output, Tensor) else len(output))

    def watched(net: Net, a: Tensor) -> Tensor:
        z = pooled(a)
        if z.requires_grad:
            z.register_hook(lambda grad: stored.append(grad.shape))
        return net.fc(z)

    net = Net(watched)
    net.layer.register_forward_hook(store)
    net.fc.register_forward_hook(store)
    net.fc.register_full_backward_hook(store)
    return net


class Swish(torch.autograd.Function):
    """x · sigmoid(x), by hand."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * s * (1 + x * (1 - s))


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@row("a hand-written `autograd.Function` before the layer")
def custom_function_before_the_layer() -> Net:
    net = Net()
    net.layer[1] = Apply(Swish.apply)
    return net


@row("images that are padded by writing them into zeros")
class PaddedImages(Net):
    def forward(self, image: Tensor) -> Tensor:
        canvas = image.new_zeros(len(image), 3, 24, 24)
        canvas[..., :16, :16].copy_(image)
        return super().forward(canvas)


@row("rounding after the first layer; the library chooses the layer after it", layer=None)
class Rounded(Net):
    def __init__(self) -> None:
        super().__init__()
        self.after = Apply(lambda h: torch.div(10 * h, 2, rounding_mode="floor"))

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(pooled(self.after(8 * self.layer(image))))


# Ways to call ---------------------------------------------------------------------------------


def on_a_tape() -> Tensor:
    return pictures().requires_grad_() * 1.0


add("images_on_a_tape", Kind.CONTROL, "images that depend on something that requires gradients", EXACT,
    images=on_a_tape, tolerance=TIGHT)  # fmt: skip
for _name, _context in {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.items():
    add(f"called_under_{_name}", Kind.CONTROL, f"the call is made under `{_name}`", EXACT,
        ask=partial(within, _context), tolerance=TIGHT)  # fmt: skip
add("called_under_autocast", Kind.CONTROL, "a call under `autocast` to bfloat16, after one without",
    EXACT, play=Scene.explain, ask=partial(within, partial(torch.autocast, "cpu", torch.bfloat16)),
    tolerance=3e-2)  # fmt: skip
add("called_with_rounded_factors", Kind.CONTROL,
    "`torch.set_float32_matmul_precision(\"medium\")`, after a call without", EXACT,
    play=Scene.explain, ask=partial(within, rounded), tolerance=3e-2)  # fmt: skip
add("frozen", Kind.CONTROL, "no parameter requires gradients", EXACT,
    build=lambda: Net().requires_grad_(False), tolerance=TIGHT)  # fmt: skip
add("other_inputs", Kind.CONTROL, "a second input, a number, that stays", EXACT | WEAKER,
    build=lambda: Temperature(), images=lambda: (pictures(), torch.tensor(2.0)), tolerance=TIGHT)  # fmt: skip


class Temperature(Net):
    def forward(self, image: Tensor, temperature: Tensor) -> Tensor:
        return super().forward(image) / temperature


def average(trace: Any) -> Tensor:
    return hirescam.rules()["gradcam"].function(trace)


def own_rule(scene: Scene) -> Any:
    mine = dataclasses.replace(hirescam.rules()["hirescam"], function=average)
    scene.notes["mine"] = scene.explainer(scene.images, target=1, rule=mine).raw
    return scene.explainer(scene.images, target=1, rule="gradcam")


def same_as_gradcam(scene: Scene, answer: Any) -> list[str]:
    """Complain of a map that is not that of the rule's own function."""
    same = torch.allclose(scene.notes["mine"], answer.raw, atol=1e-6)
    return [] if same else ["the rule's function was ignored"]


add("rule_of_ones_own", Kind.CONTROL, 'a rule named "hirescam" with another function', EXACT,
    build=partial(Net, flatten), ask=own_rule, check=same_as_gradcam, target=1)  # fmt: skip
