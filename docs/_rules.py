"""Write rules.md from the registry: ``python docs/_rules.py``."""

import re
from pathlib import Path

from hirescam.rulebook.registry import Rule, rules

PAGE = Path(__file__).parent / "rules.md"

HEAD = """\
# Rules

A rule turns activations *A* and gradients *G* of one layer into a signed map, never clipped or rescaled.
Indices are *b* image, *t* target, *k* channel and *s* location, on one, two or three axes.
`hirescam.explain(model, images, rule="gradcam")` chooses a rule by name;
`rule=hirescam.rules()["shapley"].configure({"samples": 16})` gives it other options.

*Exact on* names the heads on which both laws hold: the map adds up to score − score(A = 0), and each value is
what the score loses with that location. *Complete on* and *local on* name the heads on which the first and
the second hold by themselves. A pooled affine head is global average pooling and one linear layer; an affine
head is that of any network that ends in one fully connected layer. Each claim is tested, and so is its
failure on the next wider kind of head.

This page is written by `python docs/_rules.py` from the docstrings.

| rule | map | needs | exact on | complete on | local on | options | paper |
|---|---|---|---|---|---|---|---|
"""


def formula(rule: Rule) -> str:
    """The paragraph after the summary of the docstring, a line of code for each of its lines."""
    lines = rule.description.split("\n\n")[0].splitlines()
    return "<br>".join(f"`{line.strip().rstrip(',').replace('|', chr(92) + '|')}`" for line in lines)


def row(rule: Rule) -> str:
    """One line of the table."""
    claims = [claim or "–" for claim in (rule.exact_for, rule.complete_for, rule.local_for)]
    options = ", ".join(f"`{name}={value!r}`" for name, value in rule.options.items())
    cells = [f"`{rule.name}`", formula(rule), str(rule.needs), *claims, options, f"{{cite}}`{rule.cite}`"]
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """The text of the page: the table, then what each rule's docstring says."""
    table = "\n".join(row(rule) for rule in rules().values())
    notes = [f"## `{rule.name}`\n\n{rule.summary}\n\n{remarks(rule)}\n" for rule in rules().values()]
    return HEAD + table + "\n\n" + "\n".join(notes)


def remarks(rule: Rule) -> str:
    """The paragraphs after the formula, the options as a list."""
    paragraphs = rule.description.split("\n\n")[1:]
    return "\n\n".join(
        options(text) if text.startswith("Args:") else text for text in paragraphs if shown(text)
    )


def shown(text: str) -> bool:
    """Whether a paragraph is about the method."""
    return not text.startswith("Raises:")


def options(text: str) -> str:
    """The arguments of a docstring as a list, without the trace."""
    items = re.split(r"\n {4}(?! )", text)[1:]
    pairs = [item.partition(":")[::2] for item in items]
    return "\n".join(f"- `{name}`: {' '.join(words.split())}" for name, words in pairs if name != "trace")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
