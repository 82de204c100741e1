"""Every rule against an independent derivation, for signals, images and volumes."""

import inspect
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hirescam
import oracles
from hirescam.errors import RuleError
from hirescam.passes.trace import Trace
from hirescam.proof.laws import Laws, measure
from hirescam.rulebook import ablation
from hirescam.rulebook.registry import GRADIENTS, HEADS, NETWORK, get, rule, rules
from passes.made import run
from toys import CLASSES, CONV, FlattenNet, PooledNet, images, ready

RULES = sorted(rules())
OPTIONS: dict[str, dict[str, Any]] = {
    "ablationcam": {"relative": False},
    "eigen_gradcam": {"centred": False},
    "eigencam": {"centred": True},
    "faster_scorecam": {"channels": 2},
    "fem": {"sigmas": 0.5},
    "group": {"groups": 2, "keep": 0.6},
    "is_cam": {"steps": 3},
    "kpca_cam": {"kernel": "rbf", "gamma": 0.7},
    "random": {"seed": 3},
    "reciprocam": {"blur": True},
    "shapley": {"samples": 2, "seed": 5},
    "smooth_gradcam_pp": {"samples": 3, "noise": 0.1, "seed": 4},
    "ss_cam": {"samples": 2, "noise": 0.5, "seed": 4},
}
CASES = [(name, {}) for name in RULES] + list(OPTIONS.items())


class CurvedNet(nn.Module):
    """Signed activations at half the image's resolution, and a head with curvature."""

    def __init__(self, ndim: int = 2, side: int = 6) -> None:
        super().__init__()
        self.features = nn.Sequential(CONV[ndim](2, 5, 3, stride=2, padding=1), nn.SiLU())
        size = 5 * (side // 2) ** ndim
        self.rest = nn.Sequential(nn.Flatten(), nn.Linear(size, 7), nn.Tanh(), nn.Linear(7, CLASSES))
        for parameter in self.parameters():
            parameter.data *= 2

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.features(x))


def traced(model: nn.Module, batch: Tensor, target: object = None) -> Trace:
    chosen = hirescam.Classes(1, 3) if target is None else target
    return run(model, batch, target=chosen).trace()


def consult(name: str, model: nn.Module, batch: Tensor, options: dict[str, Any]) -> Tensor:
    """Ask a rule's oracle, with what it wants to know."""
    features = traced(model, batch)
    known = {
        "gradients": features.gradients,
        "activations": features.activations,
        "images": batch,
        "classes": (1, 3),
        "model": model,
        "features": model.features,
        "rest": getattr(model, "rest", None),
    }
    oracle = getattr(oracles, name)
    wanted = [key for key in inspect.signature(oracle).parameters if key in known]
    return oracle(*(known[key] for key in wanted), **options)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_an_oracle(name: str) -> None:
    assert callable(getattr(oracles, name, None)), f"tests/oracles.py lacks {name}"
    ours = {
        key for key in inspect.signature(getattr(oracles, name)).parameters if key in rules()[name].options
    }
    assert ours == set(rules()[name].options), f"the oracle of {name} lacks an option"


def test_every_option_is_tried() -> None:
    for name in RULES:
        assert set(rules()[name].options) == set(OPTIONS.get(name, {})), name


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "options"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_rule_agrees_with_its_oracle(name: str, options: dict[str, Any], ndim: int) -> None:
    model = ready(PooledNet(ndim) if name == "cam" else CurvedNet(ndim))
    batch = images(2, ndim, side=6)
    expected = consult(name, model, batch, options)
    chosen = get(name).configure(options)
    result = hirescam.explain(model, batch, target=hirescam.Classes(1, 3), layer="features", rule=chosen)
    assert result.raw.shape == (2, 2, *[6 if name == "cam" else 3] * ndim)
    torch.testing.assert_close(result.raw, expected, rtol=1e-8, atol=1e-10)


HEAD_KINDS = {
    "pooled affine": PooledNet,
    "affine": FlattenNet,
    "any": lambda: CurvedNet(side=8),
}


def laws_on(name: str, kind: str) -> Laws:
    known = traced(ready(HEAD_KINDS[kind]()), images())
    return measure(known, rules()[name].function(known))


# cam refuses heads that are not pooled and linear, which has a test of its own.
DEFINED = [(name, kind) for name in RULES for kind in HEAD_KINDS if name != "cam" or kind == "pooled affine"]


@pytest.mark.parametrize(("name", "kind"), DEFINED)
def test_laws_hold_where_the_registry_says_so_and_fail_elsewhere(name: str, kind: str) -> None:
    """Both ways: what is claimed is true, and what is not claimed is false for some head of that kind."""
    entry, laws = rules()[name], laws_on(name, kind)
    wide = HEADS.index(kind)
    assert laws.complete == (HEADS.index(entry.complete_for) >= wide), laws
    assert laws.local == (HEADS.index(entry.local_for) >= wide), laws
    assert laws.hold == (HEADS.index(entry.exact_for) >= wide), laws


@pytest.mark.parametrize("kind", ["pooled affine", "affine"])
def test_rules_that_are_exact_on_a_head_are_one_rule_there(kind: str) -> None:
    known = traced(ready(HEAD_KINDS[kind]()), images())
    expected = rules()["hirescam"].function(known)
    exact = [entry for entry in rules().values() if HEADS.index(entry.exact_for) >= HEADS.index(kind)]
    assert len(exact) >= 4
    for entry in exact:
        torch.testing.assert_close(entry.function(known), expected, rtol=1e-9, atol=1e-12)


def test_completeness_does_not_make_xgradcam_faithful() -> None:
    """On a flatten head it adds up as HiResCAM does, and marks places with the wrong sign."""
    known = traced(ready(FlattenNet()), images())
    right, spread = (rules()[name].function(known) for name in ("hirescam", "xgradcam"))
    torch.testing.assert_close(right.sum((2, 3)), spread.sum((2, 3)))
    assert bool((right * spread < 0).any())


@pytest.mark.parametrize("name", [name for name in RULES if "seed" in rules()[name].options])
def test_random_rules_repeat_and_leave_the_global_generator_alone(name: str) -> None:
    known = traced(ready(CurvedNet()), images(2, side=6))
    before = torch.get_rng_state()
    first, again = (rules()[name].function(known) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
    other = get(name).configure({"seed": 9}).function(known)
    assert not torch.equal(first, other)


class Silent(nn.Module):
    """Activations that are the same everywhere, or zero."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.features = nn.Conv2d(2, 6, 3, padding=1)
        nn.init.zeros_(self.features.weight)
        nn.init.constant_(self.features.bias, value)
        self.head = nn.Linear(6, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


@pytest.mark.parametrize("value", [0.0, 0.1, -0.7])
@pytest.mark.parametrize("name", RULES)
def test_silent_activations_give_finite_maps(name: str, value: float) -> None:
    known = traced(ready(Silent(value)), images())
    raw = rules()[name].function(known)
    assert bool(raw.isfinite().all())
    if value == 0 and name not in ("fem", "group"):
        assert bool((raw == 0).all())


def test_a_constant_channel_is_no_strong_feature() -> None:
    raw = rules()["fem"].function(traced(ready(Silent(0.1)), images()))
    assert bool((raw == 0).all())


def test_a_score_of_zero_has_no_relative_drop() -> None:
    model = ready(FlattenNet())
    known = traced(model, images(), lambda logits: logits[:, :1] * 0)
    assert bool((rules()["ablationcam"].function(known) == 0).all())


@pytest.mark.parametrize("name", RULES)
def test_half_precision_activations_give_single_precision_maps(name: str) -> None:
    model = ready(PooledNet(), torch.bfloat16)
    known = traced(model, images(dtype=torch.bfloat16))
    raw = rules()[name].function(known)
    assert raw.dtype == torch.float32
    assert bool(raw.isfinite().all())


@pytest.mark.parametrize("name", ["scorecam", "group", "ablationcam", "removal", "shapley"])
def test_blocks_do_not_change_the_map(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from hirescam.rulebook import masking

    known = traced(ready(CurvedNet()), images(2, side=6))
    whole = rules()[name].function(known)
    for module in (ablation, masking):
        monkeypatch.setattr(module, "MOST_BYTES", 1)
    torch.testing.assert_close(rules()[name].function(known), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in RULES if rules()[name].needs is NETWORK])
def test_perturbed_images_stay_under_a_memory_bound(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from hirescam.rulebook import masking

    seen: list[int] = []
    model, batch = ready(CurvedNet()), images(2, side=6)
    known = traced(model, batch)
    ours = known.score_images
    object.__setattr__(known, "score_images", lambda x: seen.append(x.nbytes) or ours(x))
    bound = 2 * batch.nbytes
    monkeypatch.setattr(masking, "MOST_BYTES", bound)
    rules()[name].function(known)
    assert all(size <= bound for size in seen)
    assert seen or name == "smooth_gradcam_pp"


def test_a_class_token_has_no_place_on_the_image() -> None:
    """Masks are made of the grid; the weights then serve every token."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(2, 4, 2, stride=2)
            self.features = nn.Identity()
            self.token = nn.Parameter(torch.randn(1, 1, 4))
            self.head = nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            patches = self.patches(x).flatten(2).transpose(1, 2)
            return self.head(
                self.features(torch.cat([self.token.expand(len(x), -1, -1), patches], 1)).mean(1)
            )

    model, batch = ready(Tokens()), images()
    for name in ("scorecam", "group", "reciprocam", "eigencam"):
        result = hirescam.explain(model, batch, layer="features", rule=name)
        assert result.raw.shape == (2, 1, 17)
        assert result.grid == (4, 4)


@pytest.mark.parametrize("seed", range(3))
def test_sampled_shapley_values_approach_the_definition(seed: int) -> None:
    """Every order of four locations, against the average over a few hundred of them."""
    torch.manual_seed(seed)
    model, batch = ready(CurvedNet(1, side=8)), images(1, 1)
    known = traced(model, batch, 2)

    def value(present: frozenset[int]) -> float:
        mask = torch.tensor([float(i in present) for i in range(4)], dtype=torch.float64)
        return float(model.rest(known.activations * mask)[0, 2].detach())

    exact = torch.tensor(oracles.shapley_values(value, 4), dtype=torch.float64)
    few, many = (get("shapley").configure({"samples": n}).function(known)[0, 0] for n in (4, 400))
    assert (many - exact).abs().max() < 0.1 * exact.abs().max()
    assert (many - exact).norm() < (few - exact).norm()


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(RuleError, match="kernel='linear' is unknown: use 'sigmoid' or 'rbf'"):
        get("kpca_cam").configure({"kernel": "linear"}).function(traced(ready(FlattenNet()), images()))


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


def test_only_two_rules_hold_divisors() -> None:
    """The others are what their papers say, whatever the head."""
    assert {name for name, rule in hirescam.rules().items() if rule.holds} == {"cam", "hirescam"}


def test_an_option_that_a_rule_does_not_have_is_named() -> None:
    with pytest.raises(RuleError, match="rule='hirescam' has no option 'b': its options are none"):
        hirescam.rules()["hirescam"].configure({"b": 1, "a": 2})
    with pytest.raises(RuleError, match=r"has no option 'b': its options are \w+"):
        hirescam.rules()["shapley"].configure({"samples": 2, "b": 1, "a": 2})


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


def test_the_page_of_rules_is_the_registry() -> None:
    script = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "_rules.py"))
    assert script["PAGE"].read_text("utf-8") == script["page"](), "run: python docs/_rules.py"


def test_the_completeness_check_can_fail() -> None:
    """A wrong map must be told from a right one, or the certificate would prove nothing."""
    known = traced(ready(FlattenNet()), images(), 1)
    right = rules()["hirescam"].function(known)
    assert measure(known, right).hold
    assert not measure(known, right * 1.01).complete
    assert not measure(known, right.flip(-1)).local
    assert measure(known, right.flip(-1)).complete
    assert not measure(known, rules()["gradcam"].function(known)).hold
