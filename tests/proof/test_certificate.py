"""What certificates say: meaning, reason, measurements, advice."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import hirescam
from hirescam.proof.certificate import Certificate, Verdict, advice_of, reason_of, weakened
from hirescam.proof.grade import Guarantee, grade
from hirescam.proof.ops import Kind, Op
from toys import Bypass, FlattenNet, TwoLayerNet, images, ready

LINEAR, SELECT = Op("linear", Kind.AFFINE, "fc"), Op("select", Kind.AFFINE)
NORM = Op("layer_norm", Kind.NORMALISING, "norm")
RELU = Op("relu", Kind.PIECEWISE, "fc.1")
SOFTMAX = Op("softmax", Kind.OTHER)
READ = Op("item()", Kind.OTHER, "gate")

PLAIN = Certificate(
    guarantee=Guarantee.EXACT,
    layer="layer4",
    head=("mean", "linear"),
    breaks=(),
    bypass=False,
    completeness_error=1.26e-7,
    location_error=2.34e-7,
    same_as_gradcam=True,
    positions=49,
    locations=49,
    reason="Because.",
    advice="",
    geometry="operations",
)


def verdict(*head: Op, bypass: bool = False, doubt: str = "", offset: str = "of the model") -> Verdict:
    graded = grade(head, bypass=bypass)
    return Verdict(graded, bypass, doubt, offset)


# The whole ------------------------------------------------------------------------------------


def test_how_the_places_are_known() -> None:
    measured, given = (str(replace(PLAIN, geometry=how)) for how in ("measured", "given"))
    assert "where they lie, was measured with noise: the model's operations do not show it." in measured
    assert "How its locations lie was given with grid=." in given
    assert str(replace(PLAIN, geometry="operations")) == str(PLAIN)


def test_an_exact_certificate_word_for_word() -> None:
    assert str(replace(PLAIN, offset="of the model")) == (
        "EXACT at layer 'layer4': the map adds up to the score less a constant of the model, and each value "
        "is what the score loses when that location of the layer is removed. Because. Grad-CAM gives the "
        "same map here, because the head treats all locations alike. Measured: completeness error 1.3e-07, "
        "location error 2.3e-07."
    )


def test_a_conditional_certificate_word_for_word() -> None:
    made = replace(PLAIN, guarantee=Guarantee.CONDITIONAL, same_as_gradcam=False, advice="Advice: x.")
    assert str(made) == (
        "CONDITIONAL at layer 'layer4': with the normalisers' divisors held at this image's values, the map "
        "adds up to the score less a constant of this image, and each value is what the score loses when "
        "that location is removed. Because. Grad-CAM gives another map here. Measured: completeness error "
        "1.3e-07, location error 2.3e-07. Advice: x."
    )


@pytest.mark.parametrize(
    ("guarantee", "meaning"),
    [
        (
            Guarantee.LOCAL,
            "LOCAL at layer 'layer4': each value is the first-order effect of that location only",
        ),
        (Guarantee.NONE, "NONE at layer 'layer4': nothing is guaranteed about the map"),
    ],
)
def test_without_the_laws_nothing_is_said_of_gradcam_or_a_constant(
    guarantee: Guarantee, meaning: str
) -> None:
    text = str(replace(PLAIN, guarantee=guarantee))
    assert text.startswith(meaning)
    assert "Grad-CAM" not in text
    assert "constant" not in text


def test_the_offset_is_a_constant_of_what_was_shown() -> None:
    for offset in ("of the model", "for these other inputs", "of this image"):
        text = str(replace(PLAIN, offset=offset))
        assert f"less a constant {offset}, and" in text
        assert text.count("constant") == 1
    assert PLAIN.offset == "of this image"


def test_what_limits_the_errors_is_named() -> None:
    assert "location error 2.3e-07 (limited by float32)." in str(replace(PLAIN, precision="float32"))
    assert "limited" not in str(PLAIN)


@pytest.mark.parametrize(
    ("positions", "locations", "single"), [(1, 197, True), (1, 1, False), (2, 197, False), (197, 197, False)]
)
def test_a_single_token_is_told(positions: int, locations: int, single: bool) -> None:
    made = replace(PLAIN, positions=positions, locations=locations)
    assert made.single_token is single
    assert (
        f"Only 1 of {locations} positions can get credit: the head reads a single token" in str(made)
    ) is single


# Why, and what to do --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "guarantee", "reason", "advice"),
    [
        (
            verdict(LINEAR),
            Guarantee.EXACT,
            "Every operation after it is affine, and the image reaches the score only through it.",
            "",
        ),
        (
            verdict(NORM, LINEAR),
            Guarantee.CONDITIONAL,
            "Every operation after it is affine but layer_norm (norm), affine once the divisor is held.",
            "",
        ),
        (
            verdict(LINEAR, RELU, LINEAR),
            Guarantee.LOCAL,
            "Between it and the score: relu (fc.1).",
            "Advice: for exact maps end the network in one fully connected layer",
        ),
        (
            verdict(LINEAR, SOFTMAX, LINEAR),
            Guarantee.NONE,
            "Between it and the score: softmax.",
            "Advice: choose a layer nearer to the score; hirescam.layers() lists every one",
        ),
        (
            verdict(LINEAR, SOFTMAX, SELECT),
            Guarantee.NONE,
            "Between it and the score: softmax.",
            "Advice: explain the logits, not probabilities",
        ),
        (
            verdict(LINEAR, bypass=True),
            Guarantee.NONE,
            "The score also depends on the image around this layer (a shortcut or a second path).",
            "Advice: choose a layer after the paths have joined; hirescam.layers() lists them.",
        ),
        (
            verdict(LINEAR, doubt="a probe fails"),
            Guarantee.NONE,
            "Its graph looks affine, but a probe fails; the weaker verdict stands.",
            "Advice: make the head deterministic and free of detach() and branches on values.",
        ),
        (
            verdict(NORM, LINEAR, doubt="a probe fails"),
            Guarantee.NONE,
            "Its graph looks affine with its divisors held, but a probe fails; the weaker verdict stands.",
            "Advice: make the head deterministic",
        ),
        (
            verdict(RELU, LINEAR, doubt="a probe fails"),
            Guarantee.NONE,
            "Its graph looks piecewise linear, but a probe fails; the weaker verdict stands.",
            "Advice: make the head deterministic",
        ),
        (
            verdict(READ, LINEAR, doubt="it draws numbers"),
            Guarantee.NONE,
            "Between it and the score: item() (gate); and it draws numbers.",
            "Advice: make the head deterministic",
        ),
    ],
    ids=range(10),
)
def test_reason_and_advice(made: Verdict, guarantee: Guarantee, reason: str, advice: str) -> None:
    assert made.guarantee is guarantee
    assert reason_of(made) == reason
    given = advice_of(made, single_token=False)
    assert given.startswith(advice)
    assert bool(given) is bool(advice)


@pytest.mark.parametrize("last", ["softmax", "log_softmax", "sigmoid", "log_sigmoid"])
@pytest.mark.parametrize(
    "rest", [[], ["gather"], ["select", "unsqueeze"], ["reshape", "slice", "index", "expand"]]
)
def test_probabilities_are_what_the_model_ends_in(last: str, rest: list[str]) -> None:
    made = verdict(LINEAR, Op(last, Kind.OTHER), *(Op(name, Kind.AFFINE) for name in rest))
    assert "explain the logits" in advice_of(made, single_token=False)
    made = verdict(LINEAR, Op(last, Kind.OTHER), LINEAR, *(Op(name, Kind.AFFINE) for name in rest))
    assert "explain the logits" not in advice_of(made, single_token=False)


def test_advice_for_a_single_token_comes_before_all_but_a_doubt() -> None:
    for made in (verdict(LINEAR), verdict(SOFTMAX, SELECT), verdict(LINEAR, bypass=True)):
        assert "mean pooling instead of one class token" in advice_of(made, single_token=True)
    assert "deterministic" in advice_of(verdict(LINEAR, doubt="x"), single_token=True)


def test_a_long_list_of_operations_is_cut() -> None:
    five = [Op(f"op{number}", Kind.OTHER) for number in range(5)]
    assert reason_of(verdict(*five[:4])).endswith(": op0, op1, op2, op3.")
    assert reason_of(verdict(*five)).endswith(": op0, op1, op2, op3 and 1 more.")
    assert reason_of(verdict(SOFTMAX, SOFTMAX, READ)).endswith(": softmax, item() (gate).")


def test_a_guarantee_is_taken_back() -> None:
    looks = {
        Guarantee.EXACT: "affine",
        Guarantee.CONDITIONAL: "affine with its divisors held",
        Guarantee.LOCAL: "piecewise linear",
        Guarantee.NONE: "like nothing in particular",
    }
    for guarantee, words in looks.items():
        made = weakened(replace(PLAIN, guarantee=guarantee), "something else was found")
        assert made.guarantee is Guarantee.NONE
        assert made.reason == (
            f"Its graph looks {words}, but something else was found; the weaker verdict stands."
        )
        assert made.advice.startswith("Advice: make the head deterministic")
        assert made.head == PLAIN.head


# Of real models -------------------------------------------------------------------------------


def certify(model: torch.nn.Module, layer: str | None = None) -> Certificate:
    return hirescam.certify(ready(model), images(), layer)


def test_the_verdict_reads_like_a_sentence() -> None:
    text = str(certify(FlattenNet()))
    assert text.startswith("EXACT at layer 'features': the map adds up to the score")
    assert "Grad-CAM gives another map here." in text
    assert "\n" not in text


def test_softmax_in_the_model_is_named() -> None:
    class Probabilities(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).softmax(1)

    certificate = certify(Probabilities())
    assert certificate.guarantee == "none"
    assert certificate.breaks == ("softmax",)
    assert "explain the logits" in certificate.advice


def test_a_bypass_is_told_with_advice() -> None:
    certificate = certify(Bypass(), "deep")
    assert "around this layer" in certificate.reason
    assert "after the paths have joined" in certificate.advice


def test_local_heads_are_advised() -> None:
    assert "one fully connected layer" in str(certify(TwoLayerNet()))
