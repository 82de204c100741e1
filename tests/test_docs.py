"""Every Python block of the README and of docs/ runs, and so does every docstring example.

The blocks of a page run in order, in one namespace.

A text block after `<!-- output -->` or `<!-- verdict -->` is what the block before it prints.
Figures in it are examples: two texts agree when they do with every number that has a point or an
exponent left out, since rounding differs between machines. Line breaks do not count.
"""

import doctest
import io
import pkgutil
import re
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import pytest

import hirescam
from hirescam.metrics import metrics

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```$|^<!-- (?:output|verdict) -->\n+```text\n(?P<output>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
FIGURE = re.compile(r"-?\d+(?:\.\d+(?:e[+-]?\d+)?|e[+-]?\d+)")


def run(text: str, name: str) -> int:
    """Run the blocks of one page and return how many there were; errors point into the page."""
    namespace = {"__name__": "page"}
    printed = ""
    count = 0
    for block in BLOCK.finditer(text):
        if block["code"] is not None:
            line = text.count("\n", 0, block.start("code"))
            with redirect_stdout(io.StringIO()) as stdout:
                exec(compile("\n" * line + block["code"], name, "exec"), namespace)
            printed = stdout.getvalue()
            count += 1
        else:
            assert without_figures(printed) == without_figures(block["output"])
    return count


def without_figures(text: str) -> str:
    """Leave only what must be equal on every machine; lines may be broken elsewhere on the page."""
    return " ".join(FIGURE.sub("…", text).split())


MODULES = ["hirescam", *(m.name for m in pkgutil.walk_packages(hirescam.__path__, "hirescam."))]
WITH_CODE = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert run(text, str(page)) == text.count("```python")


def test_pages_with_code_are_found():
    assert {page.name for page in WITH_CODE} >= {"README.md", "tutorial.md"}


def test_blocks_share_a_namespace():
    assert run("```python\nx = 1\n```\ntext\n```python\nassert x == 1\n```\n", "page.md") == 2


def test_a_failing_block_fails_with_its_line_in_the_page():
    page = "title\n\n```python\nx = 1\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as failure:
        run(page, "page.md")
    assert failure.traceback[-1].lineno + 1 == 5


def test_wrong_output_fails():
    page = "```python\nprint('exact', 1.25e-7)\n```\n\n<!-- output -->\n```text\n{}\n```\n"
    run(page.format("exact 3.5e-8"), "page.md")
    with pytest.raises(AssertionError):
        run(page.format("local 1.25e-7"), "page.md")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_docstring_examples_are_found():
    finder = doctest.DocTestFinder()
    assert any(test.examples for test in finder.find(import_module("hirescam.explainer")))


def test_the_bibliography_is_whole():
    """Every entry is closed before the next, none comes twice, and every paper cited in code is there."""
    text = (ROOT / "docs" / "bibliography.bib").read_text("utf-8")
    entries = [entry.strip() for entry in re.split(r"^(?=@)", text, flags=re.MULTILINE) if entry.strip()]
    for entry in entries:
        assert entry.endswith("\n}"), entry
        assert entry.count("{") == entry.count("}"), entry
    keys = [re.match(r"@\w+\{(\w+),", entry)[1] for entry in entries]
    assert len(keys) == len(set(keys))
    assert {one.cite for one in (*hirescam.rules().values(), *metrics().values())} <= set(keys)
