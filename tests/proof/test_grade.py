"""From the operations after a layer to a guarantee."""

from itertools import combinations

import pytest

from hirescam.proof.grade import Guarantee, grade
from hirescam.proof.ops import Kind, Op

OPS = {
    Kind.AFFINE: (Op("linear", Kind.AFFINE, "fc"), Op("mean", Kind.AFFINE)),
    Kind.NORMALISING: (Op("layer_norm", Kind.NORMALISING, "norm"),),
    Kind.PIECEWISE: (Op("relu", Kind.PIECEWISE), Op("max_pool2d", Kind.PIECEWISE)),
    Kind.OTHER: (Op("softmax", Kind.OTHER),),
}
SETS = [kinds for count in range(5) for kinds in combinations(OPS, count)]
RIGHT = {
    frozenset(): Guarantee.EXACT,
    frozenset({Kind.NORMALISING}): Guarantee.CONDITIONAL,
    frozenset({Kind.PIECEWISE}): Guarantee.LOCAL,
}


@pytest.mark.parametrize("bypass", [True, False])
@pytest.mark.parametrize("kinds", SETS, ids=lambda kinds: "+".join(kind.name.lower() for kind in kinds))
def test_the_kinds_of_operations_decide(kinds: tuple[Kind, ...], bypass: bool) -> None:
    head = tuple(op for kind in kinds for op in OPS[kind])
    made = grade(head, bypass=bypass)
    right = RIGHT.get(frozenset(kinds) - {Kind.AFFINE}, Guarantee.NONE)
    assert made.guarantee is (Guarantee.NONE if bypass else right)
    assert made.affine is (made.guarantee in (Guarantee.EXACT, Guarantee.CONDITIONAL))
    assert made.head == head
    assert made.bypass is bypass
    blamed = () if bypass else tuple(op for op in head if op.kind is not Kind.AFFINE)
    assert made.breaks == blamed
    assert grade(head[::-1], bypass=bypass).guarantee is made.guarantee


def test_guarantees_have_an_order() -> None:
    assert [guarantee.rank for guarantee in Guarantee] == [0, 1, 2, 3]
    assert list(map(str, Guarantee)) == ["exact", "conditional", "local", "none"]
    assert Guarantee("local") is Guarantee.LOCAL
