"""The page: what is on it, and that nothing from the data can break out of it."""

import re
import sys
from dataclasses import replace

import pytest

import miniature
from hirescam import metrics
from hirescam.errors import InputError
from hirescam.evaluation import Data, Settings, evaluate, voc_data
from hirescam.evaluation.page import evaluation_page, parts_of
from hirescam.evaluation.plots import Scale, mark_of
from hirescam.evaluation.tables import text_of

FAST = Settings(resamples=20, batch=4)
EVIL = "<script>alert('x')</script>"


@pytest.fixture
def found(tmp_path):
    data = voc_data(miniature.voc(tmp_path))
    named = Data(EVIL, data.samples, {EVIL: 2})
    broken = replace(metrics.get("wrong_sign_rate"), name="broken", function=lambda raw: raw[EVIL])
    wanted = ["wrong_sign_rate", "pointing_game", broken]
    model = replace(miniature.model(), name=EVIL, origin="random weights, seed 0")
    return evaluate(model, named, rules=["hirescam", "gradcam"], metrics=wanted, settings=FAST)


def test_nothing_breaks_out_of_the_page(found):
    page = evaluation_page(found)
    assert EVIL not in page
    assert page.count("&lt;script&gt;") >= 3
    assert len(re.findall("<script", page)) == 1  # the layout's own


def test_every_figure_is_on_the_page_with_its_interval_and_count(found):
    page = evaluation_page(found)
    for part in parts_of(found.rows):
        for block in part.blocks:
            assert f'id="{part.kind}-' in page
            for line in block.lines:
                assert line.row.error or line.mark
    assert "Random weights" in page
    assert page.count('class="baseline"') == 2
    assert "4 samples on 4 pictures" in page
    assert "Not measured" in page


def test_parts_come_in_order_and_localisation_with_its_caution(found):
    parts = parts_of(found.rows)
    assert [part.kind for part in parts] == ["faithfulness", "localisation"]
    assert [bool(part.caution) for part in parts] == [False, True]
    assert parts[1].rules == ["hirescam", "gradcam", "baseline: area", "baseline: centre"]
    broken = parts[0].blocks[1]
    assert (broken.metric, broken.scale, broken.figure("gradcam")) == ("broken", None, "–")
    assert broken.figure("nothing") == "–"


def test_a_table_says_what_is_missing(tmp_path):
    """A rule for which a metric is undefined once, fails once, or is not measured at all."""

    def fails(raw):
        if len(raw) > 1 or float(raw.sum()) > 0:
            raise ValueError("too much")
        return raw.flatten(1).sum(1).double() * float("nan")

    like = metrics.get("wrong_sign_rate")
    some, nothing = replace(like, name="some", function=fails), replace(like, name="nothing")
    data = voc_data(miniature.voc(tmp_path))
    rules = ["hirescam", "mean_activation"]
    result = evaluate(miniature.model(), data, rules=rules, metrics=[some, nothing], settings=FAST)
    rows = [row for row in result.rows if (row.metric, row.rule) != ("nothing", "mean_activation")]
    text = text_of(rows, width=120)
    (row,) = [row for row in rows if (row.metric, row.rule) == ("some", "hirescam")]
    assert row.failed + row.estimate.undefined == 4
    assert f"{row.estimate.undefined} undefined" in text
    assert "4 failed" in text  # every mean of activations is above zero
    assert "–" in text
    assert mark_of(row, Scale(0, 1)) is None


def test_a_cell_says_its_count_where_it_differs(found):
    rows = [row for row in found.rows if row.metric == "wrong_sign_rate"]
    fewer = replace(rows[1], estimate=replace(rows[1].estimate, undefined=1))
    text = " ".join(text_of([rows[0], fewer], width=120).split())
    assert "n = 3" in text
    assert "1 undefined" in text


def test_a_frame_needs_pandas(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r'frame\(\) needs the package "pandas"'):
        found.frame()
