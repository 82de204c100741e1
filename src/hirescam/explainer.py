"""The friendly verbs: choose and certify a layer once, trace, apply a rule, freeze the result."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hirescam import certificate as certificates
from hirescam import selection, taps, targets
from hirescam.borrow import Call, Inputs, as_call, check_model, first_not_finite, unwrap
from hirescam.certificate import Certificate, Guarantee
from hirescam.closed_form import ClosedForm, Maps, StaleHead
from hirescam.compiled import Compiled
from hirescam.cut import Request, look, output_at
from hirescam.errors import LayerError, ModelError
from hirescam.explanation import Explanation, Origin
from hirescam.graph import Graph, Sighting, read
from hirescam.layout import infer
from hirescam.receptive_field import ReceptiveField, receptive_field
from hirescam.rulebook import Rule, get
from hirescam.selection import Layer
from hirescam.targets import OutputSelector, Region, Target, is_class_target, is_indexed
from hirescam.trace import Pass, Trace, forward

_CERTIFIED_IMAGES = 2
_MOST_PLANS = 16
_MOST_RENEWALS = 3  # in a row; a head that changes at every call, as in training, is not worth caching

LayerName = str | nn.Module | None
"""A layer by name, by module, or None for the automatic choice."""


@dataclass(frozen=True)
class _Plan:
    request: Request
    certificate: Certificate
    closed_form: ClosedForm | None
    compiled: Compiled | None = None

    @property
    def fresh(self) -> bool:
        """Whether what is kept of the network is still true of it."""
        known = (self.closed_form, self.compiled)
        return all(one.fresh for one in known if one is not None)


class Explainer:
    """Explains one model, again and again; the layer is chosen and certified at the first call.

    Args:
        model: any ``torch.nn.Module`` in evaluation mode. It is only borrowed.
        layer: name of a layer (see `hirescam.layers`), a module of the model, or None for the best.
        output: how to find the logits in what the model returns: key, index or function.
        grid: how locations lie on the image, such as ``(14, 14)``, for token models whose grid cannot be
            seen from the number of tokens.
        progress: called with (done, total) while a rule runs the network or its head many times.

    Example:
        >>> import torch, hirescam
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
        >>> explainer = hirescam.Explainer(model.eval())
        >>> result = explainer(torch.rand(2, 3, 8, 8))
        >>> result.raw.shape, str(result.certificate.guarantee)
        (torch.Size([2, 1, 6, 6]), 'exact')
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layer: LayerName = None,
        output: OutputSelector = None,
        grid: tuple[int, ...] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.model = unwrap(model)
        self._tap = None if layer is None else taps.find(self.model, layer)
        self._output = output
        self._grid = None if grid is None else tuple(grid)
        self._progress = progress
        self._plans: dict[object, _Plan] = {}
        self._renewed: Counter[object] = Counter()
        self._compiling = False
        self._lock = threading.Lock()

    def compile(self) -> "Explainer":
        """Run the network through ``torch.compile`` from now on, where the closed form answers.

        The next call for each size of image takes some ten seconds longer, and the weights are kept a second
        time, in the layout that the compiled code wants. Maps of the rule ``hirescam`` for classes are then
        faster than the plain forward pass; everything else (other rules, functions of the output, autocast,
        maps to be differentiated) runs as before. When the network is changed it is compiled again.

        Returns:
            This explainer.

        Raises:
            ModelError: at the next call, if the head is not exact or the network cannot be compiled.

        Example:
            >>> import hirescam, torchvision
            >>> explainer = hirescam.Explainer(torchvision.models.resnet18().eval()).compile()
        """
        with self._lock:
            self._compiling = True
            self._plans.clear()
        return self

    def of(self, model: nn.Module, *, layer: LayerName = None) -> "Explainer":
        """Return an explainer of another network with the same output and grid; None is the same layer."""
        layer = layer or (None if self._tap is None else self._tap.name)
        return Explainer(model, layer=layer, output=self._output, grid=self._grid, progress=self._progress)

    def __call__(
        self,
        images: Inputs,
        *,
        target: Target = None,
        rule: str | Rule = "hirescam",
        differentiable: bool = False,
    ) -> Explanation:
        """Explain a batch.

        Args:
            images: float tensor ``(b, c, *space)``, preprocessed; or a tuple or dict of the model's inputs.
            target: what to explain; None is the predicted class of each image. A function of the output is
                certified when it is first seen, so define it once, not at every call.
            rule: name of a rule, see `hirescam.rules`, or a rule with options of your own,
                ``hirescam.rules()["scorecam"].configure({...})``.
            differentiable: keep the graph, so that the maps can stand in a loss.

        Raises:
            HirescamError: the input, target, layer, rule or model cannot be used; the message says why.
        """
        chosen = get(rule)
        call = self._begin(images)
        plan, certified = self._plan_and_pass(call, target)
        if chosen.name == "hirescam" and is_indexed(target) and not differentiable:
            result = self._in_closed_form(call, plan, target, certified)
            if result is not None:
                return result
            plan = self._plan(call, target)
        hold = chosen.holds and plan.certificate.guarantee is Guarantee.CONDITIONAL
        request = replace(plan.request, target=target, hold=hold, differentiable=differentiable)
        finished = forward(self.model, call, request)
        return self._explanation(call, plan, chosen, _maps(finished, _map(chosen, finished)))

    def compare(
        self,
        images: Inputs,
        *,
        rules: Iterable[str | Rule] = ("hirescam", "gradcam"),
        target: Target = None,
    ) -> dict[str, Explanation]:
        """Explain with several rules and measure both laws on every map.

        Returns:
            One explanation for each rule, with `Explanation.laws` filled in.
        """
        call = self._begin(images)
        plan = self._plan(call, target)
        conditional = plan.certificate.guarantee is Guarantee.CONDITIONAL
        results = {}
        for chosen in map(get, rules):
            request = replace(plan.request, target=target, hold=conditional and chosen.holds)
            finished = forward(self.model, call, request)
            raw = _map(chosen, finished)
            laws = certificates.measure(finished.trace(), raw)
            result = self._explanation(call, plan, chosen, _maps(finished, raw))
            results[chosen.name] = replace(result, laws=laws)
        return results

    def trace(self, images: Inputs, *, target: Target = None) -> Trace:
        """Run the model once and return what a rule may know, for measurements of your own.

        On conditional heads the divisors of normalisers are held, as for the rule ``hirescam``.
        """
        call = self._begin(images)
        plan = self._plan(call, target)
        hold = plan.certificate.guarantee is Guarantee.CONDITIONAL
        return forward(self.model, call, replace(plan.request, target=target, hold=hold)).trace()

    def certified_pass(self, images: Inputs) -> Pass:
        """Run the model once on the first images, for the predicted classes, and return the whole pass."""
        call = self._begin(images).first(_CERTIFIED_IMAGES)
        return forward(self.model, call, self._plan(call, None).request)

    def certify(self, images: Inputs, *, target: Target = None) -> Certificate:
        """Certify the layer (the chosen one, or the best) for images like these."""
        return self._plan(self._begin(images), target).certificate

    def layers(self, images: Inputs, *, target: Target = None) -> list[Layer]:
        """Grade every tap by structure, in the order in which they run; one is marked as chosen."""
        call = self._begin(images)
        graph = self._read(call, target)
        found = selection.candidates(graph, call, self._grid)
        return selection.listing(graph, found, selection.choose(found, self.model))

    def _begin(self, images: Inputs) -> Call:
        check_model(self.model)
        return as_call(images)

    def _read(self, call: Call, target: Target) -> Graph:
        def scores(output: object) -> tuple[Tensor, Tensor]:
            logits = targets.logits_of(output, self._output, call.images.shape[0])
            return logits, targets.bind(target, logits).score(logits)

        return read(self.model, call, scores)

    def _plan(self, call: Call, target: Target) -> _Plan:
        return self._plan_and_pass(call, target)[0]

    def _plan_and_pass(self, call: Call, target: Target) -> tuple[_Plan, Pass | None]:
        """The plan and, where it had to be made, the pass over this call's first images that certified it."""
        key, certified = _key(call, target), None
        with self._lock:
            if key not in self._plans:
                self._plans[key], certified = self._make_plan(call, target, key)
            plan = self._plans[key] = self._plans.pop(key)  # the last used comes last
            while len(self._plans) > _MOST_PLANS:
                self._plans.pop(next(iter(self._plans)))
            return plan, certified

    def _in_closed_form(
        self, call: Call, plan: _Plan, target: Target, certified: Pass | None
    ) -> Explanation | None:
        """Maps without a backward pass; None where the gradient path has to answer."""
        closed_form = plan.closed_form
        if closed_form is None or call.key is not None:
            return None
        try:
            maps = closed_form.maps(*self._look(call, plan, certified), target)
        except StaleHead:
            self._renew(call, target)
            return None
        if maps is None:
            return None
        self._renewed.pop(_key(call, target), None)
        return self._explanation(call, plan, get("hirescam"), maps)

    def _look(self, call: Call, plan: _Plan, certified: Pass | None) -> tuple[Tensor, Tensor]:
        """The layer's output and the logits: of the pass that was just made, or of a new one."""
        if certified is not None and len(certified.logits) == len(call.images):
            return certified.leaf.detach(), certified.logits.detach().clone()
        if not plan.fresh:
            raise StaleHead
        if plan.compiled is not None:
            return plan.compiled(call.images)
        return look(self.model, call, plan.request)

    def _renew(self, call: Call, target: Target) -> None:
        """Certify again before the next answer: the head is not what it was."""
        key = _key(call, target)
        with self._lock:
            self._plans.pop(key, None)
            self._renewed[key] += 1

    def _make_plan(self, call: Call, target: Target, key: object) -> tuple[_Plan, Pass]:
        if is_class_target(target) and not isinstance(target, Region):
            target = None
            call = call.first(_CERTIFIED_IMAGES)
        graph = self._read(call, target)
        sighting = self._sighting(graph, call)
        tap = graph.name(sighting.tap)
        request = Request(
            tap, target, self._output, self._grid, anchor=sighting.anchor, progress=self._progress
        )
        certificate, finished = certificates.certify_tap(self.model, call, request, graph, sighting)
        exact = certificate.guarantee is Guarantee.EXACT and is_indexed(target)
        steady = self._renewed[key] < _MOST_RENEWALS
        closed_form = ClosedForm(finished, pooled=certificate.same_as_gradcam) if exact and steady else None
        plan = _Plan(replace(request, target=None), certificate, closed_form)
        if self._compiling and is_indexed(target):
            plan = replace(plan, compiled=_compiled(finished, certificate) if steady else None)
        return plan, finished

    def _sighting(self, graph: Graph, call: Call) -> Sighting:
        if self._tap is None:
            found = selection.candidates(graph, call, self._grid)
            return selection.choose(found, self.model).sighting
        seen = graph.sighting(self._tap)
        if not seen:
            raise LayerError(
                f"layer={self._tap.name!r} is not on the way from the image to the score (not called in "
                "this forward pass, or its output is not a map that the score depends on): see "
                "hirescam.layers(model, images)"
            )
        if len(seen) > 1:
            names = ", ".join(repr(item.tap.name) for item in seen[:8])
            raise LayerError(
                f"layer={self._tap.name!r} is called {len(seen)} times in one forward pass: say which "
                f"call, one of {names}"
            )
        return seen[0]

    def _explanation(self, call: Call, plan: _Plan, chosen: Rule, maps: Maps) -> Explanation:
        check_finite(maps.raw)
        image_size = tuple(call.images.shape[2:])

        def field(cell: tuple[int, ...] | None) -> ReceptiveField:
            return self._receptive_field(call, plan.request, cell)

        return Explanation(
            raw=maps.raw,
            score=maps.score,
            target=maps.index,
            logits=maps.logits,
            layer=plan.certificate.layer,
            rule=chosen.name,
            certificate=plan.certificate,
            image_size=image_size,
            grid=maps.layout.grid,
            prefix=maps.layout.prefix,
            model=type(self.model).__name__,
            origin=Origin(self.model, field),
        )

    def _receptive_field(self, call: Call, request: Request, cell: tuple[int, ...] | None) -> ReceptiveField:
        images = call.images
        size = tuple(images.shape[2:])

        def cells(masks: Tensor) -> Tensor:
            marked = masks.to(images)[:, None].expand(-1, images.shape[1], *size)
            output = output_at(self.model, call, request, marked)
            layout = infer(tuple(output.shape), size, grid=self._grid)
            if layout is None:
                raise ModelError("the layer has no grid of locations, so it has no receptive field")
            reached = layout.read(output).isnan().any(1)
            return reached[:, layout.prefix :].unflatten(1, layout.grid) if layout.prefix else reached

        grid = tuple(cells(torch.zeros((1, *size))).shape[1:])
        return receptive_field(cells, size, grid, cell)


def _compiled(finished: Pass, certificate: Certificate) -> Compiled | None:
    if certificate.guarantee is not Guarantee.EXACT:
        raise ModelError(
            f"compile() needs an exact head, and layer {certificate.layer!r} is {certificate.guarantee}: "
            f"{certificate.reason} Explain it with an Explainer that is not compiled"
        )
    several, half = finished.call.key is not None, torch.is_autocast_enabled(finished.leaf.device.type)
    return None if several or half else Compiled(finished)


def _map(chosen: Rule, finished: Pass) -> Tensor:
    parts = [chosen.function(finished.trace(part)) for part in finished.chunks()]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _maps(finished: Pass, raw: Tensor) -> Maps:
    score = finished.kept(finished.score).to(raw.dtype)
    return Maps(raw, score, finished.bound.index, finished.kept(finished.logits), finished.layout)


def _key(call: Call, target: Target) -> tuple[object, ...]:
    """What a certificate depends on: the kind of image, of score and of arithmetic."""
    images = call.images
    kind = "class" if is_class_target(target) else target
    half = torch.is_autocast_enabled(images.device.type)
    return (tuple(images.shape[1:]), images.dtype, images.device, half, kind)


def check_finite(raw: Tensor) -> None:
    """Refuse maps ``(b, t, *space)`` with NaN or infinite values.

    Raises:
        ModelError: there is one; the message names the image.
    """
    bad = first_not_finite(raw)
    if bad is not None:
        raise ModelError(
            f"the map of images[{bad}] has NaN or infinite values: activations or gradients overflow at "
            "this layer (in half precision, try float32)"
        )


def explain(  # noqa: PLR0913 - the constructor's and the call's arguments, in one place
    model: nn.Module,
    images: Inputs,
    *,
    target: Target = None,
    layer: LayerName = None,
    rule: str | Rule = "hirescam",
    output: OutputSelector = None,
    grid: tuple[int, ...] | None = None,
    differentiable: bool = False,
) -> Explanation:
    """Explain a batch of images with one call; keep an `Explainer` for more than one.

    Args:
        model: any ``torch.nn.Module`` in evaluation mode.
        images: float tensor ``(b, c, *space)``, preprocessed.
        target: what to explain; None is the predicted class of each image.
        layer: name or module; None chooses the strongest guarantee.
        rule: name of a rule.
        output: how to find the logits in what the model returns.
        grid: how tokens lie on the image, where that cannot be seen.
        differentiable: keep the graph, so that the maps can stand in a loss.

    Example:
        >>> import torch, hirescam
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        ...                       nn.Linear(4, 2)).eval()
        >>> result = hirescam.explain(model, torch.rand(1, 1, 16), target=1)
        >>> bool((result.raw.sum(-1) + result.offset - result.logits[:, 1:]).abs().max() < 1e-6)
        True
    """
    explainer = Explainer(model, layer=layer, output=output, grid=grid)
    return explainer(images, target=target, rule=rule, differentiable=differentiable)


def certify(
    model: nn.Module,
    images: Inputs,
    layer: LayerName = None,
    *,
    target: Target = None,
    output: OutputSelector = None,
    grid: tuple[int, ...] | None = None,
) -> Certificate:
    """Say what is guaranteed about HiResCAM at one layer of a model.

    Args:
        model: any ``torch.nn.Module`` in evaluation mode.
        images: a few typical images ``(b, c, *space)``; the graph is read from a pass over them.
        layer: name or module; None certifies the layer that would be chosen.
        target: what is explained; matters only for functions and regions.
        output: how to find the logits in what the model returns.
        grid: how tokens lie on the image, where that cannot be seen.
    """
    return Explainer(model, layer=layer, output=output, grid=grid).certify(images, target=target)


def layers(
    model: nn.Module,
    images: Inputs,
    *,
    output: OutputSelector = None,
    grid: tuple[int, ...] | None = None,
) -> list[Layer]:
    """List every place where the model can be explained, with its guarantee and the automatic choice."""
    return Explainer(model, output=output, grid=grid).layers(images)
