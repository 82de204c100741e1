"""Write metrics.md from the registry: ``python docs/_metrics.py``."""

import re
from pathlib import Path

from hirescam.evaluation import ORDER, PLAUSIBILITY, QUESTIONS
from hirescam.metrics import INPUTS, Kind, Metric, metrics
from hirescam.pages import number

PAGE = Path(__file__).parent / "metrics.md"

HEAD = """\
# Metrics

A metric is a function of tensors that gives one value (or one row of counts) for each sample, NaN where it is
undefined, and a reduction from the values of all samples to one number. `hirescam evaluate --metrics NAME`
measures it, `hirescam metrics` lists them, and in Python:

```python
import torch
from hirescam.metrics import get

found = get("wrong_sign_rate").function(torch.tensor([[2.0, 1.0]]), torch.tensor([[2.0, -1.0]]))
assert found.tolist() == [0.5]
```

What a metric *needs*:

{needs}

How our definitions differ from those of other libraries is on [a page of its own](metrics-elsewhere.md); what
a table of figures says and does not say is in [the tutorial](evaluate.md). This page is written by
`python docs/_metrics.py` from the docstrings.
"""

TABLE = """\
| metric | finds | better | from | to | units | needs | options | paper |
|---|---|---|---|---|---|---|---|---|
"""


def page() -> str:
    """The text of the page: a table and notes for each kind, localisation last."""
    return HEAD.format(needs=needs()) + "".join(part(kind) for kind in ORDER)


def needs() -> str:
    """The vocabulary, as a list."""
    quoted = {name: re.sub(r"\([nmk], [^)]*\)", r"`\g<0>`", about) for name, about in INPUTS.items()}
    return "\n".join(f"- `{name}`: {about}" for name, about in quoted.items())


def part(kind: Kind) -> str:
    """The table of one kind, and what each docstring says."""
    found = [one for one in metrics().values() if one.kind is kind]
    caution = f"\n**{PLAUSIBILITY}**\n" if kind is Kind.LOCALISATION else ""
    rows = "\n".join(row(one) for one in found)
    notes = "\n".join(note(one) for one in found)
    return f"\n## {QUESTIONS[kind]}\n{caution}\n{TABLE}{rows}\n\n{notes}"


def row(metric: Metric) -> str:
    """One line of a table."""
    options = ", ".join(f"`{name}={value!r}`" for name, value in metric.options.items())
    inputs = ", ".join(f"`{name}`" for name in metric.needs)
    ends = [number(end).replace("inf", "∞") for end in metric.bounds]
    cells = [f"[`{metric.name}`](#{anchor(metric)})", metric.summary, str(metric.better), *ends, metric.units]
    return f"| {' | '.join([*cells, inputs, options, f'{{cite}}`{metric.cite}`'])} |"


def anchor(metric: Metric) -> str:
    """Where its note is on the page."""
    return f"metric-{metric.name.replace('_', '-')}"


def note(metric: Metric) -> str:
    """What the docstring says, without the inputs, the errors and the examples."""
    shown = [text(paragraph) for paragraph in metric.description.split("\n\n")]
    body = "\n\n".join(one for one in shown if one)
    return f"({anchor(metric)})=\n### `{metric.name}`\n\n{metric.summary}\n\n{body}\n"


def text(paragraph: str) -> str:
    """One paragraph as Markdown; formulas that stand by themselves as code."""
    title, _, rest = paragraph.partition("\n")
    if title == "Args:":
        return options(rest)
    if title == "Returns:":
        return f"*Gives* {' '.join(rest.split())}"
    if title in ("Raises:", "Example:"):
        return ""
    formula = all(line.startswith("    ") for line in paragraph.splitlines()) or is_formula(paragraph)
    return code(paragraph) if formula else paragraph


def is_formula(paragraph: str) -> bool:
    """Whether a paragraph is signs rather than sentences."""
    return not re.search(r"[.:;]$", paragraph) and bool(re.search(r"[=Σ⋅·/|∩]|max_|mean_|min_", paragraph))


def code(paragraph: str) -> str:
    """Lines as they are."""
    lines = "\n".join(line.strip() for line in paragraph.splitlines())
    return f"```text\n{lines}\n```"


def options(arguments: str) -> str:
    """The options of a docstring as a list; what a metric needs is in the table."""
    items = re.split(r"(?:^|\n) {4}(?! )", arguments)[1:]
    pairs = [item.partition(":")[::2] for item in items]
    return "\n".join(f"- `{name}`: {' '.join(words.split())}" for name, words in pairs if name not in INPUTS)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
