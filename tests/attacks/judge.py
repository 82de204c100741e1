"""Run one attack and say what is wrong with the library's answer."""

import copy
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import hirescam
from attacks.table import EXACT, HARMLESS, REFUSED, WEAKER, Attack, Right, Scene
from attacks.truth import SAME, Truth
from hirescam import Certificate, Explanation, Guarantee, HirescamError

RIGHTS = {
    Guarantee.EXACT: Right.EXACT,
    Guarantee.CONDITIONAL: Right.CONDITIONAL,
    Guarantee.LOCAL: Right.LOCAL,
    Guarantee.NONE: Right.NONE,
}
Answer = Explanation | Certificate | HirescamError


@dataclass(frozen=True)
class Report:
    """What came of one attack: the verdict in a word, its text, and everything that is wrong."""

    verdict: str
    text: str
    problems: tuple[str, ...]


def report(attack: Attack) -> Report:
    """Play one attack on the library and judge every answer by brute force."""
    scene = attack.scene()
    answer, problems = _first(attack, scene)
    answers = [(scene.images, answer)]
    if isinstance(answer, Explanation) and attack.ask is Scene.explain:
        scene.images = attack.others(scene.images)
        answers.append((scene.images, _ask(attack, scene)))
    problems += _disagreement(attack, scene, answers[0])
    problems += attack.check(scene, answer)
    found = [_truth(attack, scene, images, one) for images, one in answers]
    for truth, (_, one) in zip(found, answers, strict=True):
        problems += lies(one, truth, attack.tolerance)
    problems += _beyond(answer, found[-1]) + _worth(attack, answer, found) + _expected(attack, answer)
    return Report(word(answer), text_of(answer), tuple(problems))


def _first(attack: Attack, scene: Scene) -> tuple[Answer, list[str]]:
    """The judged answer, and what it changed in the model or in torch."""
    try:
        attack.play(scene)
    except HirescamError as error:
        return error, []
    before = state(scene.model, attack.own)
    answer = _ask(attack, scene)
    after = state(scene.model, attack.own)
    names = sorted(before.keys() | after.keys())
    changed = [name for name in names if not same(before.get(name), after.get(name))]
    return answer, [f"left behind: {name}" for name in changed]


def _ask(attack: Attack, scene: Scene) -> Answer:
    try:
        return attack.ask(scene)
    except HirescamError as error:
        return error


def _disagreement(attack: Attack, scene: Scene, first: tuple[Any, Answer]) -> list[str]:
    """Whether `certify` says of the same call what the answer says."""
    images, answer = first
    if isinstance(answer, HirescamError) or attack.layer is None:
        return []
    try:
        own = hirescam.certify(
            scene.model,
            images,
            layer=attack.layer,
            target=scene.target,
            output=attack.output,
            input=attack.input,
        )
    except HirescamError as error:
        own = error
    return [f"certify says {word(own)}"] if word(own) != word(answer) else []


def _truth(attack: Attack, scene: Scene, images: Any, answer: Answer) -> Truth:
    certificate = certificate_of(answer)
    return Truth(
        scene.model,
        images,
        attack.others(images),
        layer=attack.layer or (certificate.layer if certificate else "layer"),
        output=attack.output,
        target=scene.target,
        index=answer.target if isinstance(answer, Explanation) else None,
        hold=certificate is not None and certificate.guarantee is Guarantee.CONDITIONAL,
    )


def certificate_of(answer: Answer) -> Certificate | None:
    if isinstance(answer, Explanation):
        return answer.certificate
    return answer if isinstance(answer, Certificate) else None


def word(answer: Answer) -> str:
    certificate = certificate_of(answer)
    return "refused" if certificate is None else str(certificate.guarantee)


def text_of(answer: Answer) -> str:
    return str(certificate_of(answer) or answer)


def lies(answer: Answer, truth: Truth, tolerance: float) -> list[str]:
    """In which ways a verdict is stronger than the truth."""
    certificate = certificate_of(answer)
    if certificate is None or certificate.guarantee is Guarantee.NONE:
        return []
    local = certificate.guarantee is Guarantee.LOCAL
    errors = {"chance": truth.chance, **(_slopes if local else _laws)(answer, truth)}
    errors["coupling"] = truth.coupling if not truth.hold else truth.cross / truth.unit
    errors |= _words(str(certificate), truth, local)
    verdict = certificate.guarantee.upper()
    return [
        f"{verdict} is false: {name} {error:.1e}" for name, error in errors.items() if not error <= tolerance
    ]


def _laws(answer: Answer, truth: Truth) -> dict[str, float]:
    """Errors of both laws; without a map of the rule hirescam, whether any map can obey them."""
    if isinstance(answer, Certificate) or answer.rule != "hirescam":
        return {"laws": truth.additivity}
    offset = answer.offset.detach().double()
    rounding = 8 * torch.finfo(answer.logits.dtype).eps * float(answer.score.detach().abs().max())
    return {
        "location": _far(answer, truth, truth.losses),
        "completeness": max(0.0, float((offset - truth.empty).abs().max()) - rounding) / truth.unit,
    }


def _slopes(answer: Answer, truth: Truth) -> dict[str, float]:
    if isinstance(answer, Certificate) or answer.rule != "hirescam":
        return {}
    return {"slope": _far(answer, truth, truth.slopes)}


def _far(answer: Explanation, truth: Truth, wanted: Tensor) -> float:
    raw = answer.raw.detach().double().flatten(2)
    return float((raw - wanted).abs().max()) / truth.unit


def _words(text: str, truth: Truth, local: bool) -> dict[str, float]:
    """What the sentences claim about the image around the layer."""
    limited = re.search(r"of this image|for these other inputs|of these images", text)
    errors = {} if truth.hold or limited else {"bypass": truth.bypass}
    if "a constant of the model" in text and not local:
        errors["constant"] = truth.drift
    return errors


def _beyond(answer: Answer, last: Truth) -> list[str]:
    """Exact means for every image, so for the last ones too, whatever is said of them."""
    certificate = certificate_of(answer)
    if certificate is None or certificate.guarantee is not Guarantee.EXACT or last.additivity <= SAME:
        return []
    return [f"EXACT is false for other images: {last.additivity:.1e}"]


def _worth(attack: Attack, answer: Answer, found: list[Truth]) -> list[str]:
    """An attack must be one, and a control none; else the row proves nothing."""
    errors = {name: max(truth.errors[name] for truth in found) for name in found[0].errors}
    exact = all(error <= SAME for error in errors.values())
    chosen = attack.layer or word(answer) == "exact"  # else the truth is about another layer
    if chosen and attack.right & ~REFUSED == EXACT and not exact:
        return [f"the row itself is wrong, the head is not exact: {errors}"]
    if attack.kind not in HARMLESS and attack.right & WEAKER and exact:
        return [f"the row itself is wrong, the head is exact: {errors}"]
    return []


def _expected(attack: Attack, answer: Answer) -> list[str]:
    certificate, text = certificate_of(answer), text_of(answer)
    got = REFUSED if certificate is None else RIGHTS[certificate.guarantee]
    wrong = [] if got in attack.right else [f"{word(answer)}, but right is {attack.right}: {text}"]
    if got is not EXACT and not re.search(attack.says, text, re.IGNORECASE):
        wrong.append(f"no word of {attack.says!r} in: {text}")
    if certificate is None and ("\n" in text or len(text) > 400):
        wrong.append(f"not one sentence: {text}")
    return wrong


def state(model: nn.Module, own: tuple[str, ...]) -> dict[str, Any]:
    """Everything that a borrower must give back."""
    found: dict[str, Any] = {
        "random numbers": torch.get_rng_state(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "defaults": (torch.get_default_dtype(), torch.is_autocast_enabled("cpu")),
        "deepcopy": _copies(model),
    }
    for name, tensor in model.named_parameters(remove_duplicate=False):
        found[f"parameter {name}"] = (id(tensor), tensor.grad is None, *_facts(tensor))
    for name, tensor in model.named_buffers(remove_duplicate=False):
        if name not in own:
            found[f"buffer {name}"] = _facts(tensor)
    for name, module in model.named_modules(remove_duplicate=False):
        for key, value in vars(module).items():
            if key not in (*own, "_parameters", "_buffers", "_modules"):
                found[f"attribute {name}.{key}"] = _attribute(value)
    return found


def _facts(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.detach().clone(), tensor.requires_grad, tensor.is_inference(), tensor.is_leaf


def _attribute(value: Any) -> Any:
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, Tensor):
        return id(value), *_facts(value)
    if isinstance(value, dict):
        return [(key, id(one)) for key, one in value.items()]
    if isinstance(value, tuple):
        return tuple(map(_attribute, value))
    return (id(value), len(value)) if isinstance(value, list) else id(value)


def _copies(model: nn.Module) -> bool:
    try:
        copy.deepcopy(model)
    except (RuntimeError, TypeError):
        return False
    return True


def same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return bool(one == other)
