"""The tables of ``docs/attacks.md``, from the table of attacks and from what came of each."""

import re
from collections.abc import Mapping
from pathlib import Path

from attacks.judge import Report, report
from attacks.table import ATTACKS, Attack, Kind

PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"
START, END = "<!-- attacks: written by docs/_attacks.py -->\n", "<!-- end of attacks -->\n"
CELL = re.compile(r"<!-- ([\w-]+) --> (.*?) \|\n")

ABOUT = {
    Kind.CONTROL: "Each must get its verdict, or the certificate refuses too much.",
    Kind.LOST: "A gate, a count or a router is computed from the features and comes back like a constant.",
    Kind.SIZES: "Nothing is read and no gradient is cut, but the size of a result depends on the features. "
    "`m` is true where a location's mean is above a level.",
    Kind.UNSEEN: "What runs after the layer leaves no trace, or changes the features behind autograd's back.",
    Kind.LATER: "The model or the call changes after the first explanation. *Exact* means that the map is "
    "that of the changed model.",
    Kind.COMPILED: "The same for an explainer that runs compiled code.",
    Kind.CHECK: "The score hardly moves, the map does.",
    Kind.BATCH: "A map of one image must not depend on the others.",
    Kind.LOCAL: "Two linear layers with a ReLU between them are local; here something else is wrong as well.",
    Kind.TARGET: "They are part of the head.",
    Kind.GRADIENT: "The score is right and its gradient is not. A verdict other than `none` stands only with "
    "the right map.",
    Kind.CONSTANT: "What no location accounts for depends on the image, or on another input. *Exact* stands "
    "only if the certificate does not call it a constant of the model.",
    Kind.DISK: "The hash must be that of the weights that were explained.",
    Kind.STATE: "The model changes itself in its forward pass. After an explanation it must be as before.",
    Kind.LOUD: "Each must be right, or end in one sentence that names the cause.",
}


def outcome(attack: Attack) -> str:
    """The verdict as the page shows it; bold where something is wrong with it."""
    try:
        found = report(attack)
    except Exception as error:  # any crash is an outcome, and a wrong one
        found = Report(f"error: {type(error).__name__}", "", ("crash",))
    return f"**{found.verdict}**" if found.problems else found.verdict


def outcomes() -> dict[str, str]:
    return {name: outcome(attack) for name, attack in ATTACKS.items()}


def tables(verdicts: Mapping[str, str]) -> str:
    """A section with a table for each kind."""
    return "\n".join(_section(kind, verdicts) for kind in Kind)


def _section(kind: Kind, verdicts: Mapping[str, str]) -> str:
    rows = [
        f"| {one.tried.replace('|', chr(92) + '|')} | {one.right} | <!-- {name} --> {verdicts[name]} |\n"
        for name, one in ATTACKS.items()
        if one.kind is kind
    ]
    return f"## {kind}\n\n{ABOUT[kind]}\n\n| attack | right | verdict |\n|---|---|---|\n{''.join(rows)}"


def written(text: str, verdicts: Mapping[str, str]) -> str:
    """The text of the page with its tables written anew."""
    before, _, rest = text.partition(START)
    return f"{before}{START}\n{tables(verdicts)}\n{END}{rest.partition(END)[2]}"


def verdicts_on_the_page() -> dict[str, str]:
    return dict(CELL.findall(PAGE.read_text("utf-8")))
