"""Steps whose dependence on the features is easily missed: handed-on values, branches, counts, slices."""

import copy
import io
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fuzz.affine import space
from fuzz.node import Entry, Env, Named, Node, Step, anything, maps

# --- a value of the features, by a way that hides where it comes from --------------------------


def gate_of_channels(x: Tensor, own: Node) -> Tensor:
    """As in squeeze and excitation."""
    pooled = x.mean(space(x)) if x.ndim > 2 else x
    gate = (pooled @ own.matrix("gate", x.shape[1], x.shape[1])).sigmoid()
    return gate.view(len(x), -1, *[1] * (x.ndim - 2))


VALUES: dict[str, Callable[[Tensor, Node], Tensor]] = {
    "mean": lambda x, own: 0.5 + x.mean(tuple(range(1, x.ndim)), keepdim=True),
    "gate": gate_of_channels,
    "mean of all": lambda x, own: x.mean(),
    "peak of all": lambda x, own: x.amax(),
    "share above": lambda x, own: (x > own.typical(x)).to(x).mean(),
    "pattern above": lambda x, own: (x > own.typical(x)).to(x),
}


def from_floats(g: Tensor) -> Tensor:
    return torch.tensor([float(v) for v in g.detach().flatten()], dtype=g.dtype).view(g.shape)


def saved_and_loaded(g: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(g.detach(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def in_thread(work: Callable[[], Tensor]) -> Tensor:
    done: Future[Tensor] = Future()

    def worker() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=worker)
    thread.start()
    thread.join()
    return done.result()


def through_parameters(g: Tensor) -> Tensor:
    slot = [nn.Parameter(torch.zeros_like(g))]
    nn.utils.vector_to_parameters(g.detach().flatten(), slot)
    return slot[0]


def through_data(g: Tensor) -> Tensor:
    slot = nn.Parameter(torch.zeros_like(g))
    slot.data = g.detach()
    return slot


def through_set(g: Tensor) -> Tensor:
    plain = g.detach().contiguous()
    return torch.empty(0, dtype=g.dtype).set_(plain.untyped_storage(), 0, plain.shape)


def through_buffer(g: Tensor, own: Node) -> Tensor:
    slot = own.constant("slot", lambda: torch.zeros_like(g))
    with torch.no_grad():
        slot.copy_(g)
    return slot * 1


def without_functions(g: Tensor) -> Tensor:
    with torch._C.DisableTorchFunction():
        return g.detach() * 1


class Cut(torch.autograd.Function):
    """The identity, without a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        return None


def own_gradient(g: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = g.detach().clone().requires_grad_()
        return torch.autograd.grad(leaf.square().sum() / 2, leaf)[0]


HIDING: dict[str, Callable[[Tensor, Node], Tensor | float]] = {
    "nothing": lambda g, own: g,
    "detach": lambda g, own: g.detach(),
    "data": lambda g, own: g.data,
    "item": lambda g, own: g.item() if g.ndim == 0 else from_floats(g),
    "float": lambda g, own: float(g) if g.ndim == 0 else from_floats(g),
    "f-string": lambda g, own: float(f"{g:.12f}") if g.ndim == 0 else from_floats(g),
    "tolist": lambda g, own: torch.tensor(g.tolist(), dtype=g.dtype),
    "torch.tensor": lambda g, own: (
        torch.tensor(g.detach()) if g.ndim else torch.tensor(float(g), dtype=g.dtype)
    ),
    "new_tensor": lambda g, own: g.new_tensor(g.tolist()),
    "as_tensor": lambda g, own: torch.as_tensor(g.detach().numpy()),
    "numpy": lambda g, own: torch.from_numpy(g.detach().numpy().copy()),
    "numpy view": lambda g, own: (
        torch.from_numpy(g.detach().numpy()) if g.ndim else float(g.detach().numpy())
    ),
    "Parameter": lambda g, own: nn.Parameter(g.detach()),
    "Parameter's data": lambda g, own: through_data(g),
    "vector_to_parameters": lambda g, own: through_parameters(g),
    "torch.Tensor": lambda g, own: torch.Tensor(g.detach().float()).to(g.dtype),
    "set_": lambda g, own: through_set(g),
    "dlpack": lambda g, own: torch.from_dlpack(g.detach()),
    "copy into a buffer": lambda g, own: through_buffer(g, own),
    "deepcopy": lambda g, own: copy.deepcopy(g.detach()),
    "file": lambda g, own: saved_and_loaded(g),
    "DisableTorchFunction": lambda g, own: without_functions(g),
    "custom function": lambda g, own: Cut.apply(g),
    "vmap": lambda g, own: torch.vmap(lambda row: row * 1)(g.detach()) if g.ndim else g.detach(),
    "gradient of its own": lambda g, own: own_gradient(g),
    "thread": lambda g, own: in_thread(lambda: g.detach() * 1),
    "list of floats": lambda g, own: from_floats(g),
}

COMPUTED: dict[str, Callable[[Callable[[], Tensor]], Tensor]] = {}


def computed_no_grad(value: Callable[[], Tensor]) -> Tensor:
    with torch.no_grad():
        return value()


def computed_inference(value: Callable[[], Tensor]) -> Tensor:
    with torch.inference_mode():
        return value()


def computed_inference_cloned(value: Callable[[], Tensor]) -> Tensor:
    return computed_inference(value).clone()


COMPUTED |= {
    "plainly": lambda value: value(),
    "no_grad": computed_no_grad,
    "inference_mode": computed_inference,
    "inference_mode, cloned": computed_inference_cloned,
    "thread": in_thread,
}

USES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "multiply": lambda x, g: x * g,
    "add": lambda x, g: x + g,
    "divide": lambda x, g: x / (1 + g * g),
    "multiply in place": lambda x, g: x.mul_(g),
    "stack": lambda x, g: torch.cat(
        [x, x[:, :1] * 0 + g.mean() if isinstance(g, Tensor) else x[:, :1] * 0 + g], 1
    ),
}


@dataclass(frozen=True, repr=False)
class Launder(Step):
    """Uses a value of its features, computed and handed on in a way that may hide it."""

    value: str = "mean"
    computed: str = "plainly"
    hidden: str = "nothing"
    use: str = "multiply"

    def run(self, x: Tensor, own: Node, env: Env) -> Tensor:
        value = COMPUTED[self.computed](lambda: VALUES[self.value](x, own))
        return USES[self.use](x, HIDING[self.hidden](value, own))


# --- branches, counts, slices ------------------------------------------------------------------


def equal_rows(x: Tensor) -> bool:
    return torch.equal(x.flatten(1).argmax(1), x.flatten(1).argmax(1).flip(0))


TESTS: dict[str, Callable[[Tensor, float], bool]] = {
    "float": lambda x, t: float(x.mean()) > t,
    "bool of a tensor": lambda x, t: bool(x.mean() > t),
    "item": lambda x, t: x.mean().item() > t,
    "is_nonzero": lambda x, t: torch.is_nonzero(x.mean() > t),
    "tolist": lambda x, t: max(x.mean(tuple(range(1, x.ndim))).tolist()) > t,
    "numpy": lambda x, t: x.detach().numpy().mean() > t,
    "f-string": lambda x, t: float(f"{x.mean():.12f}") > t,
    "detached": lambda x, t: bool(x.detach().mean() > t),
    "data": lambda x, t: bool(x.data.mean() > t),
    "any": lambda x, t: bool((x.mean(1) > t).any()),
    "torch.any": lambda x, t: bool(torch.any(x.mean(1) > t)),
    "inference_mode": lambda x, t: bool(computed_inference(lambda: x.mean()) > t),
    "thread": lambda x, t: bool(in_thread(lambda: x.detach().mean()) > t),
    "len(where)": lambda x, t: len(torch.where(x > t)[0]) * 2 > x.numel(),
    "numel": lambda x, t: x[x > t].numel() * 2 > x.numel(),
    "allclose": lambda x, t: torch.allclose(x.mean(), x.new_tensor(t), rtol=0.002),
    "int index": lambda x, t: int(x.flatten(1).argmax(1)[0]) % 2 == 0,
    "equal": lambda x, t: equal_rows(x),
}


@dataclass(frozen=True, repr=False)
class Branch(Step):
    """Takes one of two ways; the threshold is `near` times the value at the images of the program."""

    test: str = "float"
    near: float = 1.001

    def run(self, x: Tensor, own: Node, env: Env) -> Tensor:
        threshold = own.value("threshold", lambda: self.near * float(x.mean()))
        own.per_channel(x)
        return 1.5 * x if TESTS[self.test](x, threshold) else x * own.per_channel(x)


COUNTS: dict[str, Callable[[Tensor, float], int]] = {
    "len(where)": lambda x, t: len(torch.where(x > t)[0]),
    "argwhere": lambda x, t: torch.argwhere(x > t).shape[0],
    "nonzero": lambda x, t: (x > t).nonzero().size(0),
    "numel": lambda x, t: x[x > t].numel(),
    "masked_select": lambda x, t: len(x.masked_select(x > t)),
    "unique": lambda x, t: len(torch.unique((x * 4).round())),
    "unique_consecutive": lambda x, t: len(torch.unique_consecutive((x > t).flatten())),
    "bincount": lambda x, t: len(torch.bincount((x.detach().abs() * 4).long().flatten())),
    "count_nonzero": lambda x, t: int(torch.count_nonzero(x > t)),
    "sum of bools": lambda x, t: int((x > t).sum()),
    "repeat_interleave": lambda x, t: len(
        torch.arange(x.numel()).repeat_interleave((x > t).flatten().long())
    ),
    "split sizes": lambda x, t: sum(1 for part in (x > t).flatten().tolist() if part),
}
COUNT_USES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "divide": lambda x, n: x * (x.numel() / max(n, 1)) / 4,
    "size of a range": lambda x, n: x * torch.arange(n).to(x).mean() / x.numel() if n else x,
    "slice": lambda x, n: torch.cat([x, x.flatten(1)[:, :n].mean() + 0 * x[:, :1]], 1),
    "new_full": lambda x, n: x * x.new_ones(n).sum() / x.numel(),
}


@dataclass(frozen=True, repr=False)
class Count(Step):
    """Counts features above a level, by the size of a result, and uses the number."""

    count: str = "len(where)"
    use: str = "divide"

    def run(self, x: Tensor, own: Node, env: Env) -> Tensor:
        return COUNT_USES[self.use](x, COUNTS[self.count](x, own.typical(x)))


def peak(x: Tensor) -> Tensor:
    """Where the last axis is largest, of the first image, kept from the borders."""
    rows = x[0].reshape(-1, x.shape[-1]).sum(0)
    return rows.argmax().clamp(1, x.shape[-1] - 2)


def at_argmax(x: Tensor) -> Tensor:
    columns = x.flatten(2)
    places = columns.sum(1).argmax(-1)
    return columns[torch.arange(len(x)), :, places]


def gathered_argmax(x: Tensor) -> Tensor:
    places = x.sum(1, keepdim=True).flatten(2).argmax(-1, keepdim=True)
    return x.flatten(2).gather(-1, places.expand(-1, x.shape[1], -1)).squeeze(-1)


def expert(x: Tensor, own: Node) -> Tensor:
    chosen = x.flatten(1).argmax(1) % 2
    experts = torch.stack([own.matrix("one", x.shape[-1], 4), own.matrix("two", x.shape[-1], 4)])
    return torch.einsum("b...c,bcd->b...d", x, experts[chosen])


def many(x: Tensor) -> bool:
    return x.ndim >= 3 and x.shape[-1] >= 3


PICKS: dict[str, Entry] = {
    "crop around the peak": (many, lambda x, own, env: x[..., peak(x) - 1 : peak(x) + 2]),
    "narrow to the peak": (many, lambda x, own, env: x.narrow(-1, peak(x) - 1, 3)),
    "row of the peak": (lambda x: many(x) and x.ndim >= 4, lambda x, own, env: x[..., peak(x)]),
    "roll to the peak": (many, lambda x, own, env: x.roll(int(peak(x)), -1)),
    "location of the peak": (maps, lambda x, own, env: at_argmax(x)),
    "gather the peak": (maps, lambda x, own, env: gathered_argmax(x)),
    "order by size": (anything, lambda x, own, env: x.take_along_dim(x.detach().argsort(-1), -1)),
    "channels by size": (
        maps,
        lambda x, own, env: x.index_select(
            1, x.detach().mean((0, *space(x))).topk(max(1, x.shape[1] // 2)).indices
        ),
    ),
    "pattern above": (
        anything,
        lambda x, own, env: torch.zeros_like(x).masked_scatter(
            x > own.typical(x), x[x > own.typical(x)] * 1.5
        ),
    ),
    "expert": (anything, lambda x, own, env: expert(x, own)),
    "image with the peak": (anything, lambda x, own, env: x + 0.1 * x[x.flatten(1).amax(1).argmax()]),
}


@dataclass(frozen=True, repr=False)
class Pick(Named):
    """Chooses a part of the features by their values."""

    TABLE: ClassVar[dict[str, Entry]] = PICKS
