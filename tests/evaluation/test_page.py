"""The page: what is on it, and that nothing from the data can break out of it."""

import re
from dataclasses import replace

import pytest

import miniature
from hirescam import metrics
from hirescam.evaluation import Data, Settings, evaluate, voc_data
from hirescam.evaluation.page import evaluation_page, parts_of

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
