"""Growth: does the ratio stay when images, or batches, become larger?"""

from benchmarks.networks import build, images
from benchmarks.options import Options
from benchmarks.results import Row, Table, milliseconds, run
from benchmarks.variants import BARE, CAPTUM, GRAD_CAM, OURS, checked, one_class_each

PEERS = (GRAD_CAM, CAPTUM)
SIZES = {
    "resnet18": [(224, 1), (448, 1), (896, 1), (224, 4), (224, 16), (224, 64)],
    "resnet50": [(224, 1), (448, 1), (896, 1), (224, 4), (224, 16), (224, 64)],
    "toy": [(16, 1), (32, 1), (16, 4)],
}
TOO_LARGE = {("resnet50", 224, 64)}
"""Where the others need more than 10 GB."""
NAMES = ("resnet18", "resnet50")
SECONDS = 8


def make(options: Options) -> Table:
    """One row for each network and size."""
    names = options.chosen(NAMES)
    return Table([row(name, *size, options.rounds) for name in names for size in SIZES[name]])


def row(name: str, side: int, batch: int, rounds: int | None) -> Row:
    """Check and time one network at one size."""
    wanted = (OURS,) if (name, side, batch) in TOO_LARGE else (OURS, *PEERS)
    x = images(name, batch, side)
    ready = checked(build(name), name, x, one_class_each(batch), wanted)
    found = ready.timed(SECONDS, rounds)
    return {
        "network": name,
        "side": side,
        "batch": batch,
        "bare forward, ms": milliseconds(found.cell(BARE)),
        **{name: found.cell(name) if name in ready.works else None for name in (OURS, *PEERS)},
        "difference": ready.difference,
    }


if __name__ == "__main__":
    run(__file__, make)
