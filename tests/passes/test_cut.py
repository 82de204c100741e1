"""One pass cut in two at a layer, and the model run with the layer's output replaced."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hirescam import LayerError
from hirescam.passes.cut import Cut, Site, _batch_norm, look, output_at, run_from
from hirescam.passes.taps import Place, Tap, parse
from passes.made import call, close, laid_out, run, site
from toys import AllButLast, FlattenNet, FunctionalNet, NormNet, SegNet, Shared, images, ready


def cut(model: nn.Module, x: Any, layer: str = "features", **options: bool) -> tuple[Cut, Tensor]:
    made = Cut(site(model, layer), call(x), None, **{"hold": False, "differentiable": False, **options})
    with torch.no_grad(), made.active():
        logits = model(x)
        made.finish(logits)
    return made, logits


# Sites ----------------------------------------------------------------------------------------


def test_a_site_finds_the_logits() -> None:
    made = site(ready(SegNet()), output="out")
    assert made.tap == Tap("features")
    x = call(images(2))
    dense = torch.zeros(2, 5, 8, 8)
    assert made.logits({"out": dense, "aux": dense}, x) is dense
    assert torch.equal(site(ready(FlattenNet())).logits(torch.zeros(2), x), torch.zeros(2, 1))


def test_what_was_there_before_a_pass() -> None:
    model, row = ready(FlattenNet()), torch.zeros(2, 3)
    model.table = torch.zeros(4)
    weight = torch.zeros(5)
    given = call((row, images(2)))
    values = site(model).watch(given, lambda logits: logits @ weight).provenance
    assert not any(map(values.depends, (*model.parameters(), model.table, row, weight)))
    assert values.depends(torch.zeros(3))


# The cut --------------------------------------------------------------------------------------


def test_before_the_layer_there_is_no_graph_and_after_it_there_is() -> None:
    model, x = ready(FlattenNet()), images(2)
    made, logits = cut(model, x)
    assert made.head.replayable
    assert made.leaf.is_leaf
    assert made.leaf.requires_grad
    close(made.leaf.detach(), model.features(x).detach())
    close(logits.detach(), model(x).detach())
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), made.leaf)
    close(gradient, model.head.weight[2].reshape(1, 6, 8, 8).expand_as(gradient).detach())
    node, number = made.entry
    assert (node.next_functions[0][0].variable is made.leaf, number) == (True, 0)
    assert made.divisors == []


def test_an_op_in_place_after_the_layer_reaches_the_copy_alone() -> None:
    model, x = ready(AllButLast()), images(2)
    made, logits = cut(model, x)
    close(made.leaf.detach(), model.features(x).detach())
    close(logits.detach(), model(x).detach())


def test_differentiable_keeps_the_graph_before_the_layer() -> None:
    model, x = ready(FlattenNet()), images(2)
    made = Cut(site(model), call(x), None, hold=False, differentiable=True)
    with torch.enable_grad(), made.active():
        logits = model(x)
    assert not made.leaf.is_leaf
    weight = model.features[0].weight
    assert torch.autograd.grad(logits.sum(), weight)[0].abs().max() > 0
    frozen = ready(FlattenNet()).requires_grad_(False)
    made = Cut(site(frozen), call(x), None, hold=False, differentiable=True)
    with torch.enable_grad(), made.active():
        frozen(x)
    assert made.leaf.requires_grad


def test_a_layer_in_inference_mode_is_copied() -> None:
    class Inside(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            with torch.inference_mode():
                features = self.features(x)
            return self.head(features.flatten(1))

    model, x = ready(Inside()), images(2)
    made, logits = cut(model, x)
    assert not made.leaf.is_inference()
    close(logits.detach(), ready_logits(model, x))


def ready_logits(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).clone()


class Wraps(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(x)


def test_the_first_tensor_of_what_a_layer_returns_is_the_layer() -> None:
    model = ready(FlattenNet())
    inner = model.features
    model.features = nn.Sequential(inner, Wraps(lambda a: {"map": a, "more": (a + 1, "text")}))

    def forward(x: Tensor) -> Tensor:
        found = model.features(x)
        return model.head((found["map"] + found["more"][0]).flatten(1))

    model.forward = forward
    x = images(2)
    made, logits = cut(model, x)
    close(made.leaf.detach(), inner(x).detach())
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), made.leaf)
    close(gradient[0], model.head.weight[1].reshape(6, 8, 8).detach())  # the other one is a constant here


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [(lambda a: None, "NoneType"), (lambda a: (a > 0, a), "tuple"), (lambda a: [], "list")],
)
def test_a_layer_without_a_float_tensor_is_refused(wrap: Callable[[Tensor], Any], kind: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), Wraps(wrap)).double().eval()
    with pytest.raises(LayerError, match=rf"layer='1' returned {kind} without a float tensor"):
        look(site(model, "1", output=lambda out: torch.zeros(2, 1)), call(images(2)))


# Held divisors --------------------------------------------------------------------------------


@pytest.mark.parametrize("hold", [True, False])
def test_normalisers_are_held_where_that_is_wanted(hold: bool) -> None:
    model, x = ready(NormNet()), images(2)
    made, logits = cut(model, x, hold=hold)
    close(logits.detach(), ready_logits(model, x))
    assert len(made.divisors) == hold
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), made.leaf)
    sums = (gradient * made.leaf).sum((1, 2, 3)).detach()
    with torch.no_grad():
        bias = model.head(model.norm.bias)[1]
    assert torch.allclose(sums, logits[:, 1].detach() - bias) is hold
    names = {origin.function for origin in made.watch.origins.values()}
    assert ("held_layer_norm" in names) is hold
    assert ("layer_norm" in names) is not hold
    assert made.watch.events == []


def test_normalisers_by_keyword_are_held_too() -> None:
    model, x = ready(NormNet()), images(2)
    model.norm.forward = lambda a: F.layer_norm(input=a, normalized_shape=(6,), weight=model.norm.weight)
    made, logits = cut(model, x, hold=True)
    close(logits.detach(), ready_logits(model, x))
    assert len(made.divisors) == 1


def test_normalisers_before_the_layer_are_left_alone() -> None:
    model = ready(NormNet())
    model.features = nn.Sequential(nn.GroupNorm(1, 2), model.features).double()
    x = images(2)
    for place in (Place(Tap("features")), Place(Tap("features"), all=True)):
        made = Cut(Site(model, place), call(x), None, hold=True, differentiable=False)
        with torch.no_grad(), made.active():
            logits = model(x)
        assert len(made.divisors) == 1
        changed = run_from(Site(model, place), call(x), 2 * made.leaf.detach(), made.divisors)
        with torch.no_grad():
            mean = 2 * made.leaf.mean((2, 3))
            wanted = model.head(made.divisors[0](mean))
        close(changed, wanted)
        close(logits.detach(), ready_logits(model, x))


# Watching from the start ----------------------------------------------------------------------


class MakesConstants(FlattenNet):
    """A grid that is made before the layer, and a gate that is made of the image."""

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.linspace(0, 1, 8, dtype=x.dtype) + 1
        gate = (x.detach().mean((1, 2, 3), keepdim=True) > 0) + 1.0 if self.gated else 1.0
        return self.head((self.features(x) * grid * gate).flatten(1))

    gated = False


@pytest.mark.parametrize("gated", [False, True])
def test_constants_made_before_the_layer_are_known_where_all_is_watched(gated: bool) -> None:
    model, x = ready(MakesConstants()), images(2)
    model.gated = gated
    for everything in (False, True):
        place = Place(Tap("features"), all=everything)
        made = Cut(Site(model, place), call(x), None, hold=False, differentiable=False)
        with torch.no_grad(), made.active():
            model(x)
        assert bool(made.watch.events) is (gated or not everything)


# The model with another output of the layer ---------------------------------------------------


@pytest.mark.parametrize("layer", ["features", "features.0", "flatten()"])
def test_the_model_goes_on_with_what_it_is_given(layer: str) -> None:
    model, x = ready(FlattenNet()), images(2)
    output, logits = look(site(model, layer), call(x), inference=False)
    close(run_from(site(model, layer), call(x), output), logits)
    half = run_from(site(model, layer), call(x), output / 2)
    rest = model.features[1] if layer == "features.0" else nn.Identity()
    close(half, model.head(rest(output / 2).flatten(1)).detach())
    assert not half.requires_grad


def test_what_is_given_is_not_written_to() -> None:
    model, x = ready(AllButLast()), images(2)
    given = torch.ones(2, 6, 8, 8, dtype=torch.float64)
    run_from(site(model), call(x), given)
    assert bool((given == 1).all())


def test_a_repeated_layer_is_replaced_where_it_is_meant() -> None:
    model, x = ready(Shared()), images(2)
    zeros = torch.zeros(2, 6, 8, 8, dtype=torch.float64)
    last = run_from(site(model, "relu#3"), call(x), zeros)
    close(last, model.head.bias.expand(2, -1).detach())
    second = run_from(site(model, "relu#2"), call(x), zeros)
    with torch.no_grad():
        close(second, model.head(model.relu(model.again(zeros)).flatten(1)))


def test_held_normalisers_are_used_in_their_order() -> None:
    class Two(NormNet):
        def forward(self, x: Tensor) -> Tensor:
            z = self.features(x).mean((2, 3))
            return self.head(F.rms_norm(self.norm(z), (6,)))

    model, x = ready(Two()), images(2)
    made, _ = cut(model, x, hold=True)
    first, second = made.divisors
    given = 3 * made.leaf.detach() + 1
    with torch.no_grad():
        wanted = model.head(second(first(given.mean((2, 3)))))
    close(run_from(site(model), call(x), given, made.divisors), wanted)
    plain = run_from(site(model), call(x), given)
    assert (plain - wanted).abs().max() > 0.1
    assert made.divisors == [first, second]
    with pytest.raises(LayerError, match="layer='features' is followed by other normalisers than before"):
        run_from(site(model), call(x), given, made.divisors[:1])


def test_a_layer_that_is_not_met_is_an_error() -> None:
    class Spare(FlattenNet):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.ReLU()

    with pytest.raises(LayerError, match="'spare' was not called"):
        run_from(site(ready(Spare()), "spare"), call(images(2)), torch.zeros(1))


def test_running_from_a_layer_keeps_to_the_selected_output() -> None:
    model, x = ready(SegNet()), images(2)
    output, _ = look(site(model, output="out"), call(x))
    close(run_from(site(model, output="out"), call(x), output), model(x)["out"].detach())


# The model as it is ---------------------------------------------------------------------------


@pytest.mark.parametrize("inference", [True, False])
def test_a_look_changes_nothing_and_sees_copies(inference: bool) -> None:
    model, x = ready(AllButLast()), images(2)
    output, logits = look(site(model), call(x), inference=inference)
    close(output.clone(), model.features(x).detach())
    close(logits, ready_logits(model, x))
    assert not logits.is_inference()
    assert output.is_inference() is inference
    with torch.no_grad():
        logits.zero_()
    close(look(site(model), call(x))[1], ready_logits(model, x))


def test_a_look_can_be_at_a_call() -> None:
    model, x = ready(FunctionalNet()), images(2)
    place = Place(parse("relu()#2"), "conv2", 1, 1)
    output, _ = look(Site(model, place), call(x))
    with torch.no_grad():
        close(output.clone(), F.relu(model.conv2(F.relu(model.conv1(x)))))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = FlattenNet()

    def forward(self, row: Tensor, picture: Tensor) -> Tensor:
        return self.net(picture) + row.sum(1, keepdim=True)  # both have the same batch


def test_other_images_at_a_layer() -> None:
    model, x, others = ready(FlattenNet()), images(2), images(3)
    close(output_at(laid_out(site(model), call(x)), call(x), others), model.features(others).detach())
    both = ready(TwoInputs())
    both.net = model
    given = call((torch.zeros(2, 3), x))
    close(
        output_at(laid_out(site(both, "net.features"), given), given, others), model.features(others).detach()
    )


# Batch normalisation --------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("ndim", [0, 1, 2, 3])
def test_batch_norm_of_one_image_is_scale_and_shift(ndim: int, affine: bool) -> None:
    kind = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[ndim]
    norm = ready(kind(3, affine=affine, eps=0.3))
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias)
    x = torch.randn(1, 3, *[4] * ndim, dtype=torch.float64, requires_grad=True)
    given = (norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.1, norm.eps)
    ours, theirs = _batch_norm(x, *given), F.batch_norm(x, *given)
    close(ours, theirs)
    assert "BatchNorm" in theirs.grad_fn.name()
    assert "BatchNorm" not in ours.grad_fn.name()
    two = _batch_norm(torch.cat([x, x]), *given)
    assert "BatchNorm" in two.grad_fn.name()
    close(two[:1], theirs)
    weights = torch.randn_like(ours)
    (ours_gradient,) = torch.autograd.grad((ours * weights).sum(), x)
    scale = (norm.running_var + 0.3).rsqrt() * (norm.weight if affine else 1)
    close(ours_gradient, (weights * scale.view(1, 3, *[1] * ndim)).detach())


def test_batch_norm_without_statistics_or_in_training_is_torchs() -> None:
    x = torch.randn(1, 3, 4, 4)
    mean, var = torch.zeros(3), torch.ones(3)
    close(_batch_norm(x, None, None, training=True), F.batch_norm(x, None, None, training=True))
    close(
        _batch_norm(x, mean.clone(), var.clone(), training=True),
        F.batch_norm(x, mean.clone(), var.clone(), training=True),
    )
    half = x.bfloat16()
    made = _batch_norm(half, mean, var)
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, F.batch_norm(half, mean, var))


def test_the_gradient_of_batch_norm_does_not_depend_on_the_size_of_the_batch() -> None:
    """PyTorch 2.14 gets it wrong for one image on a CPU, where the gradient has its channels last."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU())
            self.norm = nn.BatchNorm2d(6)
            self.head = nn.Linear(6 * 64, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.features(x)).permute(0, 2, 3, 1).flatten(1))

    model, x = ready(Tokens()), images(2)
    nn.init.uniform_(model.norm.weight, 0.5, 1.5)
    both = run(model, x, target=1).trace().gradients
    alone = run(model, x[:1], target=1).trace().gradients
    close(alone[0], both[0])


def test_the_place_of_a_site_may_be_watched_whole() -> None:
    """`run_from` looks for nothing before the layer, whatever else was watched before."""
    model, x, seen = ready(NormNet()), images(2), []
    here = replace(site(model), place=Place(Tap("features"), all=True))
    made, _ = cut(model, x, hold=True)

    def divisor(z: Tensor) -> Tensor:
        seen.append(torch._C._len_torch_dispatch_stack())
        return made.divisors[0](z)

    run_from(here, call(x), made.leaf.detach(), [divisor])
    assert seen == [0]
