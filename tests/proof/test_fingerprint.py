"""Fingerprints: the same for other weights and other images, another for whatever may move values."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hirescam.proof.fingerprint import fingerprint
from passes.made import call

IMAGES = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A network with a step that is given."""

    def __init__(self, step: Callable[[Tensor], Tensor], seed: int = 0, order: Tensor | None = None) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm.running_mean.normal_()
        self.step = step
        self.register_buffer("order", torch.arange(10) if order is None else order)

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.norm(self.conv(x)))[..., self.order]


def of(step: Callable[[Tensor], Tensor], images: Tensor = IMAGES, **given: object) -> str:
    return fingerprint(Net(step, **given).eval(), call(images))  # type: ignore[arg-type]


def test_weights_and_images_make_no_difference() -> None:
    assert of(torch.relu) == of(torch.relu, seed=1) == of(torch.relu, images=IMAGES.flip(0) * 3)


def test_what_moves_values_does() -> None:
    constant = torch.randn(4, 6, 10)
    steps: list[Callable[[Tensor], Tensor]] = [
        torch.relu,
        lambda x: x.flip(-1),
        lambda x: x.flip(-2),
        lambda x: x.roll(1, -1),
        lambda x: x.roll(2, -1),
        lambda x: x + constant,
        lambda x: x + constant.flip(-1),
        lambda x: x + torch.from_numpy(constant.numpy() * 2),
        lambda x: x * constant.to_sparse().to_dense() + 1,
        lambda x: x.roll(int(1000 * x.abs().sum()), -1),
    ]
    found = [of(step) for step in steps]
    found.append(of(torch.relu, order=torch.arange(10).flip(0)))
    found.append(of(torch.relu, images=torch.randn(2, 3, 10, 12)))
    assert len(set(found)) == len(found)
    assert of(steps[-1]) != of(steps[-1], images=IMAGES.flip(-1) * 2)
