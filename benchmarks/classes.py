"""Several classes of one image: what do 5, 20 and all 1000 maps cost?"""

from benchmarks.networks import NETWORKS, build, images
from benchmarks.options import Options
from benchmarks.results import Row, Table, milliseconds, run
from benchmarks.variants import BARE, CAPTUM, GRAD_CAM, OURS, TORCHCAM, checked, same_classes

ALL_PEERS = (GRAD_CAM, CAPTUM, TORCHCAM)
CASES = {
    ("resnet50", 5): ALL_PEERS,
    ("resnet50", 20): ALL_PEERS,
    ("resnet50", 1000): (TORCHCAM,),
    ("flatten", 5): ALL_PEERS,
    ("flatten", 20): ALL_PEERS,
    ("flatten", 1000): (),
    ("vgg16", 5): ALL_PEERS,
    ("vgg16", 20): (TORCHCAM,),
    ("vgg16", 1000): (),
    ("toy", 5): ALL_PEERS,
    ("toy", 1000): (),
}
"""Who takes part: not those who would need more than about ten seconds for one image."""
NAMES = ("resnet50", "flatten", "vgg16")
SECONDS = 12


def make(options: Options) -> Table:
    """One row for each network and number of classes."""
    names = options.chosen(NAMES)
    return Table([row(*case, options.rounds) for case in CASES if case[0] in names])


def row(name: str, count: int, rounds: int | None) -> Row:
    """Check and time one network and number of classes."""
    wanted = (OURS, *CASES[name, count])
    ready = checked(build(name), name, images(name, 1), same_classes(1, count), wanted)
    found = ready.timed(SECONDS, rounds)
    cells = {
        variant: found.cell(variant) if variant in ready.works else None for variant in (OURS, *ALL_PEERS)
    }
    head = "exact" if NETWORKS[name].exact else "local"
    return {
        "network": name,
        "head": head,
        "classes": count,
        "bare forward, ms": milliseconds(found.cell(BARE)),
        **cells,
        "difference": ready.difference,
    }


if __name__ == "__main__":
    run(__file__, make)
