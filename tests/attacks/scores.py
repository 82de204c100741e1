"""Targets and `output=` are part of the head; gradients may be wrong; offsets may not be constants."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hirescam
from attacks.table import EXACT, REFUSED, WEAKER, Kind, Net, add, brighter, head, model, pictures, pooled


def flattened(net: Net, a: Tensor) -> Tensor:
    return 3 * F.linear(a.flatten(1), net.flat.weight)


FUNCTIONS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "argmax": (
        "the largest score, gathered by its argmax", lambda y: y.gather(1, y.argmax(1, keepdim=True))[:, 0]
    ),
    "maximum": ("`y.max(1).values`", lambda y: y.max(1).values),
    "threshold": (
        "scores above their mean, `(y * (y > y.mean())).sum(1)`",
        lambda y: (y * (y > y.mean(1, True))).sum(1),
    ),
    "rescaling": (
        "division by a norm without its history",
        lambda y: y[:, 0] / y.detach().norm(dim=1),
    ),
    "read": (
        "division by a score that was read with `tolist()`",
        lambda y: y[:, 0] / (2 + y.new_tensor(y[:, 1].tolist())),
    ),
    "inference_mode": ("a softmax under `inference_mode` as weights", lambda y: (y * weights(y)).sum(1)),
}  # fmt: skip


def weights(y: Tensor) -> Tensor:
    with torch.inference_mode():
        found = torch.softmax(8 * y, 1)
    return found.clone()


SEEDS = {"argmax": 4, "threshold": 25}  # images on which mixtures of activations do not switch


def picture(seed: int) -> Tensor:
    return 2 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


for _name, (_tried, _function) in FUNCTIONS.items():
    add(
        f"target_with_{_name}",
        Kind.TARGET,
        f"a target function: {_tried}",
        WEAKER,
        build=partial(Net, flattened),
        images=partial(picture, SEEDS[_name]) if _name in SEEDS else pictures,
        target=_function,
    )

OUTPUTS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "rescaling": ("division by a norm without its history", lambda y: y / y.detach().norm(dim=1)[:, None]),
    "threshold": ("scores below their mean become 0", lambda y: y * (y > y.mean(1, True))),
}  # fmt: skip

for _name, (_tried, _function) in OUTPUTS.items():
    add(
        f"output_with_{_name}",
        Kind.TARGET,
        f"a function given as `output=`: {_tried}",
        WEAKER,
        build=partial(Net, flattened),
        target=hirescam.AllClasses(),
        output=_function,
    )

add(
    "target_that_is_linear",
    Kind.CONTROL,
    "a target function that weighs two scores",
    EXACT,
    target=lambda y: 2 * y[:, 0] - y[:, 3],
)
add(
    "output_that_selects",
    Kind.CONTROL,
    "`output=` takes the scores out of a tuple and scales them",
    EXACT,
    build=lambda: tuple_of(Net()),
    output=lambda pair: 2 * pair[0],
    target=1,
)


class Pair(nn.Module):
    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return y, 7 * y


def tuple_of(net: Net) -> Net:
    net.last = Pair()
    return net


# Gradients ------------------------------------------------------------------------------------


gradient = partial(head, Kind.GRADIENT, right=EXACT | WEAKER)


def hooked(y: Tensor, hook: Callable[[Tensor], Tensor]) -> Tensor:
    if y.requires_grad:
        y.register_hook(hook)
    return y


def favoured(y: Tensor) -> Tensor:
    """Make class 0, whose gradient is right, the predicted one."""
    return y + y.new_tensor([5.0, 0, 0, 0, 0])


@gradient("a hook that weighs the gradient of each class, with AllClasses", target=hirescam.AllClasses())
def hook_for_each_class(net: Net, a: Tensor) -> Tensor:
    return hooked(favoured(net.fc(pooled(a))), lambda grad: grad * grad.new_tensor([1.0, 2, 3, 4, 5]))


@gradient("a hook that clips the gradient", target=hirescam.AllClasses())
def hook_that_clips(net: Net, a: Tensor) -> Tensor:
    small = net.fc.weight * net.fc.weight.new_tensor([[0.1], [1], [1], [1], [1]])
    return favoured(F.linear(hooked(pooled(a), lambda grad: grad.clamp(-0.1, 0.1)), small))


@gradient("a hook that zeroes the gradient of half of the channels")
def hook_that_zeroes(net: Net, a: Tensor) -> Tensor:
    return net.fc(hooked(pooled(a), lambda grad: grad * (torch.arange(8) % 2)))


@model(Kind.GRADIENT, "a backward hook of a module that halves the gradient", EXACT | WEAKER)
def hook_of_a_module() -> Net:
    net = Net()
    net.fc.register_full_backward_hook(lambda _m, grads, _g: tuple(0.5 * grad for grad in grads))
    return net


class Reversal(torch.autograd.Function):
    """The identity, with the gradient's sign changed."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return -grad


class Doubling(torch.autograd.Function):
    """Doubling, with the gradient of the identity."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


class Rounding(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return (50 * x).round() / 50

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


@gradient("gradient reversal, as for domain adaptation")
def gradient_reversal(net: Net, a: Tensor) -> Tensor:
    return net.fc(Reversal.apply(pooled(a)))


@gradient("an `autograd.Function` with a wrong backward")
def wrong_backward(net: Net, a: Tensor) -> Tensor:
    return net.fc(Doubling.apply(pooled(a)))


@head(Kind.GRADIENT, "a straight-through estimator that rounds")
def straight_through(net: Net, a: Tensor) -> Tensor:
    return net.fc(Rounding.apply(pooled(a)))


@head(Kind.GRADIENT, "a straight-through estimator written with `detach()`")
def straight_through_by_detach(net: Net, a: Tensor) -> Tensor:
    z = pooled(a)
    return net.fc(z + ((50 * z).round() / 50 - z).detach())


@gradient("one tenth of the gradient, `0.1 * h + (0.9 * h).detach()`")
def tenth_of_the_gradient(net: Net, a: Tensor) -> Tensor:
    return net.fc(0.1 * pooled(a) + (0.9 * pooled(a)).detach())


@model(
    Kind.GRADIENT,
    "evaluation-mode batch norm, one image, and a gradient that arrives in token order",
    EXACT | WEAKER,
    images=lambda: pictures(1),
)
class TokensAfterBatchNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        nn.init.normal_(self.norm.weight)

    def head(self, a: Tensor) -> Tensor:
        tokens = self.norm(a).flatten(2).transpose(1, 2).contiguous()
        return self.flat(tokens.flatten(1))


# Offsets --------------------------------------------------------------------------------------


constant = partial(model, Kind.CONSTANT, right=EXACT | WEAKER)


@head(Kind.CONSTANT, "a bias before a layer norm")
def bias_before_layer_norm(net: Net, a: Tensor) -> Tensor:
    return net.fc(F.layer_norm(net.gate(pooled(a)), (8,)))


@head(Kind.CONSTANT, "a bias before `F.normalize`")
def bias_before_normalize(net: Net, a: Tensor) -> Tensor:
    return net.fc(F.normalize(net.gate(pooled(a)), dim=1))


class Colour(Net):
    """A side branch sees the mean of each colour, and nothing else of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 5))
        self.layer[2] = nn.AvgPool2d(56)
        self.fc.weight.data *= 5

    def side(self, image: Tensor) -> Tensor:
        with torch.inference_mode():
            mean = image.mean((2, 3))
        return self.colour(mean.clone())


@constant("a side branch on the image's mean colour, added", images=lambda: pictures(1, 224))
class SideBranchOnTheMean(Colour):
    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layer(image)) + self.side(image)


@constant("experts that are weighted by the image's mean colour", images=lambda: pictures(1, 224))
class ExpertsOnTheMean(Colour):
    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layer(image)) * torch.sigmoid(self.side(image))


@constant("the image's mean is added under `no_grad`")
class MeanUnderNoGrad(Net):
    def forward(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            level = image.mean((1, 2, 3)).unsqueeze(1)
        return self.head(self.layer(image)) + level


@constant(
    "a second image is an input, and its mean is added",
    images=lambda: (pictures(), pictures(4)[2:]),
    others=lambda inputs: (inputs[0], brighter(inputs[1])),
)
class SecondImage(Net):
    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Linear(3, 5)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        return self.head(self.layer(image)) + self.side(pooled(other))


@constant(
    "`model(region, image)`, `input=0`: the first input is no image, and the image's mean is added",
    images=lambda: (torch.ones(2, 1, 16, 16), pictures()),
    input=0,
)
class RegionBeforeTheImage(Net):
    def forward(self, region: Tensor, image: Tensor) -> Tensor:
        return self.head(self.layer(image * region)) + image.mean((1, 2, 3)).unsqueeze(1).detach()


def darker(inputs: Tensor) -> Tensor:
    return 0.3 * inputs


class TwoHeads(Net):
    """A head for the day and one for the night."""

    def __init__(self) -> None:
        super().__init__()
        self.night = nn.Linear(8, 5)


@constant("Python reads how bright the images are, and chooses the head by it", others=darker)
class DayAndNight(TwoHeads):
    def forward(self, image: Tensor) -> Tensor:
        chosen = self.night if image.mean().item() < 0.3 else self.fc
        return chosen(pooled(self.layer(image)))


@constant(
    "the same for each image of a batch",
    images=lambda: torch.cat([pictures(), 0.3 * pictures(1)]),
    others=darker,
    target=hirescam.Contrast(0, 1),
)
class DayAndNightInABatch(TwoHeads):
    def forward(self, image: Tensor) -> Tensor:
        dark = (image.mean((1, 2, 3)) < 0.3).tolist()
        rows = zip(dark, pooled(self.layer(image)), strict=True)
        return torch.stack([(self.night if night else self.fc)(row) for night, row in rows])


@constant("Python reads how bright the images are, and adds to the scores", others=darker)
class Exposure(Net):
    def forward(self, image: Tensor) -> Tensor:
        dark = float(image.mean()) < 0.3
        scores = self.head(self.layer(image))
        return scores - 3 if dark else scores


@model(Kind.CONSTANT, "a factor that is read from the image before the layer", WEAKER | REFUSED)
class FactorReadBeforeTheLayer(Net):
    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layer(image)) * (1 + float(image.mean()))
