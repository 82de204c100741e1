"""Every rule against an independent derivation, for signals, images and volumes."""

from pathlib import Path

import pytest
import torch

import hirescam
import oracles
from hirescam.borrow import as_call
from hirescam.cut import Request
from hirescam.errors import RuleError
from hirescam.rulebook.registry import GRADIENTS, rule, rules
from hirescam.taps import Tap
from hirescam.trace import trace
from toys import FlattenNet, PooledNet, images, ready

RULES = sorted(rules())


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_an_oracle(name: str) -> None:
    assert callable(getattr(oracles, name, None)), f"tests/oracles.py lacks {name}"


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("name", RULES)
def test_rule_agrees_with_its_oracle(name: str, ndim: int) -> None:
    net = PooledNet(ndim) if name == "cam" else FlattenNet(ndim, width=3, side=4)
    model, batch = ready(net), images(2, ndim, side=4)
    request = Request(Tap("features"), target=hirescam.Classes(1, 3))
    traced = trace(model, as_call(batch), request)
    expected = getattr(oracles, name)(traced.gradients, traced.activations)
    result = hirescam.explain(model, batch, target=hirescam.Classes(1, 3), layer="features", rule=name)
    assert result.raw.shape == (2, 2, *[4] * ndim)
    torch.testing.assert_close(result.raw, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_hirescam_is_what_a_flatten_heads_weights_say(ndim: int) -> None:
    model, batch = ready(FlattenNet(ndim, side=4)), images(2, ndim, side=4)
    activations = model.features(batch).detach()
    expected = oracles.flatten_head_map(model.head.weight.detach(), activations, 2)
    result = hirescam.explain(model, batch, target=2)
    torch.testing.assert_close(result.raw[:, 0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("net", [FlattenNet, PooledNet])
def test_hirescam_is_what_removing_a_location_costs(net: type) -> None:
    model, batch = ready(net()), images(2)
    rest = torch.nn.Sequential(*([model.pool] if net is PooledNet else []), torch.nn.Flatten(), model.head)
    expected = oracles.ablation(model.features, rest, batch, 3)
    result = hirescam.explain(model, batch, target=3)
    torch.testing.assert_close(result.raw[:, 0], expected, rtol=1e-10, atol=1e-12)


def test_cam_is_refused_where_the_head_is_not_pooled() -> None:
    with pytest.raises(RuleError, match="rule='cam' is defined only where the head is global average"):
        hirescam.explain(ready(FlattenNet()), images(), rule="cam")


def test_cam_is_hirescam_times_the_number_of_locations() -> None:
    model, batch = ready(PooledNet()), images()
    cam = hirescam.explain(model, batch, target=0, rule="cam").raw
    torch.testing.assert_close(cam, 64 * hirescam.explain(model, batch, target=0).raw)


def test_an_unknown_rule_is_refused_with_a_suggestion() -> None:
    with pytest.raises(RuleError, match="rule='hirescan' is unknown: did you mean 'hirescam'"):
        hirescam.explain(ready(FlattenNet()), images(), rule="hirescan")


def test_a_rule_name_can_be_taken_only_once() -> None:
    def gradcam(trace: object) -> object:
        """Another one."""

    with pytest.raises(RuleError, match="'gradcam' is registered already"):
        rule(needs=GRADIENTS, cite="nobody")(gradcam)


@pytest.mark.parametrize("name", RULES)
def test_rules_are_documented_and_cited(name: str) -> None:
    bibliography = (Path(__file__).parents[1] / "docs" / "bibliography.bib").read_text("utf-8")
    entry = rules()[name]
    assert entry.summary.endswith(".")
    assert f"{{{entry.cite}," in bibliography


def test_the_completeness_check_can_fail() -> None:
    """A wrong map must be told from a right one, or the certificate would prove nothing."""
    from hirescam.certificate import measure

    model, batch = ready(FlattenNet()), images()
    traced = trace(model, as_call(batch), Request(Tap("features"), target=1))
    right = rules()["hirescam"].function(traced)
    assert measure(traced, right).hold
    assert not measure(traced, right * 1.01).complete
    assert not measure(traced, right.flip(-1)).local
    assert measure(traced, right.flip(-1)).complete
    assert not measure(traced, rules()["gradcam"].function(traced)).hold
