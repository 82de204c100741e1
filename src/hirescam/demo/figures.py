"""What was found, as a table of computed figures and as plain data."""

from typing import Any

from hirescam import pages, reports
from hirescam.demo.experiments import Digits, Photos, Pitch
from hirescam.errors import ModelError
from hirescam.explanation import Explanation
from hirescam.proof.laws import Laws

HEADER = ("network", "head", "verdict", "completeness error", "location error", "what the maps show")


def _row(network: str, head: str, found: Explanation, shown: str) -> tuple[str, ...]:
    laws = measured_laws(found)
    errors = (pages.error(laws.completeness_error), pages.error(laws.location_error))
    return (network, head, str(found.certificate.guarantee), *errors, shown)


def measured_laws(found: Explanation) -> Laws:
    """Give the laws as they were measured on a result.

    Raises:
        ModelError: they were not.
    """
    if found.laws is None:
        raise ModelError("demo: the laws were not measured; use Explainer.compare")
    return found.laws


def photos_row(photos: Photos) -> tuple[str, ...]:
    """The table's row about the photographs."""
    shares = " and ".join(f"{share:.0%}" for share in photos.own_half)
    shown = (
        f"two objects: {shares} of the evidence in the object's own half; Grad-CAM differs by "
        f"{pages.error(photos.gradcam_gap)}"
    )
    return _row(
        "EfficientNet-Lite0 (photographs)", "average pooling, linear", photos.results["hirescam"], shown
    )


def pitch_row(pitch: Pitch) -> tuple[str, ...]:
    """The table's row about the tone."""
    found = pitch.results["hirescam"]
    shown = (
        f"logit {pages.number(float(found.score))}: HiResCAM accounts for it to "
        f"{pages.error(pitch.residual)}, "
        f"Grad-CAM's positive part sums to {pages.number(pitch.gradcam_positive)}"
    )
    return _row("CREPE (pitch of a tone)", "flatten, linear", found, shown)


def digits_row(cut: Digits) -> tuple[str, ...]:
    """The table's row about the digits."""
    share = cut.dead_share
    shown = (
        f"positive part in the half that the head cannot see: HiResCAM {share_text(share['hirescam'])}, "
        f"Grad-CAM {share_text(share['gradcam'])}"
    )
    return _row("digits (trained just now)", "flatten, linear, half cut", cut.results["hirescam"], shown)


def share_text(value: float) -> str:
    """Write a share in per cent; zero is said to be exact."""
    return "exactly 0" if value == 0 else f"{value:.1%}"


def plain_data(photos: Photos, pitch: Pitch, cut: Digits) -> dict[str, Any]:
    """Everything that was found, as plain data."""
    parts = (
        ("lite0", photos.results, _photos_data(photos)),
        ("crepe", pitch.results, _pitch_data(pitch)),
        ("digits", cut.results, _digits_data(cut)),
    )
    return {name: _laws_data(results) | figures for name, results, figures in parts}


def _laws_data(results: dict[str, Explanation]) -> dict[str, Any]:
    certificate = results["hirescam"].certificate
    return {
        "certificate": reports.verdict_data(certificate),
        "rules": {
            rule: {
                "completeness_error": measured_laws(found).completeness_error,
                "location_error": measured_laws(found).location_error,
                "both_laws_hold": measured_laws(found).hold,
            }
            for rule, found in results.items()
        },
    }


def _photos_data(photos: Photos) -> dict[str, Any]:
    found = photos.results["hirescam"]
    predicted = [photos.model.label(index) for index in found.target[:, 0].tolist()]
    classes = [photos.model.label(index) for index in photos.halves["hirescam"].target[0].tolist()]
    return {
        "predicted": dict(zip(photos.names, predicted, strict=True)),
        "own_half": dict(zip(classes, photos.own_half, strict=True)),
        "gradcam_largest_difference": photos.gradcam_gap,
        "sum_plus_bias_minus_logit": photos.residual,
    }


def _pitch_data(pitch: Pitch) -> dict[str, Any]:
    return {
        "predicted": pitch.label,
        "logit": float(pitch.results["hirescam"].score),
        "bias": pitch.bias,
        "maps": {rule: found.raw[0, 0].tolist() for rule, found in pitch.results.items()},
        "sum_plus_bias_minus_logit": pitch.residual,
        "gradcam_positive_sum": pitch.gradcam_positive,
    }


def _digits_data(cut: Digits) -> dict[str, Any]:
    return {
        "networks": cut.networks,
        "test_images": len(cut.trained.test_images),
        "accuracy": cut.trained.accuracy,
        "dead_share": cut.dead_share,
        "dead_share_by_network": list(cut.dead_range),
        "dead_share_of_magnitude": cut.dead_magnitude,
        "strongest_cell_in_dead_half": cut.dead_peaks,
    }
