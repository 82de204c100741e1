"""What may happen to a model, or to a target, between two calls."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fuzz.around import End
from fuzz.curved import Curved
from fuzz.node import Node, Step
from fuzz.session import Session


class Doubling(nn.Module):
    """Twice what comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Square(nn.Module):
    """Its square."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x


def appended(module: Callable[[], nn.Module]) -> Callable[[Session], None]:
    return lambda session: setattr(session.model, "last", module())


def hook(
    place: str, function: Callable[..., Any], register: str = "register_forward_hook"
) -> Callable[[Session], None]:
    def change(session: Session) -> None:
        module = session.model.get_submodule(place)
        session.hooks.append(getattr(module, register)(function))

    return change


def doubles_gradients(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    output = output * 1
    if output.requires_grad:
        output.register_hook(lambda gradient: 2 * gradient)
    return output


def unhook(session: Session) -> None:
    for handle in session.hooks:
        handle.remove()
    session.hooks.clear()


def patched(place: str, after: Callable[[Tensor], Tensor]) -> Callable[[Session], None]:
    def change(session: Session) -> None:
        module = session.model.get_submodule(place)
        original = type(module).forward
        module.forward = lambda *args, **kwargs: after(original(module, *args, **kwargs))

    return change


def unpatch(session: Session) -> None:
    for module in (session.model, session.model.last, session.model.layer):
        module.__dict__.pop("forward", None)


def changed_weights(change: Callable[[nn.Parameter], object]) -> Callable[[Session], None]:
    def change_all(session: Session) -> None:
        with torch.no_grad():
            for weight in session.weights:
                change(weight)

    return change_all


def put(weight: nn.Parameter, value: Tensor) -> None:
    weight.data = value


def one_element(session: Session) -> None:
    with torch.no_grad():
        session.weights[-1].view(-1)[0] += 3


def loaded(session: Session) -> None:
    state = {
        name: value * -1.5 if value.is_floating_point() else value
        for name, value in session.model.state_dict().items()
    }
    session.model.load_state_dict(state)


def replaced(session: Session) -> None:
    for module in session.model.steps.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                setattr(module, name, nn.Parameter(weight.detach().flip(0) * 2))


def more_steps(step: Step) -> Callable[[Session], None]:
    return lambda session: session.model.steps.append(Node(step))


def later_values(session: Session) -> None:
    for module in session.model.modules():
        if isinstance(module, Node):
            module.values = {
                name: value * 2 if isinstance(value, float) else value
                for name, value in module.values.items()
            }


def attribute(name: str, value: Any) -> Callable[[Session], None]:
    return lambda session: setattr(session.model, name, value)


CHANGES: dict[str, Callable[[Session], None]] = {
    "append a softmax": appended(lambda: nn.Softmax(1)),
    "append a sigmoid": appended(nn.Sigmoid),
    "append a relu": appended(nn.ReLU),
    "append a square": appended(Square),
    "append a doubling": appended(Doubling),
    "append nothing": appended(nn.Identity),
    "a step more: square": more_steps(Curved("square")),
    "a step more: softmax": more_steps(End("softmax")),
    "a hook that doubles the scores": hook("last", lambda module, inputs, output: 2 * output),
    "a hook that squares the scores": hook("last", lambda module, inputs, output: output * output),
    "a hook that gates the scores": hook(
        "last", lambda module, inputs, output: output * output.detach().mean()
    ),
    "a hook that watches": hook("last", lambda module, inputs, output: None),
    "a hook on the layer": hook("layer", lambda module, inputs, output: 1.5 * output),
    "a hook before the layer": hook(
        "layer", lambda module, inputs: (2 * inputs[0],), "register_forward_pre_hook"
    ),
    "a hook that doubles gradients": hook("last", doubles_gradients),
    "a backward hook that doubles": hook("last", lambda m, i, o: (2 * i[0],), "register_full_backward_hook"),
    "no hooks": unhook,
    "another forward of the model": patched("", lambda logits: logits.softmax(1)),
    "another forward of the model, affine": patched("", lambda logits: 3 * logits),
    "another forward of the last": patched("last", lambda logits: logits * logits),
    "another forward of the layer": patched("layer", lambda x: 2 * x),
    "the old forward": unpatch,
    "weights in place": changed_weights(lambda weight: weight.mul_(-1.5)),
    "weights through data": changed_weights(lambda weight: weight.data.mul_(-1.5)),
    "weights' data assigned": changed_weights(lambda weight: put(weight, weight.data.flip(0) * 2)),
    "weights through numpy": changed_weights(lambda weight: weight.detach().numpy().__imul__(-1.5)),
    "one weight": one_element,
    "weights loaded": loaded,
    "weights replaced": replaced,
    "power 2": attribute("power", 2),
    "power 1": attribute("power", 1),
    "the second input multiplies": attribute("mix", "multiply"),
    "other thresholds": later_values,
    "the target's power": lambda session: setattr(session.target, "power", 2),
    "float32": lambda session: session.model.float() and None,
    "float64": lambda session: session.model.double() and None,
    "frozen": lambda session: session.model.requires_grad_(False) and None,
    "not frozen": lambda session: session.model.requires_grad_(True) and None,
}
