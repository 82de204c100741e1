"""Write what a run of the fuzzer found into attacks.md: ``python docs/_fuzz.py report.json``.

The report is that of ``make fuzz FUZZ_ARGS="--out report.json"``.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fuzz.report import class_of

PAGE = Path(__file__).parent / "attacks.md"
_START, _END = "<!-- fuzz: written by docs/_fuzz.py -->", "<!-- end of fuzz -->"
_VERDICTS = ("exact", "conditional", "local", "none", "error")
_KINDS = {
    "affine": "affine by construction",
    "normalising": "affine but for normalisers",
    "other": "with something else in it",
}


def section(report: dict[str, Any]) -> str:
    """The tables of one report."""
    counts = report["verdicts"]
    rows = [
        f"| {words} | "
        + " | ".join(f"{counts.get(f'{kind} {verdict}', 0):,}" for verdict in _VERDICTS)
        + " |"
        for kind, words in _KINDS.items()
    ]
    refused = Counter(
        class_of(head["refused"])
        for head in report["telling heads"]
        if head["kind"] == "affine" and head["affine"] and head["refused"]
    )
    share = report["refused"] / max(1, report["affine"])
    reasons = "; ".join(f"{count} × {reason}" for reason, count in refused.most_common()) or "none"
    return "\n".join(
        [
            f"{report['heads']:,} heads and {report['sequences']:,} sequences of calls: "
            f"**{report['false']} with anything false** about the verdict, the map, the target, or the model "
            f"that came back. Of {report['affine']:,} heads that are affine by construction and by brute "
            f"force, {report['refused']} ({share:.2%}) got less than `exact`: {reasons}.",
            "",
            "| heads | " + " | ".join(_VERDICTS) + " |",
            "|---|" + "---:|" * len(_VERDICTS),
            *rows,
            "",
            "An error is one sentence that says why there is no map. Affine heads end so where PyTorch "
            "itself cannot differentiate them (reentrant checkpoints) or the score does not depend on the "
            "layer; those are not counted as refused. Heads with something else in them may be exact all the "
            "same, where it does not reach the score.",
        ]
    )


def written(page: str, report: dict[str, Any]) -> str:
    """The page with another section."""
    found = re.sub(
        f"{re.escape(_START)}.*?{re.escape(_END)}",
        lambda _: f"{_START}\n\n{section(report)}\n\n{_END}",
        page,
        flags=re.DOTALL,
    )
    if section(report) not in found:
        raise SystemExit(f"{PAGE.name} has no {_START}")
    return found


if __name__ == "__main__":
    PAGE.write_text(
        written(PAGE.read_text("utf-8"), json.loads(Path(sys.argv[1]).read_text("utf-8"))), "utf-8"
    )
