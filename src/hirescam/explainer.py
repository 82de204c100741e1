"""The only orchestrator: choose and certify a layer once, trace, apply a rule, freeze the result."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hirescam.audits import Audit, Auditor, audit
from hirescam.closed_form import Doubt, Maps
from hirescam.errors import HirescamError, InputError, ModelError
from hirescam.explanation import Explanation, Origin, Weights
from hirescam.passes import taps
from hirescam.passes.borrow import Call, Inputs, first_not_finite, possible_calls, unwrap
from hirescam.passes.cut import Site, look, output_at
from hirescam.passes.input_axes import input_axes
from hirescam.passes.outputs import OutputSelector
from hirescam.passes.precision import precision_of
from hirescam.passes.state import State
from hirescam.passes.targets import Labels, Target, is_indexed
from hirescam.passes.trace import Pass, Trace, Wish, forward
from hirescam.planning import CERTIFIED_IMAGES, Plan, Planner
from hirescam.proof.certificate import Certificate
from hirescam.proof.grade import Guarantee
from hirescam.proof.judging import upheld
from hirescam.proof.laws import measure, tolerance_of
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
        grid: how locations lie on the image, such as ``(14, 14)``, where the operations of the model do not
            show it.
        axes: what the axes of the images are, where they are not ``(b, c, *space)``: one letter each, ``b``
            the batch, ``c`` channels, others space in the order of the map's axes: ``"bhwc"`` images with
            channels last, ``"btc"`` series, ``"btchw"`` clips, ``"bt"`` waves.
        input: which of several inputs is explained, by name or number. Needed only where more than one could
            be the image and the layer does not tell.
        progress: called with (done, total) while a rule runs the network or its head many times.
        audit: for this share of the pictures, remove one random location in the real model and compare what
            the score loses with the map (rule ``hirescam``, exact and conditional heads). Each costs about
            two forward passes of one picture; a failure takes the guarantee back. What was found is in
            `audits`, and in every result.

    Example:
        >>> import torch, hirescam
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
        >>> explainer = hirescam.Explainer(model.eval())
        >>> result = explainer(torch.rand(2, 3, 8, 8))
        >>> result.raw.shape, str(result.certificate.guarantee)
        (torch.Size([2, 1, 6, 6]), 'exact')
    """

    def __init__(  # noqa: PLR0913 - what there is to say of a model and its images
        self,
        model: nn.Module,
        *,
        layer: LayerName = None,
        output: OutputSelector = None,
        grid: tuple[int, ...] | None = None,
        axes: str | None = None,
        input: int | str | None = None,
        progress: Callable[[int, int], None] | None = None,
        audit: float = 0.0,
    ) -> None:
        self.model = unwrap(model)
        self._auditor = Auditor(audit)
        tap = None if layer is None else taps.find(self.model, layer)
        self._hashed: tuple[State, Weights] | None = None
        self._axes, self._input = input_axes(axes), input
        self._planner = Planner(self.model, tap, output, _grid(grid), progress, axes_given=axes is not None)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, by `copy.deepcopy` or `pickle`, starts anew: what was proven is about this model."""
        own = self._planner
        tap = None if own.tap is None else own.tap.name
        axes = None if self._axes is None else self._axes.letters
        options = (tap, own.output, own.grid, axes, self._input, own.progress, self._auditor.rate)
        return _again, (self.model, *options, own.compiling)

    @property
    def audits(self) -> Audit:
        """What audits found since this explainer was made."""
        return self._auditor.found

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
        return Explainer(
            model,
            layer=layer,
            output=own.output,
            grid=own.grid,
            axes=None if self._axes is None else self._axes.letters,
            input=self._input,
            progress=own.progress,
            audit=self._auditor.rate,
        )

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
                certified when it is first seen; the same code around the same values is the same function.
            rule: name of a rule, see `hirescam.rules`, or a rule with options of your own,
                ``hirescam.rules()["scorecam"].configure({...})``.
            differentiable: keep the graph, so that the maps can stand in a loss.

        Raises:
            HirescamError: the input, target, layer, rule or model cannot be used; the message says why.
        """
        chosen = get(rule)
        call, plan = self._planned(images, target)
        maps = None
        if chosen.is_hirescam and is_indexed(target) and not differentiable and call.key is None:
            plan, maps = self._in_closed_form(call, plan, target)
        if maps is None:
            plan, finished = self._by_gradient(call, plan, Wish(target, chosen.holds, differentiable))
            maps = _maps(finished, self._map(chosen, finished))
        return self._explanation(call, plan, chosen, maps, self._audited(call, plan, chosen, target, maps))

    def _audited(self, call: Call, plan: Plan, chosen: Rule, target: Target, maps: Maps) -> Audit | None:
        if not self._auditor.rate or not chosen.is_hirescam:
            return None
        check_finite(maps.raw)
        with self._planner.giving_back():
            return audit(self._auditor, plan, call, target, maps)

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
        call, plan = self._planned(images, target)
        results, finished = {}, None
        for chosen in map(get, rules):
            wish = Wish(target, chosen.holds)
            plan, finished = self._by_gradient(call, plan, wish, finished)
            raw = self._map(chosen, finished)
            with self._planner.giving_back():
                laws = measure(finished.trace(), raw)
            results[chosen.name] = (chosen, _maps(finished, raw), laws)
        audits = {
            name: self._audited(call, plan, chosen, target, maps)
            for name, (chosen, maps, _) in results.items()
        }
        return {
            name: replace(self._explanation(call, plan, chosen, maps, audits[name]), laws=laws)
            for name, (chosen, maps, laws) in results.items()
        }

    def trace(self, images: Inputs, *, target: Target = None) -> Trace:
        """Run the model once and return what a rule may know, for measurements of your own.

        On conditional heads the divisors of normalisers are held, as for the rule ``hirescam``.
        """
        call, plan = self._planned(images, target)
        return self._by_gradient(call, plan, Wish(target, hold=True))[1].trace()

    def certified_pass(self, images: Inputs) -> Pass:
        """Run the model once on the first images, for the predicted classes, and return the whole pass."""
        call, plan = self._planned(images, None)
        return forward(plan.site, call.first(CERTIFIED_IMAGES))

    def certify(self, images: Inputs, *, target: Target = None) -> Certificate:
        """Certify the layer (the chosen one, or the best) for images like these."""
        call, plan = self._planned(images, target)
        if is_indexed(target) and call.key is None:
            plan, maps = self._in_closed_form(call, plan, target)
            if maps is not None:
                return plan.certificate
        return self._by_gradient(call, plan, Wish(target, hold=True))[0].certificate

    def layers(self, images: Inputs, *, target: Target = None) -> list[Layer]:
        """Grade every tap, in the order in which they run; one is marked as chosen.

        Where several inputs could be the image, the layers that each goes through are listed, one after the
        other.
        """
        found = possible_calls(images, self._axes, self._input)
        self._planner.look()
        chooses = len(found) == 1 and self._planner.tap is None
        settled = self.certify(images, target=target) if chooses else None
        return [
            replace(layer, input=call.key)
            for call in found
            for layer in self._planner.layers(call, target, settled)
        ]

    def _planned(self, images: Inputs, target: Target) -> tuple[Call, Plan]:
        """The inputs as a call, and how they are explained."""
        found = possible_calls(images, self._axes, self._input)
        self._planner.look()
        call = found[0] if len(found) == 1 else self._planner.which(found, target)
        plan = self._planner.plan(call, target)
        return (call if call.axes == plan.axes else replace(call, axes=plan.axes)), plan

    def _in_closed_form(self, call: Call, plan: Plan, target: Target) -> tuple[Plan, Maps | None]:
        """Maps without a backward pass, and the plan that stands; None where gradients have to be taken."""
        for doubted in (False, True):
            if plan.closed_form is None:
                break
            answer = plan.closed_form.maps(*self._look(call, plan), target)
            if not isinstance(answer, Doubt):
                return plan, answer
            if doubted:
                plan.weaken(str(answer))
            else:
                plan = self._planner.resolve(plan, answer, call, target)
        return plan, None

    def _look(self, call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
        """The layer's output and the logits: of the pass that was just made, or of a new one."""
        made = plan.finished
        if made.call is call:
            return made.leaf.detach(), made.logits.detach().clone()
        with self._planner.giving_back():
            return look(plan.site, call) if plan.compiled is None else plan.compiled(call.images)

    def _by_gradient(self, call: Call, plan: Plan, wish: Wish, made: Pass | None = None) -> tuple[Plan, Pass]:
        """A pass with the head on the tape, and the plan that stands after what was seen in it."""
        about, why = wish.target, ""
        for again in (False, True):  # with the plan that there is, and with one made for what gave a doubt
            if again:
                plan, made = self._planner.again(call, about), None
            guarantee = plan.certificate.guarantee
            wanted = replace(wish, hold=wish.hold and guarantee is Guarantee.CONDITIONAL)
            finished = self._pass(plan, call, wanted, made)
            about, why = self._doubt(plan, call, finished)
            if not why:
                return plan, finished
        plan.weaken(why)
        return plan, self._pass(plan, call, replace(wish, hold=False), None)

    def _doubt(self, plan: Plan, call: Call, finished: Pass) -> tuple[Target, str]:
        """What a plan should be about instead, and why; ``""`` where what it promises is true of a pass."""
        guarantee, target = plan.certificate.guarantee, finished.wish.target
        if guarantee is Guarantee.NONE:
            return target, ""
        if not (upheld(finished, guarantee) and self._same_alone(plan, call, finished)):
            return target, "what comes after the layer changes from call to call, or from image to image"
        wrong = self._planner.doubtful(plan, finished)
        if wrong is None:
            return target, ""
        named = f"class {wrong}" if isinstance(wrong, int) else str(wrong)
        return wrong, f"the gradient of {named} is not what the model does"

    def _pass(self, plan: Plan, call: Call, wish: Wish, made: Pass | None) -> Pass:
        certified = plan.finished
        for known in (made, certified if certified.call is call else None):
            if known is not None and known.site is plan.site and known.answers(wish):
                return known.about(wish)
        with self._planner.giving_back():
            return forward(plan.site, call, wish)

    def _map(self, chosen: Rule, finished: Pass) -> Tensor:
        with self._planner.giving_back():  # some rules run the model
            parts = [chosen.function(finished.trace(part)) for part in finished.chunks()]
        raw = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if isinstance(finished.wish.target, Labels):  # what an image has no label for has no map
            raw = raw * (finished.bound.index >= 0).reshape(*raw.shape[:2], *[1] * (raw.ndim - 2))
        return raw

    def _same_alone(self, plan: Plan, call: Call, finished: Pass) -> bool:
        """Whether the first image scores in this batch as it does alone; asked once for each batch size."""
        size = len(call.images)
        if size in plan.batches or call.key is not None:
            return True
        plan.batches.add(size)
        try:
            with self._planner.giving_back():
                _, alone = look(plan.site, call.first(1))
        except HirescamError:  # a model for one size of batch, in which there is nothing to compare
            return True
        gap = (alone - finished.logits.detach()[:1]).abs().max()
        return bool(gap <= tolerance_of(precision_of(alone)) * alone.abs().max())

    def _explanation(
        self, call: Call, plan: Plan, chosen: Rule, maps: Maps, audited: Audit | None = None
    ) -> Explanation:
        check_finite(maps.raw)

        def field(cell: tuple[int, ...] | None) -> ReceptiveField:
            return self._receptive_field(call, plan.site, cell)

        return Explanation(
            raw=maps.raw,
            score=maps.score,
            target=maps.index,
            logits=maps.logits,
            layer=plan.certificate.layer,
            rule=chosen.name,
            certificate=plan.certificate,
            image_size=maps.layout.beyond + call.space,
            places=maps.layout.places,
            axes=call.axes.letters,
            grid=maps.layout.grid,
            prefix=maps.layout.prefix,
            model=type(self.model).__name__,
            audit=audited,
            origin=Origin(self._weights(), field),
        )

    def _weights(self) -> Weights:
        """The weights that are being explained, shared by all results until they change."""
        state = self._planner.state
        if self._hashed is None or self._hashed[0] is not state:
            assert state is not None
            self._hashed = (state, Weights(self.model, state))
        return self._hashed[1]

    def _receptive_field(self, call: Call, site: Site, cell: tuple[int, ...] | None) -> ReceptiveField:
        images, size, layout = call.images, call.space, site.layout
        assert layout is not None
        if layout.beyond:
            raise ModelError(
                "the map has axes that the network made, such as frequencies, so its cells have no receptive "
                "field on the input"
            )

        def cells(masks: Tensor) -> Tensor:
            marked = masks.to(images)[:, None].expand(-1, images.shape[1], *size)
            reached = output_at(site, call, marked).isnan().any(1)
            return reached[:, layout.prefix :].unflatten(1, layout.grid) if layout.prefix else reached

        grid = tuple(cells(torch.zeros((1, *size))).shape[1:])
        return receptive_field(cells, size, grid, cell)


def _grid(grid: object) -> tuple[int, ...] | None:
    if grid is None:
        return None
    sizes = tuple(grid) if isinstance(grid, list | tuple) else ()
    if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise InputError(f"grid={grid!r} must be a tuple of sizes, such as (14, 14), or (14,) for a signal")
    return sizes


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


def _again(  # noqa: PLR0913 - what an explainer is made of, in order
    model: nn.Module,
    layer: str | None,
    output: OutputSelector,
    grid: tuple[int, ...] | None,
    axes: str | None,
    input: int | str | None,
    progress: Callable[[int, int], None] | None,
    audit: float,
    compiling: bool,
) -> Explainer:
    made = Explainer(
        model, layer=layer, output=output, grid=grid, axes=axes, input=input, progress=progress, audit=audit
    )
    return made.compile() if compiling else made
