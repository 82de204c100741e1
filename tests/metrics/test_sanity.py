"""Randomisation checks: what is averaged, what constant maps count, and what real networks score."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import hirescam
from hirescam.errors import InputError, MetricError
from hirescam.metrics import Case, Scene, get
from hirescam.metrics.sanity import label_randomisation, mprt, mprt_curve, random_logit
from hirescam.networks import digits
from toys import CLASSES, FlattenNet, PooledNet

RAMP = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
SHUFFLED = torch.tensor([[2.0, 1.0, 4.0, 3.0]])  # ρ = 0.6 with the ramp
ZEROS = torch.zeros(1, 4)


def deep(layers: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers))).eval()


def script(*maps: Tensor):
    """Explains any network with the next of these maps."""
    rest = iter(maps)
    return lambda network: next(rest)


def case(rule: str, ndim: int = 2, model: nn.Module | None = None) -> Case:
    model = FlattenNet(ndim).eval() if model is None else model
    images = torch.rand(3, 2, *[8] * ndim, generator=torch.Generator().manual_seed(1))
    return Case(Scene(hirescam.Explainer(model), images), rule)


def test_the_mean_is_over_randomised_networks_alone():
    """By hand: (0.6 − 1 + 0) / 3. With the original in it, it would be 0.15."""
    found = mprt(RAMP, deep(3), script(SHUFFLED, -RAMP, ZEROS))
    assert found.tolist() == pytest.approx([(0.6 - 1 + 0) / 3])


def test_the_original_is_never_explained_again():
    model, seen = deep(3), []

    def explain_with(network: nn.Module) -> Tensor:
        seen.append(copy.deepcopy(network))
        return RAMP

    mprt(RAMP, model, explain_with)
    assert len(seen) == 3
    assert all(not torch.equal(network[-1].weight, model[-1].weight) for network in seen)


def test_a_map_that_becomes_constant_is_scored():
    """A ReLU'd map of a random network is often zero everywhere: correlation would be NaN, and dropped."""
    assert mprt(RAMP, deep(2), script(ZEROS, SHUFFLED)).tolist() == pytest.approx([(0 + 0.6) / 2])
    assert mprt(ZEROS, deep(2), script(SHUFFLED, ZEROS)).tolist() == pytest.approx([(0 + 1) / 2])


def test_a_constant_map_in_a_real_network_is_scored():
    """The random head of a network without biases is fed zeros, whatever the image."""

    class Dark(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.features(x) * (x.amin() > 5)).flatten(1))

    dark = Dark(bias=False).eval()
    explained = case("hirescam", model=dark)
    assert not explained.maps.any()
    found = mprt_curve(explained.maps, dark, explained.explain_with).values
    assert found.tolist() == [[1, 1]] * 3


def test_samples_have_curves_of_their_own():
    maps = torch.cat([RAMP, ZEROS])
    curve = mprt_curve(maps, deep(2), script(torch.cat([SHUFFLED, RAMP]), torch.cat([-RAMP, ZEROS])))
    assert curve.layers == ("1", "0")
    assert curve.values.tolist() == [pytest.approx([0.6, -1]), [0, 1]]


def test_a_map_that_ignores_the_network_scores_one():
    model = deep(4)
    for similarity in ("spearman", "spearman_abs", "ssim"):
        assert mprt(RAMP, model, lambda _: RAMP, similarity=similarity).tolist() == pytest.approx([1])


def test_deep_networks_are_cut_into_groups_unless_every_layer_is_asked_for():
    model = deep(25)
    assert len(mprt_curve(RAMP, model, lambda _: RAMP).layers) == 10
    assert len(mprt_curve(RAMP, model, lambda _: RAMP, layers=None).layers) == 25
    assert mprt_curve(RAMP, model, lambda _: RAMP, layers=("",)).layers == ("",)


def test_maps_that_are_not_finite_name_the_layer():
    with pytest.raises(MetricError, match="after randomising '0' the map of image 1 has NaN"):
        mprt(torch.cat([RAMP, RAMP]), deep(2), script(torch.ones(2, 4), torch.tensor([[1.0], [math.nan]])))
    with pytest.raises(InputError, match=r"maps\[0\] has NaN"):
        mprt(torch.full((1, 4), math.nan), deep(2), lambda _: RAMP)
    with pytest.raises(InputError, match=r"shapes \(1, 4\) and \(1, 5\)"):
        mprt(RAMP, deep(2), lambda _: torch.ones(1, 5))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_rules_that_read_activations_alone_ignore_the_head(ndim):
    """Exactly 1 until a layer below the explained one is random; a rule that reads gradients is not."""
    for mode in ("cascading", "independent"):
        for rule, ignores in [("random", True), ("mean_activation", True), ("hirescam", False)]:
            explained = case(rule, ndim)
            curve = mprt_curve(explained.maps, explained.model, explained.explain_with, mode=mode)
            assert curve.layers == ("head", "features.0")
            assert bool((curve.values[:, 0] == 1).all()) is ignores
            assert (curve.values[:, 1] < 0.999).all()


def test_the_borrowed_model_comes_back_as_it_was():
    explained = case("hirescam", model=PooledNet().eval())
    model = explained.model
    before = copy.deepcopy(model.state_dict())
    maps, random = explained.maps.clone(), torch.get_rng_state()
    first = explained.measure("mprt")
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    assert torch.equal(explained.explain(explained.images), maps)
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.training
    torch.manual_seed(77)
    assert torch.equal(explained.measure("mprt"), first)
    assert not torch.equal(explained.measure(get("mprt").configure({"seed": 1})), first)


def test_gradcam_and_hirescam_score_alike_where_they_are_the_same():
    model = PooledNet().eval()
    scores = [case(rule, model=model).measure("mprt") for rule in ("hirescam", "gradcam")]
    torch.testing.assert_close(*scores)


def class_maps(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, 5, generator=torch.Generator().manual_seed(seed))


def asked(target: Tensor, classes: int, seed: int = 0) -> Tensor:
    """Which other classes are explained."""
    seen = []

    def explain_target(other: Tensor) -> Tensor:
        seen.append(other)
        return class_maps(len(other))

    images = torch.rand(len(target), 1, 4, 5)
    random_logit(
        class_maps(len(target)),
        images,
        target,
        lambda x: torch.rand(len(x), classes),
        explain_target,
        seed=seed,
    )
    return seen[0]


def test_random_logit_compares_with_another_class():
    target = torch.arange(6).repeat(50)
    counts = torch.zeros(6, 6)
    for seed in range(300):
        other = asked(target[:6], 6, seed)
        counts[target[:6], other] += 1
    assert counts.diagonal().sum() == 0
    assert (counts + 60 * torch.eye(6)).min() > 30, "each other class about 60 times in 300"


def test_random_logit_of_an_image_does_not_depend_on_its_batch():
    together = asked(torch.tensor([3, 1, 3, 4]), 5)
    assert together[0] == together[2]
    assert asked(torch.tensor([4]), 5) == together[3]
    assert asked(torch.tensor([0, 1]), 2).tolist() == [1, 0]


def test_random_logit_by_hand():
    target, images = torch.tensor([0]), torch.rand(1, 1, 4)
    found = random_logit(RAMP, images, target, lambda x: torch.ones(1, 3), lambda _: SHUFFLED)
    assert found.tolist() == pytest.approx([0.6])
    with pytest.raises(InputError, match="compares classes, but the model has one"):
        random_logit(RAMP, images, target, lambda x: torch.ones(1, 1), lambda _: RAMP)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_rules_that_read_activations_alone_ignore_the_class(ndim):
    assert case("mean_activation", ndim).measure("random_logit").tolist() == pytest.approx([1, 1, 1])
    assert (case("hirescam", ndim).measure("random_logit") < 0.9).all()


def test_a_case_explains_other_targets():
    explained = case("gradcam")
    other = (explained.target + 1) % CLASSES
    wanted = hirescam.explain(explained.model, explained.images, target=other, rule="gradcam")
    torch.testing.assert_close(explained.explain_target(other), wanted.view(scale=None).values[:, 0])
    torch.testing.assert_close(explained.explain_target(explained.target), explained.maps)


def test_labels_are_shuffled_once_and_the_same_networks_explained():
    labels, given = torch.arange(10), []

    def train(wanted: Tensor) -> nn.Module:
        given.append(wanted)
        return deep(1)

    found = label_randomisation(labels, train, script(RAMP, SHUFFLED))
    assert found.tolist() == pytest.approx([0.6])
    assert torch.equal(given[0], labels)
    assert not torch.equal(given[1], labels)
    assert torch.equal(given[1].sort().values, labels)
    with pytest.raises(InputError, match="labels are the same after shuffling 3 of them"):
        label_randomisation(torch.zeros(3), train, script(RAMP, RAMP))


@pytest.fixture(scope="module")
def trained() -> digits.DigitsResult:
    pytest.importorskip("sklearn")
    return digits.train(cut=False)


def on_digits(trained: digits.DigitsResult, rule: str) -> Case:
    images, labels = trained.test_images[:100], trained.test_labels[:100]
    return Case(Scene(hirescam.Explainer(trained.model), images, target=labels), rule)


def test_real_digits_tell_explanations_from_none(trained):
    """With seed 0: random logit −0.17, −0.14 and 1; randomised parameters 0.20, 0.12 and 0.65."""
    rules = [on_digits(trained, rule) for rule in ("hirescam", "gradcam", "mean_activation")]
    logits = [float(one.measure("random_logit").mean()) for one in rules]
    assert max(logits[:2]) < 0.2
    assert logits[2] == pytest.approx(1)
    metric = get("mprt").configure({"similarity": "spearman_abs"})
    found = [float(one.measure(metric).mean()) for one in rules]
    assert max(found[:2]) < 0.35
    assert found[2] > 0.5


def test_real_digits_with_shuffled_labels(trained):
    """Labels that mean nothing, two fifths of which twelve epochs learn by heart."""
    networks = {}

    def train(labels: Tensor) -> nn.Module:
        key = tuple(labels.tolist())
        if key not in networks:
            networks[key] = digits.train(cut=False, labels=labels).model
        return networks[key]

    networks[tuple(trained.train_labels.tolist())] = trained.model
    found = {}
    for rule in ("hirescam", "gradcam", "mean_activation"):
        explain_with = on_digits(trained, rule).explain_with
        alike = label_randomisation(trained.train_labels, train, explain_with, similarity="ssim")
        found[rule] = float(alike.mean())
    assert found["hirescam"] < 0.2
    assert found["gradcam"] < 0.2
    assert found["mean_activation"] > found["hirescam"] + 0.15
