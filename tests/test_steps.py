"""Steps after the rule: right, recorded, and without a guarantee."""

from pathlib import Path

import pytest
import torch

import hirescam
from hirescam import Explainer
from hirescam.steps import average_over_flips, fuse, smooth
from toys import FlattenNet, PooledNet, images, ready


def two_layers() -> list[hirescam.Explanation]:
    model, x = ready(FlattenNet()), images()
    return [hirescam.explain(model, x, layer=name, target=1) for name in ("features.0", "features")]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", lambda a, b: (a + b) / 2),
        ("max", torch.maximum),
        ("product", lambda a, b: a / a.flatten(2).abs().amax(-1)[..., None, None]
            * b / b.flatten(2).abs().amax(-1)[..., None, None]),
    ],
)  # fmt: skip
def test_fusing(how: str, expected: object) -> None:
    first, second = two_layers()
    fused = fuse([first, second], how)
    torch.testing.assert_close(fused.raw, expected(first.raw, second.raw))
    assert fused.layer == "features.0+features"
    assert fused.steps == (f"{how} of hirescam at features.0 + hirescam at features",)


def test_refining_is_the_product_of_stretched_positive_parts() -> None:
    first, second = two_layers()
    refined = fuse([first, second], "refine").raw

    def stretched(raw: torch.Tensor) -> torch.Tensor:
        positive = raw.clamp(min=0)
        low, high = (positive.flatten(2).aminmax(dim=-1)[i][..., None, None] for i in (0, 1))
        return (positive - low) / (high - low)

    torch.testing.assert_close(refined, stretched(first.raw) * stretched(second.raw))
    assert refined.min() >= 0
    assert refined.max() <= 1


def test_grids_are_resampled_to_the_finest() -> None:
    model = ready(PooledNet())
    fine = hirescam.explain(model, images(side=8), target=1)
    coarse = hirescam.explain(model, images(side=4), target=1)
    fused = fuse([coarse, fine])
    assert fused.raw.shape == fine.raw.shape


def test_every_step_takes_the_guarantee_away(tmp_path: Path) -> None:
    model, x = ready(FlattenNet()), images()
    plain = hirescam.explain(model, x, target=1)
    assert plain.certificate.guarantee == "exact"
    assert plain.steps == ()
    for changed in (
        fuse([plain]),
        smooth(plain),
        average_over_flips(Explainer(model), x, target=1),
        smooth(average_over_flips(Explainer(model), x, target=1)),
    ):
        assert changed.certificate.guarantee == "none"
        assert "which voids both laws" in str(changed.certificate)
        assert len(changed.steps) >= 1
        changed.save(tmp_path / "x")
        assert hirescam.load(tmp_path / "x").steps == changed.steps


def test_averaging_over_flips_is_the_mean_of_six_maps() -> None:
    model, x = ready(FlattenNet()), images()
    explainer = Explainer(model)
    maps = []
    for factor in (0.9, 1.0, 1.1):
        maps.append(explainer(x * factor, target=2).raw)
        maps.append(explainer((x * factor).flip(-1), target=2).raw.flip(-1))
    expected = torch.stack(maps).mean(0)
    torch.testing.assert_close(average_over_flips(explainer, x, target=2).raw, expected)


def test_smoothing_keeps_a_constant_map() -> None:
    from dataclasses import replace

    plain = hirescam.explain(ready(FlattenNet()), images(), target=1)
    flat = replace(plain, raw=torch.ones_like(plain.raw))
    torch.testing.assert_close(smooth(flat).raw, flat.raw)
    torch.testing.assert_close(smooth(plain, 1).raw, plain.raw)


def test_bad_steps_are_refused() -> None:
    first, _ = two_layers()
    with pytest.raises(hirescam.InputError, match="how='min' is unknown"):
        fuse([first], "min")
    with pytest.raises(hirescam.InputError, match="explanations is empty"):
        fuse([])
    other = hirescam.explain(ready(FlattenNet()), images(), target=2)
    with pytest.raises(hirescam.InputError, match="different targets"):
        fuse([first, other])
    with pytest.raises(hirescam.InputError, match="size=2 must be an odd number"):
        smooth(first, 2)


def test_finer_takes_off_what_similar_classes_share() -> None:
    model, x = ready(FlattenNet()), images()
    every = hirescam.explain(model, x, target=hirescam.AllClasses())
    found = hirescam.explain(model, x, target=hirescam.Finer(2, k=2, strength=0.5))
    for b in range(2):
        logits = every.logits[b]
        near = sorted((c for c in range(5) if c != 2), key=lambda c: abs(float(logits[c] - logits[2])))[:2]
        expected = every.raw[b, 2] - 0.5 * every.raw[b, near].mean(0)
        torch.testing.assert_close(found.raw[b, 0], expected)
    assert hirescam.explain(model, x, target=hirescam.Finer()).target.shape == (2, 1)
    with pytest.raises(hirescam.TargetError, match=r"Finer\(k=5\): k must be from 1 to 4"):
        hirescam.explain(model, x, target=hirescam.Finer(k=5))
