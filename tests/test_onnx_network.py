"""An exported file gives the explanations of its network, checks them, or says what is wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import hirescam
from hirescam import Explainer, ExportedNetwork, TopK, models
from hirescam.cli import main
from hirescam.models import Preset
from toys import CLASSES, FlattenNet, PooledNet, images, ready

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
pytest.importorskip("onnxscript", reason="needs the extra 'export'")

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter's own
LABELS = tuple(f"kind {index}" for index in range(CLASSES))


def written(folder: Path, net: type = FlattenNet, **options: object) -> tuple[torch.nn.Module, Path]:
    model = ready(net(), torch.float32)
    made = hirescam.export(
        model, images(1, dtype=torch.float32), folder / "model.onnx", labels=LABELS, **{"top": 3, **options}
    )
    return model, made.path


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    torch.manual_seed(0)
    return written(tmp_path_factory.mktemp("flat"))


class ChannelsLast(nn.Module):
    """Rows, columns, channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x.permute(0, 3, 1, 2)).relu().mean((2, 3)))


class Wave(nn.Module):
    """One channel that has no axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv1d(1, 8, 9, stride=4), nn.Linear(8 * 24, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x.unsqueeze(1)).relu().flatten(1))


@pytest.mark.parametrize(
    ("net", "shape", "axes", "letters"),
    [
        (ChannelsLast, (12, 20, 3), None, "bhwc"),
        (ChannelsLast, (12, 20, 3), "bhwc", "bhwc"),
        (Wave, (104,), "bt", "bt"),
    ],
)
def test_other_axes(
    net: type[nn.Module], shape: tuple[int, ...], axes: str | None, letters: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x = ready(net(), torch.float32), torch.randn(2, *shape)
    made = hirescam.export(model, x, tmp_path / "model.onnx", top=2, axes=axes, any_size=net is ChannelsLast)
    got, expected = ExportedNetwork(made.path)(x), hirescam.explain(model, x, axes=axes)
    torch.testing.assert_close(got.raw, expected.raw, rtol=1e-4, atol=1e-5)
    assert got.axes == expected.axes == letters
    assert (got.image_size, got.grid, got.places) == (expected.image_size, expected.grid, expected.places)
    assert got.view().values.shape == expected.view().values.shape
    if net is ChannelsLast:
        larger = torch.randn(2, 24, 32, 3)
        found = ExportedNetwork(made.path)(larger)
        torch.testing.assert_close(found.raw, hirescam.explain(model, larger).raw, rtol=1e-4, atol=1e-5)


def test_the_batch_comes_first(tmp_path: Path) -> None:
    class Turned(ChannelsLast):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.movedim(-1, 0))

    with pytest.raises(hirescam.InputError, match="takes the batch first"):
        hirescam.export(
            ready(Turned(), torch.float32), torch.randn(12, 20, 3, 2), tmp_path / "x.onnx", axes="hwcb"
        )


@pytest.mark.parametrize("target", [None, TopK(2), TopK(3)])
@pytest.mark.parametrize("batch", [1, 4])
def test_it_explains_like_the_network(flat, batch: int, target: object) -> None:
    model, path = flat
    x = images(batch, dtype=torch.float32)
    got, expected = ExportedNetwork(path)(x, target=target), Explainer(model)(x, target=target)
    for name in ("raw", "score", "logits", "offset"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
    assert torch.equal(got.target, expected.target)
    assert (got.layer, got.grid, got.image_size) == (expected.layer, expected.grid, expected.image_size)
    assert got.places == expected.places != ()
    assert got.certificate.guarantee == "exact"


def test_classes_in_any_order_and_per_image(flat) -> None:
    model, path = flat
    x = images(3, dtype=torch.float32)
    best = Explainer(model)(x, target=TopK(3)).target
    wanted = best[:, [2, 0]]
    got, expected = ExportedNetwork(path)(x, target=wanted), Explainer(model)(x, target=wanted)
    torch.testing.assert_close(got.raw, expected.raw, rtol=1e-4, atol=1e-5)


def test_the_file_says_what_it_is(flat) -> None:
    network = ExportedNetwork(flat[1])
    assert network.labels == LABELS
    assert network.top == 3
    assert network.input_shape == (2, 8, 8)
    assert network.preprocessing is None
    assert len(network.weights) == 64


def test_what_it_cannot_explain_is_an_error(flat) -> None:
    model, path = flat
    network, x = ExportedNetwork(path), images(2, dtype=torch.float32)
    worst = model(x).argmin(1)
    with pytest.raises(hirescam.ModelError, match=r"not among the 3 highest of images\[0\]"):
        network(x, target=worst)
    with pytest.raises(hirescam.TargetError, match=r"TopK\(4\): model.onnx explains the 3 highest"):
        network(x, target=TopK(4))
    with pytest.raises(hirescam.TargetError, match="class 5, but the model has 5"):
        network(x, target=5)
    with pytest.raises(hirescam.TargetError, match="explains classes only"):
        network(x, target=hirescam.Contrast(0, 1))
    with pytest.raises(hirescam.InputError, match=r"takes \(b, 2, 8, 8\)"):
        network(images(1, side=12, dtype=torch.float32))
    with pytest.raises(hirescam.InputError, match="must be float32"):
        network(images(1))
    with pytest.raises(hirescam.ModelError, match="needs the PyTorch network"):
        network(x).receptive_field()


def test_an_open_size_stays_open(tmp_path: Path) -> None:
    model, path = written(tmp_path, PooledNet, any_size=True)
    network, x = ExportedNetwork(path), images(2, side=12, dtype=torch.float32)
    assert network.input_shape == (2, None, None)
    torch.testing.assert_close(network(x).raw, Explainer(model)(x).raw, rtol=1e-4, atol=1e-5)


def changed(path: Path, to: Path, key: str, value: str | None) -> Path:
    file = onnx.load(str(path))
    kept = [entry for entry in file.metadata_props if entry.key != key]
    del file.metadata_props[:]
    file.metadata_props.extend(kept)
    if value is not None:
        entry = file.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(file, str(to))
    return to


def test_other_files_are_refused(flat, tmp_path: Path) -> None:
    with pytest.raises(hirescam.InputError, match="is not a file"):
        ExportedNetwork(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(hirescam.InputError, match=r"is not a file that hirescam\.export wrote"):
        ExportedNetwork(tmp_path / "text.onnx")
    for key, value in (
        ("hirescam.format", None),
        ("hirescam.certificate", "{}"),
        ("hirescam.top", "many"),
    ):
        with pytest.raises(hirescam.InputError, match="metadata"):
            ExportedNetwork(changed(flat[1], tmp_path / "changed.onnx", key, value))


def test_a_map_that_does_not_add_up_is_refused(flat, tmp_path: Path) -> None:
    file = onnx.load(str(flat[1]))
    weights = max(file.graph.initializer, key=lambda item: int(np.prod(item.dims)))
    values = onnx.numpy_helper.to_array(weights).copy() * 1.5
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(file, str(tmp_path / "damaged.onnx"))
    with pytest.raises(hirescam.ModelError, match="away from the logit"):
        ExportedNetwork(tmp_path / "damaged.onnx")(images(2, dtype=torch.float32))


FACTORY = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    features = (nn.Conv2d(3, 4, 7, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(64, 5))
"""


def test_the_command_line_explains_pictures_with_an_exported_file(tmp_path: Path, capsys) -> None:
    (tmp_path / "net.py").write_text(FACTORY)
    spec, file, out = f"{tmp_path}/net.py:build", tmp_path / "net.onnx", tmp_path / "out"
    assert main(["export", "--model", spec, "--size", "64", "--out", str(file), "--top", "2"]) == 0
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "picture.png")
    picture = str(tmp_path / "picture.png")
    assert main(["explain", picture, "--model", str(file), "--top", "2", "--out", str(out)]) == 0
    assert main(["explain", picture, "--model", spec, "--size", "64", "--top", "2", "--out", f"{out}2"]) == 0
    mine, theirs = (hirescam.load(folder / "maps" / "picture") for folder in (out, Path(f"{out}2")))
    torch.testing.assert_close(mine.raw, theirs.raw, rtol=1e-4, atol=1e-6)
    assert mine.weights == ExportedNetwork(file).weights
    data = json.loads((out / "results.json").read_text())
    assert data["certificate"]["guarantee"] == "exact"
    assert (out / "index.html").is_file()
    capsys.readouterr()
    for words, complaint in (
        (["--layer", "1"], "leave out --layer"),
        (["--rule", "gradcam"], "leave out --layer and --rule"),
        (["--audit", "0.1"], "in which no location can be removed: leave out --audit, or name the PyTorch"),
        (["--size", "32"], "--size does not go with"),
        (["--top", "3"], "explains the 2 highest"),
    ):
        assert main(["explain", picture, "--model", str(file), "--out", str(out), *words]) == 2
        assert complaint in capsys.readouterr().err
    assert main(["certify", "--model", str(file)]) == 2
    assert "only `hirescam explain` takes" in capsys.readouterr().err


def test_a_file_without_preprocessing_cannot_take_pictures(flat, tmp_path: Path) -> None:
    shutil.copy(flat[1], tmp_path / "plain.onnx")
    with pytest.raises(hirescam.SpecError, match="does not say how pictures are prepared"):
        models.resolve_exported(tmp_path / "plain.onnx")


def test_the_preprocessing_survives_the_file() -> None:
    preset = Preset((32, 48), (40, 60), (0.5,), (0.25,), "bicubic", True)
    kept = json.loads(json.dumps(preset._asdict()))
    assert models.exported.read_preset(kept) == preset
    with pytest.raises(hirescam.SpecError, match="preprocessing in the file cannot be read"):
        models.exported.read_preset({"sizes": 3})
