"""Asking the model: bounded blocks, probabilities and not logits, one error for each mistake."""

import pytest
import torch

import hirescam
from hirescam.errors import InputError
from hirescam.metrics import Case, Kind, Scene, metrics, scoring
from metrics.affine import Affine, first_class
from toys import FlattenNet

IMAGES = torch.rand(3, 2, 5, 5, dtype=torch.float64)
TARGET = torch.tensor([0, 1, 0])


def constant(*row: float):
    return lambda images: torch.tensor([row]).expand(len(images), -1)


def test_the_target_of_each_image_is_read_for_each_variant():
    def predict(images):
        first = images.flatten(1).mean(1)
        return torch.stack([first, 1 - first], 1)

    found = scoring.target_probabilities(predict, (IMAGES, IMAGES / 2), TARGET)
    means = IMAGES.flatten(1).mean(1)
    expected = torch.stack([torch.stack([m[0], 1 - m[1], m[2]]) for m in (means, means / 2)])
    torch.testing.assert_close(found, expected)
    tops = scoring.target_is_top(predict, (IMAGES,), TARGET)
    assert tops.tolist() == [[float(means[0] >= 0.5), float(means[1] <= 0.5), float(means[2] >= 0.5)]]


def test_only_a_few_images_are_held_at_a_time():
    model, made = Affine(torch.full((2, 5, 5), 1e-3, dtype=torch.float64)), []

    def variants():
        for index in range(100):
            made.append(index)
            assert len(made) * 3 <= sum(model.batches) + scoring._TOGETHER
            yield IMAGES

    assert scoring.target_probabilities(model, variants(), TARGET).shape == (100, 3)
    assert max(model.batches) == 63
    assert sum(model.batches) == 300


def test_large_images_come_one_variant_at_a_time(monkeypatch):
    monkeypatch.setattr(scoring, "_BLOCK_BYTES", IMAGES.nbytes)
    model = Affine(torch.full((2, 5, 5), 1e-3, dtype=torch.float64))
    scoring.target_probabilities(model, [IMAGES] * 4, TARGET)
    assert model.batches == [3, 3, 3, 3]


@pytest.mark.parametrize("row", [(1.5, -0.5), (0.2, -0.1), (1.01, 0.0)])
def test_logits_in_place_of_probabilities_are_an_error(row):
    with pytest.raises(InputError, match=r"predict gave values from .* return model\(images\)\.softmax\(1\)"):
        scoring.target_probabilities(constant(*row), [IMAGES], TARGET)


def test_a_multi_label_model_is_welcome_and_rounding_is_forgiven():
    found = scoring.target_probabilities(constant(0.9, 0.8), [IMAGES], TARGET)
    torch.testing.assert_close(found, torch.tensor([[0.9, 0.8, 0.9]]).double())
    found = scoring.target_probabilities(constant(1 + 2e-7, -2e-7), [IMAGES], TARGET)
    assert found.tolist() == [[1.0, 0.0, 1.0]]


def test_logits_are_taken_as_they_are_where_logits_are_meant():
    assert scoring.target_logits(constant(-3.0, 7.0), [IMAGES], TARGET).tolist() == [[-3.0, 7.0, -3.0]]


@pytest.mark.parametrize(
    ("predict", "words"),
    [
        (lambda images: torch.rand(len(images)), r"shape \(3,\) for 3 images: expected \(3, classes\)"),
        (lambda images: torch.rand(1, 2), r"shape \(1, 2\) for 3 images"),
        (lambda images: [0.5], "predict gave list"),
        (constant(float("nan"), 0.5), "predict gave NaN"),
    ],
)
def test_other_outputs_are_named(predict, words):
    with pytest.raises(InputError, match=words):
        scoring.target_probabilities(predict, [IMAGES], TARGET)


@pytest.mark.parametrize("target", [2, -1])
def test_a_class_out_of_range_is_named(target):
    with pytest.raises(InputError, match=f"target={target} is not a class: the model gives 2"):
        scoring.target_probabilities(constant(0.5, 0.5), [IMAGES], torch.tensor([0, target, 0]))


PIXEL = [one for one in metrics().values() if one.kind is Kind.PERTURBATION]


@pytest.mark.parametrize("one", PIXEL, ids=lambda one: one.name)
def test_every_metric_of_pixels_refuses_what_does_not_fit(one):
    maps = torch.rand(3, 5, 5, dtype=torch.float64)

    def ask(images):
        return torch.full((len(images), 2), 0.5)

    def call(**changed):
        given = {"maps": maps, "images": IMAGES, "target": TARGET, "predict": ask, "logits": ask}
        given |= {"explain": lambda images: maps}
        return one.function(*((given | changed)[name] for name in one.needs))

    for nothing in (float("nan"), float("inf")):
        broken = maps.clone()
        broken[1, 2, 2] = nothing
        with pytest.raises(InputError, match=r"maps\[1\] has NaN or infinite values"):
            call(maps=broken)
    with pytest.raises(InputError, match=r"maps has shape \(3, 4, 5\): expected \(3, 5, 5\)"):
        call(maps=maps[:, 1:])
    with pytest.raises(InputError, match=r"images has shape \(3, 5\): expected \(n, c, \*size\)"):
        call(images=IMAGES[:, 0, 0])
    if "target" not in one.needs:
        return
    with pytest.raises(InputError, match=r"target has shape \(2,\) and dtype torch.int64: expected \(3,\)"):
        call(target=TARGET[:2])
    with pytest.raises(InputError, match=r"dtype torch.float32: expected \(3,\) and torch.int64"):
        call(target=TARGET.float())


@pytest.mark.parametrize("one", PIXEL, ids=lambda one: one.name)
def test_every_metric_of_pixels_leaves_the_world_as_it_was(one):
    """No random step outside, no graph, no change in place; the same again gives the same."""
    images = IMAGES.clone().requires_grad_()
    maps = torch.rand(3, 5, 5, dtype=torch.float64)
    weights = torch.full((2, 5, 5), 0.01, dtype=torch.float64, requires_grad=True)
    given = {"maps": maps, "images": images, "target": first_class(IMAGES)}
    given |= {"predict": Affine(weights), "logits": Affine(weights), "explain": lambda images: images.sum(1)}
    state, before = torch.get_rng_state(), (images.detach().clone(), maps.clone())
    values = [one.function(*(given[name] for name in one.needs)) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images.detach(), before[0])
    assert torch.equal(maps, before[1])
    assert torch.equal(values[0], values[1])
    assert len(values[0]) == 3
    assert values[0].dtype == torch.float64
    assert not values[0].requires_grad
    low, high = one.bounds
    assert ((values[0] >= low) & (values[0] <= high)).all()


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("rule", ["hirescam", "random"])
def test_every_perturbation_metric_takes_a_case(ndim, rule):
    """Signals, images and volumes, in single precision, as they come from an explainer."""
    model = FlattenNet(ndim, side=6).eval()
    images = torch.rand(2, 2, *[6] * ndim)
    case = Case(Scene(hirescam.Explainer(model), images), rule)
    options = {"infidelity": {"samples": 20}, "input_sensitivity_n": {"subsets": 10}, "irof": {"segments": 8}}
    for name, one in metrics().items():
        if one.kind is Kind.PERTURBATION:
            values = case.measure(one.configure(options.get(name, {})))
            low, high = one.bounds
            assert len(values) == 2
            assert (values.isnan() | ((values >= low) & (values <= high))).all(), name
