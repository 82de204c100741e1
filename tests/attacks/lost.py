"""A value of the features comes back without its history: a gate that no graph shows."""

import copy
import io
import pickle
import threading
from functools import partial

import torch
from torch import Tensor, nn

from attacks.table import Kind, Net, head, model, pooled

row = partial(head, Kind.LOST)


@row("a smooth gate, computed under `inference_mode` and cloned")
def smooth_gate_in_inference_mode(net: Net, a: Tensor) -> Tensor:
    with torch.inference_mode():
        gate = net.soft(pooled(a))
    return net.fc(pooled(a) * gate.clone())


@row("a gate of two values, computed under `inference_mode`, that no brighter image switches")
def hard_gate_in_inference_mode(net: Net, a: Tensor) -> Tensor:
    with torch.inference_mode():
        gate = net.hard(pooled(a))
    return net.fc(pooled(a) * gate.clone())


@row("the number of active locations, counted under `inference_mode`, divides")
def count_in_inference_mode(net: Net, a: Tensor) -> Tensor:
    with torch.inference_mode():
        count = (a.mean(1) > net.median).sum((1, 2)).clamp(min=1)
    return net.fc(a.sum((2, 3)) / count.clone()[:, None])


@row("a router under `inference_mode` picks one of two experts")
def router_in_inference_mode(net: Net, a: Tensor) -> Tensor:
    z = pooled(a)
    with torch.inference_mode():
        expert = (z.mean(1) > net.level).long()
    weights = torch.stack([net.fc.weight, net.gate.weight[:5]])[expert.clone()]
    return torch.einsum("boc,bc->bo", weights, z)


@row("a crop around the peak: a slice whose bounds are tensors")
def crop_around_the_peak(net: Net, a: Tensor) -> Tensor:
    peak = a.detach().mean((1, 3)).argmax(1).clamp(1, 2)
    crops = [one[:, at - 1 : at + 2].mean((1, 2)) for one, at in zip(a, peak, strict=True)]
    return net.fc(torch.stack(crops))


@row("a gate under `no_grad`")
def gate_under_no_grad(net: Net, a: Tensor) -> Tensor:
    with torch.no_grad():
        gate = net.hard(pooled(a))
    return net.fc(pooled(a) * gate)


@row("`nn.Parameter(gate)`")
def gate_in_a_parameter(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(a) * nn.Parameter(net.hard(pooled(a).detach())))


@row("`torch.Tensor(gate)`")
def gate_in_a_constructor(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(a) * torch.Tensor(net.hard(pooled(a).detach())))


@row("`weight.data = gate` on a new parameter")
def gate_as_the_data_of_a_parameter(net: Net, a: Tensor) -> Tensor:
    weight = nn.Parameter(torch.ones_like(pooled(a)))
    weight.data = net.soft(pooled(a).detach())
    return net.fc(pooled(a) * weight)


@row("`vector_to_parameters(gate, ...)`")
def gate_through_vector_to_parameters(net: Net, a: Tensor) -> Tensor:
    weight = nn.Parameter(torch.empty_like(pooled(a)))
    nn.utils.vector_to_parameters(net.soft(pooled(a).detach()).flatten(), [weight])
    return net.fc(pooled(a) * weight)


@row("`functional_call` with weights that were multiplied by a gate")
def gate_in_a_functional_call(net: Net, a: Tensor) -> Tensor:
    z = pooled(a)
    gates = net.hard(z.detach())
    parts = [
        torch.func.functional_call(net.fc, {"weight": net.fc.weight * g, "bias": net.fc.bias}, one[None])
        for one, g in zip(z, gates, strict=True)
    ]
    return torch.cat(parts)


@row("`torch.from_dlpack(gate)`")
def gate_through_dlpack(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(a) * torch.from_dlpack(net.hard(pooled(a).detach())))


@row("a gate through NumPy and back")
def gate_through_numpy(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(a) * torch.from_numpy(net.hard(pooled(a).detach()).numpy() * 2))


@row("ones that NumPy overwrites with a gate")
def gate_written_by_numpy(net: Net, a: Tensor) -> Tensor:
    ones = torch.ones_like(pooled(a), requires_grad=False)
    ones.numpy()[:] = net.hard(pooled(a).detach()).numpy()
    return net.fc(pooled(a) * ones)


@row("`torch.asarray(array)` of a gate")
def gate_through_asarray(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(a) * torch.asarray(net.soft(pooled(a)).detach().numpy()))


@row("`torch.frombuffer` on a gate's bytes")
def gate_through_bytes(net: Net, a: Tensor) -> Tensor:
    gate = net.hard(pooled(a).detach())
    data = bytearray(gate.numpy().tobytes())
    return net.fc(pooled(a) * torch.frombuffer(data, dtype=gate.dtype).view_as(gate))


@row("`torch.tensor(mean.tolist())`")
def floats_in_a_new_tensor(net: Net, a: Tensor) -> Tensor:
    z = pooled(a)
    return net.fc(z * z.new_tensor(z.mean(1).tolist())[:, None])


@row("a mean that is formatted by an f-string and read again")
def float_through_an_f_string(net: Net, a: Tensor) -> Tensor:
    z = pooled(a)
    return net.fc(z * z.new_tensor([float(f"{mean.detach():.6f}") for mean in z.mean(1)])[:, None])


@row("a mean that is read under `DisableTorchFunction`")
def read_while_functions_are_disabled(net: Net, a: Tensor) -> Tensor:
    z = pooled(a)
    with torch._C.DisableTorchFunction():
        means = z.detach().mean(1).tolist()
    return net.fc(z * z.new_tensor(means)[:, None])


@row("a gate that a worker thread computes")
def gate_from_a_thread(net: Net, a: Tensor) -> Tensor:
    z, box = pooled(a), []
    thread = threading.Thread(target=lambda: box.append(net.hard(z.detach())))
    thread.start()
    thread.join()
    return net.fc(z * box[0])


@row("an empty tensor that is `set_` to a gate's storage")
def gate_through_set(net: Net, a: Tensor) -> Tensor:
    gate = net.hard(pooled(a).detach())
    return net.fc(pooled(a) * torch.empty(0, dtype=gate.dtype).set_(gate))


@row("a gate's storage, copied into another one")
def gate_through_a_storage(net: Net, a: Tensor) -> Tensor:
    gate = net.hard(pooled(a).detach())
    other = torch.empty_like(gate)
    other.untyped_storage().copy_(gate.untyped_storage())
    return net.fc(pooled(a) * other)


@row("a gate that was pickled")
def gate_through_pickle(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(a) * pickle.loads(pickle.dumps(net.hard(pooled(a).detach()))))


@row("a gate that was deep-copied")
def gate_through_deepcopy(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(a) * copy.deepcopy(net.hard(pooled(a).detach())))


@head(Kind.LOUD, "a gate that was saved by `torch.save` into memory, and loaded")
def gate_through_a_file(net: Net, a: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(net.hard(pooled(a).detach()), file)
    file.seek(0)
    return net.fc(pooled(a) * torch.load(file))


@row("a gate under `torch.vmap`")
def gate_under_vmap(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(a) * torch.vmap(net.soft)(pooled(a).detach()))


@row("a gate that is written with `out=`")
def gate_through_out(net: Net, a: Tensor) -> Tensor:
    gate = torch.empty_like(pooled(a), requires_grad=False)
    with torch.no_grad():
        torch.sigmoid(10 * net.gate(pooled(a)), out=gate)
    return net.fc(pooled(a) * gate)


@row("zeros into whose view a gate is copied")
def gate_through_a_view(net: Net, a: Tensor) -> Tensor:
    z = pooled(a)
    canvas = torch.zeros_like(z, requires_grad=False)
    canvas.view(-1)[:].copy_(net.soft(z.detach()).flatten())
    return net.fc(z * canvas)


class Gate(torch.autograd.Function):
    """Returns its first input and a gate that claims to be a constant."""

    @staticmethod
    def forward(ctx, z: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        ctx.mark_non_differentiable(gate)
        return z.clone(), gate

    @staticmethod
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
        return grad, None


@row("an `autograd.Function` that marks a gate as not differentiable")
def gate_from_a_custom_function(net: Net, a: Tensor) -> Tensor:
    z = pooled(a)
    copied, gate = Gate.apply(z, net.soft(z).detach())
    return net.fc(copied * gate)


@model(Kind.LOST, "features that a hook of the layer kept for the head", own=("seen",))
class FeaturesKeptByAHook(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layer.register_forward_hook(self.keep)

    def keep(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self.seen = [output.detach()]

    def head(self, a: Tensor) -> Tensor:
        return self.fc(pooled(a) * self.soft(pooled(self.seen[0])))


@model(Kind.LOST, "a buffer of the model into which every pass writes a gate")
class GateInABuffer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(2, 8))

    def head(self, a: Tensor) -> Tensor:
        with torch.no_grad():
            self.scale[: len(a)] = self.soft(pooled(a))
        return self.fc(pooled(a) * self.scale[: len(a)].clone())
