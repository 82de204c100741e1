"""Code after the layer that leaves no trace, or none that can be read."""

import threading
from functools import cache, partial

import torch
from torch import Tensor, nn

from attacks.table import REFUSED, WEAKER, Kind, Net, four_and_two, head, model, pooled

later = partial(head, Kind.UNSEEN, images=four_and_two)
row = partial(head, Kind.UNSEEN)
CAP = 1.0  # between the features of the first four images and those of the last two


def tame(h: Tensor) -> Tensor:
    if bool(h.amax() > 1.0):
        h = h.clamp(max=1.0)
    return h


@cache
def scripted() -> object:
    return torch.jit.script(tame)


@later("a scripted function with a branch that only the last images take")
def branch_in_a_scripted_function(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(torch.cat([scripted()(one[None]) for one in a])))


class Tame(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        if bool(h.mean() > 0.5):
            h = h.clamp(max=1.0)
        return h


@model(
    Kind.UNSEEN,
    "a scripted module with a branch that only the last images take",
    WEAKER | REFUSED,
    images=four_and_two,
    says="script",
)
class BranchInAScriptedModule(Net):
    def __init__(self) -> None:
        super().__init__()
        self.tame = torch.jit.script(Tame().eval())

    def head(self, a: Tensor) -> Tensor:
        return self.fc(pooled(torch.cat([self.tame(one[None]) for one in a])))


@later("`h.data.clamp_()`, which binds for the last images only")
def data_clamp(net: Net, a: Tensor) -> Tensor:
    a.data.clamp_(max=CAP)
    return net.fc(pooled(a))


@later("`h.clamp_()` under `no_grad`, which binds for the last images only")
def clamp_under_no_grad(net: Net, a: Tensor) -> Tensor:
    with torch.no_grad():
        a.clamp_(max=CAP)
    return net.fc(pooled(a))


@later("`h.clamp_()` under `inference_mode`, which binds for the last images only")
def clamp_in_inference_mode(net: Net, a: Tensor) -> Tensor:
    with torch.inference_mode():
        a.clamp_(max=CAP)
    return net.fc(pooled(a))


@later("a worker thread clamps the features in place")
def clamp_in_a_thread(net: Net, a: Tensor) -> Tensor:
    thread = threading.Thread(target=lambda: a.data.clamp_(max=CAP))
    thread.start()
    thread.join()
    return net.fc(pooled(a))


@later("`torch._foreach_clamp_max_([h.data], ...)`")
def clamp_in_a_list(net: Net, a: Tensor) -> Tensor:
    torch._foreach_clamp_max_([a.data], CAP)
    return net.fc(pooled(a))


@later("NumPy clips the memory of the features")
def clip_by_numpy(net: Net, a: Tensor) -> Tensor:
    memory = a.detach().numpy()
    memory.clip(max=CAP, out=memory)
    return net.fc(pooled(a))


class Quiet(Tensor):
    """A tensor whose functions tell nobody."""

    __torch_function__ = torch._C._disabled_torch_function_impl


@row("a gate that a subclass of `Tensor` computes without telling anyone")
def gate_in_a_subclass(net: Net, a: Tensor) -> Tensor:
    quiet = pooled(a).detach().as_subclass(Quiet)
    return net.fc(pooled(a) * net.hard(quiet).as_subclass(Tensor))


@cache
def operator() -> object:
    @torch.library.custom_op("hirescam_attacks::gate", mutates_args=())
    def gate(z: Tensor, level: float) -> Tensor:
        return (z.mean(1, keepdim=True) > level).to(z.dtype) + 0.5

    return gate


@row("a gate that is an operator of its own (`torch.library.custom_op`)")
def gate_in_an_operator(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(a) * operator()(pooled(a).detach(), net.level))


@row("a gate in a function of `torch.compile`", slow=True)
def gate_in_a_compiled_function(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(a) * torch.compile(net.hard, backend="eager")(pooled(a).detach()))
