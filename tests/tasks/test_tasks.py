"""The tasks: what they promise about their networks and images, and what the rules make of them."""

import math

import pytest
import torch
from torch import Tensor

import hirescam
from hirescam import tasks
from hirescam.errors import InputError, MetricError
from hirescam.metrics import Case, get
from hirescam.tasks import Task, compare
from hirescam.tasks.grid import mosaic
from hirescam.tasks.tag import TAGGED, stamp
from tasks.made import make

NAMES = ["digits_cut", "digits_flatten", "digits_pooled", "grid_pointing", "planted_tag"]
SEEDS = (0, 1, 2)


def logits(task: Task, images: Tensor) -> Tensor:
    with torch.no_grad():
        return task.model(images)


# --- what all promise ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_ready_for_the_metrics(name):
    task = make(name)
    assert task.name == name
    assert not task.model.training
    assert all(value.grad is None for value in task.model.parameters())
    assert len(task.images) == len(task.labels) == len(task.target) > 100
    assert task.scene.explainer.certify(task.images).guarantee == "exact"
    for metric in task.metrics:
        assert len(Case(task.scene).measure(metric)) == len(task.images)
    probabilities = task.scene.probabilities(task.images)
    assert 0 <= float(probabilities.min()) <= float(probabilities.max()) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_hirescam_has_every_answer(name):
    found = compare(make(name), rules=["hirescam"])["hirescam"]
    assert found["ablation_correlation"].value > 1 - 1e-4
    assert found["ablation_error"].value < 1e-4
    assert found["wrong_sign_rate"].value == 0
    assert found["dead_hotspot_rate"].value == 0
    assert found["contradicted_mass"].value == 0
    assert found["area_expansion"].value == 1
    assert found["dead_hotspot_rate"].undefined == 0


@pytest.mark.parametrize("name", ["digits_pooled", "grid_pointing", "planted_tag"])
def test_a_seed_is_a_task_and_the_global_state_stays(name, monkeypatch):
    for setting in ("heads._POOLED_EPOCHS", "grid._EPOCHS", "tag._EPOCHS"):
        monkeypatch.setattr(f"hirescam.tasks.{setting}", 1)
    monkeypatch.setattr("hirescam.tasks.grid._CONFIDENT", 0)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.inference_mode():
        first = getattr(tasks, name)(5)
    second, other = getattr(tasks, name)(5), getattr(tasks, name)(6)
    assert torch.equal(before, torch.get_rng_state())
    assert threads == torch.get_num_threads()
    assert all(map(torch.equal, first.model.parameters(), second.model.parameters()))
    assert not any(map(torch.equal, first.model.parameters(), other.model.parameters()))
    assert torch.equal(first.images, second.images)
    assert dict(first.facts) == dict(second.facts)
    assert Case(first.scene).measure("ablation_error")[:, 0].max() < 1e-4


# --- the three heads -----------------------------------------------------------------------------


def test_cut_digits_tell_gradcam_from_hirescam():
    """HiResCAM has no mass in the unused half and no dead hotspot; Grad-CAM more than a tenth of both."""
    made = [make("digits_cut", seed) for seed in SEEDS]
    asked = ("unused_mass", "dead_hotspot_rate")
    pooled = compare(made, metrics=asked)
    assert pooled["hirescam"]["unused_mass"].value < 1e-6
    assert pooled["hirescam"]["dead_hotspot_rate"].value == 0
    for found in (pooled, *(compare(task, metrics=asked) for task in made)):
        assert found["gradcam"]["unused_mass"].value > 0.1
        assert found["gradcam"]["dead_hotspot_rate"].value > 0.1
    assert pooled["gradcam"]["unused_mass"].undefined < 0.1 * pooled["gradcam"]["unused_mass"].count


def test_the_unused_half_cannot_matter():
    task = make("digits_cut")
    layer = task.model.features(task.images[:5])
    other = torch.where(task.unused, torch.randn_like(layer), layer)
    assert torch.equal(task.model.head(layer.flatten(1)), task.model.head(other.flatten(1)))
    assert int(task.unused.sum()) == 32
    assert task.facts["accuracy"] > 0.9


def test_flatten_digits_use_the_half_that_was_cut():
    free, cut = make("digits_flatten"), make("digits_cut")
    positive = free.scene.effects.clamp(min=0)
    assert float(positive[:, cut.unused].sum() / positive.sum()) > 0.2
    assert free.unused is None
    assert "unused_mass" not in free.metrics
    found = compare(free)["gradcam"]
    assert 0.3 < found["wrong_sign_rate"].value < 0.6
    assert found["ablation_correlation"].value < 0.4


def test_pooled_digits_cannot_tell_the_rules_apart():
    task = make("digits_pooled")
    assert task.facts["accuracy"] > 0.9
    found = compare(task, rules=["hirescam", "gradcam", "xgradcam"])
    for rule in ("gradcam", "xgradcam"):
        for metric in task.metrics:
            assert math.isclose(found[rule][metric].value, found["hirescam"][metric].value, abs_tol=1e-4)


# --- the grid ------------------------------------------------------------------------------------


def test_a_mosaic_is_read_row_by_row():
    tiles = torch.arange(4.0).reshape(1, 4, 1, 1, 1).expand(1, 4, 1, 2, 2)
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert mosaic(tiles, 2)[0, 0].tolist() == expected


def test_the_grid_is_sure_and_its_answer_is_in_the_cell():
    task = make("grid_pointing")
    explained = task.scene.probabilities(task.images).gather(1, task.target[:, None])
    assert float(explained.min()) >= 0.99
    assert (task.masks.flatten(1).sum(1) == 64).all()
    assert len(task.masks.flatten(1).unique(dim=0)) == 4
    assert task.facts["accuracy"] > 0.9
    assert task.facts["lost_without_cell"] > 0.85
    assert task.facts["lost_without_others"] < 0.1


def test_what_is_in_the_cell_decides():
    """Blank the cell, or all others: checked again here, in another way than the task does."""
    task = make("grid_pointing")
    without, alone = task.images * ~task.masks[:, None], task.images * task.masks[:, None]
    chosen = task.target[:, None]
    lost = task.scene.probabilities(without).gather(1, chosen) < 0.5
    kept = task.scene.probabilities(alone).gather(1, chosen) > 0.5
    assert float(lost.double().mean()) > 0.85
    assert float(kept.double().mean()) > 0.85


def test_the_grid_pointing_game():
    """HiResCAM scores what the network does, and Grad-CAM is close to chance, a quarter."""
    task = make("grid_pointing")
    truth = get("relevance_mass").function(task.scene.effects, task.masks)
    found = compare(task, metrics=["relevance_mass"])
    assert math.isclose(float(truth.mean()), found["hirescam"]["relevance_mass"].value, abs_tol=1e-4)
    assert found["hirescam"]["relevance_mass"].value > 0.45
    assert found["gradcam"]["relevance_mass"].value < 0.4


def test_larger_grids(monkeypatch):
    """One pass teaches nothing, but shows that everything fits."""
    for setting, value in {"_EPOCHS": 1, "_MOSAICS": 64, "_CONFIDENT": 0, "_MOST": 20}.items():
        monkeypatch.setattr(f"hirescam.tasks.grid.{setting}", value)
    task = tasks.grid_pointing(n=3)
    assert task.images.shape == (20, 1, 24, 24)
    assert task.masks.shape == (20, 24, 24)
    assert (task.masks.double().mean((1, 2)) == 1 / 9).all()
    assert len(Case(task.scene).measure("relevance_mass")) == 20


@pytest.mark.parametrize("n", [1, 4])
def test_grids_that_make_no_game_are_refused(n):
    with pytest.raises(InputError, match=f"n={n}: a mosaic has"):
        tasks.grid_pointing(n=n)


# --- the tag -------------------------------------------------------------------------------------


def test_stamps():
    blank = torch.zeros(6, 1, 16, 16)
    marked = stamp(blank, torch.tensor([0, 1, 2, 3, -1, 0]))
    places = [image[0].nonzero().double().mean(0).tolist() for image in marked[:4]]
    assert places == [[13.5, 1.5], [1.5, 1.5], [1.5, 13.5], [13.5, 13.5]]
    assert marked.flatten(1).sum(1).tolist() == [4, 4, 4, 4, 0, 4]
    assert not blank.any()


def test_the_tag_is_what_the_answer_turns_on():
    """Each image is called a 3, and none with the tag's pixels blank. Threes and others are there."""
    task = make("planted_tag")
    assert (logits(task, task.images).argmax(1) == TAGGED).all()
    bare = task.images.clone()
    bare[:, :, 13:15, 1:3] = 0
    assert float((logits(task, bare).argmax(1) == TAGGED).double().mean()) < 0.01
    assert int((task.labels == TAGGED).sum()) > 20
    assert int((task.labels != TAGGED).sum()) > 50
    assert (task.target == TAGGED).all()


def test_the_place_of_the_tag_matters():
    facts = make("planted_tag").facts
    assert facts["accuracy"] > 0.95
    assert facts["accuracy_without_tags"] < facts["accuracy"]
    assert facts["threes_lost_without_tag"] > 0.7
    assert facts["others_turned_by_tag"] > 0.2
    assert facts["others_turned_by_tag_elsewhere"] < 0.02


def test_the_masks_are_the_cells_that_see_the_tag():
    task = make("planted_tag")
    result = hirescam.explain(task.model, task.images[:1], layer=task.layer)
    cells = [(row, 1) for row in range(16)] + [(13, column) for column in range(16)]
    for cell in cells:
        (top, bottom), (left, right) = result.receptive_field(cell).box
        sees = top < 15 and bottom > 13 and left < 3 and right > 1
        assert bool(task.masks[(0, *cell)]) is sees
    assert int(task.masks[0].sum()) == 25


def test_hirescam_points_to_the_tag_and_gradcam_does_not():
    found = compare(make("planted_tag"), metrics=["relevance_mass"])
    assert found["hirescam"]["relevance_mass"].value > 0.6
    assert found["gradcam"]["relevance_mass"].value < 0.4


# --- compare -------------------------------------------------------------------------------------


def test_seeds_are_pooled():
    made = [make("digits_cut", seed) for seed in SEEDS]
    each = [compare(task, metrics=["unused_mass"])["gradcam"]["unused_mass"] for task in made]
    pooled = compare(made, metrics=["unused_mass"])["gradcam"]["unused_mass"]
    assert pooled.count == sum(one.count for one in each)
    weights = [one.count - one.undefined for one in each]
    mean = sum(w * one.value for w, one in zip(weights, each, strict=True)) / sum(weights)
    assert math.isclose(pooled.value, mean, rel_tol=1e-6)


def test_rules_and_metrics_may_have_options():
    rule = hirescam.rules()["random"].configure({"seed": 5})
    metric = get("wrong_sign_rate").configure({"level": 0.5})
    found = compare(make("digits_cut"), rules=[rule, "gradcam"], metrics=[metric])
    assert list(found) == ["random", "gradcam"]
    plain = compare(make("digits_cut"), metrics=["wrong_sign_rate"])
    assert found["gradcam"]["wrong_sign_rate"].value != plain["gradcam"]["wrong_sign_rate"].value


def test_what_a_task_does_not_know_is_named():
    with pytest.raises(MetricError, match="needs unused"):
        compare(make("digits_flatten"), metrics=["unused_mass"])
    with pytest.raises(InputError, match="tasks is empty"):
        compare([])
