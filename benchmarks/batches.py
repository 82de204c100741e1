"""A batch of images, another class for each: what do their maps cost?"""

from benchmarks.networks import NETWORKS, build, images
from benchmarks.options import Options
from benchmarks.results import Row, Table, milliseconds, run
from benchmarks.variants import BARE, CAPTUM, GRAD_CAM, OURS, TORCHCAM, checked, one_class_each

NAMES = ("resnet18", "resnet50", "densenet121", "efficientnet_b0", "vgg16", "flatten", "r3d_18")
VARIANTS = (OURS, GRAD_CAM, CAPTUM, TORCHCAM)
SECONDS = 25


def make(options: Options) -> Table:
    """One row for each network."""
    return Table([row(name, options.rounds) for name in options.chosen(NAMES)])


def row(name: str, rounds: int | None) -> Row:
    """Check and time one network."""
    batch = NETWORKS[name].batch
    ready = checked(build(name), name, images(name, batch), one_class_each(batch), VARIANTS)
    found = ready.timed(SECONDS, rounds)
    return {
        "network": name,
        "batch": batch,
        "bare forward, ms": milliseconds(found.cell(BARE)),
        **{variant: found.cell(variant) for variant in VARIANTS},
        "difference": ready.difference,
    }


if __name__ == "__main__":
    run(__file__, make)
