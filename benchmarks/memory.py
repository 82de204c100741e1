"""Memory: how many bytes of tensors are alive at most, above the loaded model?

Counted from the events of torch's CPU allocator, which are the same in every run; the figure of an operating
system for a whole process is not. What a library keeps from an earlier call counts: each variant is called
twice, and the peak is that of the second call. Not counted are arrays of NumPy and buffers inside kernels.
"""

import gc
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler says at every start that there is no GPU

from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.networks import build, images
from benchmarks.options import Options
from benchmarks.results import Row, Table, run
from benchmarks.variants import (
    BARE,
    CAPTUM,
    GRAD_CAM,
    MAKERS,
    OURS,
    TORCHCAM,
    Maps,
    bare,
    check,
    definition,
    one_class_each,
)

VARIANTS = (OURS, GRAD_CAM, CAPTUM, TORCHCAM)
SIZES = {
    "resnet18": [(224, 16)],
    "resnet50": [(896, 1), (224, 16), (224, 64)],
    "densenet121": [(224, 16)],
    "efficientnet_b0": [(224, 16)],
    "vgg16": [(224, 16)],
    "flatten": [(224, 16)],
    "r3d_18": [(None, 4)],
    "toy": [(16, 3)],
}
TOO_LARGE = {("resnet50", 224, 64)}
"""Where the others need more than 10 GB."""
NAMES = ("resnet18", "resnet50", "densenet121", "efficientnet_b0", "vgg16", "flatten", "r3d_18")
_CHECKED = 2
_MARK = "second call"


@dataclass(frozen=True)
class Use:
    """Bytes alive above the level before the first call.

    Attributes:
        peak: the most during the second call.
        kept: what was alive before the second call, from the first.
    """

    peak: int
    kept: int


def make(options: Options) -> Table:
    """One row for each network and size."""
    return Table([row(name, *size) for name in options.chosen(NAMES) for size in SIZES[name]])


def row(name: str, side: int | None, batch: int) -> Row:
    """Measure one network at one size."""
    model, x, index = build(name), images(name, batch, side), one_class_each(batch)
    wanted = VARIANTS[:1] if (name, side, batch) in TOO_LARGE else VARIANTS
    forward, _ = use(bare(model, x))
    expected = definition(model, name, x[:_CHECKED], index[:_CHECKED])
    found = {}
    for variant in wanted:
        found[variant], maps = use(MAKERS[variant](model, name, x, index))
        check(variant, name, maps[:_CHECKED], expected)
        maps_bytes = maps.nbytes
    bound = forward.peak + maps_bytes
    return {
        "network": name,
        "images": f"{batch} × {' × '.join(map(str, x.shape[2:]))}",
        f"{BARE}, MB": {"bytes": forward.peak},
        "maps, MB": {"bytes": maps_bytes},
        **{
            f"{v}, MB": {"bytes": found[v].peak, "kept": found[v].kept} if v in found else None
            for v in VARIANTS
        },
        "hirescam ÷ (bare + maps)": {"share": found[OURS].peak / bound},
    }


def use(work: Maps) -> tuple[Use, Tensor]:
    """Call twice, and count the bytes that are alive during the second call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
        gc.collect()
        with record_function(_MARK):
            result = work()
    events = _events(profiler.export_chrome_trace)
    (mark,) = (event for event in events if event.get("name") == _MARK)
    start, end = mark["ts"], mark["ts"] + mark["dur"]
    levels = list(_levels(events))
    kept = next((level for time, level in reversed(levels) if time < start), 0)
    return Use(max([kept, *(level for time, level in levels if start <= time <= end)]), kept), result


def _levels(events: list[dict]) -> Iterator[tuple[float, int]]:
    """When memory was taken or given back, and how many bytes were alive then.

    What was taken before the profile began does not count, and neither does its return.
    """
    found = [event for event in events if event.get("name") == "[memory]"]
    alive: dict[int, int] = {}
    level = 0
    for event in sorted(found, key=lambda event: event["ts"]):
        change, address = event["args"]["Bytes"], event["args"]["Addr"]
        if change > 0:
            alive[address] = change
            level += change
        else:
            level -= alive.pop(address, 0)
        yield event["ts"], level


def _events(export: Callable[[str], None]) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        export(str(path))
        return json.loads(path.read_text(encoding="utf-8"))["traceEvents"]


if __name__ == "__main__":
    run(__file__, make)
