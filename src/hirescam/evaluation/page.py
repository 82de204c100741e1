"""The page of an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass

from hirescam import pages
from hirescam.evaluation.contenders import BASELINES
from hirescam.evaluation.plots import HEIGHT, WIDTH, Mark, Scale, mark_of, scale_of
from hirescam.evaluation.result import Evaluation
from hirescam.evaluation.summary import PLAUSIBILITY, QUESTIONS, Row
from hirescam.evaluation.tables import ARROWS
from hirescam.metrics import Kind
from hirescam.reports import printable

_WORDS = {"higher": "higher is better", "lower": "lower is better", "neither": "neither direction is better"}


@dataclass(frozen=True, slots=True)
class Line:
    """One rule of one metric."""

    row: Row
    mark: Mark | None
    baseline: bool


@dataclass(frozen=True, slots=True)
class Block:
    """One metric."""

    metric: str
    about: str
    arrow: str
    direction: str
    units: str
    scale: Scale | None
    lines: tuple[Line, ...]

    def figure(self, rule: str) -> str:
        """Write the figure of one rule; a dash where there is none."""
        values = [line.row.estimate.value for line in self.lines if line.row.rule == rule and line.mark]
        return pages.number(values[0]) if values else "–"


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of metric; a caution is shown with it where there is one."""

    kind: str
    question: str
    caution: str
    blocks: tuple[Block, ...]

    @property
    def rules(self) -> list[str]:
        """All rules, in order."""
        return list(dict.fromkeys(line.row.rule for block in self.blocks for line in block.lines))


def evaluation_page(found: Evaluation) -> str:
    """Write the page; it needs no other file and no network."""
    content = {
        "found": found,
        "about": found.about,
        "guarantee": found.about.certificate.guarantee.value,
        "untrained": "random weights" in found.about.origin,
        "data": printable(found.about.data),
        "parts": parts_of(found.rows),
        "first": found.rows[0].rule if found.rows else "",
        "width": WIDTH,
        "height": HEIGHT,
    }
    return pages.render("evaluate.html.j2", content)


def parts_of(rows: Sequence[Row]) -> tuple[Part, ...]:
    """Group rows by kind and metric; localisation comes with what it does not say."""
    return tuple(
        Part(
            kind.value,
            QUESTIONS[kind],
            PLAUSIBILITY if kind is Kind.LOCALISATION else "",
            _blocks([row for row in rows if row.kind is kind]),
        )
        for kind in dict.fromkeys(row.kind for row in rows)
    )


def _blocks(rows: Sequence[Row]) -> tuple[Block, ...]:
    names = dict.fromkeys(row.metric for row in rows)
    return tuple(_block([row for row in rows if row.metric == name]) for name in names)


def _block(rows: Sequence[Row]) -> Block:
    first, scale = rows[0], scale_of(rows)
    baselines = {one.label for one in BASELINES}
    lines = tuple(
        Line(row, None if scale is None else mark_of(row, scale), row.rule in baselines) for row in rows
    )
    about = first.about, ARROWS[first.better], _WORDS[first.better], first.units
    return Block(first.metric, *about, scale, lines)
