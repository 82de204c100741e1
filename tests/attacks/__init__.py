"""The table of attacks on the certificate: `ATTACKS` has a row for each, `report` judges one.

A row is a model, or a sequence of calls, and the verdicts that are right. Whatever the verdict is, `truth`
measures it by removing locations in the model itself. ``docs/attacks.md`` is written from this table.
"""

from attacks import controls, lost, sizes, unseen, later, batch, scores, state  # noqa: F401, I001
from attacks.judge import Report, report
from attacks.table import ATTACKS, Attack, Kind, Right

__all__ = ["ATTACKS", "Attack", "Kind", "Report", "Right", "report"]
