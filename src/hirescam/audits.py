"""Check maps while they are made: remove one location of some pictures in the real model and compare.

A certificate is a proof about a model; an audit is a measurement on the pictures at hand. For a share of the
pictures one random location is set to zero while the real model runs, and what the score loses is held
against the map.
"""

import math
import random
import threading
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real

import torch
from torch import Tensor

from hirescam.closed_form import Maps
from hirescam.errors import HirescamError, InputError
from hirescam.passes.borrow import Call, session
from hirescam.passes.cut import Site, run_from
from hirescam.passes.precision import precision_of
from hirescam.passes.targets import Contrast, Finer, Target, is_indexed
from hirescam.passes.trace import Wish, forward, widen
from hirescam.planning import Plan
from hirescam.proof.grade import Guarantee
from hirescam.proof.laws import rounding_of, tolerance_of


@dataclass(frozen=True)
class Audit:
    """What audits found.

    Attributes:
        audited: how many pictures were checked.
        pictures: how many were explained, by the rule ``hirescam`` with a guarantee that can be checked.
        largest_error: |what the score lost − raw| / max |raw|, the largest of all.
        failures: a sentence for each picture whose map was wrong.
    """

    audited: int = 0
    pictures: int = 0
    largest_error: float = 0.0
    failures: tuple[str, ...] = ()

    def __add__(self, other: "Audit") -> "Audit":
        return Audit(
            self.audited + other.audited,
            self.pictures + other.pictures,
            max(self.largest_error, other.largest_error),
            self.failures + other.failures,
        )

    def __str__(self) -> str:
        if not self.audited:
            return f"audited none of {self.pictures:,}"
        error = _figure(self.largest_error)
        text = f"audited {self.audited:,} of {self.pictures:,}, largest error {error}"
        return f"{text}; {len(self.failures):,} failed" if self.failures else text


class Auditor:
    """Picks pictures and locations at random, the same in every run, and adds up; threads may share it.

    Args:
        rate: the share of pictures, from 0 to 1.

    Raises:
        InputError: the rate is no share.
    """

    def __init__(self, rate: float) -> None:
        self.rate = _share(rate)
        self._share = Fraction(str(self.rate))  # as it was written: 0.1 is a tenth
        self._pictures, self._locations = random.Random(0), random.Random(1)
        self._found = Audit()
        self._seen = self._stretches = self._end = 0
        self._next = self._draw() if self.rate else 0
        self._lock = threading.Lock()

    @property
    def found(self) -> Audit:
        """What all audits found."""
        return self._found

    def add(self, found: Audit) -> None:
        """Take in what was found on one batch."""
        with self._lock:
            self._found += found

    def picks(self, count: int) -> list[int]:
        """Numbers of the pictures of the next batch that are audited: one of each 1 / rate pictures."""
        found: list[int] = []
        with self._lock:
            first, self._seen = self._seen, self._seen + count
            while self.rate and self._next < self._seen:
                found.append(self._next - first)
                self._next = self._draw()
        return found

    def location(self, count: int) -> int:
        """One of so many locations."""
        return self._locations.randrange(count)

    def _draw(self) -> int:
        """One picture of the next stretch; stretches are as long as the rate says, on average."""
        start = self._end
        self._stretches += 1
        self._end = math.ceil(self._stretches / self._share)
        return self._pictures.randrange(start, self._end)


def audit(auditor: Auditor, plan: Plan, call: Call, target: Target, maps: Maps) -> Audit:
    """Audit one batch of maps, and take the guarantee back if one of them fails.

    Args:
        auditor: picks the pictures and the locations, and adds up.
        plan: how the batch was explained.
        call: the inputs of the batch.
        target: what was explained.
        maps: the maps of the rule ``hirescam``.
    """
    guarantee = plan.certificate.guarantee
    if guarantee not in (Guarantee.EXACT, Guarantee.CONDITIONAL):
        return Audit()
    wish = Wish(maps.index if is_indexed(target) else target, hold=guarantee is Guarantee.CONDITIONAL)
    found = Audit(pictures=len(maps.raw))
    for number in auditor.picks(len(maps.raw)):
        location = auditor.location(maps.layout.locations)
        found += _one(plan.site, _of_picture(call, wish, number), maps, number, location)
    if found.failures:
        plan.weaken(found.failures[0])
    auditor.add(found)
    return found


def _share(rate: object) -> float:
    if not isinstance(rate, bool) and isinstance(rate, Real) and 0 <= float(rate) <= 1:
        return float(rate)
    raise InputError(f"audit={rate!r} must be a share of the pictures, from 0 to 1, such as 0.01 for 1 %")


def _of_picture(call: Call, wish: Wish, number: int) -> tuple[Call, Wish, int]:
    """The call and the wish for one picture alone and its number there, as far as they can be taken apart."""
    target = wish.target
    if call.key is not None or not isinstance(target, Tensor | Contrast | Finer):
        return call, wish, number
    own = target[[number]] if isinstance(target, Tensor) else target
    return call.select([number]), Wish(own, wish.hold), 0


def _one(site: Site, asked: tuple[Call, Wish, int], maps: Maps, number: int, location: int) -> Audit:
    try:
        lost = _lost(site, *asked, location)
    except HirescamError as error:
        reason = str(error).replace(f"images[{asked[2]}]", f"images[{number}]")
        return _failed(number, f"without location {location} the model does not run ({reason})")
    return _judged(maps, number, location, lost)


def _lost(site: Site, call: Call, wish: Wish, number: int, location: int) -> Tensor:
    """What the scores ``(t,)`` of one picture lose without one location, in the real model."""
    finished = forward(site, call, wish)
    with session(grad=False):
        changed = finished.activations.clone().flatten(2)
        changed[number, :, location] = 0
        activations = finished.layout.write(changed.reshape(finished.activations.shape))
        logits = run_from(site, call, activations.to(finished.leaf.dtype), finished.cut.divisors)
        return (widen(finished.score) - widen(finished.bound.score(logits)))[number].detach()


def _judged(maps: Maps, number: int, location: int, lost: Tensor) -> Audit:
    """Hold a map against what its scores lost, with the tolerances of the two laws."""
    raw, score = maps.raw[number].detach().flatten(1), maps.score[number].detach()
    wrong, largest = (lost - raw[:, location]).abs(), raw.abs().amax(1)
    size = torch.stack([score, score - lost]).abs().amax(0).clamp_min(maps.logits[number].abs().amax())
    precision = precision_of(maps.logits)  # the network ran twice, perhaps in batches of two sizes
    allowed = tolerance_of(precision) * largest + rounding_of(precision) * size
    within = wrong <= allowed  # false where the loss is not a number
    error = (wrong / largest).where(largest > 0, torch.where(within, 0.0, math.inf))
    if bool(within.all()):
        return Audit(audited=1, largest_error=float(error.max()))
    place = int((~within).nonzero()[0])
    label = int(maps.index[number, place])
    loss = f"the score {f'of class {label} ' if label >= 0 else ''}loses {float(lost[place]):.4g}"
    says = f"the map says {float(raw[place, location]):.4g}"
    return _failed(
        number,
        f"without location {location} {loss}, and {says}",
        float(error.nan_to_num(math.inf, math.inf).max()),
    )


def _failed(number: int, why: str, error: float = math.inf) -> Audit:
    sentence = f"an audit of images[{number}] failed: {why}"
    return Audit(audited=1, largest_error=error, failures=(sentence,))


def _figure(value: float) -> str:
    """A relative error: a power of ten where it is small."""
    if not 0 < value < 0.01:
        return f"{value:.2g}"
    digits, power = f"{value:.0e}".split("e")
    return f"{digits}e{int(power)}"
