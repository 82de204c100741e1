"""A whole evaluation on a miniature: its values, what it survives, and how it goes on."""

import csv
import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import hirescam
import miniature
from hirescam import metrics
from hirescam.errors import (
    HirescamError,
    ImageFileError,
    InputError,
    MetricError,
    RuleError,
    TargetError,
)
from hirescam.evaluation import (
    PLAUSIBILITY,
    STORE,
    Data,
    Sample,
    Settings,
    evaluate,
    folder_data,
    framed,
    runner,
    voc_data,
    writing,
)
from hirescam.evaluation.frames import OUTSIDE
from hirescam.metrics import Case, Scene

RULES = ("hirescam", "gradcam", "random")
FAST = Settings(resamples=20, batch=2)
METRICS = ("wrong_sign_rate", "pointing_game:tolerance=5", "average_drop")


@pytest.fixture
def voc(tmp_path):
    return miniature.voc(tmp_path / "data")


def values(out) -> dict[tuple[str, str, str], float]:
    with (out / "values.csv").open(encoding="utf-8", newline="") as file:
        return {
            (row["sample"], row["rule"], row["metric"]): float(row["value"]) if row["value"] else math.nan
            for row in csv.DictReader(file)
        }


def only(found, metric, rule):
    (row,) = [row for row in found.rows if (row.metric, row.rule) == (metric, rule)]
    return row


def test_values_are_those_of_the_metrics_package(voc, tmp_path):
    """Each sample by itself, with nothing of the runner."""
    model, data, out = miniature.model(), voc_data(voc), tmp_path / "out"
    found = evaluate(model, data, rules=RULES, metrics=METRICS, settings=FAST, out=out)
    explainer, got, seen = hirescam.Explainer(model.module), values(out), 0
    pointing = metrics.get("pointing_game").configure({"tolerance": 5})
    for sample in data:
        if sample.wanted == "person":  # the network has no such class
            continue
        frame = framed(model, sample)
        target = torch.tensor([miniature.LABELS.index(sample.wanted)])
        scene = Scene(explainer, frame.image[None], target=target, masks=frame.mask[None])
        for rule in RULES:
            for label, metric in ((METRICS[0], METRICS[0]), ("pointing_game (tolerance=5)", pointing)):
                expected = Case(scene, rule).measure(metric)[0]
                assert got[sample.name, rule, label] == pytest.approx(float(expected), abs=1e-9)
                seen += 1
    assert seen == 4 * 3 * 2
    assert found.left_out == {
        "only objects that are marked as difficult": 1,
        "no class of the network for 'person'": 1,
    }
    pointed = [only(found, "pointing_game (tolerance=5)", "random").estimate, pointing]
    by_class = {"cat": ["a/cat", "c/cat"], "dog": ["b/dog"], "sofa": ["d/sofa"]}
    means = [
        np.mean([got[name, "random", "pointing_game (tolerance=5)"] for name in own])
        for own in by_class.values()
    ]
    assert pointed[0].value == pytest.approx(np.mean(means))
    assert (found.about.samples, found.about.pictures) == (4, 4)


def test_localisation_is_never_shown_without_saying_what_it_is(voc, tmp_path):
    out = tmp_path / "out"
    found = evaluate(miniature.model(), voc_data(voc), rules=RULES, metrics=METRICS, settings=FAST, out=out)
    kinds = [row.kind.value for row in found.rows]
    assert kinds == sorted(kinds, key=("faithfulness", "perturbation", "localisation").index)
    flat = " ".join(found.table(width=200).split())
    assert flat.index("wrong_sign_rate") < flat.index("average_drop") < flat.index(PLAUSIBILITY)
    assert flat.index(PLAUSIBILITY) < flat.index("pointing_game")
    frame = found.frame()
    assert set(frame.says[frame.kind == "localisation"]) == {"plausibility, not faithfulness"}
    assert set(frame.rule[frame.kind == "localisation"]) == {*RULES, "baseline: area", "baseline: centre"}
    data = json.loads((out / "summary.json").read_text("utf-8"))
    assert PLAUSIBILITY in data["notes"]
    assert "plausibility, not faithfulness" in (out / "summary.csv").read_text("utf-8")
    page = (out / "index.html").read_text("utf-8")
    assert page.index("wrong_sign_rate") < page.index(PLAUSIBILITY) < page.index(">pointing_game")
    faithful = evaluate(miniature.model(), voc_data(voc), metrics=["faithfulness"], settings=FAST)
    assert PLAUSIBILITY not in faithful.table()
    assert PLAUSIBILITY not in faithful.data()["notes"]


def test_everything_is_written_and_agrees(voc, tmp_path):
    out = tmp_path / "out"
    found = evaluate(miniature.model(), voc_data(voc), metrics=["localisation"], settings=FAST, out=out)
    names = {"index.html", "summary.json", "summary.csv", "values.csv", "values.parquet", STORE}
    assert {path.name for path in out.iterdir()} == names
    frame = pd.read_csv(out / "summary.csv")
    assert frame.value.tolist() == pytest.approx([row.estimate.value for row in found.rows], nan_ok=True)
    single, columns = pd.read_csv(out / "values.csv"), pd.read_parquet(out / "values.parquet")
    assert len(single) == len(columns) == 4 * len(found.rows)
    assert single.value.tolist() == pytest.approx(columns.value.tolist(), nan_ok=True)
    curves = columns[columns.metric == "best_iou"]
    assert {len(curve) for curve in curves.curve} == {metrics.get("best_iou").options["steps"]}
    assert single[single.metric == "best_iou"].value.isna().all()
    assert set(single.label) == {"cat", "dog", "sofa"}
    page = (out / "index.html").read_text("utf-8")
    assert not re.search(r"https?://", page)
    assert page.count("<svg") >= len(found.rows) - 1


def test_without_pyarrow_there_is_no_parquet_file(voc, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "find_spec", lambda name: None)
    evaluate(miniature.model(), voc_data(voc), metrics=["iou"], settings=FAST, out=tmp_path / "out")
    assert not (tmp_path / "out/values.parquet").exists()
    assert (tmp_path / "out/values.csv").exists()


def test_a_picture_and_a_table_are_enough_without_a_folder(voc):
    data = [Sample("mine", voc / "JPEGImages/a.jpg", "Katze")]
    found = evaluate(
        miniature.model(), data, metrics=["faithfulness"], settings=replace(FAST, classes={"Katze": "cat"})
    )
    assert found.about.data == "samples"
    assert found.about.samples == 1


def test_the_highest_of_several_classes_is_explained(voc, tmp_path):
    settings = replace(FAST, classes={"cat": ["cat", "dog", "bird", "sofa"]})
    data = Data("cats", tuple(one for one in voc_data(voc) if one.wanted == "cat"))
    out = tmp_path / "out"
    found = evaluate(miniature.model(), data, metrics=["wrong_sign_rate"], settings=settings, out=out)
    rows = pd.read_csv(out / "values.csv")
    assert (rows["class"] == rows.predicted).all()
    assert any("highest for 2 of 2 samples. Where several classes" in note for note in found.notes)


def test_predicted_classes_need_no_labels(tmp_path):
    for place in range(3):
        miniature.picture(tmp_path / f"in/{place}.png", seed=place)
    out = tmp_path / "out"
    found = evaluate(miniature.model(labels=None), folder_data(tmp_path / "in"), settings=FAST, out=out)
    rows = pd.read_csv(out / "values.csv")
    assert (rows["class"] == rows.predicted).all()
    assert set(rows.label) <= {f"class {index}" for index in range(4)}
    assert {row.kind.value for row in found.rows} == {"faithfulness"}
    (note,) = [note for note in found.notes if note.startswith("Without masks ((n, *size) bool")]
    assert "pointing_game" in note
    with pytest.raises(MetricError, match="metric='iou' needs masks"):
        evaluate(miniature.model(), folder_data(tmp_path / "in"), metrics=["iou"], settings=FAST)


def test_equal_maps_are_said_to_be_equal(voc):
    torch.manual_seed(0)
    pooled = nn.Sequential(
        nn.Conv2d(3, 6, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )
    rules = ("hirescam", "gradcam", "cam", "random")
    found = evaluate(
        miniature.model(module=pooled.eval()),
        voc_data(voc),
        rules=rules,
        metrics=["wrong_sign_rate"],
        settings=FAST,
    )
    (note,) = [note for note in found.notes if "gave the map of hirescam" in note]
    assert note.startswith("gradcam gave the map of hirescam on every sample")
    (other,) = [note for note in found.notes if "in other units" in note]
    assert other.startswith("cam gave the picture of hirescam")
    flat = evaluate(
        miniature.model(), voc_data(voc), rules=rules[:2], metrics=["wrong_sign_rate"], settings=FAST
    )
    assert not [note for note in flat.notes if "gave the" in note]


# --- what goes wrong ------------------------------------------------------------------------------


def test_one_bad_picture_does_not_lose_the_others(voc):
    (voc / "JPEGImages/c.jpg").write_text("not a picture")
    found = evaluate(miniature.model(), voc_data(voc), metrics=["wrong_sign_rate"], settings=FAST)
    assert [failure.name for failure in found.failures] == ["c/cat"]
    assert "not a picture" in found.failures[0].error
    assert found.about.samples == 3
    for path in (voc / "JPEGImages").iterdir():
        path.write_text("not a picture")
    with pytest.raises(ImageFileError, match=r"none of the samples can be used; the first: .* not a picture"):
        evaluate(miniature.model(), voc_data(voc), settings=FAST)


def test_an_object_outside_the_crop_is_left_out_and_counted(tmp_path):
    pictures = {"a": [("cat", (20, 9, 30, 30), False)], "b": [("cat", (1, 9, 3, 30), False)]}
    data = voc_data(miniature.voc(tmp_path, pictures))
    found = evaluate(miniature.model(), data, metrics=["iou"], settings=FAST)
    assert found.left_out == {OUTSIDE: 1}
    assert found.about.samples == 1
    squeezed = evaluate(miniature.model(), data, metrics=["iou"], settings=replace(FAST, whole=True))
    assert squeezed.left_out == {}
    assert squeezed.about.samples == 2


def fussy(name, error):
    """A metric that fails for a batch with a map whose sum is below zero; that is the dog's."""

    def function(raw, target):
        if bool((target == 1).any()):
            raise error
        return raw.flatten(1).sum(1).double()

    like = metrics.get("wrong_sign_rate")
    return replace(like, name=name, function=function)


def test_one_failing_metric_does_not_lose_the_others(voc, tmp_path):
    out = tmp_path / "out"
    broken = [fussy("odd", ZeroDivisionError("no way")), fussy("unfit", MetricError("not for these"))]
    wanted = ["wrong_sign_rate", *broken]
    found = evaluate(
        miniature.model(), voc_data(voc), metrics=wanted, settings=replace(FAST, batch=8), out=out
    )
    odd, unfit = only(found, "odd", "hirescam"), only(found, "unfit", "hirescam")
    assert (odd.estimate.count, odd.failed) == (3, 1)  # the others, one by one
    assert odd.error == "unexpected ZeroDivisionError: no way"
    assert (unfit.estimate.count, unfit.failed) == (0, 4)  # does not depend on the image
    assert unfit.error == "not for these"
    assert only(found, "wrong_sign_rate", "hirescam").estimate.count == 4
    assert "not for these" in (out / "index.html").read_text("utf-8")
    assert "4 failed" in found.table()


def test_a_rule_that_does_not_apply_is_a_row_that_says_why(voc):
    found = evaluate(
        miniature.model(),
        voc_data(voc),
        rules=["hirescam", "cam"],
        metrics=["wrong_sign_rate"],
        settings=FAST,
    )
    row = only(found, "wrong_sign_rate", "cam")
    assert (row.estimate.count, row.failed) == (0, 4)
    assert "cam" in row.error


def test_a_metric_with_the_wrong_number_of_values_fails(voc):
    short = replace(
        metrics.get("wrong_sign_rate"), name="short", function=lambda raw: raw.flatten(1).sum(1)[1:]
    )
    found = evaluate(miniature.model(), voc_data(voc), metrics=[short], settings=FAST)
    assert "gave 1 values for 2 samples" in only(found, "short", "hirescam").error


@pytest.mark.parametrize(
    ("about", "error", "complaint"),
    [
        ({"rules": ["gradcan"]}, RuleError, "did you mean 'gradcam'"),
        ({"metrics": ["iuo"]}, MetricError, "metric='iuo' is unknown"),
        ({"settings": replace(FAST, batch=0)}, InputError, "batch=0"),
        ({"settings": replace(FAST, limit=0)}, InputError, "limit=0"),
        ({"settings": replace(FAST, confidence=2)}, InputError, "confidence=2"),
        ({"settings": replace(FAST, layer="nothing")}, HirescamError, "layer='nothing'"),
    ],
)
def test_wrong_wishes_are_errors_before_anything_is_measured(voc, monkeypatch, about, error, complaint):
    monkeypatch.setattr(runner, "measure_batch", lambda *given: pytest.fail("it was measured"))
    with pytest.raises(error, match=complaint):
        evaluate(miniature.model(), voc_data(voc), **{"settings": FAST} | about)


@pytest.mark.parametrize("index", [4, -1])
def test_a_class_that_the_network_does_not_have_is_an_error(voc, index):
    settings = replace(FAST, classes={"cat": ["dog", index]})
    with pytest.raises(TargetError, match=f"for 'cat', {index} is no class of mini, which has 4"):
        evaluate(miniature.model(), voc_data(voc), settings=settings)


def test_a_network_without_any_of_the_classes_is_an_error(voc, tmp_path):
    with pytest.raises(InputError, match="mini has no class for any of 'cat', 'dog', 'person', 'sofa': give"):
        evaluate(miniature.model(labels=None), voc_data(voc), settings=FAST)
    with pytest.raises(InputError, match="holds no samples"):
        evaluate(miniature.model(), [], settings=FAST)
    with pytest.raises(InputError, match="takes inputs of shape"):
        evaluate(replace(miniature.model(), input_shape=(1, 8, 8, 8)), voc_data(voc), settings=FAST)
    (tmp_path / "out/values.csv").mkdir(parents=True)
    with pytest.raises(InputError, match=r"out: cannot write .*values.csv"):
        evaluate(miniature.model(), voc_data(voc), metrics=["iou"], settings=FAST, out=tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tmp"))
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(InputError, match="cannot write"):
        evaluate(miniature.model(), voc_data(voc), settings=FAST, out=blocked)


def test_several_labels_at_once_have_sigmoids(voc, tmp_path):
    model = miniature.model(multilabel=True)
    evaluate(model, voc_data(voc), metrics=["average_drop"], settings=FAST, out=tmp_path / "out")
    rows = pd.read_csv(tmp_path / "out/values.csv")
    assert rows.probability.tolist() == pytest.approx(torch.tensor(rows.score).sigmoid().tolist(), rel=1e-5)
    frame = framed(model, voc_data(voc).samples[0])
    scene = Scene(
        hirescam.Explainer(model.module),
        frame.image[None],
        target=torch.tensor([0]),
        predict=lambda images: model.module(images).sigmoid(),
    )
    got = rows[(rows["sample"] == "a/cat") & (rows.rule == "gradcam")].value.item()
    assert got == pytest.approx(float(Case(scene, "gradcam").measure("average_drop")), rel=1e-5)
    plain = evaluate(model, voc_data(voc), metrics=["average_drop"], settings=replace(FAST, multilabel=False))
    assert (
        only(plain, "average_drop", "gradcam").estimate.value
        != only(
            evaluate(model, voc_data(voc), metrics=["average_drop"], settings=FAST), "average_drop", "gradcam"
        ).estimate.value
    )


def test_the_model_comes_back_as_it_was(voc):
    model = miniature.model()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    state = torch.get_rng_state()
    evaluate(model, voc_data(voc), rules=["hirescam", "scorecam"], metrics=["all"], settings=FAST)
    assert (torch.get_rng_state() == state).all()
    assert not model.module.training
    assert all((value == before[name]).all() for name, value in model.module.state_dict().items())
    assert all(one.grad is None for one in model.module.parameters())
