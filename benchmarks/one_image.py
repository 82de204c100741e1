"""One image, one class: what does one map cost?"""

from benchmarks.networks import NETWORKS, build, images
from benchmarks.options import Options
from benchmarks.results import Row, Table, milliseconds, run
from benchmarks.variants import BARE, CAPTUM, GRAD_CAM, HEAD_ONLY, OURS, TORCHCAM, checked, one_class_each

NAMES = ("resnet18", "resnet50", "densenet121", "efficientnet_b0", "vgg16", "flatten", "r3d_18")
VARIANTS = (OURS, HEAD_ONLY, GRAD_CAM, CAPTUM, TORCHCAM)
SECONDS = 15


def make(options: Options) -> Table:
    """One row for each network."""
    return Table([row(name, options.rounds) for name in options.chosen(NAMES)])


def row(name: str, rounds: int | None) -> Row:
    """Check and time one network."""
    wanted = VARIANTS if NETWORKS[name].exact else tuple(v for v in VARIANTS if v != HEAD_ONLY)
    ready = checked(build(name), name, images(name, 1), one_class_each(1), wanted)
    found = ready.timed(SECONDS, rounds)
    cells = {variant: found.cell(variant) if variant in ready.works else None for variant in VARIANTS}
    return {
        "network": name,
        "bare forward, ms": milliseconds(found.cell(BARE)),
        **cells,
        "difference": ready.difference,
    }


if __name__ == "__main__":
    run(__file__, make)
