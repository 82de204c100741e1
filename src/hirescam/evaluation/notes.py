"""What has to be known to read the figures, said from what was measured."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hirescam import pages
from hirescam.evaluation.choices import ChosenMetrics
from hirescam.evaluation.contenders import BASELINES, DIFFERENCE, Contender
from hirescam.evaluation.runner import Job
from hirescam.evaluation.store import Store
from hirescam.evaluation.writing import Measured
from hirescam.metrics import INPUTS, Kind
from hirescam.proof.certificate import Certificate
from hirescam.reports import SAME

_REFERENCE = "hirescam"


def notes_of(measured: Measured, chosen: ChosenMetrics, certificate: Certificate) -> tuple[str, ...]:
    """Collect the remarks of one evaluation.

    Args:
        measured: everything that values are read from.
        chosen: the metrics, and those that were left out.
        certificate: of the layer.
    """
    store, jobs, facts = measured.store, measured.jobs, measured.facts
    located = any(one.metric.kind is Kind.LOCALISATION for one in chosen.metrics)
    found = [
        *_changed(store),
        *_same_maps(store, measured.contenders, list(jobs), certificate),
        *_correct(jobs, facts),
        *(_place(facts) if located else ()),
        *_left_out(chosen.left_out),
    ]
    return tuple(found)


def _left_out(left_out: Mapping[str, str]) -> list[str]:
    """Say what the data do not have, and which metrics that leaves out."""
    lacking = dict.fromkeys(left_out.values())
    names = {lack: [label for label, own in left_out.items() if own == lack] for lack in lacking}
    return [
        f"Without {lack} ({INPUTS[lack]}), not measured: {', '.join(own)}." for lack, own in names.items()
    ]


def _changed(store: Store) -> list[str]:
    if not store.changes:
        return []
    return [
        f"The folder holds values of another configuration ({', '.join(store.changes)} differ): they are "
        "kept, and not used here."
    ]


def _same_maps(
    store: Store, contenders: Sequence[Contender], keys: Sequence[str], certificate: Certificate
) -> list[str]:
    """Say which rules gave HiResCAM's map on every sample, to rounding or in other units."""
    same, scaled = [], []
    for one in contenders:
        if one in BASELINES or one.label == _REFERENCE:
            continue
        found, values = store.values(one.label, DIFFERENCE.name, keys)
        if not found or not bool(values.isfinite().any()):
            continue
        worst = torch.nan_to_num(values).amax(0).tolist()
        if worst[0] <= SAME:
            same.append((one.label, worst[0]))
        elif worst[1] <= SAME:
            scaled.append((one.label, worst[1]))
    return [*_equal(same, certificate), *_proportional(scaled)]


def _equal(same: Sequence[tuple[str, float]], certificate: Certificate) -> list[str]:
    if not same:
        return []
    names = ", ".join(name for name, _ in same)
    gap = pages.error(max(gap for _, gap in same))
    why = " The head of this network treats all places alike." if certificate.same_as_gradcam else ""
    return [
        f"{names} gave the map of hirescam on every sample (largest difference {gap} of the largest value): "
        f"equal figures are one and the same map, not agreement between methods.{why}"
    ]


def _proportional(scaled: Sequence[tuple[str, float]]) -> list[str]:
    if not scaled:
        return []
    names = ", ".join(name for name, _ in scaled)
    return [
        f"{names} gave the picture of hirescam in other units on every sample: metrics that rescale maps "
        "cannot tell them apart."
    ]


def _correct(jobs: Mapping[str, Job], facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    labelled = {key: job.members for key, job in jobs.items() if job.members}
    if not labelled:
        return []
    right = sum(facts[key]["predicted"] in members for key, members in labelled.items())
    several = any(len(members) > 1 for members in labelled.values())
    which = (
        " Where several classes of the network stand for one of the data, the highest of them is explained."
        if several
        else ""
    )
    return [
        f"The explained class is that of the data: it is the network's own highest for {right} of "
        f"{len(labelled)} samples.{which}"
    ]


def _place(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    traced = Counter(bool(fact["traced"]) for fact in facts.values())
    drawn = "the pixels of the annotation" if not traced[False] else "the union of the boxes"
    scales = sorted(fact["scale"] for fact in facts.values() if math.isfinite(fact["scale"] or math.nan))
    lines = [f"Objects are given as masks: {drawn}."]
    if scales:
        middle = scales[len(scales) // 2]
        lines.append(
            "Maps and objects are compared in the frame of the network's input, where one pixel is "
            f"{pages.number(middle)} pixels of the picture wide (median): a tolerance of 15 pixels is one of "
            f"{pages.number(15 * middle)} in the pictures."
        )
    return lines
