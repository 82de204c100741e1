"""Saving and loading: arrays without pickle, a manifest, and clear errors."""

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hirescam
from hirescam import ModelError, explanation, overlays
from hirescam.audits import Audit
from hirescam.explanation import Weights, hash_weights
from hirescam.passes.state import State
from hirescam.proof.laws import Laws
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


@pytest.mark.parametrize("again", [copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))])
def test_a_copy_is_like_what_was_loaded(again: Callable[[Any], Any]) -> None:
    """Between processes the maps go without the model."""
    model = ready(FlattenNet())
    result = hirescam.explain(model, images(), target=1)
    made = again(result)
    assert torch.equal(made.raw, result.raw)
    assert made.certificate == result.certificate
    assert made.manifest()["weights_sha256"] == hash_weights(model)
    with pytest.raises(ModelError, match="loaded from disk"):
        made.receptive_field()
    assert result.receptive_field((0, 0))


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


# What it says of itself -----------------------------------------------------------------------


def made(**fields: object) -> hirescam.Explanation:
    return replace(hirescam.explain(ready(FlattenNet()), images(), target=hirescam.TopK(2)), **fields)


def test_the_offset_is_what_the_map_leaves_of_the_score() -> None:
    result = made(raw=torch.ones(2, 2, 3, 4), score=torch.tensor([[13.0, 12.0], [0.0, -1.0]]))
    assert result.offset.tolist() == [[1, 0], [-12, -13]]


def test_tokens_that_have_no_place_are_left_out_of_the_grid() -> None:
    tokens = torch.arange(14.0).reshape(1, 2, 7)
    result = made(raw=tokens, grid=(2, 3), prefix=1)
    assert torch.equal(result.on_grid, tokens[..., 1:].reshape(1, 2, 2, 3))
    plain = made(raw=tokens, grid=(7,))
    assert plain.on_grid is plain.raw


def test_a_view_is_of_the_grid_and_as_large_as_the_image() -> None:
    result = made(
        raw=-torch.arange(14.0).reshape(1, 2, 7), grid=(2, 3), prefix=1, image_size=(4, 6), places=()
    )
    assert result.view().values.shape == (1, 2, 4, 6)
    assert result.view(size=[8, 9]).values.shape == (1, 2, 8, 9)
    nearest = result.view(size=(2, 3), resample="nearest", scale=None)
    assert torch.equal(nearest.values, result.on_grid)
    assert not result.view(sign="positive").values.any()
    shared = result.view(size=(2, 3), scale="shared").values
    assert shared.abs().amax((2, 3))[0].tolist() == pytest.approx([6 / 13, 1])
    assert (result.raw == -torch.arange(14.0).reshape(1, 2, 7)).all()


def test_an_overlay_is_drawn_at_the_resolution_of_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.Tensor, dict[str, object]]] = []
    monkeypatch.setattr(
        overlays, "draw", lambda maps, pictures, **options: seen.append((maps, options)) or []
    )
    result, pictures = made(), images()
    result.overlay(pictures, sign="negative", resample="nearest", scale="shared", opacity=0.3)
    ((maps, options),) = seen
    wanted = result.view(size=result.grid, sign="negative", resample="nearest", scale="shared")
    assert torch.equal(maps, wanted.values)
    assert options == {
        "resample": "nearest", "opacity": 0.3, "image_size": (8, 8), "places": ((0.0, 1.0), (0.0, 1.0))
    }  # fmt: skip


# Weights --------------------------------------------------------------------------------------


def test_the_hash_is_of_the_weights_that_were_explained() -> None:
    model = ready(FlattenNet())
    wanted = hash_weights(model)
    asked, unasked = Weights(model, State(model)), Weights(model, State(model))
    assert asked.sha256 == wanted
    with torch.no_grad():
        model.head.bias.add_(1)
    assert asked.sha256 == wanted  # it was asked for in time
    assert unasked.sha256 == ""
    assert Weights(model, State(model)).sha256 not in ("", wanted)


def test_a_change_that_leaves_no_version_gives_no_hash() -> None:
    model = ready(FlattenNet())
    weights = Weights(model, State(model))
    model.head.weight.data.neg_()
    assert weights.sha256 == ""
    model.head.weight.data.neg_()
    assert weights.sha256 == hash_weights(model)


def test_the_hash_covers_names_types_shapes_and_bytes() -> None:
    def model(**buffers: torch.Tensor) -> nn.Module:
        made = nn.Module()
        for name, tensor in buffers.items():
            made.register_buffer(name, tensor)
        return made

    one = torch.arange(6.0)
    hashes = [
        hash_weights(model(a=one, b=one)),
        hash_weights(model(a=one, c=one)),
        hash_weights(model(a=one, b=one + 1)),
        hash_weights(model(a=one, b=one.reshape(2, 3))),
        hash_weights(model(a=one, b=one.view(torch.int32))),
        hash_weights(model(a=one)),
    ]
    assert len(set(hashes)) == 6
    assert hash_weights(model(b=one, a=one)) == hashes[0]
    other = one.reshape(2, 3)
    assert hash_weights(model(a=other.T)) == hash_weights(model(a=other.T.contiguous()))
    half = model(a=one.bfloat16(), b=torch.tensor(3))
    assert len(hash_weights(half)) == 64
    half.get_extra_state = lambda: {"not": "a tensor"}  # which state_dict() holds too
    assert len(hash_weights(half)) == 64


def test_a_result_that_was_loaded_keeps_its_hash(tmp_path: Path) -> None:
    model = ready(FlattenNet())
    hirescam.explain(model, images()).save(tmp_path / "x.json")
    again = hirescam.load(tmp_path / "x.json")
    with torch.no_grad():
        model.head.bias.add_(1)
    assert again.manifest()["weights_sha256"] == again.weights != hash_weights(model)


def test_everything_is_in_the_manifest_and_comes_back(tmp_path: Path) -> None:
    result = made(
        layer="x.y", rule="z", image_size=(4, 6), grid=(2, 3), prefix=1, steps=("one", "two"), model="M",
        laws=Laws(0.1, 0.2, 3, complete=True, local=False), raw=torch.rand(2, 2, 7),
        audit=Audit(1, 2, 0.3, ("it failed",)),
    )  # fmt: skip
    data = result.manifest()
    assert data["format"] == "hirescam-explanation-1"
    assert data["target"] == result.target.tolist()
    assert torch.__version__.startswith(data["versions"]["torch"])
    result.save(tmp_path / "x")
    again = hirescam.load(tmp_path / "x")
    for name in (
        "layer", "rule", "certificate", "image_size", "grid", "prefix", "laws", "steps", "model", "audit",
    ):  # fmt: skip
        assert getattr(again, name) == getattr(result, name), name
    assert again.weights == data["weights_sha256"]
    assert again.origin is None
    plain = made()
    plain.save(tmp_path / "y")
    assert hirescam.load(tmp_path / "y").audit is None
    assert hirescam.load(tmp_path / "y").laws is None


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert explanation._version("no-such-package-here") == "unknown"


def test_an_older_manifest_without_audits_is_read(tmp_path: Path) -> None:
    hirescam.explain(ready(FlattenNet()), images()).save(tmp_path / "x")
    data = json.loads((tmp_path / "x.json").read_text())
    del data["audit"]
    (tmp_path / "x.json").write_text(json.dumps(data))
    assert hirescam.load(tmp_path / "x").audit is None
