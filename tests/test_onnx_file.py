"""The ONNX graph gives PyTorch's maps in ONNX Runtime and OpenVINO; heads that are not exact are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hirescam
from hirescam.onnx_file import OUTPUTS, export
from toys import CLASSES, FlattenNet, FunctionalNet, NormNet, PooledNet, TwoLayerNet, images, ready

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
pytest.importorskip("onnxscript", reason="needs the extra 'export'")

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter's own

F32 = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO takes bfloat16 by itself where the processor has it


def run(path: Path, x: torch.Tensor) -> dict[str, torch.Tensor]:
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": x.numpy()})
    return {name: torch.from_numpy(np.asarray(value)) for name, value in zip(OUTPUTS, found, strict=True)}


@pytest.mark.parametrize("net", [FlattenNet, PooledNet, FunctionalNet])
def test_the_graph_gives_the_maps_for_any_batch(net: type, tmp_path: Path) -> None:
    model = ready(net(), torch.float32)
    written = export(model, images(1, dtype=torch.float32), tmp_path / "model.onnx", top=3)
    assert written.difference < 1e-5
    for batch in (1, 5):
        x = images(batch, dtype=torch.float32)
        found = run(written.path, x)
        expected = hirescam.explain(model, x, target=hirescam.TopK(3))
        assert torch.equal(found["classes"], expected.target)
        torch.testing.assert_close(found["maps"], expected.raw, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found["logits"], expected.logits, rtol=1e-4, atol=1e-5)
        assert found["residual"].abs().max() < 1e-5 * found["logits"].abs().max()


def test_the_same_graph_runs_in_openvino(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="needs openvino")
    model, x = ready(FlattenNet(), torch.float32), images(2, dtype=torch.float32)
    written = export(model, x, tmp_path / "model.onnx", top=2)
    found = openvino.Core().compile_model(str(written.path), "CPU", F32)(x.numpy())
    expected = hirescam.explain(model, x, target=hirescam.TopK(2))
    torch.testing.assert_close(torch.from_numpy(found[2]), expected.raw, rtol=1e-4, atol=1e-6)


def test_image_size_can_stay_open_on_pooled_heads(tmp_path: Path) -> None:
    model = ready(PooledNet(), torch.float32)
    written = export(model, images(1, dtype=torch.float32), tmp_path / "model.onnx", top=2, any_size=True)
    x = images(2, side=12, dtype=torch.float32)
    found = run(written.path, x)
    expected = hirescam.explain(model, x, target=hirescam.TopK(2))
    torch.testing.assert_close(found["maps"], expected.raw, rtol=1e-4, atol=1e-6)
    fixed = ready(FlattenNet(), torch.float32)
    with pytest.raises(hirescam.ModelError, match="depends on the image size"):
        export(fixed, images(1, dtype=torch.float32), tmp_path / "x.onnx", any_size=True)


def test_the_certificate_and_the_labels_are_in_the_file(tmp_path: Path) -> None:
    labels = tuple(f"class {index}" for index in range(CLASSES))
    model = ready(PooledNet(), torch.float32)
    written = export(model, images(1, dtype=torch.float32), tmp_path / "sub" / "model.onnx", labels=labels)
    entries = {entry.key: entry.value for entry in onnx.load(str(written.path)).metadata_props}
    assert json.loads(entries["hirescam.certificate"])["guarantee"] == "exact"
    assert json.loads(entries["hirescam.labels"]) == list(labels)
    assert entries["hirescam.top"] == "5"


@pytest.mark.parametrize(("net", "kind"), [(TwoLayerNet, "local"), (NormNet, "conditional")])
def test_heads_that_are_not_exact_are_refused_with_the_reason(net: type, kind: str, tmp_path: Path) -> None:
    model = ready(net(), torch.float32)
    with pytest.raises(hirescam.ModelError, match=f"only exact heads can be exported, .* is {kind}"):
        export(model, images(1, dtype=torch.float32), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


class Branching(PooledNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * 2 if x.mean() > 0 else x)


def test_a_network_that_branches_on_values_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = ready(Branching(), torch.float32)
    with pytest.raises(hirescam.ModelError, match=r"cannot be traced for any batch size: .*data-dependent"):
        export(model, images(1, dtype=torch.float32), tmp_path / "model.onnx", top=2)
    assert not (tmp_path / "model.onnx").exists()


def test_more_classes_than_there_are_is_refused(tmp_path: Path) -> None:
    model = ready(FlattenNet(), torch.float32)
    with pytest.raises(hirescam.InputError, match="top=6 must be from 1 to 5"):
        export(model, images(1, dtype=torch.float32), tmp_path / "model.onnx", top=6)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    model = ready(PooledNet(), torch.float32)
    export(model, images(1, dtype=torch.float32), tmp_path / "model.onnx", top=2)
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(parameter.is_inference() for parameter in model.parameters())
