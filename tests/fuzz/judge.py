"""What the library said, held against what is true; and what it left behind on the model."""

from typing import Any

import torch
from torch import Tensor, nn

from fuzz.truth import TOLERANCE, Truth, gap


def violations(truth: Truth, certificate: Any, result: Any = None, rule: str = "hirescam") -> list[str]:
    """What is false in a verdict, and in the maps that it came with.

    Args:
        truth: of the same call.
        certificate: what the library said.
        result: the explanation; None where only the verdict was asked for.
        rule: the verdict is about ``hirescam``, so maps of other rules are not held against it.
    """
    found = [] if result is None else [*_numbers(truth, result)]
    grade = str(certificate.guarantee)
    raw = result.raw if result is not None and rule == "hirescam" else None
    if truth.unsteady:  # the map is of activations that will not come again
        raw = None
    if grade in ("exact", "conditional"):
        found += _affine_claim(truth, grade, str(certificate), raw)
    if grade == "local":
        found += _local_claim(truth, raw)
    return found


def _numbers(truth: Truth, result: Any) -> list[str]:
    if truth.unsteady:
        return []
    found = []
    allowed = TOLERANCE[truth.subject.precision] * (1 + float(truth.logits.abs().amax()))
    if gap(result.logits.detach().to(truth.logits.dtype), truth.logits) > allowed:
        found.append("wrong logits: they are not the model's")
    if gap(result.score.detach().to(truth.scores.dtype), truth.scores) > allowed:
        found.append("wrong score: it is not that of the target")
    index = truth.subject.ask.index
    if index is not None and not torch.equal(result.target, index(truth.logits)):
        near = truth.scores.to(result.score.dtype) - result.score.detach()
        found += ["wrong target: other classes"] if float(near.abs().amax()) > allowed else []
    return found


def _affine_claim(truth: Truth, grade: str, text: str, raw: Tensor | None) -> list[str]:
    held = grade == "conditional"
    why = (
        truth.unsteady_after
        or truth.around
        or truth.together
        or (truth.held_curved if held else truth.curved)
    )
    if why:
        return [f"false {grade}: {why}"]
    broken = truth.not_additive(held)
    if broken:
        return [f"false {grade}: locations are not worth together what they are one by one, {broken}"]
    apart = truth.apart(raw, held) if raw is not None else ""
    found = [f"wrong map: {apart}"] if apart else []
    if "constant of the model" in text:
        differs = truth.offsets_differ(held)
        found += [f"wrong offset claim: {differs}"] if differs else []
    return found


def _local_claim(truth: Truth, raw: Tensor | None) -> list[str]:
    why = truth.unsteady_after or truth.around or truth.together or truth.bent
    if why:
        return [f"false local: {why}"]
    apart = truth.slopes(raw) if raw is not None else ""
    return [f"wrong map: {apart}"] if apart else []


# --- a borrowed model comes back as it was -----------------------------------------------------


class Snapshot:
    """What must be the same after a call as before."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before = self._state()
        self._values = {name: tensor.detach().clone() for name, tensor in self._tensors()}

    def changes(self) -> list[str]:
        """What is not as it was, in words."""
        now = self._state()
        found = [
            name for name, value in self._before.items() if name not in now or not same(now[name], value)
        ]
        found += [f"{name} (new)" for name in now if name not in self._before]
        found += [f"the value of {name}" for name, tensor in self._tensors() if self._moved(name, tensor)]
        return [f"model not as it was: {what}" for what in found]

    def _moved(self, name: str, tensor: Tensor) -> bool:
        value = self._values.get(name)
        return value is not None and not torch.equal(tensor, value)

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [*self._model.named_parameters(), *self._model.named_buffers()]

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "random numbers": torch.get_rng_state(),
            "grad mode": torch.is_grad_enabled(),
        }
        for name, module in self._model.named_modules():
            hooks = [len(hook) for key, hook in module.__dict__.items() if key.endswith("_hooks")]
            state[f"training of {name!r}"] = module.training
            state[f"hooks of {name!r}"] = hooks
            state[f"attributes of {name!r}"] = sorted(module.__dict__)
        for name, tensor in self._tensors():
            state[f"flags of {name!r}"] = (tensor.requires_grad, tensor.grad is None, tensor.is_inference())
        return state


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other
