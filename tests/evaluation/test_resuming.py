"""A run that was broken off goes on, and one that asks for more adds to it."""

import csv
import math
import shutil
from dataclasses import replace

import pytest
import torch

import miniature
from hirescam.evaluation import Settings, evaluate, runner, voc_data
from hirescam.evaluation.meter import Meter

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


class StoppedError(Exception):
    """As if the process had been killed."""


def interrupted_after(count):
    def progress(done, total):
        if done >= count:
            raise StoppedError

    return progress


@pytest.mark.parametrize("count", [1, 2, 4, 9, 12])
def test_a_run_that_was_broken_off_goes_on_to_the_same_values(voc, tmp_path, count, monkeypatch):
    wanted = [*METRICS, "deletion"]  # breaks ties at random, with a seed
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def run(out, **given):
        return evaluate(
            miniature.model(), voc_data(voc), rules=RULES, metrics=wanted, settings=FAST, out=out, **given
        )

    expected = run(whole)
    with pytest.raises(StoppedError):
        run(parts, progress=interrupted_after(count))
    assert not (parts / "values.csv").exists()
    found = run(parts)
    assert values(parts) == pytest.approx(values(whole), abs=0, nan_ok=True)
    assert found.rows == pytest.approx(expected.rows) or repr(found.rows) == repr(expected.rows)
    monkeypatch.setattr(runner, "_measured", lambda *given: pytest.fail("it was measured again"))
    assert repr(run(parts).rows) == repr(expected.rows)


def test_more_samples_rules_and_metrics_add_to_what_is_there(voc, tmp_path, monkeypatch):
    out, asked = tmp_path / "out", []
    measured = runner._measured

    def counted(contender, scene, keys, metrics_):
        asked.append((contender.label, len(keys), [one.label for one in metrics_]))
        return measured(contender, scene, keys, metrics_)

    monkeypatch.setattr(runner, "_measured", counted)

    def run(rules, wanted, limit):
        settings = replace(FAST, limit=limit, batch=1)
        asked.clear()
        return evaluate(
            miniature.model(), voc_data(voc), rules=rules, metrics=wanted, settings=settings, out=out
        )

    first = run(["hirescam"], ["wrong_sign_rate"], 2)
    assert len(asked) == 2
    assert first.about.samples == 2
    samples = {key[0] for key in values(out)}
    run(["hirescam", "gradcam"], ["wrong_sign_rate"], 2)
    assert [label for label, _, _ in asked] == ["gradcam", "gradcam"]
    run(["hirescam"], ["wrong_sign_rate", "average_drop"], 2)
    assert [names for _, _, names in asked] == [["average_drop"]] * 2
    wider = run(["hirescam"], ["wrong_sign_rate"], 3)
    assert len(asked) == 1
    assert wider.about.samples == 3
    assert samples < {key[0] for key in values(out)}


def test_another_network_or_changed_picture_is_measured_anew(voc, tmp_path):
    out = tmp_path / "out"

    def run(model, **about):
        return evaluate(
            model, voc_data(voc), metrics=["wrong_sign_rate"], settings=replace(FAST, **about), out=out
        )

    first = run(miniature.model())
    assert not [note for note in first.notes if "another configuration" in note]
    other = miniature.model()
    with torch.no_grad():
        other.module[3].weight.neg_()
    second = run(other)
    assert any("another configuration (weights differ)" in note for note in second.notes)
    third = run(miniature.model(), whole=True)
    assert any("(weights, whole differ)" in note for note in third.notes)
    before = values(out)
    shutil.copy(voc / "JPEGImages/a.jpg", voc / "JPEGImages/d.jpg")
    run(miniature.model(), whole=True)
    changed = {key[0] for key, value in values(out).items() if value != before[key]}
    assert changed == {"d/sofa"}


def test_an_unreadable_picture_is_read_again_when_it_is_another_file(voc, tmp_path):
    def run():
        return evaluate(
            miniature.model(), voc_data(voc), metrics=["iou"], settings=FAST, out=tmp_path / "out"
        )

    good = (voc / "JPEGImages/d.jpg").read_bytes()
    (voc / "JPEGImages/d.jpg").write_bytes(good[:200])
    assert [failure.name for failure in run().failures] == ["d/sofa"]
    assert [failure.name for failure in run().failures] == ["d/sofa"]
    (voc / "JPEGImages/d.jpg").write_bytes(good)
    assert run().failures == ()


def test_progress_counts_samples_and_contenders(voc):
    seen = []
    evaluate(
        miniature.model(),
        voc_data(voc),
        rules=["hirescam", "scorecam"],
        metrics=["wrong_sign_rate"],
        settings=FAST,
        progress=lambda done, total: seen.append((done, total)),
    )
    total = 4 * (2 + 2)  # rules and baselines
    assert {every for _, every in seen} == {total}
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (total, total)


def test_a_meter_shows_parts_of_a_step_and_never_goes_back():
    seen = []
    meter = Meter(lambda done, total: seen.append((done, total)))
    meter.within(1, 2)  # nothing has begun
    meter.begin(20)
    meter.expect(10)
    meter.within(1, 4)
    meter.within(3, 4)
    meter.within(2, 4)  # a second pass of the same step
    meter.step()
    meter.expect(10)
    meter.within(5, 5)
    meter.step()
    meter.reach(20)
    assert seen == [(2, 20), (7, 20), (10, 20), (20, 20)]
