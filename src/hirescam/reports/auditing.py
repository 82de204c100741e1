"""What audits find in a run: pictures by their files, and the verdict of the run where one fails."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hirescam import io
from hirescam.audits import Audit
from hirescam.explanation import Explanation
from hirescam.proof.certificate import Certificate
from hirescam.reports.figures import plain

_NUMBERED = re.compile(r"images\[(\d+)\]")
_NOTHING = "audited none, since only exact and conditional verdicts promise what an audit could check"
_TAKEN_BACK = "so the guarantee is taken back for all pictures of this run, also those explained before"


class RunAudits:
    """Adds up what audits find; after one that fails, every picture of the run gets its verdict.

    Attributes:
        found: on all pictures so far, in sentences that name files; None where none were asked for.
    """

    def __init__(self) -> None:
        self.found: Audit | None = None
        self._weaker: Certificate | None = None
        self._manifests: list[Path] = []

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each audit that failed."""
        return self.found.failures if self.found else ()

    @property
    def words(self) -> str:
        """What was found, in one line; ``""`` where none were asked for."""
        if self.found is None:
            return ""
        if not self.found.pictures:
            return _NOTHING
        return f"{self.found}, {_TAKEN_BACK}" if self.failures else str(self.found)

    @property
    def data(self) -> dict[str, Any] | None:
        """The same as plain data."""
        return None if self.found is None else plain({**asdict(self.found), "summary": self.words})

    def take(self, result: Explanation, files: Sequence[str]) -> Explanation:
        """Take in what was found on a batch; returns it with the verdict that stands."""
        if result.audit is None:
            return result
        failures = tuple(_by_file(sentence, files) for sentence in result.audit.failures)
        audit = replace(result.audit, failures=failures)
        self.found = audit if self.found is None else self.found + audit
        if failures and self._weaker is None:
            reason = _by_file(result.certificate.reason, files)
            self._take_back(replace(result.certificate, reason=reason))
        verdict = _verdict(self._weaker) if self._weaker else {}
        return replace(result, audit=audit, certificate=replace(result.certificate, **verdict))

    def wrote(self, manifest: Path) -> None:
        """Remember a manifest, in case that its verdict has to be taken back."""
        self._manifests.append(manifest)

    def _take_back(self, weaker: Certificate) -> None:
        self._weaker = weaker
        for manifest in self._manifests:
            data = json.loads(manifest.read_text("utf-8"))
            data["certificate"] |= _verdict(weaker)
            io.write_text(manifest, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def _by_file(sentence: str, files: Sequence[str]) -> str:
    """Name the pictures of a batch by their files instead of ``images[3]``."""
    return _NUMBERED.sub(lambda found: files[int(found[1])], sentence)


def _verdict(certificate: Certificate) -> dict[str, Any]:
    """What of a certificate is about all pictures, whatever their size."""
    return {
        "guarantee": certificate.guarantee,
        "reason": certificate.reason,
        "advice": certificate.advice,
    }
