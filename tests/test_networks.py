"""The package's own networks load strictly and know a cup, a cat, a pitch and a digit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from hirescam.errors import InputError, ModelError, WeightsError
from hirescam.networks import crepe, digits, lite0, training, weights

CATS = {281, 282, 285}
ESPRESSO = 967


def loaded(load: Callable[[], nn.Module]) -> nn.Module:
    try:
        return load()
    except WeightsError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return loaded(lite0.load)


@pytest.fixture(scope="module")
def pitch() -> nn.Module:
    return loaded(crepe.load)


@pytest.fixture(scope="module")
def result() -> digits.DigitsResult:
    pytest.importorskip("sklearn")
    return digits.train()


def photograph(name: str) -> Tensor:
    data = pytest.importorskip("skimage").__path__[0]
    path = Path(data) / "data" / name
    if not path.is_file():
        pytest.skip(f"this scikit-image does not carry {name}")
    image = Image.open(path).convert("RGB")
    reach, x, y = min(image.size) * 0.875 / 2, image.width / 2, image.height / 2
    box = (x - reach, y - reach, x + reach, y + reach)
    seen = image.resize((224, 224), Image.Resampling.BICUBIC, box=box)
    return (torch.from_numpy(np.array(seen)).permute(2, 0, 1)[None].float() - 127) / 128


@torch.no_grad()
def predicted(model: nn.Module, inputs: Tensor) -> int:
    return int(model(inputs).argmax())


def test_lite0_has_every_key_of_the_file_and_no_other(net: nn.Module) -> None:
    path = weights.find(lite0.DISTRIBUTION, lite0.FILENAME)
    assert net.state_dict().keys() == weights.load_state_dict(path).keys()
    assert not net.training


def test_lite0_knows_coffee_and_a_cat(net: nn.Module) -> None:
    assert predicted(net, photograph("coffee.png")) == ESPRESSO
    assert predicted(net, photograph("chelsea.png")) in CATS


@pytest.mark.parametrize(("side", "cells"), [(33, 2), (64, 2), (65, 3), (224, 7), (225, 8)])
def test_lite0_takes_any_side(side: int, cells: int) -> None:
    net, maps = lite0.Lite0(classes=5).eval(), []
    net.head_relu.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    with torch.no_grad():
        logits = net(torch.zeros(1, 3, side, 40))
    assert logits.shape == (1, 5)
    assert maps[0].shape == (1, 1280, cells, 2)


@pytest.mark.parametrize(
    ("side", "kernel", "expected"),
    [(224, 3, (0, 1)), (225, 3, (1, 1)), (112, 5, (1, 2)), (7, 5, (2, 2)), (1, 3, (1, 1))],
)
def test_same_padding(side: int, kernel: int, expected: tuple[int, int]) -> None:
    assert lite0.same_padding(side, kernel) == expected


def test_lite0_head_is_one_linear_layer_after_the_mean(net: nn.Module) -> None:
    maps: list[Tensor] = []
    handle = net.get_submodule("head_relu").register_forward_hook(
        lambda _module, _inputs, output: maps.append(output)
    )
    with torch.no_grad():
        logits = net(photograph("coffee.png"))
        expected = net.get_submodule("_fc")(maps[0].mean(dim=(2, 3)))
    handle.remove()
    torch.testing.assert_close(logits, expected)


def test_loading_leaves_the_random_state(net: nn.Module, pitch: nn.Module) -> None:
    before = torch.get_rng_state()
    lite0.load()
    crepe.load()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("hertz", [110.0, 220.0, 440.0, 880.0])
def test_crepe_hears_the_pitch(pitch: nn.Module, hertz: float) -> None:
    heard = crepe.bin_to_hertz(predicted(pitch, crepe.tone(hertz)))
    assert abs(1200 * np.log2(heard / hertz)) < 20


def test_crepe_head_reads_features_through_one_linear_layer(pitch: nn.Module) -> None:
    frames = torch.cat([crepe.tone(220), crepe.tone(300)])
    with torch.no_grad():
        maps = pitch.get_submodule("features")(frames)
        rows = maps.transpose(1, 2).reshape(2, 256)
        expected = pitch.get_submodule("classifier")(rows)
        torch.testing.assert_close(pitch(frames), expected)
    assert maps.shape == (2, 64, 4)


def test_tone_is_normalised() -> None:
    tone = crepe.tone(220)
    assert tone.shape == (1, 1, 1024)
    assert tone.dtype == torch.float32
    assert abs(float(tone.mean())) < 1e-6
    assert abs(float(tone.std()) - 1) < 1e-5


def test_tone_leaves_out_what_would_alias() -> None:
    torch.testing.assert_close(crepe.tone(5000), crepe.tone(5000, harmonics=[1.0]))


@pytest.mark.parametrize("hertz", [0.0, -1.0, 8000.0, float("nan")])
def test_tone_outside_the_range(hertz: float) -> None:
    with pytest.raises(InputError, match=r"frequency: got .*, expected more than 0 and less"):
        crepe.tone(hertz)


def test_silence_cannot_be_normalised() -> None:
    with pytest.raises(InputError, match="samples: the sound is silent"):
        crepe.tone(220, harmonics=[0.0])


def test_crepe_refuses_the_file_of_another_network(net: nn.Module) -> None:
    path = weights.find(lite0.DISTRIBUTION, lite0.FILENAME)
    with pytest.raises(WeightsError, match=r"does not fit Crepe: \d+ missing \(classifier\.bias"):
        crepe.load(path)


def test_digits_are_learnt_with_half_of_the_field(result: digits.DigitsResult) -> None:
    assert result.accuracy >= 0.93
    with torch.no_grad():
        answers = result.model(result.test_images).argmax(dim=1)
    assert float((answers == result.test_labels).float().mean()) == pytest.approx(result.accuracy)
    assert not result.model.training
    assert all(value.grad is None for value in result.model.parameters())


def test_cut_half_of_the_head_is_exactly_zero(result: digits.DigitsResult) -> None:
    seen = result.model.head.weight.reshape(10, -1, 8, 8).abs().amax(dim=(0, 1))
    assert torch.equal(result.dead, torch.arange(8).expand(8, 8) >= 4)
    assert torch.equal(seen == 0, result.dead)


def test_cut_half_cannot_change_the_score(result: digits.DigitsResult) -> None:
    with torch.no_grad():
        maps = result.model.features(result.test_images[:4])
        changed = torch.where(result.dead, torch.randn_like(maps), maps)
        before, after = (result.model.head(value.flatten(1)) for value in (maps, changed))
    assert torch.equal(before, after)


def test_training_repeats_itself_and_leaves_the_random_state() -> None:
    pytest.importorskip("sklearn")
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.inference_mode():
        first = digits.train(3, cut=False, epochs=1)
    second = digits.train(3, cut=False, epochs=1)
    assert torch.equal(before, torch.get_rng_state())
    assert threads == torch.get_num_threads()
    assert all(map(torch.equal, first.model.parameters(), second.model.parameters()))
    assert not first.dead.any()


def test_digits_are_trained_on_other_labels(result: digits.DigitsResult) -> None:
    before = result.train_labels.clone()
    assert len(result.train_labels) + len(result.test_labels) == 1797
    reversed_ = digits.train(labels=9 - result.train_labels)
    assert torch.equal(reversed_.train_labels, 9 - before)
    assert torch.equal(reversed_.train_images, result.train_images)
    assert torch.equal(reversed_.test_labels, result.test_labels)
    with torch.no_grad():
        answers = reversed_.model(result.test_images).argmax(dim=1)
    assert float((9 - answers == result.test_labels).float().mean()) >= 0.9
    assert reversed_.accuracy < 0.1
    same = digits.train(labels=result.train_labels)
    assert all(map(torch.equal, same.model.parameters(), result.model.parameters()))


@pytest.mark.parametrize(
    "labels", [torch.zeros(5, dtype=torch.int64), torch.zeros(1438), torch.full((1438,), 10)]
)
def test_labels_that_do_not_fit_the_digits(labels: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"labels: got shape .* expected \(1438,\) and torch.int64 in 0 … 9"):
        digits.train(labels=labels)


def test_training_does_not_shift_all_classes_together() -> None:
    """Softmax would not see it, but the maps of single logits would."""
    pytest.importorskip("sklearn")
    generator = torch.Generator().manual_seed(0)
    seen, _ = digits.load(generator)
    model = training.initialised(digits.DigitsNet, generator)
    before = model.head.weight.detach().clone()
    training.fit(model, [seen], generator)
    after = model.head.weight.detach()
    assert (after - before).abs().max() > 0.05
    torch.testing.assert_close(after.sum(0), before.sum(0), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("side", "pooled", "entries"), [(16, False, 32 * 256), (8, True, 32)])
def test_digits_networks_of_other_shapes(side: int, pooled: bool, entries: int) -> None:
    model = digits.DigitsNet(side, pooled=pooled)
    assert model.head.in_features == entries
    assert model(torch.zeros(2, 1, side, side)).shape == (2, 10)


def test_training_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModelError, match="install it with `pip install scikit-learn`"):
        digits.train()


def test_training_for_no_epochs() -> None:
    with pytest.raises(InputError, match="epochs: got 0, expected at least 1"):
        digits.train(epochs=0)
