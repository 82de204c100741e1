"""What structure alone promises about HiResCAM at one layer, and the operations that decide it."""

from dataclasses import dataclass
from enum import StrEnum

from hirescam.proof.ops import Kind, Op


class Guarantee(StrEnum):
    """How much of a HiResCAM map can be trusted, strongest first."""

    EXACT = "exact"
    CONDITIONAL = "conditional"
    LOCAL = "local"
    NONE = "none"

    @property
    def rank(self) -> int:
        """0 for the strongest."""
        return list(Guarantee).index(self)


@dataclass(frozen=True)
class Grade:
    """One layer, judged by structure.

    Attributes:
        guarantee: what the operations after the layer allow.
        head: those operations, in the order in which they ran.
        bypass: whether the score also depends on the image around the layer.
        read: names of the functions that read values of the image into Python before the layer; each image
            may choose by them what comes after.
    """

    guarantee: Guarantee
    head: tuple[Op, ...]
    bypass: bool
    read: tuple[str, ...] = ()

    @property
    def breaks(self) -> tuple[Op, ...]:
        """The operations that are not affine; none are to blame where the layer is not all there is."""
        return () if self.bypass else tuple(op for op in self.head if op.kind is not Kind.AFFINE)

    @property
    def affine(self) -> bool:
        """Whether the head is affine, perhaps with divisors held, and all there is."""
        return self.guarantee in (Guarantee.EXACT, Guarantee.CONDITIONAL)


def grade(head: tuple[Op, ...], *, bypass: bool) -> Grade:
    """Judge a layer by the operations after it."""
    kinds = {op.kind for op in head} - {Kind.AFFINE}
    if bypass or Kind.OTHER in kinds or len(kinds) > 1:
        guarantee = Guarantee.NONE
    elif kinds == {Kind.NORMALISING}:
        guarantee = Guarantee.CONDITIONAL
    else:
        guarantee = Guarantee.LOCAL if kinds else Guarantee.EXACT
    return Grade(guarantee, head, bypass)
