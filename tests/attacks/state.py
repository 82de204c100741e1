"""What a forward pass changes on its own model, and parts that used to end in a bare error."""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import hirescam
from attacks.table import EXACT, LOCAL, REFUSED, WEAKER, Kind, Net, Scene, add, head, model, pooled

row = partial(model, Kind.STATE, right=EXACT)


class Average(Net):
    """Keeps a running average of its features."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(8))


@row("a running average: a buffer that is assigned under `no_grad`")
class AverageThatIsAssigned(Average):
    def head(self, a: Tensor) -> Tensor:
        with torch.no_grad():
            self.average = 0.9 * self.average + 0.1 * pooled(a).mean(0)
        return self.fc(pooled(a))


@model(Kind.STATE, "the same before two layers with a ReLU between them", LOCAL)
class AverageBeforeARelu(AverageThatIsAssigned):
    def head(self, a: Tensor) -> Tensor:
        super().head(a)
        return self.fc(torch.relu(self.gate(pooled(a))))


@row("a running average that is written in place")
class AverageInPlace(Average):
    def head(self, a: Tensor) -> Tensor:
        self.average.mul_(0.9).add_(0.1 * pooled(a).detach().mean(0))
        return self.fc(pooled(a))


@row("a buffer that counts the calls")
class CallsInABuffer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))

    def head(self, a: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(pooled(a))


@row("a Python number that counts the calls", own=("calls",))
class CallsInANumber(Net):
    calls = 0

    def head(self, a: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(pooled(a))


@row("the features are kept on the model", own=("kept",))
class FeaturesKept(Net):
    def head(self, a: Tensor) -> Tensor:
        self.kept = [a.detach()]
        return self.fc(pooled(a))


class Scratch(Net):
    """Writes its features into a tensor of its own, and gives back what it found in it."""

    def __init__(self, keep: Callable[[Tensor], Any], find: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.kept, self.find = keep(torch.ones(3, 8)[1:]), find

    def head(self, a: Tensor) -> Tensor:
        box = self.find(self.kept)
        box.copy_(pooled(a))
        return self.fc(2 * box)


def scratch_is_plain(scene: Scene, _answer: Any) -> list[str]:
    box = scene.model.find(scene.model.kept)
    found = [] if bool((box == 1).all()) else ["what the forward pass wrote is still there"]
    return found + (["its scratch hangs on a graph"] if box.requires_grad else [])


SCRATCH: dict[str, tuple[str, Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "attribute": ("a plain attribute", torch.clone, lambda kept: kept),
    "view": ("a plain attribute, a view", lambda box: box, lambda kept: kept),
    "list": ("a tensor in a list", lambda box: [box.clone()], lambda kept: kept[0]),
    "dict": ("a tensor in a dict", lambda box: {"a": box.clone()}, lambda kept: kept["a"]),
}
for _name, (_tried, _keep, _find) in SCRATCH.items():
    add(
        f"features_written_into_a_{_name}",
        Kind.STATE,
        f"the features are written into {_tried}",
        EXACT,
        build=partial(Scratch, _keep, _find),
        check=scratch_is_plain,
    )


@row("the features are put into a dict and appended to a list", check=lambda scene, _: scene.model.left())
class FeaturesCollected(Net):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.seen = {}, []

    def head(self, a: Tensor) -> Tensor:
        self.table["last"] = a
        self.seen.append(a)
        return self.fc(pooled(a))

    def left(self) -> list[str]:
        return ["features of our own passes are left behind"] if self.table or self.seen else []


def grid_is_plain(scene: Scene, _answer: Any) -> list[str]:
    grid = dict(scene.model.named_buffers()).get("grid")
    odd = grid is not None and (grid.is_inference() or grid.requires_grad)
    return ["the buffer is an inference tensor, or hangs on a graph"] if odd else []


@row("a buffer of constants that the first call registers", own=("grid",), check=grid_is_plain)
class ConstantsMadeAtTheFirstCall(Net):
    def head(self, a: Tensor) -> Tensor:
        if not hasattr(self, "grid"):
            self.register_buffer("grid", torch.linspace(0, 1, 16, dtype=a.dtype).view(4, 4))
        return self.fc(pooled(a * self.grid))


@head(Kind.STATE, "random numbers that nothing uses", EXACT)
def random_numbers_drawn(net: Net, a: Tensor) -> Tensor:
    torch.rand(3)
    return net.fc(pooled(a))


@head(Kind.STATE, "weights that are clamped in place, under `no_grad`, in each call", EXACT)
def weights_clamped(net: Net, a: Tensor) -> Tensor:
    with torch.no_grad():
        net.fc.weight.clamp_(-1, 1)
    return net.fc(pooled(a))


# Provenance -----------------------------------------------------------------------------------


def hash_of_what_was_explained(change: Callable[[Any], Any], scene: Scene, answer: Any) -> list[str]:
    """Ask for the hash of the weights after they changed, which may be unknown; then change them back."""
    kept = copy.deepcopy(scene.model.state_dict())
    wanted = hirescam.explain(copy.deepcopy(scene.model), scene.images, layer="layer").manifest()
    change(scene.model)
    got = answer.manifest()
    scene.model.load_state_dict(kept)
    return (
        []
        if got["weights_sha256"] in ("", wanted["weights_sha256"])
        else ["the manifest hashes weights that were not explained"]
    )


def add_one(net: Net) -> None:
    with torch.no_grad():
        net.fc.weight.add_(1)


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "in_place": ("weights change in place", add_one),
    "through_data": ("weights change through `.data`", lambda net: net.fc.weight.data.neg_()),
    "loaded": (
        "other weights are loaded",
        lambda net: net.load_state_dict({name: -one for name, one in net.state_dict().items()}),
    ),
}

for _name, (_tried, _change) in CHANGES.items():
    add(
        f"hash_after_weights_{_name}",
        Kind.DISK,
        f"{_tried} after the explanation, and then its manifest is written",
        EXACT,
        check=partial(hash_of_what_was_explained, _change),
    )


# Loud -----------------------------------------------------------------------------------------


loud = partial(model, Kind.LOUD)


@loud("a scripted part of the head", EXACT | WEAKER | REFUSED, says="script")
def scripted_head() -> Net:
    net = Net()
    net.fc = torch.jit.script(net.fc)
    return net


@loud("a scripted part before the layer", EXACT | REFUSED, says="script")
def scripted_backbone() -> Net:
    net = Net()
    net.layer[0] = torch.jit.script(net.layer[0])
    return net


@loud("a traced part of the head", EXACT | WEAKER | REFUSED, says="script|trace")
def traced_head() -> Net:
    net = Net()
    net.fc = torch.jit.trace(net.fc, torch.rand(2, 8))
    return net


def exported(part: nn.Module, example: Tensor) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = torch.export.Dim("batch", min=1, max=512)
        return torch.export.export(part, (example,), dynamic_shapes=({0: batch},)).module()


@loud("a part of the head that `torch.export` made", EXACT | REFUSED, says="export")
def exported_head() -> Net:
    net = Net()
    net.fc = exported(net.fc, torch.rand(2, 8))
    return net


@loud("a part before the layer that `torch.export` made", EXACT | REFUSED, says="export")
def exported_backbone() -> Net:
    net = Net()
    net.layer[0] = exported(net.layer[0], torch.rand(2, 3, 16, 16))
    return net


@head(Kind.LOUD, "nested tensors", EXACT | WEAKER | REFUSED, says="nest")
def nested(net: Net, a: Tensor) -> Tensor:
    parts = torch.nested.as_nested_tensor([one.flatten(1).T for one in a])
    return net.fc(torch.nested.to_padded_tensor(parts, 0.0).mean(1))
