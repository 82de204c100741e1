"""The verdict of a later call is about that call: what changed between two calls changes the verdict."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import hirescam
from attacks.table import (
    EXACT,
    LOCAL,
    NONE,
    REFUSED,
    WEAKER,
    Kind,
    Net,
    Right,
    Scene,
    add,
    head,
    pictures,
    play,
    pooled,
    rounded,
    within,
)

# A softmax is appended; every way to ask notices ----------------------------------------------


class Loud(Net):
    """Scores so far apart that a softmax bends them."""

    def __init__(self, head: Any = None) -> None:
        super().__init__(head)
        self.fc.weight.data *= 12


class Dense(Loud):
    """Scores ``(b, 5, 4, 4)`` for each location."""

    def head(self, a: Tensor) -> Tensor:
        return self.fc(a.movedim(1, -1)).movedim(-1, 1)


def first_two(y: Tensor) -> Tensor:
    return y[:, 0] + 2 * y[:, 1]


REGION = hirescam.Region(1, torch.ones(4, 4) / 16)
ASK: dict[str, tuple[str, Any, Callable[[Scene], Any]]] = {
    "explain": ("explain", None, Scene.explain),
    "certify": ("`certify`", None, lambda s: s.explainer.certify(s.images)),
    "all_classes": ("`AllClasses()`", hirescam.AllClasses(), Scene.explain),
    "contrast": ("`Contrast(0, 1)`", hirescam.Contrast(0, 1), Scene.explain),
    "finer": ("`Finer(0)`", hirescam.Finer(0), Scene.explain),
    "region": ("`Region(...)`", REGION, Scene.explain),
    "function": ("a function of the output", first_two, Scene.explain),
    "differentiable": (
        "`differentiable=True`", None, lambda s: s.explainer(s.images, differentiable=True)
    ),
    "compare": ("`compare`", None, lambda s: s.explainer.compare(s.images)["hirescam"]),
    "another_rule": ('`rule="gradcam"`', None, lambda s: s.explainer(s.images, rule="gradcam")),
}  # fmt: skip


def append_a_softmax(ask: Callable[[Scene], Any], scene: Scene) -> None:
    scene.explain()
    ask(scene)
    scene.model.last = nn.Softmax(1)


for _name, (_said, _target, _ask) in ASK.items():
    add(
        f"softmax_then_{_name}",
        Kind.LATER,
        f"a softmax is appended; then {_said}",
        NONE,
        build=Dense if _target is REGION else Loud,
        target=_target,
        play=partial(append_a_softmax, _ask),
        ask=_ask,
    )


def two_layers(net: Net, a: Tensor) -> Tensor:
    return net.fc(torch.relu(net.gate(pooled(a))))


def normalised(net: Net, a: Tensor) -> Tensor:
    return net.fc(nn.functional.layer_norm(pooled(a), (8,)))


for _name, _head in {"local": two_layers, "conditional": normalised}.items():
    add(
        f"softmax_after_a_{_name}_head",
        Kind.LATER,
        f"a softmax is appended to a head that was certified as {_name}",
        NONE,
        build=partial(Loud, _head),
        play=partial(append_a_softmax, Scene.explain),
    )


# Other changes of the model -------------------------------------------------------------------


row = partial(play, Kind.LATER)


@row("a forward hook that applies a softmax is registered", NONE, build=Loud)
def hook_on_the_head(scene: Scene) -> None:
    scene.model.fc.register_forward_hook(lambda _m, _i, output: torch.softmax(output, 1))


@row("a forward pre-hook that squares is registered", NONE)
def pre_hook_on_the_head(scene: Scene) -> None:
    scene.model.fc.register_forward_pre_hook(lambda _m, inputs: (inputs[0].square(),))


@row("a hook that doubles the layer's output is registered", EXACT)
def hook_on_the_layer(scene: Scene) -> None:
    scene.model.layer.register_forward_hook(lambda _m, _i, output: 2 * output)


@row("`forward` is patched on the instance", NONE, build=Loud)
def forward_patched_on_the_instance(scene: Scene) -> None:
    plain = scene.model.forward
    scene.model.forward = lambda image: torch.softmax(plain(image), 1)


def own_class() -> Net:
    """A model whose class nothing else has."""
    return type("Own", (Loud,), {})()


@row("`forward` is patched on the class", NONE, build=own_class)
def forward_patched_on_the_class(scene: Scene) -> None:
    type(scene.model).forward = lambda self, image: torch.softmax(self.head(self.layer(image)), 1)


class Power(Net):
    def __init__(self) -> None:
        super().__init__()
        self.power = 1

    def head(self, a: Tensor) -> Tensor:
        return self.fc(pooled(a) if self.power == 1 else pooled(a) ** self.power)


class Factor(Net):
    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def head(self, a: Tensor) -> Tensor:
        return self.fc(self.factor * pooled(a))


@row("a Python attribute, the exponent of a power, changes", NONE, build=Power)
def attribute_that_bends(scene: Scene) -> None:
    scene.model.power = 2


@row("a Python attribute, a factor, changes", EXACT, build=Factor)
def attribute_that_scales(scene: Scene) -> None:
    scene.model.factor = -3.0


class Two(Loud):
    def forward(self, image: Tensor, refine: bool = False) -> Tensor:
        y = super().forward(image)
        return torch.softmax(y, 1) if refine else y


@row(
    "another argument, not an image, changes",
    NONE,
    build=Two,
    images=lambda: {"image": pictures(), "refine": False},
)
def another_argument(scene: Scene) -> None:
    scene.images = {"image": scene.images["image"], "refine": True}


class PowerOfTheFirst:
    """A target with a state."""

    def __init__(self) -> None:
        self.power = 1

    def __call__(self, y: Tensor) -> Tensor:
        return y[:, 0] ** self.power


def closed_over() -> Callable[[Tensor], Tensor]:
    """A target whose closure can be changed through its attribute ``state``."""
    state = {"power": 1}

    def target(y: Tensor) -> Tensor:
        return y[:, 0] ** state["power"]

    target.state = state
    return target


def explained_once(make: Callable[[], Any], change: Callable[[Any], None], scene: Scene) -> None:
    scene.target = make()
    scene.explain()
    change(scene.target)


add(
    "target_object_that_changes",
    Kind.LATER,
    "an attribute of the target, an object that is called, changes",
    NONE,
    play=partial(explained_once, PowerOfTheFirst, lambda target: setattr(target, "power", 2)),
)
add(
    "target_closure_that_changes",
    Kind.LATER,
    "what the target function closes over changes",
    NONE,
    play=partial(explained_once, closed_over, lambda target: target.state.update(power=2)),
)


class Dropping(Net):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Dropout(0.5)


@row("a dropout of the head is set to training", REFUSED, build=Dropping, says="training mode")
def training_flag_of_a_part(scene: Scene) -> None:
    scene.model.last.train()


# Weights --------------------------------------------------------------------------------------


class Buffered(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(8))

    def head(self, a: Tensor) -> Tensor:
        return self.fc(pooled(a) * self.scale)


@row("a buffer is replaced", EXACT, build=Buffered)
def buffer_replaced(scene: Scene) -> None:
    scene.model.scale = torch.linspace(-1, 2, 8)


@row("weights are changed in place", EXACT)
def weights_in_place(scene: Scene) -> None:
    with torch.no_grad():
        scene.model.fc.weight.neg_()


@row("weights are changed through `.data`", EXACT)
def weights_through_data(scene: Scene) -> None:
    scene.model.fc.weight.data.neg_()


def another_class_and_then_weights(scene: Scene) -> None:
    scene.explainer(scene.images, target=0)
    scene.model.fc.weight.data.neg_()


add("weights_through_data_and_another_class", Kind.LATER,
    "weights are changed through `.data`, and another class is asked for", EXACT,
    play=another_class_and_then_weights, target=1)  # fmt: skip


@row("weights are loaded from a state dict", EXACT)
def weights_loaded(scene: Scene) -> None:
    scene.model.load_state_dict({name: -one for name, one in scene.model.state_dict().items()})


@row("a parameter is replaced by another", EXACT)
def parameter_replaced(scene: Scene) -> None:
    scene.model.fc.weight = nn.Parameter(-scene.model.fc.weight.detach())


@row("a module is replaced by an affine one", EXACT)
def module_replaced(scene: Scene) -> None:
    torch.manual_seed(5)
    scene.model.fc = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 5))


@row("a module is replaced by one with a ReLU", LOCAL)
def module_replaced_by_a_local_one(scene: Scene) -> None:
    torch.manual_seed(5)
    hidden = nn.Linear(8, 6)
    with torch.no_grad():
        hidden.bias -= hidden(pooled(scene.model.layer(scene.images))).mean(0)
    scene.model.fc = nn.Sequential(hidden, nn.ReLU(), nn.Linear(6, 5))


@row("parameters stop to require gradients: nothing changes", EXACT)
def requires_grad_flipped(scene: Scene) -> None:
    scene.model.requires_grad_(False)


@row("the model and the images become float64", EXACT)
def double_precision(scene: Scene) -> None:
    scene.model.double()
    scene.images = scene.images.double()


def for_large_images(net: Net, a: Tensor) -> Tensor:
    y = 12 * net.fc(pooled(a))
    return torch.softmax(y, 1) if a.shape[-1] > 4 else y


@row("larger images, for which the head has another branch", NONE, build=partial(Net, for_large_images))
def another_size(scene: Scene) -> None:
    scene.images = pictures(side=32)


# The score hardly moves, the map does ---------------------------------------------------------


check = partial(play, Kind.CHECK)


def flattened(net: Net, a: Tensor) -> Tensor:
    return net.flat(a.flatten(1))


@check(
    "weights are changed in place so that these images keep their scores",
    EXACT,
    build=partial(Net, flattened),
)
def weights_that_keep_the_scores(scene: Scene) -> None:
    other_matrix(scene, scene.model.flat.weight)


def other_matrix(scene: Scene, matrix: Tensor) -> None:
    """Change a matrix (5, 128) in place so that these images keep their scores."""
    with torch.no_grad():
        seen = scene.model.layer(scene.images).flatten(1)
        change = torch.linspace(-1, 1, 5 * 128).sin().view(5, 128)
        matrix += change - change @ torch.linalg.pinv(seen) @ seen


class Plain(Net):
    """Its last matrix is no parameter and no buffer, but a plain tensor."""

    def __init__(self, keep: Callable[[Tensor], Any], find: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.kept, self.find = keep(self.flat.weight.detach().clone()), find

    def head(self, a: Tensor) -> Tensor:
        return a.flatten(1) @ self.find(self.kept).T


def closure_of(matrix: Tensor) -> Callable[[], Tensor]:
    return lambda: matrix


PLAIN: dict[str, tuple[str, Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "attribute": ("a plain attribute", lambda matrix: matrix, lambda kept: kept),
    "list": ("a tensor in a list", lambda matrix: [matrix], lambda kept: kept[0]),
    "dict": ("a tensor in a dict", lambda matrix: {"last": [matrix]}, lambda kept: kept["last"][0]),
    "closure": ("a tensor that a function closes over", closure_of, lambda kept: kept()),
}


def plainly(scene: Scene) -> None:
    scene.explain()
    other_matrix(scene, scene.model.find(scene.model.kept))


for _name, (_tried, _keep, _find) in PLAIN.items():
    add(
        f"a_matrix_in_a_{_name}",
        Kind.CHECK,
        f"{_tried} is changed in place so that these images keep their scores",
        EXACT,
        build=partial(Plain, _keep, _find),
        play=plainly,
    )


def biased() -> Net:
    net = Net()
    net.fc.bias.data.fill_(1950)
    return net


@check("a bias of 1950, and weights that change their sign", EXACT, build=biased, target=0)
def weights_behind_a_large_bias(scene: Scene) -> None:
    scene.model.fc.weight.data.neg_()


def half() -> Net:
    return Net().bfloat16()


@check(
    "bfloat16, and a new parameter in which a quarter of the weights have changed their sign",
    EXACT,
    build=half,
    images=lambda: pictures().bfloat16(),
    tolerance=3e-2,
)
def weights_in_half_precision(scene: Scene) -> None:
    changed = scene.model.fc.weight.detach().clone()
    changed[:, ::4].neg_()
    scene.model.fc.weight = nn.Parameter(changed)


@head(Kind.CHECK, "a bias of 1950 and a hidden gate", target=0)
def gate_behind_a_large_bias(net: Net, a: Tensor) -> Tensor:
    with torch.inference_mode():
        gate = net.soft(pooled(a))
    return net.fc(pooled(a) * gate.clone()) + 1950


class TwiceTheGradient(Net):
    """In a backward pass one class gets twice its gradient."""

    def head(self, a: Tensor) -> Tensor:
        y = super().head(a)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient * gradient.new_tensor([1, 2, 1, 1, 1]))
        return y


def another_class_first(scene: Scene) -> None:
    scene.explainer(scene.images, target=0)


for _name, _dtype in {"float32": torch.float32, "bfloat16": torch.bfloat16}.items():
    add(
        f"one_class_has_another_gradient_in_{_name}",
        Kind.CHECK,
        f"{_name}, and a hook that doubles the gradient of one class; another is explained before",
        NONE,
        build=partial(lambda dtype: TwiceTheGradient().to(dtype), _dtype),
        images=partial(lambda dtype: pictures().to(dtype), _dtype),
        target=1,
        play=another_class_first,
        tolerance=1e-3 if _dtype is torch.float32 else 3e-2,
    )


add(
    "one_class_has_another_gradient_with_rounded_factors",
    Kind.CHECK,
    "the same in float32 whose factors are rounded to bfloat16",
    NONE,
    build=TwiceTheGradient,
    target=1,
    play=another_class_first,
    ask=partial(within, rounded),
    tolerance=3e-2,
)


def few_per_cent(scene: Scene) -> None:
    """Weights that drift, so that the score stays where it is to a thousandth."""
    weight = scene.model.fc.weight
    drift = 1 + 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    scene.model.fc.bias.data.zero_()
    scene.explain()
    changed = weight.data * drift
    scale = scene.model(scene.images)[0, 0] / (scene.model.layer(scene.images).mean((2, 3)) @ changed[0])[0]
    weight.data.copy_(changed * scale)


add(
    "weights_that_drift_and_keep_the_score",
    Kind.CHECK,
    "weights change by a few per cent through `.data`, and one score stays where it is",
    EXACT,
    play=lambda scene: few_per_cent(scene),
    images=lambda: pictures(1),
    target=0,
)


def gated_in_half_precision(net: Net, a: Tensor) -> Tensor:
    with torch.inference_mode():
        gate = 1 + 0.2 * net.soft(pooled(a))
    return net.fc(pooled(a) * gate.clone())


add(
    "gate_in_half_precision",
    Kind.CHECK,
    "bfloat16, and a hidden gate that weighs a few per cent",
    WEAKER,
    build=lambda: Net(gated_in_half_precision).bfloat16(),
    images=lambda: pictures().bfloat16(),
    tolerance=1e-2,
)


add(
    "gate_with_rounded_factors",
    Kind.CHECK,
    "the same gate in float32 whose factors are rounded to bfloat16",
    WEAKER,
    build=lambda: Net(gated_in_half_precision),
    ask=partial(within, rounded),
    tolerance=1e-2,
)


# Of a compiled explainer ----------------------------------------------------------------------


def compiled(change: Callable[[Any], None], scene: Scene) -> None:
    scene.explainer.compile()
    scene.explain()
    scene.explain()
    change(scene.model)


def patched(model: Net) -> None:
    plain = model.head
    model.head = lambda a: torch.softmax(plain(a), 1)


COMPILED: dict[str, tuple[str, Right, Any, Callable[[Any], None]]] = {
    "compiled_then_an_attribute": (
        "a Python attribute, a factor, changes after `compile()`", EXACT, Factor,
        lambda model: setattr(model, "factor", -3.0),
    ),
    "compiled_then_a_hook": (
        "a hook that applies a softmax is registered after `compile()`", NONE | REFUSED, Loud,
        lambda model: model.fc.register_forward_hook(lambda _m, _i, output: torch.softmax(output, 1)),
    ),
    "compiled_then_a_patch": ("a method is patched after `compile()`", NONE | REFUSED, Loud, patched),
    "compiled_then_new_weights": (
        "weights change in place after `compile()`", EXACT, Net, lambda model: model.fc.weight.data.neg_()
    ),
}  # fmt: skip

for _name, (_tried, _right, _build, _change) in COMPILED.items():
    add(_name, Kind.COMPILED, _tried, _right, build=_build, play=partial(compiled, _change), slow=True)
