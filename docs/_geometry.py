"""Make the pictures of docs/geometry.md: a clip of a photograph, and tones in noise.

python docs/_geometry.py
"""

import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from PIL import Image
from skimage import data
from torch import Tensor, nn

import hirescam
from hirescam import models
from hirescam.passes.borrow import as_call
from hirescam.passes.taps import parse
from hirescam.proof.measuring import measured

HERE = Path(__file__).parent / "images"
FRAMES, SIDE = 6, 224
RATE, SECONDS = 8000, 1.0
NOTES = (400.0, 700.0, 1200.0)
ROUNDS = 150


class Clips(nn.Module):
    """A network of pictures applied to the frames of clips ``(b, frames, c, h, w)``, and their mean."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> Tensor:
        return self.network(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]).mean(1)


class Notes(nn.Module):
    """From waves ``(b, samples)`` through a spectrogram to which of some notes sounds somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(256))
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 12, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU()
        )
        self.fc = nn.LazyLinear(len(NOTES))

    def forward(self, waves: Tensor) -> Tensor:
        spectrum = torch.stft(waves, 256, 64, window=self.window, return_complex=True).abs()
        return self.fc(self.cnn(spectrum.clamp_min(1e-3).log().unsqueeze(1)).mean(3).flatten(1))


def clip(model: models.Model) -> Tensor:
    """A camera that moves over a photograph of a cat."""
    photo = torch.from_numpy(data.chelsea()).permute(2, 0, 1)
    lefts = torch.linspace(0, photo.shape[2] - 300, FRAMES).long().tolist()
    crops = [Image.fromarray(photo[:, :, left : left + 300].permute(1, 2, 0).numpy()) for left in lefts]
    return torch.stack([model.preprocess(crop) for crop in crops])[None]


def waves(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A note that sounds for a quarter of a second somewhere in noise, and which."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(int(RATE * SECONDS)) / RATE
    which = torch.randint(len(NOTES), (count,), generator=generator)
    start = torch.rand(count, 1, generator=generator) * (SECONDS - 0.25)
    sounds = ((time > start) & (time < start + 0.25)).float()
    tones = torch.tensor(NOTES)[which, None] * time * 2 * torch.pi
    return 0.3 * torch.randn(count, len(time), generator=generator) + sounds * tones.sin(), which


def trained() -> Notes:
    """Train for a minute."""
    torch.manual_seed(0)
    model = Notes()
    model(waves(2, 0)[0])
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(ROUNDS):
        x, label = waves(32, step + 1)
        loss = nn.functional.cross_entropy(model(x), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def cost(name: str, layer: str) -> str:
    """What a measurement of one layer costs, in forward passes, and how many it takes."""
    torch.manual_seed(0)
    model, images = timm.create_model(name, pretrained=False).eval(), torch.randn(1, 3, SIDE, SIDE)
    passes: list[None] = []
    handle = model.register_forward_hook(lambda *_: passes.append(None))
    with torch.no_grad():
        plain = min(seconds(lambda: model(images)) for _ in range(10))
    passes.clear()
    taken = seconds(lambda: measured(model, as_call(images), [parse(layer)]))
    handle.remove()
    return f"{name}: {len(passes)} passes in the time of {taken / plain:.0f}, {taken:.1f} s"


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Explain both, write the pictures, and print what measurements cost."""
    for name in ("mixer_s32_224", "resmlp_12_224"):
        print(cost(name, "norm"))
    lite0 = models.resolve("lite0")
    frames = clip(lite0)
    result = hirescam.explain(Clips(lite0.module).eval(), frames)
    print(result.geometry, "|", result.certificate.guarantee, "|", lite0.label(int(result.target)))
    result.overlay(frames)[0][0].save(HERE / "geometry-clip.png")
    model = trained()
    x, label = waves(3, 10_000)
    found = hirescam.explain(model, x, axes="bt", target=label)
    print(found.geometry, "|", found.certificate.guarantee, "|", [NOTES[number] for number in label.tolist()])
    found.overlay(x)[0][0].save(HERE / "geometry-wave.png")


if __name__ == "__main__":
    main()
