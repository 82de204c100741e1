"""Saving and loading: arrays without pickle, a manifest, and clear errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hirescam
from hirescam.explanation import hash_weights
from toys import FlattenNet, NormNet, images, ready


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    model = ready(FlattenNet())
    result = hirescam.explain(model, images(), target=hirescam.TopK(2))
    npz, manifest = result.save(tmp_path / "sub" / "cat.1")
    assert (npz.name, manifest.name) == ("cat.1.npz", "cat.1.json")
    again = hirescam.load(tmp_path / "sub" / "cat.1.npz")
    for name in ("raw", "score", "target", "logits", "offset"):
        torch.testing.assert_close(getattr(again, name), getattr(result, name))
    assert again.certificate == result.certificate
    assert (again.layer, again.rule, again.grid) == (result.layer, result.rule, result.grid)
    assert again.weights == hash_weights(model)
    torch.testing.assert_close(again.view().values, result.view().values)
    npz2, _ = again.save(tmp_path / "again")
    assert json.loads((tmp_path / "again.json").read_text())["weights_sha256"] == again.weights
    assert npz2.exists()


def test_laws_are_saved(tmp_path: Path) -> None:
    result = hirescam.Explainer(ready(NormNet())).compare(images())["gradcam"]
    result.save(tmp_path / "x")
    assert hirescam.load(tmp_path / "x").laws == result.laws


def test_the_arrays_need_no_pickle(tmp_path: Path) -> None:
    npz, _ = hirescam.explain(ready(FlattenNet()), images()).save(tmp_path / "x")
    with np.load(npz, allow_pickle=False) as file:
        assert sorted(file.files) == ["logits", "raw", "score", "target"]


def test_the_manifest_says_what_was_done(tmp_path: Path) -> None:
    _, path = hirescam.explain(ready(FlattenNet()), images()).save(tmp_path / "x")
    manifest = json.loads(path.read_text("utf-8"))
    assert manifest["layer"] == "features"
    assert manifest["certificate"]["guarantee"] == "exact"
    assert set(manifest["versions"]) == {"hirescam", "torch", "numpy"}
    assert len(manifest["weights_sha256"]) == 64
    assert manifest["model"] == "FlattenNet"


def test_half_precision_can_be_saved(tmp_path: Path) -> None:
    model = ready(FlattenNet(), torch.bfloat16)
    hirescam.explain(model, images(dtype=torch.bfloat16)).save(tmp_path / "x")
    assert hirescam.load(tmp_path / "x").raw.dtype == torch.float32


def test_the_hash_follows_the_weights() -> None:
    model = ready(FlattenNet())
    before = hash_weights(model)
    assert before == hash_weights(model)
    with torch.no_grad():
        model.head.bias[0] += 1
    assert hash_weights(model) != before


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(hirescam.InputError, match=r"does not hold a saved explanation .* nothing\.npz"):
        hirescam.load(tmp_path / "nothing")
    hirescam.explain(ready(FlattenNet()), images()).save(tmp_path / "x")
    for name, content in (("x.json", b"{}"), ("x.json", b"no json"), ("x.npz", b"no archive")):
        good = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content)
        with pytest.raises(hirescam.InputError, match="does not hold a saved explanation"):
            hirescam.load(tmp_path / "x")
        (tmp_path / name).write_bytes(good)
    np.savez(tmp_path / "x.npz", raw=np.array([{"evil": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(hirescam.InputError, match="does not hold a saved explanation"):
        hirescam.load(tmp_path / "x")


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(hirescam.InputError, match="cannot be written to"):
        hirescam.explain(ready(FlattenNet()), images()).save(tmp_path / "file" / "x")


def test_a_loaded_result_has_no_model(tmp_path: Path) -> None:
    hirescam.explain(ready(FlattenNet()), images()).save(tmp_path / "x")
    with pytest.raises(hirescam.ModelError, match=r"receptive_field\(\) needs the PyTorch network"):
        hirescam.load(tmp_path / "x").receptive_field()


def test_results_are_frozen() -> None:
    result = hirescam.explain(ready(FlattenNet()), images())
    with pytest.raises(AttributeError):
        result.raw = result.raw * 2  # type: ignore[misc]
    assert repr(result) == (
        "Explanation(raw=(2, 1, 8, 8), layer='features', rule='hirescam', guarantee='exact')"
    )
