"""Images of a batch that influence each other, and piecewise linear heads that hide the same faults."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.table import WEAKER, Kind, Net, head, model, pictures, pooled

row = partial(head, Kind.BATCH)
six = partial(row, images=lambda: pictures(6))


@six("groups of three images are averaged, where the batch divides by three")
def groups_averaged(net: Net, a: Tensor) -> Tensor:
    z = pooled(a)
    if len(z) % 3 == 0:
        z = z.view(-1, 3, 8).mean(1, True).expand(-1, 3, -1).reshape(-1, 8)
    return net.fc(z)


@row("half of the batch's mean is subtracted")
def half_the_mean(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(a) - 0.5 * pooled(a).mean(0))


@row("the batch's mean is subtracted without its history")
def mean_without_history(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(a) - pooled(a).detach().mean(0))


@six("another branch above two images")
def branch_above_two(net: Net, a: Tensor) -> Tensor:
    y = 12 * net.fc(pooled(a))
    return torch.softmax(y, 1) if len(y) > 2 else y


@six("above two images, the first is the reference of the others")
def first_image_as_reference(net: Net, a: Tensor) -> Tensor:
    z = pooled(a)
    return net.fc(z - z[:1] if len(z) > 2 else z)


@row("batch norm by the statistics of the batch, called as a function")
def batch_norm_in_training(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(F.batch_norm(a, None, None, net.gate.bias, net.gate.bias, training=True)))


@row("a softmax over the batch")
def softmax_over_the_batch(net: Net, a: Tensor) -> Tensor:
    return net.fc(pooled(a) * torch.softmax(20 * pooled(a), 0))


@row("a gated distance from the batch's mean")
def gated_distance(net: Net, a: Tensor) -> Tensor:
    return net.fc(torch.relu(net.gate(pooled(a) - a.mean((0, 2, 3)))))


# Two layers with a ReLU between them: local, if nothing else were wrong -----------------------


local = partial(head, Kind.LOCAL)


@local("the batch's mean is subtracted before the ReLU")
def relu_and_the_mean_of_the_batch(net: Net, a: Tensor) -> Tensor:
    return net.fc(torch.relu(net.gate(pooled(a) - pooled(a).detach().mean(0))))


@local("dropout that is always on")
def relu_and_dropout(net: Net, a: Tensor) -> Tensor:
    return net.fc(F.dropout(torch.relu(net.gate(pooled(a))), 0.5, training=True))


@local("random noise on the hidden units")
def relu_and_noise(net: Net, a: Tensor) -> Tensor:
    hidden = torch.relu(net.gate(pooled(a)))
    return net.fc(hidden + 0.1 * torch.randn_like(hidden))


@local("a hook that triples the gradient")
def relu_and_a_gradient_hook(net: Net, a: Tensor) -> Tensor:
    hidden = torch.relu(net.gate(pooled(a)))
    if hidden.requires_grad:
        hidden.register_hook(lambda grad: 3 * grad)
    return net.fc(hidden)


@local("a smooth gate from `.data`")
def relu_and_a_gate(net: Net, a: Tensor) -> Tensor:
    return net.fc(torch.relu(net.gate(pooled(a)) + 1) * net.soft(pooled(a).data))


@local("batch norm by the statistics of the batch")
def relu_and_batch_norm(net: Net, a: Tensor) -> Tensor:
    hidden = F.batch_norm(net.gate(a.movedim(1, -1)).movedim(-1, 1), None, None, training=True)
    return net.fc(pooled(torch.relu(hidden)))


@model(Kind.LOCAL, "a scale that was read from the image before the layer", WEAKER)
class ReluAndAScaleOfTheImage(Net):
    def forward(self, image: Tensor) -> Tensor:
        scale = 1 + float(image.mean())
        return self.fc(torch.relu(self.gate(pooled(self.layer(image)) * scale)))
