"""The first call of an explainer, which also reads the graph, chooses the layer, certifies and probes it."""

import hirescam
from benchmarks.networks import NETWORKS, build, images
from benchmarks.options import Options
from benchmarks.results import Row, Table, milliseconds, run
from benchmarks.timing import paired
from benchmarks.variants import BARE, OURS, bare, check, definition, one_class_each
from hirescam.passes.borrow import as_call
from hirescam.planning import Planner
from hirescam.proof.placing import Places
from hirescam.proof.selection import candidates

NAMES = ("resnet18", "resnet50", "densenet121", "efficientnet_b0", "vgg16", "flatten", "r3d_18")
NAMED, CHOSEN, CHOICE, LISTED = "layer named", "layer chosen", "the choice", "hirescam.layers"
BEYOND = "layer chosen, less the choice"
SECONDS = 8


def make(options: Options) -> Table:
    """One row for each network."""
    return Table([row(name, options.rounds) for name in options.chosen(NAMES)])


def row(name: str, rounds: int | None) -> Row:
    """Time a new explainer in every round.

    The automatic choice alone is one pass with the graph recorded, and its layers graded; `hirescam.layers`
    asks the model about all that look affine besides.
    """
    model, x, index = build(name), images(name, 1), one_class_each(1)
    layer = NETWORKS[name].layer

    def named() -> hirescam.Explanation:
        return hirescam.Explainer(model, layer=layer)(x, target=index)

    def chosen() -> hirescam.Explanation:
        return hirescam.Explainer(model)(x, target=index)

    def choice() -> object:
        planner, call = Planner(model, None, None, None, None), as_call(x)
        planner.look()
        return candidates(planner.graph(call, index), Places(model, call, None))

    check(OURS, name, named().raw, definition(model, name, x, index))
    variants = {
        BARE: bare(model, x),
        NAMED: named,
        CHOSEN: chosen,
        CHOICE: choice,
        LISTED: lambda: hirescam.layers(model, x),
    }
    found = paired(variants, seconds=SECONDS, rounds=rounds)
    return {
        "network": name,
        "bare forward, ms": milliseconds(found.cell(BARE)),
        NAMED: found.cell(NAMED),
        CHOSEN: found.cell(CHOSEN),
        CHOICE: found.cell(CHOICE),
        LISTED: found.cell(LISTED),
        BEYOND: found.less(CHOSEN, CHOICE),
        "which": f"`{chosen().layer}`",
    }


if __name__ == "__main__":
    run(__file__, make)
