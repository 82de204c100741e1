"""The friendly verbs: choose and certify a layer once, trace, apply a rule, freeze the result."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from hirescam.closed_form import Maps, StaleHead
from hirescam.errors import ModelError
from hirescam.explanation import Explanation, Origin
from hirescam.passes import taps
from hirescam.passes.borrow import Call, Inputs, as_call, check_model, first_not_finite, unwrap
from hirescam.passes.cut import Request, look, output_at
from hirescam.passes.layout import infer
from hirescam.passes.targets import OutputSelector, Target, is_indexed
from hirescam.passes.trace import Pass, Trace, forward
from hirescam.planning import CERTIFIED_IMAGES, Plan, Planner
from hirescam.proof import selection
from hirescam.proof.certificate import Certificate, Guarantee
from hirescam.proof.laws import measure
from hirescam.proof.selection import Layer
from hirescam.receptive_field import ReceptiveField, receptive_field
from hirescam.rulebook import Rule, get

LayerName = str | nn.Module | None
"""A layer by name, by module, or None for the automatic choice."""


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
        tap = None if layer is None else taps.find(self.model, layer)
        self._planner = Planner(self.model, tap, output, None if grid is None else tuple(grid), progress)

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
        self._planner.compile()
        return self

    def of(self, model: nn.Module, *, layer: LayerName = None) -> "Explainer":
        """Return an explainer of another network with the same output and grid; None is the same layer."""
        own = self._planner
        layer = layer or (None if own.tap is None else own.tap.name)
        return Explainer(model, layer=layer, output=own.output, grid=own.grid, progress=own.progress)

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
        plan, certified = self._planner.plan_and_pass(call, target)
        if chosen.name == "hirescam" and is_indexed(target) and not differentiable:
            result = self._in_closed_form(call, plan, target, certified)
            if result is not None:
                return result
            current, again = self._planner.plan_and_pass(call, target)
            plan, certified = current, certified if current is plan else again
        hold = chosen.holds and plan.certificate.guarantee is Guarantee.CONDITIONAL
        request = replace(plan.request, target=target, hold=hold, differentiable=differentiable)
        finished = self._pass(call, request, certified)
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
        plan, finished = self._planner.plan_and_pass(call, target)
        conditional = plan.certificate.guarantee is Guarantee.CONDITIONAL
        results = {}
        for chosen in map(get, rules):
            request = replace(plan.request, target=target, hold=conditional and chosen.holds)
            finished = self._pass(call, request, finished)
            raw = _map(chosen, finished)
            laws = measure(finished.trace(), raw)
            result = self._explanation(call, plan, chosen, _maps(finished, raw))
            results[chosen.name] = replace(result, laws=laws)
        return results

    def trace(self, images: Inputs, *, target: Target = None) -> Trace:
        """Run the model once and return what a rule may know, for measurements of your own.

        On conditional heads the divisors of normalisers are held, as for the rule ``hirescam``.
        """
        call = self._begin(images)
        plan, certified = self._planner.plan_and_pass(call, target)
        hold = plan.certificate.guarantee is Guarantee.CONDITIONAL
        return self._pass(call, replace(plan.request, target=target, hold=hold), certified).trace()

    def certified_pass(self, images: Inputs) -> Pass:
        """Run the model once on the first images, for the predicted classes, and return the whole pass."""
        call = self._begin(images).first(CERTIFIED_IMAGES)
        return forward(self.model, call, self._planner.plan(call, None).request)

    def certify(self, images: Inputs, *, target: Target = None) -> Certificate:
        """Certify the layer (the chosen one, or the best) for images like these."""
        return self._planner.plan(self._begin(images), target).certificate

    def layers(self, images: Inputs, *, target: Target = None) -> list[Layer]:
        """Grade every tap by structure, in the order in which they run; one is marked as chosen."""
        call = self._begin(images)
        graph = self._planner.graph(call, target)
        return selection.listing(graph, *self._planner.candidates(graph, call))

    def _begin(self, images: Inputs) -> Call:
        check_model(self.model)
        return as_call(images)

    def _pass(self, call: Call, request: Request, made: Pass | None) -> Pass:
        """The pass that was just made on these images, if it answers the request, or a new one."""
        if made is not None and made.answers(request):
            return made.about(request)
        return forward(self.model, call, request)

    def _in_closed_form(
        self, call: Call, plan: Plan, target: Target, certified: Pass | None
    ) -> Explanation | None:
        """Maps without a backward pass; None where the gradient path has to answer."""
        closed_form = plan.closed_form
        if closed_form is None or call.key is not None:
            return None
        try:
            maps = closed_form.maps(*self._look(call, plan, certified), target)
        except StaleHead:
            self._planner.renew(call, target)
            return None
        if maps is None:
            return None
        self._planner.answered(call, target)
        return self._explanation(call, plan, get("hirescam"), maps)

    def _look(self, call: Call, plan: Plan, certified: Pass | None) -> tuple[Tensor, Tensor]:
        """The layer's output and the logits: of the pass that was just made, or of a new one."""
        if certified is not None:
            return certified.leaf.detach(), certified.logits.detach().clone()
        if not plan.fresh:
            raise StaleHead
        if plan.compiled is not None:
            return plan.compiled(call.images)
        return look(self.model, call, plan.request)

    def _explanation(self, call: Call, plan: Plan, chosen: Rule, maps: Maps) -> Explanation:
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
            layout = infer(tuple(output.shape), size, grid=self._planner.grid)
            if layout is None:
                raise ModelError("the layer has no grid of locations, so it has no receptive field")
            reached = layout.read(output).isnan().any(1)
            return reached[:, layout.prefix :].unflatten(1, layout.grid) if layout.prefix else reached

        grid = tuple(cells(torch.zeros((1, *size))).shape[1:])
        return receptive_field(cells, size, grid, cell)


def _map(chosen: Rule, finished: Pass) -> Tensor:
    parts = [chosen.function(finished.trace(part)) for part in finished.chunks()]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _maps(finished: Pass, raw: Tensor) -> Maps:
    score = finished.kept(finished.score).to(raw.dtype)
    return Maps(raw, score, finished.bound.index, finished.kept(finished.logits), finished.layout)


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
