"""Pages hold what they were given, need nothing from outside, and do not run what they were given."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from hirescam import pages
from hirescam.pages import (
    Bars,
    Column,
    Failure,
    Item,
    Map,
    Measured,
    Picture,
    Run,
    Section,
    Table,
    Wave,
    compare_page,
    demo_page,
    explain_page,
)

PIXEL = "data:image/png;base64,iVBORw0KGgo="
HOSTILE = "<script>alert('x')</script>\" onload=\"alert(1)"
LAWS = Measured(1e-7, 0.25, complete=True, local=False)
RUN = Run(
    "lite0", "a package", "head_relu", "hirescam", "exact", "EXACT: it holds.", LAWS, "one picture", "FIELD"
)
MAP = Map("tabby", 2.5, ((1.0, -0.5), (0.25, 1.5)))
ITEM = Item("cat.png", Picture(PIXEL, 4, 4), (MAP,))


class Reader(HTMLParser):
    """Collects tags, checks their nesting, and keeps the words outside of script and style."""

    VOID = frozenset({"meta", "img", "input", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def everything(word: str = "plain") -> list[str]:
    """One page of each kind, with a word in every place that takes words."""
    run = replace(
        RUN, model=word, origin=word, layer=word, rule=word, verdict=word, measured_on=word, field=word,
        audit=word, failed_audits=(f"{word}.",),
    )  # fmt: skip
    one = replace(MAP, title=word, note=word, laws=LAWS)
    item = Item(word, Picture(PIXEL, 4, 4, pixelated=True), (one, replace(one, blind=0.5)))
    wave = Wave((0.0, 1.0, -1.0), (Bars(word, (1.0, -1.0), word),))
    section = Section(word, word, "exact", word, (item,), wave, (word,))
    return [
        explain_page(run, [item], [Failure(word, word)]),
        compare_page(
            run,
            word,
            picture=item.picture,
            columns=[Column(word, word, (one,), LAWS), Column(word, word, error=word)],
            remarks=[word],
        ),
        demo_page(Table((word,), ((word,),)), [section]),
    ]


def test_pages_are_well_formed():
    for page in everything():
        reader = Reader(page)
        assert page.startswith("<!doctype html>")
        assert reader.open == []
        assert len(reader.all("h1")) == 1


def test_pages_need_nothing_from_outside():
    for page in everything():
        assert not re.search(r"https?://|//[a-z]|@import|url\(", page.replace("base64,", ""))
        for tag, attributes in Reader(page).tags:
            assert tag not in {"link", "iframe", "object", "embed", "base"}
            assert "srcset" not in attributes
            assert (attributes.get("src") or PIXEL) == PIXEL
            assert (attributes.get("href") or "#").startswith("#")


def test_the_policy_forbids_everything_that_is_not_inline():
    policies = [
        tag["content"] for page in everything() for tag in Reader(page).all("meta") if "http-equiv" in tag
    ]
    assert len(policies) == 3
    assert all(policy.startswith("default-src 'none'") for policy in policies)


def test_hostile_words_stay_words():
    for harmless, hostile in zip(everything(), everything(HOSTILE), strict=True):
        reader = Reader(hostile)
        assert [name for name, _ in reader.tags] == [name for name, _ in Reader(harmless).tags]
        assert not any("onload" in attributes for _, attributes in reader.tags)
        assert "<script>alert" not in hostile
        assert "<script>alert('x')</script>" in reader.text()


def test_explain_page_holds_the_figures():
    text = Reader(explain_page(RUN, [ITEM])).text()
    for part in (
        "tabby",
        "2.50",
        "map +2.25, offset +0.250",
        "full colour: ±1.50",
        "EXACT: it holds.",
        "FIELD",
    ):
        assert part in text
    (drawn,) = [tag for tag in Reader(explain_page(RUN, [ITEM])).all("div") if "data-values" in tag]
    assert drawn["data-values"] == "1 -0.5 0.25 1.5"
    assert (drawn["data-rows"], drawn["data-columns"], drawn["data-limit"]) == ("2", "2", "1.5")
    assert drawn["tabindex"] == "0"
    assert "tabby" in drawn["aria-label"]


def test_laws_are_told_in_words_and_figures():
    text = Reader(explain_page(RUN, [replace(ITEM, maps=(replace(MAP, laws=LAWS),))])).text()
    assert "adds up (1e−7)" in text
    assert "cells are not what removing them costs (0.25)" in text


def test_failures_are_listed():
    text = Reader(explain_page(RUN, [ITEM], [Failure("bad.jpg", "it is damaged")])).text()
    assert "1 not explained" in text
    assert "bad.jpg it is damaged" in text


def test_audits_stand_with_the_verdict():
    assert "Audit" not in Reader(explain_page(RUN, [ITEM])).text()
    passed = replace(RUN, audit="audited 20 of 2,000, largest error 3e-6")
    page = explain_page(passed, [ITEM])
    assert "EXACT: it holds. Audit: audited 20 of 2,000, largest error 3e-6." in Reader(page).text()
    assert "small no" not in page
    first, second = "an audit of a.png failed: x", "an audit of b.png failed: y"
    words = "audited 9 of 9, largest error 0.8; 2 failed"
    failed = replace(
        RUN, guarantee="none", verdict=f"NONE: {first}.", audit=words, failed_audits=(first, second)
    )
    page = explain_page(failed, [ITEM])
    text = Reader(page).text()
    assert f"NONE: {first}. Audit: {words}. An audit of b.png failed: y." in text
    assert text.count("a.png") == 1
    assert page.count("small no") == 2


def test_the_limits_are_stated():
    text = Reader(explain_page(RUN, [ITEM])).text()
    for part in (
        "A cell is not a patch of pixels",
        "logits, not probabilities",
        "display steps that void the laws",
    ):
        assert part in text


def test_random_weights_are_announced():
    assert "was never trained" not in Reader(explain_page(RUN, [ITEM])).text()
    random = replace(RUN, origin="random weights, seed 0")
    assert "was never trained (random weights, seed 0)" in Reader(explain_page(random, [ITEM])).text()


def test_other_rules_do_not_borrow_the_verdict():
    text = Reader(explain_page(replace(RUN, rule="gradcam"), [ITEM])).text()
    assert "These maps are made by gradcam. The verdict is about hirescam" in text


def test_many_pictures_get_a_filter_and_are_laid_out_lazily():
    assert "Filter" not in explain_page(RUN, [ITEM] * 3)
    page = explain_page(RUN, [ITEM] * 41)
    assert 'placeholder="Filter 41 pictures"' in page
    assert 'class="items many"' in page
    assert all(tag["loading"] == "lazy" for tag in Reader(page).all("img"))


def test_comparison_says_yes_and_no():
    columns = [Column("hirescam", "good", (MAP,), LAWS), Column("cam", "old", error="not for this head")]
    page = compare_page(RUN, "cat.png", picture=ITEM.picture, columns=columns, remarks=["they differ"])
    text = Reader(page).text()
    assert "yes 1e−7 no 0.25" in text
    assert "not for this head" in text
    assert "they differ" in text


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_do_not_break_a_page(value):
    assert str(value) in explain_page(RUN, [replace(ITEM, maps=(replace(MAP, score=value),))])


def test_shares_are_given_only_of_positive_scores():
    assert MAP.shares
    assert not replace(MAP, score=-1.0).shares


def test_wave():
    wave = Wave((0.0, 2.0, -2.0), (Bars("a", (1.0, -3.0)),))
    assert wave.points == "0.0,48.0 320.0,3.0 640.0,93.0"
    assert wave.limit == 3.0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (9.25, "9.25"),
        (-0.00431, "−0.00431"),
        (8.88e-6, "8.88e−6"),
        (48.0, "48.0"),
        (-12345.6, "−12,346"),
        (math.inf, "inf"),
    ],
)
def test_number(value, text):
    assert pages.number(value) == text


def test_signed_and_error():
    assert pages.signed(0.5) == "+0.500"
    assert pages.signed(-0.5) == "−0.500"
    assert [pages.error(value) for value in (0.0, 1.24e-7, 0.31, 48.0)] == ["0", "1e−7", "0.31", "48"]
