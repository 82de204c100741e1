"""Hostile situations: each must be right or end in one clear error, never silently wrong.

Every row of ``docs/hostile.md`` is a test here. A row gives an outcome, ``right`` or the error's first words,
and the page must say the same.
"""

import copy
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hirescam
from hirescam.errors import HirescamError
from passes.made import run
from toys import Output

PAGE = Path(__file__).parents[1] / "docs" / "hostile.md"
CLASSES = 10


class Net(nn.Module):
    """Convolution, batch norm, ReLU, convolution, activation, pooling to 4 × 4, flatten, linear."""

    def __init__(self, after: Callable[[Tensor], Tensor] = torch.relu, wrap: Callable = lambda s: s) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.unused = nn.Conv2d(6, 8, 3, padding=1)
        self.never = nn.Conv2d(6, 8, 3, padding=1)
        self.after, self.wrap = after, wrap
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8 * 16, CLASSES)

    def forward(self, x: Tensor) -> object:
        x = torch.relu(self.bn1(self.conv1(x)))
        self.unused(x)
        x = self.after(self.conv2(x))
        return self.wrap(self.fc(self.drop(self.pool(x).flatten(1))))


def build(after: Callable[[Tensor], Tensor] = torch.relu, wrap: Callable = lambda s: s) -> Net:
    torch.manual_seed(0)
    model = Net(after, wrap)
    nn.init.uniform_(model.bn1.running_mean, -0.2, 0.2)
    nn.init.uniform_(model.bn1.running_var, 0.5, 1.5)
    return model.eval()


def pictures(*shape: int) -> Tensor:
    return torch.randn(shape or (2, 3, 16, 16), generator=torch.Generator().manual_seed(1))


def reference(model: Net, x: Tensor, target: int = 1, after: Callable | None = None) -> Tensor:
    """HiResCAM at ``conv2`` in float64, step by step, on a clone."""
    model = copy.deepcopy(model).double().eval()
    x = x.double()
    with torch.enable_grad():
        activations = model.conv2(torch.relu(model.bn1(model.conv1(x)))).detach().requires_grad_()
        rest = (after or model.after)(activations.clone())
        score = model.fc(model.pool(rest).flatten(1))[:, target].sum()
        (gradient,) = torch.autograd.grad(score, activations)
    return (gradient * activations.detach()).sum(1)


def check(result: hirescam.Explanation, expected: Tensor, tolerance: float = 1e-5) -> str:
    got = result.raw[:, 0].double()
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()
    return "right"


def error_of(function: Callable[[], object]) -> str:
    with pytest.raises(HirescamError) as caught:
        function()
    message = str(caught.value)
    assert "\n" not in message, "an error is one line"
    assert len(message) < 400
    return "error: " + message


def explain(model: nn.Module, x: Tensor, **options: object) -> hirescam.Explanation:
    return hirescam.explain(model, x, **{"target": 1, "layer": "conv2", **options})


ROWS: dict[str, tuple[str, Callable[[], str]]] = {}


def row(slug: str, outcome: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    def note(function: Callable[[], str]) -> Callable[[], str]:
        ROWS[slug] = (outcome, function)
        return function

    return note


# The model ------------------------------------------------------------------------------------


@row("train-mode", "error: model must be in evaluation mode")
def _() -> str:
    model = build().train()
    before = model.bn1.running_mean.clone()
    message = error_of(lambda: explain(model, pictures()))
    assert torch.equal(model.bn1.running_mean, before)
    part = build()
    part.drop.train()
    assert "its part 'drop' is in training mode" in error_of(lambda: explain(part, pictures()))
    return message


@row("frozen", "right")
def _() -> str:
    model = build().requires_grad_(False)
    return check(explain(model, pictures()), reference(build(), pictures()))


@row("frozen-backbone", "right")
def _() -> str:
    model = build().requires_grad_(False)
    model.fc.requires_grad_(True)
    return check(explain(model, pictures()), reference(build(), pictures()))


@row("weight-norm", "right")
def _() -> str:
    model = build()
    expected = reference(model, pictures())
    nn.utils.parametrizations.weight_norm(model.conv2)
    return check(explain(model, pictures()), expected)


@row("checkpoint", "right")
def _() -> str:
    model = build()
    expected = reference(model, pictures())
    inner = model.conv2.forward
    model.conv2.forward = lambda x: checkpoint(inner, x, use_reentrant=False)
    return check(explain(model, pictures()), expected)


@row("skip-path", "right, and the certificate says that there is a second path")
def _() -> str:
    class Skip(Net):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.bn1(self.conv1(x)))
            deep = self.conv2(h) * torch.cat([h, h[:, :2]], 1)
            return self.fc(self.pool(deep).flatten(1))

    torch.manual_seed(0)
    model, x = Skip().eval(), pictures()
    double = copy.deepcopy(model).double()
    h = torch.relu(double.bn1(double.conv1(x.double())))
    gate = torch.cat([h, h[:, :2]], 1)
    result = explain(model, x)
    assert result.certificate.bypass
    assert result.certificate.guarantee == "none"
    return check(result, reference(model, x, after=lambda a: a * gate.detach())) + (
        ", and the certificate says that there is a second path"
    )


@row("data-parallel", "right")
def _() -> str:
    return check(explain(nn.DataParallel(build()), pictures()), reference(build(), pictures()))


@row("compile-cold", "right")
def _() -> str:
    model = torch.compile(build(), backend="eager")
    return check(explain(model, pictures()), reference(build(), pictures()))


@row("compile-warm", "right")
def _() -> str:
    model = torch.compile(build(), backend="eager")
    inside = build()
    inside.conv2.compile(backend="eager")
    with torch.no_grad():
        model(pictures())
        inside(pictures())
    check(explain(inside, pictures()), reference(build(), pictures()))
    child = build()
    child.pool = torch.compile(child.pool, backend="eager")
    with torch.no_grad():
        child(pictures())
    assert hirescam.explain(child, pictures()).certificate.guarantee == "exact"
    check(explain(child, pictures()), reference(build(), pictures()))
    return check(explain(model, pictures()), reference(build(), pictures()))


@row("jit-export", "error: model is a TorchScript module; exported: right, by the names of its calls")
def _() -> str:
    model = build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, pictures())
        exported = torch.export.export(model, (pictures(),)).module()
    message = error_of(lambda: explain(traced, pictures()))
    for module in exported.modules():
        module.training = False
    result = hirescam.explain(exported, pictures(), target=1, layer="conv2d()#3")
    check(result, reference(model, pictures()))
    assert hirescam.explain(exported, pictures()).certificate.guarantee == "exact"
    return message.split(",")[0] + "; exported: right, by the names of its calls"


@row("quantised", "error: the score does not depend on layer='conv2'")
def _() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engines = torch.backends.quantized.supported_engines
        torch.backends.quantized.engine = "x86" if "x86" in engines else "qnnpack"
        model = torch.ao.quantization.quantize_dynamic(build(), {nn.Linear}, dtype=torch.qint8)
        message = error_of(lambda: explain(model, pictures()))
    assert "quantised layers" in message
    return message


# In place after the layer ---------------------------------------------------------------------

OTHER = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(2))


def plus(x: Tensor) -> Tensor:
    x += OTHER.to(x)
    return x


def times(x: Tensor) -> Tensor:
    x *= OTHER.to(x)
    return x


def masked(x: Tensor) -> Tensor:
    x[:, :2] = 0
    return x


def on_a_view(x: Tensor) -> Tensor:
    x[:, 2:].relu_()
    return x


IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "inplace-relu": nn.ReLU(inplace=True),
    "inplace-leaky-relu": nn.LeakyReLU(0.1, inplace=True),
    "inplace-silu": nn.SiLU(inplace=True),
    "inplace-hardswish": nn.Hardswish(inplace=True),
    "inplace-elu": nn.ELU(inplace=True),
    "inplace-add": plus,
    "inplace-mul": times,
}
MORE_IN_PLACE: list[Callable[[Tensor], Tensor]] = [
    nn.ReLU6(inplace=True), nn.Hardtanh(inplace=True), nn.Mish(inplace=True), nn.SELU(inplace=True),
    nn.CELU(inplace=True), nn.Threshold(0.1, 0.0, inplace=True), nn.Hardsigmoid(inplace=True),
    nn.RReLU(inplace=True).eval(), torch.sigmoid_, torch.tanh_, torch.relu_, masked, on_a_view,
    lambda x: x.clamp_(min=0), lambda x: x.mul_(2).add_(1), lambda x: x.abs_(),
    lambda x: torch.add(x, 1, out=torch.empty(0)) if not x.requires_grad else x.add_(1),
]  # fmt: skip


def in_place_row(slug: str, op: Callable[[Tensor], Tensor]) -> None:
    @row(slug, "right")
    def _() -> str:
        model = build(op)
        return check(explain(model, pictures()), reference(model, pictures()))


for _slug, _op in IN_PLACE.items():
    in_place_row(_slug, _op)


@pytest.mark.parametrize("op", MORE_IN_PLACE, ids=range(len(MORE_IN_PLACE)))
def test_other_ops_in_place_after_the_layer(op: Callable[[Tensor], Tensor]) -> None:
    model = build(op)
    if isinstance(op, nn.Module):
        model.after = op
    check(explain(model, pictures()), reference(model, pictures()))


@pytest.mark.parametrize("op", [*IN_PLACE.values(), masked, on_a_view], ids=range(9))
def test_rescoring_after_an_op_in_place_is_right(op: Callable[[Tensor], Tensor]) -> None:
    """The head is replayed from a list of calls; in-place ones must start afresh every time."""
    model = build(op).double()
    x = pictures().double()
    traced = run(model, x, "conv2", target=1).trace()
    assert traced.head_replayed or op in (plus, times)  # a tensor from outside the model: all of it runs
    with torch.no_grad():
        for _ in range(2):
            changed = torch.stack([traced.activations, traced.activations * 0.5, traced.activations * 0])
            got = traced.rescore(changed)
            for factor, scores in zip((1, 0.5, 0), got, strict=True):
                rest = op((traced.activations * factor).clone())
                expected = model.fc(model.pool(rest).flatten(1))[:, 1]
                torch.testing.assert_close(scores[:, 0], expected)


# The layer ------------------------------------------------------------------------------------


@row("never-called", "error: layer='never' is not on the way from the image to the score")
def _() -> str:
    return error_of(lambda: explain(build(), pictures(), layer="never"))


@row("unused", "error: the score does not depend on layer='unused'")
def _() -> str:
    return error_of(lambda: explain(build(), pictures(), layer="unused"))


class Twice(Net):
    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.same(self.conv2(x)))
        return self.fc(self.pool(self.relu(self.same(x))).flatten(1))


def twice_reference(model: Twice, x: Tensor) -> dict[str, Tensor]:
    double = copy.deepcopy(model).double()
    first = double.same(double.conv2(torch.relu(double.bn1(double.conv1(x.double())))))
    second = double.same(torch.relu(first))
    score = double.fc(double.pool(torch.relu(second)).flatten(1))[:, 1].sum()
    gradients = torch.autograd.grad(score, [first, second])
    pairs = zip(("#1", "#2"), (first, second), gradients, strict=True)
    return {name: (g * a).sum(1).detach() for name, a, g in pairs}


@row("shared-conv", "error: layer='same' is called 2 times in one forward pass; `same#1` and `same#2`: right")
def _() -> str:
    torch.manual_seed(0)
    model = Twice().eval()
    message = error_of(lambda: explain(model, pictures(), layer="same"))
    assert "'same#1', 'same#2'" in message
    for number, expected in twice_reference(model, pictures()).items():
        check(explain(model, pictures(), layer="same" + number), expected)
    return message.split(":")[0] + ":" + message.split(":")[1] + "; `same#1` and `same#2`: right"


@row("shared-relu", "error: layer='relu' is called 3 times in one forward pass")
def _() -> str:
    torch.manual_seed(0)
    return error_of(lambda: explain(Twice().eval(), pictures(), layer="relu"))


# The calling code -----------------------------------------------------------------------------


@row("no-grad", "right")
def _() -> str:
    with torch.no_grad():
        result = explain(build(), pictures())
        assert not torch.is_grad_enabled()
    return check(result, reference(build(), pictures()))


@row("inference-mode", "right")
def _() -> str:
    with torch.inference_mode():
        result = explain(build(), pictures())
        assert torch.is_inference_mode_enabled()
    return check(result, reference(build(), pictures()))


@row("inference-tensor", "right")
def _() -> str:
    with torch.inference_mode():
        x = pictures() * 1
    return check(explain(build(), x), reference(build(), pictures()))


@row("inference-model", "right")
def _() -> str:
    with torch.inference_mode():
        model = build()
    return check(explain(model, pictures()), reference(build(), pictures()))


def in_threads(work: Callable[[int], None]) -> None:
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def race(explainer_for: Callable[[nn.Module], Callable[..., hirescam.Explanation]]) -> str:
    model = build()
    inputs = [pictures(), pictures().flip(-1) * 2]
    expected = [reference(model, x) for x in inputs]

    def work(number: int) -> None:
        for _ in range(40):
            check(explainer_for(model)(inputs[number], target=1), expected[number])
        with torch.no_grad():
            assert torch.isfinite(model(inputs[number])).all()

    in_threads(work)
    return "right"


@row("two-threads", "right")
def _() -> str:
    return race(lambda model: hirescam.Explainer(model, layer="conv2"))


@row("two-threads-one-object", "right")
def _() -> str:
    made: list[hirescam.Explainer] = []

    def shared(model: nn.Module) -> hirescam.Explainer:
        if not made:
            made.append(hirescam.Explainer(model, layer="conv2"))
        return made[0]

    return race(shared)


@row("exception", "clean afterwards")
def _() -> str:
    model = build(lambda x: x @ torch.ones(3, 3))
    message = error_of(lambda: explain(model, pictures()))
    assert "the model failed on images of shape (2, 3, 16, 16) (float32)" in message
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.is_grad_enabled()
    assert not torch._C._len_torch_function_stack()
    return "clean afterwards"


@row("swallowed", "error: target names class 99, but the model has 10 classes")
def _() -> str:
    explainer = hirescam.Explainer(build(), layer="conv2")
    return error_of(lambda: explainer(pictures(), target=99))


# What is left behind --------------------------------------------------------------------------


@row("user-grad", "kept")
def _() -> str:
    model = build()
    model(pictures()).sum().backward()
    before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    explain(model, pictures())
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert (old is None and parameter.grad is None) or torch.equal(parameter.grad, old)
    return "kept"


@row("hooks", "none")
def _() -> str:
    model = build()
    explainer = hirescam.Explainer(model)
    explainer(pictures())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    return "none"


@row("param-grad", "none")
def _() -> str:
    model = build()
    explain(model, pictures())
    assert all(parameter.grad is None for parameter in model.parameters())
    return "none"


@row("input-grad", "no")
def _() -> str:
    x = pictures().requires_grad_()
    result = explain(build(), x)
    assert x.grad is None
    assert not result.raw.requires_grad
    return "no"


# Numbers --------------------------------------------------------------------------------------


def in_dtype(dtype: torch.dtype, tolerance: float) -> str:
    result = explain(build().to(dtype), pictures().to(dtype))
    wanted = torch.float64 if dtype is torch.float64 else torch.float32
    assert result.raw.dtype == wanted
    return check(result, reference(build(), pictures()), tolerance)


@row("float16", "right")
def _() -> str:
    return in_dtype(torch.float16, 0.02)


@row("bfloat16", "right")
def _() -> str:
    return in_dtype(torch.bfloat16, 0.1)


@row("float64", "right")
def _() -> str:
    return in_dtype(torch.float64, 1e-12)


@row("autocast", "right")
def _() -> str:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = explain(build(), pictures())
    assert result.raw.dtype == torch.float32
    return check(result, reference(build(), pictures()), 0.1)


def broken(value: float) -> str:
    x = pictures()
    x[0, 0, 3, 3] = value
    return error_of(lambda: explain(build(), x))


@row("nan", "error: images[0] has values that are NaN or infinite")
def _() -> str:
    return broken(float("nan"))


@row("inf", "error: images[0] has values that are NaN or infinite")
def _() -> str:
    return broken(float("inf"))


# The input ------------------------------------------------------------------------------------


@row("non-square", "right")
def _() -> str:
    x = pictures(2, 3, 24, 48)
    return check(explain(build(), x), reference(build(), x))


@row("batch", "right")
def _() -> str:
    x = pictures(16, 3, 16, 16)
    whole = explain(build(), x)
    alone = explain(build(), x[5:6])
    torch.testing.assert_close(whole.raw[5:6], alone.raw, rtol=1e-4, atol=1e-6)
    return check(whole, reference(build(), x))


@row("empty-batch", "error: images is empty")
def _() -> str:
    return error_of(lambda: explain(build(), torch.zeros(0, 3, 16, 16)))


@row("unbatched", "error: the model failed on images of shape (3, 16, 16)")
def _() -> str:
    message = error_of(lambda: explain(build(), pictures()[0]))
    assert "images.unsqueeze(0)" in message
    return message


@row("uint8", "error: images must be a float tensor, got torch.uint8")
def _() -> str:
    return error_of(lambda: explain(build(), torch.zeros(2, 3, 16, 16, dtype=torch.uint8)))


# The target -----------------------------------------------------------------------------------


@row("class-out-of-range", "error: target names class 10, but the model has 10 classes")
def _() -> str:
    return error_of(lambda: explain(build(), pictures(), target=10))


@row("class-negative", "error: target names class -1, but the model has 10 classes")
def _() -> str:
    return error_of(lambda: explain(build(), pictures(), target=-1))


@row("too-few-targets", "error: target has shape (1,) for 2 image(s)")
def _() -> str:
    return error_of(lambda: explain(build(), pictures(), target=[1]))


@row("too-many-targets", "error: target has shape (3,) for 2 image(s)")
def _() -> str:
    return error_of(lambda: explain(build(), pictures(), target=[1, 2, 3]))


# The output -----------------------------------------------------------------------------------


@row("returns-dict", "right with `logits`, `out` or one entry; else error: the model returned a dict")
def _() -> str:
    expected = reference(build(), pictures())
    for wrap in (lambda s: {"logits": s, "x": s * 2}, lambda s: {"out": s}, lambda s: {"y": s}):
        check(explain(build(wrap=wrap), pictures()), expected)
    both = build(wrap=lambda s: {"a": s * 2, "b": s})
    check(explain(both, pictures(), output="b"), expected)
    message = error_of(lambda: explain(both, pictures()))
    assert "Explainer(model, output=0)" in message
    assert "keys ['a', 'b']" in error_of(lambda: explain(both, pictures(), output="c"))
    return f"right with `logits`, `out` or one entry; else {message.split(' with')[0]}"


@row("returns-tuple", "right with one entry; else error: the model returned a tuple of 2 entries")
def _() -> str:
    expected = reference(build(), pictures())
    check(explain(build(wrap=lambda s: (s,)), pictures()), expected)
    both = build(wrap=lambda s: (s * 2, s))
    check(explain(both, pictures(), output=1), expected)
    return f"right with one entry; else {error_of(lambda: explain(both, pictures())).split(', which')[0]}"


@row("returns-dataclass", "right")
def _() -> str:
    return check(explain(build(wrap=Output), pictures()), reference(build(), pictures()))


@row("returns-squeezed", "error: the model's output has shape (10,) for 1 image(s)")
def _() -> str:
    model = build(wrap=torch.squeeze)
    message = error_of(lambda: explain(model, pictures()[:1]))
    result = explain(model, pictures()[:1], output=lambda out: out.reshape(1, -1))
    check(result, reference(build(), pictures()[:1]))
    return message


@row("returns-scalar", "right")
def _() -> str:
    model = build(wrap=lambda s: s[:, 1])
    return check(explain(model, pictures(), target=None), reference(build(), pictures()))


@row("returns-segmentation", "error: the model's output has shape (2, 10, 4, 4), one score per position")
def _() -> str:
    model = build(wrap=lambda s: s[:, :, None, None].expand(-1, -1, 4, 4))
    message = error_of(lambda: explain(model, pictures()))
    region = hirescam.Region(1, torch.ones(4, 4) / 16)
    check(explain(model, pictures(), target=region), reference(build(), pictures()))
    return message


@pytest.mark.parametrize("slug", sorted(ROWS))
def test_row(slug: str) -> None:
    outcome, function = ROWS[slug]
    assert function().startswith(outcome)


def test_the_page_says_what_the_tests_say() -> None:
    cells = dict(re.findall(r"<!-- hirescam: ([\w-]+) -->(.*?) \|\n", PAGE.read_text("utf-8")))
    assert {slug: outcome for slug, (outcome, _) in ROWS.items()} == {
        slug: cell.strip() for slug, cell in cells.items()
    }


def test_a_wrong_map_would_be_noticed() -> None:
    """The comparison itself must be able to fail."""
    result = explain(build(), pictures())
    with pytest.raises(AssertionError):
        check(result, reference(build(), pictures()) * 1.001)
    with pytest.raises(AssertionError):
        check(explain(build(), pictures(), rule="gradcam"), reference(build(), pictures()))
