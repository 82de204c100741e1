"""Attacks on the certificate, each judged by brute force: no verdict is stronger than the truth.

The rows are in ``attacks/``; ``docs/attacks.md`` lists them with what came of each.
"""

import dataclasses
import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hirescam
from attacks import ATTACKS, page, report
from attacks.judge import lies, same, state
from attacks.table import Net, brighter, pictures, pooled
from attacks.truth import Truth
from hirescam import Guarantee

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning"),
]
COMPILER = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the compiler's own
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU"),
]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=COMPILER * one.slow) for name, one in ATTACKS.items()],
)
def test_attack(name: str) -> None:
    found = report(ATTACKS[name])
    assert found.problems == ()
    assert page.verdicts_on_the_page().get(name) == found.verdict, "run python docs/_attacks.py"


def test_the_page_lists_every_attack() -> None:
    text, verdicts = page.PAGE.read_text("utf-8"), page.verdicts_on_the_page()
    assert verdicts.keys() == ATTACKS.keys()
    assert page.written(text, verdicts) == text, "run python docs/_attacks.py"


# The judge must be able to find each lie ------------------------------------------------------


def two_sided(net: Net, a: Tensor) -> Tensor:
    """A ReLU whose kink lies between an image and the same image less one location."""
    return net.fc(torch.relu(1.02 * net.level - pooled(a)))


def norm_head(net: Net, a: Tensor) -> Tensor:
    return net.fc(F.layer_norm(pooled(a), (8,)))


def explained(head: Any, guarantee: Guarantee) -> tuple[hirescam.Explanation, Truth]:
    """A map that is right by the words of a guarantee, and the truth about it."""
    torch.manual_seed(0)
    net = Net(head).eval()
    answer = hirescam.explain(net, pictures(), layer="layer")
    assert answer.certificate.guarantee is guarantee
    held = guarantee is Guarantee.CONDITIONAL
    truth = Truth(net, pictures(), brighter(pictures()), "layer", index=answer.target, hold=held)
    return answer, truth


@pytest.mark.parametrize(
    ("head", "guarantee"),
    [(None, Guarantee.EXACT), (two_sided, Guarantee.LOCAL), (norm_head, Guarantee.CONDITIONAL)],
    ids=["exact", "local", "conditional"],
)
def test_a_map_that_is_one_per_cent_wrong_is_a_lie(head: Any, guarantee: Guarantee) -> None:
    answer, truth = explained(head, guarantee)
    assert lies(answer, truth, 1e-3) == []
    assert lies(dataclasses.replace(answer, raw=1.01 * answer.raw), truth, 1e-3)


@pytest.mark.parametrize("claimed", [Guarantee.EXACT, Guarantee.CONDITIONAL])
@pytest.mark.parametrize("with_map", [True, False])
def test_a_stronger_verdict_is_a_lie(claimed: Guarantee, with_map: bool) -> None:
    answer, truth = explained(two_sided, Guarantee.LOCAL)
    certificate = dataclasses.replace(answer.certificate, guarantee=claimed)
    claim = dataclasses.replace(answer, certificate=certificate) if with_map else certificate
    assert lies(claim, truth, 1e-3)
    none = dataclasses.replace(answer.certificate, guarantee=Guarantee.NONE)
    assert lies(dataclasses.replace(answer, certificate=none), truth, 1e-3) == []


def test_a_constant_that_is_none_is_a_lie() -> None:
    class Side(Net):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image) + image.mean((1, 2, 3)).unsqueeze(1)

    answer, _ = explained(None, Guarantee.EXACT)
    truth = Truth(Side().eval(), pictures(), brighter(pictures()), "layer", index=answer.target)
    assert "a constant of the model" in str(answer.certificate)
    assert any("constant" in one for one in lies(answer, truth, 1e-3))


def test_what_is_left_behind_is_noticed() -> None:
    net = Net().eval()
    net.register_buffer("average", torch.zeros(8))

    def changed(change: Any) -> list[str]:
        before = state(net, ())
        change()
        after = state(net, ())
        return sorted(
            name for name in before.keys() | after.keys() if not same(before.get(name), after.get(name))
        )

    assert changed(lambda: None) == []
    assert changed(lambda: torch.rand(1)) == ["random numbers"]
    assert changed(lambda: net.average.add_(1)) == ["buffer average"]
    assert changed(lambda: net.fc.weight.data.neg_()) == ["parameter fc.weight"]
    assert changed(lambda: net.fc.weight.requires_grad_(False)) == ["parameter fc.weight"]
    assert changed(lambda: net.fc.register_forward_hook(print)) == ["attribute fc._forward_hooks"]
    assert changed(lambda: net.gate.train()) == ["attribute gate.training"]
    assert changed(lambda: setattr(net, "seen", 1)) == ["attribute .seen"]


# What a model may hold ------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["sparse", "rows", "no values"])
def test_buffers_that_cannot_be_compared_are_no_reason_to_fail(layout: str) -> None:
    def head(net: Net, a: Tensor) -> Tensor:
        z = pooled(a)
        return net.fc(z if net.matrix.is_meta else torch.sparse.mm(net.matrix, z.T).T)

    made = {
        "sparse": lambda: torch.eye(8).to_sparse(),
        "rows": lambda: torch.eye(8).to_sparse_csr(),
        "no values": lambda: torch.empty(3, device="meta"),
    }
    net = Net(head)
    net.register_buffer("matrix", made[layout]())
    assert hirescam.explain(net.eval(), pictures(), layer="layer", target=0).certificate.guarantee == "exact"


def test_weights_that_are_not_there_yet_are_an_error_in_a_sentence() -> None:
    net = Net()
    net.unused = torch.nn.LazyLinear(3)
    with pytest.raises(hirescam.ModelError, match="LazyLinear whose weights are not there yet"):
        hirescam.explain(net.eval(), pictures())
