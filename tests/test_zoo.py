"""Networks of many families: the right axes, the sum, single locations, and the place of an event."""

import pytest

from zoo.checks import row_of
from zoo.networks import BY_HAND, Entry, every

SEE_EVERYTHING = {
    "timm: convmixer_1024_20_ks9_p14",
    "torchvision: lraspp_mobilenet_v3_large",
    "hirescam: crepe, trained",
    "transformers: Wav2Vec2Bert",  # 31 steps back, and none ahead, in each of its layers
}
"""Each location of their layer sees most of the input, and may answer an event elsewhere more."""


@pytest.mark.parametrize("entry", BY_HAND, ids=lambda entry: entry.name)
def test_networks_by_hand(entry: Entry) -> None:
    check(entry)


QUICK = {
    "timm": "resnet10t regnetx_002 mobilenetv3_small_050 ghostnet_050 dla46_c convnext_atto shvit_s1",
    "torchvision": "squeezenet1_1 shufflenet_v2_x0_5",
    "MONAI": "UNet SegResNet",
}
OTHERS = [
    one
    for one in every()
    if one not in BY_HAND
    and (package := one.name.split(": ")[0]) in {*QUICK, "transformers"}
    and (package == "transformers" or one.name.split(": ")[1] in QUICK[package].split())
]
"""Those that take a second or two each; docs/_zoo.py runs the others too."""


@pytest.mark.slow
@pytest.mark.parametrize("entry", OTHERS, ids=lambda entry: entry.name)
def test_networks_of_others(entry: Entry) -> None:
    package = entry.name.split(":")[0]
    pytest.importorskip({"MONAI": "monai"}.get(package, package))
    check(entry)


def check(entry: Entry) -> None:
    row = row_of(entry)
    assert len(row.grid) == len(row.image_size) == len(entry.axes)
    assert row.image_size[-len(entry.space) :] == entry.space
    assert row.error is None or row.error < 1e-6
    assert row.apart is None or row.apart < 1e-6
    assert row.audited == ""
    assert row.place <= 1.5 or entry.name in SEE_EVERYTHING
    assert row.measurement != "differs"
