"""A frozen trunk and one linear layer for the classes of PASCAL VOC: on every place, or on their average.

Train the head, then evaluate what explains the network:

    python examples/voc_head.py VOCdevkit --head flatten --out flatten.safetensors
    hirescam evaluate --model examples/voc_head.py:flatten --weights flatten.safetensors --data voc:VOCdevkit

The trunk is EfficientNet-Lite0 up to its last maps (1280×7×7), with the weights of the installed package. The
head of `flatten` reads all 62,720 numbers, that of `pooled` their 1280 means. A picture may hold several
classes, so that each has a probability of its own, a sigmoid. Nothing but the head is trained: the maps are
computed once, for each picture and its mirror image, and the head is logistic regression with weight decay.
"""

import argparse
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from hirescam import io
from hirescam.evaluation.samples import Sample
from hirescam.evaluation.voc import CLASSES, read_things, voc_data
from hirescam.models import Model, Preset, crop_picture, normalise_picture
from hirescam.networks import lite0

CHANNELS, GRID = 1280, 7
DECAY, STEPS, BATCH = 1e-4, 100, 16


class Features(NamedTuple):
    """What the head sees of some pictures, and what is on them.

    Attributes:
        values: ``(n, d)``.
        present: ``(n, 20)``, 1 where a class is on the picture, 0 where not, NaN where in doubt.
    """

    values: Tensor
    present: Tensor


def flatten() -> Model:
    """Build the network whose head has a weight for every channel and place."""
    return _model("flatten", nn.Flatten(), CHANNELS * GRID * GRID)


def pooled() -> Model:
    """Build the network whose head has a weight for every channel."""
    return _model("pooled", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), CHANNELS)


def _model(name: str, join: nn.Module, entering: int) -> Model:
    network = lite0.load()
    trunk = nn.Sequential(
        *(network._conv_stem, network._bn0, network.stem_relu, network._blocks),
        *(network._conv_head, network._bn1, network.head_relu),
    )
    module = nn.Sequential(OrderedDict(trunk=trunk, join=join, head=nn.Linear(entering, len(CLASSES))))
    side = (lite0.SIDE, lite0.SIDE)
    # The whole picture, squeezed: no object is cut off.
    preset = Preset(side, side, (lite0.MEAN,) * 3, (lite0.STD,) * 3, resample="bicubic", squash=True)
    crop, normalise = partial(crop_picture, preset=preset), partial(normalise_picture, preset=preset)
    about = {"labels": CLASSES, "input_shape": (3, *side), "preset": preset, "multilabel": True}
    return Model(module.eval(), f"voc_head:{name}", crop, normalise, **about)


HEADS: dict[str, Callable[[], Model]] = {"flatten": flatten, "pooled": pooled}


def features(model: Model, samples: Sequence[Sample], *, mirrored: bool) -> Features:
    """Run the frozen trunk over pictures, or over their mirror images."""
    rows = []
    for start in range(0, len(samples), BATCH):
        part = samples[start : start + BATCH]
        images = torch.stack([model.preprocess(io.read_image(one.path)) for one in part])
        with torch.inference_mode():
            rows.append(model.module[:2](images.flip(-1) if mirrored else images))
    return Features(torch.cat(rows).clone(), torch.stack([_present(one) for one in samples]))


def fit(seen: Features, decay: float) -> nn.Linear:
    """Minimise Σ over classes of mean cross-entropy + decay / 2 · Σ weight², on inputs of mean square norm 1.

    The best weights lie in the span of the inputs, so that it is enough to look there.
    """
    span = torch.linalg.qr(seen.values.T).Q
    scale = seen.values.square().sum(1).mean().rsqrt()
    values, known = seen.values @ span * scale, ~seen.present.isnan()
    truth = seen.present.nan_to_num()
    weight = torch.zeros(truth.shape[1], values.shape[1], requires_grad=True)
    bias = torch.zeros(truth.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        each = F.binary_cross_entropy_with_logits(values @ weight.T + bias, truth, reduction="none")
        found = (each * known).sum() / len(values) + decay / 2 * weight.square().sum()
        found.backward()
        return found

    solver.step(loss)
    head = nn.Linear(len(span), len(bias)).requires_grad_(False)
    head.weight.copy_(weight.detach() @ span.T * scale)
    head.bias.copy_(bias.detach())
    return head


def mean_precision(scores: Tensor, present: Tensor) -> tuple[float, float, int]:
    """Average the precision of the classes that are on a picture; give what chance gets, and their number."""
    found, chance = [], []
    for own, truth in zip(scores.detach().T, present.T, strict=True):
        known = ~truth.isnan()
        if truth[known].any():
            found.append(float(average_precision_score(truth[known], own[known])))
            chance.append(float(truth[known].mean()))
    return sum(found) / len(found), sum(chance) / len(chance), len(found)


def train(voc: Path, name: str, *, split: str, decay: float) -> Model:
    """Build a network and train its head."""
    model = HEADS[name]()
    samples = voc_data(voc, split=split, labelled=False).samples
    seen, mirror = (features(model, samples, mirrored=mirrored) for mirrored in (False, True))
    head = fit(Features(*(torch.cat(both) for both in zip(seen, mirror, strict=True))), decay)
    model.module.head.load_state_dict(head.state_dict())
    return model


def _present(sample: Sample) -> Tensor:
    root = sample.path.parents[1]
    _, things = read_things(root / "Annotations" / f"{sample.name}.xml")
    sure = {thing.name for thing in things if not thing.difficult}
    doubtful = {thing.name for thing in things} - sure
    return torch.tensor([torch.nan if name in doubtful else float(name in sure) for name in CLASSES])


def main() -> None:
    """Train on one list of pictures, measure on another, save."""
    parser = argparse.ArgumentParser(description="Train a head for the classes of PASCAL VOC on frozen maps.")
    parser.add_argument("voc", type=Path, help="a folder in the layout of PASCAL VOC")
    parser.add_argument("--head", choices=HEADS, default="flatten")
    parser.add_argument("--out", type=Path, required=True, help="a .safetensors file")
    parser.add_argument("--split", default="train", help="pictures to train on")
    parser.add_argument("--test", default="val", help="pictures to measure on")
    parser.add_argument("--decay", type=float, default=DECAY, help="strength of the weight decay")
    options = parser.parse_args()
    model = train(options.voc, options.head, split=options.split, decay=options.decay)
    save_file({name: value.contiguous() for name, value in model.module.state_dict().items()}, options.out)
    test = features(model, voc_data(options.voc, split=options.test, labelled=False).samples, mirrored=False)
    found, chance, classes = mean_precision(model.module.head(test.values), test.present)
    print(
        f"{options.head} head: mean average precision {found:.3f} on {len(test.values)} pictures of "
        f"{options.test} ({classes} classes that are on them; chance {chance:.3f}); wrote {options.out}"
    )


if __name__ == "__main__":
    main()
