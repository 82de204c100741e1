"""The page of tasks says what the tasks give."""

import re
import runpy
from pathlib import Path

import pytest

from hirescam.tasks import compare
from tasks.made import make

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT = runpy.run_path(str(DOCS / "_tasks.py"))
PAGE = (DOCS / "tasks.md").read_text("utf-8")
CELL = re.compile(r"(\S+) \((\S+), (\S+), (\S+)\)")
MARGIN = 0.1
"""Rounding changes the course of training: two threads, or other kernels, moved values by up to 0.04."""


def section(name: str) -> str:
    found = re.search(f"<!-- {name} -->\n(.*)\n<!-- /{name} -->", PAGE, re.DOTALL)
    assert found
    return found[1]


def written(name: str) -> dict[tuple[str, str], list[float]]:
    """For each rule and metric: the value of all seeds, and that of each."""
    header, _, *rows = [line for line in section(name).splitlines() if line.startswith("|")]
    metrics = re.findall(r"`(\w+)`", header)
    found = {}
    for row in rows:
        rule, *cells = row.strip("| ").split(" | ")
        for metric, cell in zip(metrics, cells, strict=False):
            match = CELL.fullmatch(cell)
            assert match, f"run: python docs/_tasks.py; {cell!r} is no value with three seeds"
            found[rule.strip("`"), metric] = [float(number) for number in match.groups()]
    return found


@pytest.mark.parametrize("name", SCRIPT["TABLES"])
def test_the_tables_agree_with_a_new_run(name):
    metrics, rules = SCRIPT["TABLES"][name], ("hirescam", "gradcam", "layercam")
    page = written(name)
    assert set(page) == {(rule, metric) for rule in SCRIPT["RULES"] for metric in metrics}
    measured = compare(make(name), rules=rules, metrics=metrics)
    for rule in rules:
        for metric in metrics:
            margin = MARGIN * max(1.0, page[rule, metric][1])
            apart = abs(measured[rule][metric].value - page[rule, metric][1])
            assert apart < margin, f"{rule} {metric}: run python docs/_tasks.py"


@pytest.mark.parametrize("name", SCRIPT["TABLES"])
def test_the_facts_agree_with_a_new_run(name):
    for fact, value in make(name).facts.items():
        listed = re.search(rf"- {fact.replace('_', ' ')}: (\S+), ", section(name))
        assert listed
        assert abs(float(listed[1]) - value) < MARGIN


def test_the_page_has_what_was_asked_for():
    """On the cut head, over all seeds: none for HiResCAM, more than a tenth for Grad-CAM, on both."""
    page = written("digits_cut")
    for metric in ("unused_mass", "dead_hotspot_rate"):
        assert page["hirescam", metric] == [0, 0, 0, 0]
        assert min(page["gradcam", metric]) > 0.1


def test_a_table_goes_between_its_markers():
    filled = SCRIPT["fill"]("a\n<!-- x -->\n\nold\n\n<!-- /x -->\nb", "x", "new")
    assert filled == "a\n<!-- x -->\n\nnew\n\n<!-- /x -->\nb"
    with pytest.raises(AssertionError, match="once"):
        SCRIPT["fill"]("a", "x", "new")
