"""Networks as people have them: frames, series, waves, pairs, channels last, and outputs that come late.

Every map is held against one that is written out by hand for the network.
"""

from collections import ChainMap, UserDict
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hirescam
from hirescam import Explainer, InputError, LayerError

torch.manual_seed(0)
LABEL = 1
CLIPS, IMAGES, SIGNALS = torch.randn(2, 6, 3, 32, 32), torch.randn(2, 3, 32, 32), torch.randn(2, 50, 4)
WAVES = torch.randn(2, 1600)


def conv() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU())


def pooled(a: Tensor) -> Tensor:
    return a.mean((2, 3))


def weighted(activations: Tensor, weight: Tensor, axis: int = 1) -> Tensor:
    """Activations times weights, summed over channels, which are on one axis."""
    return (activations.movedim(axis, -1) @ weight[LABEL]).detach()


def explain(net: nn.Module, x: Any, **options: Any) -> hirescam.Explanation:
    result = hirescam.explain(net.eval(), x, target=LABEL, **options)
    assert result.certificate.guarantee == "exact"
    total = result.raw.flatten(2).sum(2) + result.offset
    torch.testing.assert_close(total, result.logits[:, LABEL : LABEL + 1])
    return result


# Frames, views and tiles in the batch ---------------------------------------------------------


class Frames(nn.Module):
    """A network of single frames, whose logits are averaged over a clip."""

    def __init__(self, fold: Callable[[Tensor], Tensor] = lambda v: v.flatten(0, 1)) -> None:
        super().__init__()
        self.cnn, self.fc, self.fold = conv(), nn.Linear(8, 5), fold

    def forward(self, v: Tensor) -> Tensor:
        return self.fc(pooled(self.cnn(self.fold(v)))).unflatten(0, (len(v), -1)).mean(1)


class FramesFirst(Frames):
    """The same, with frames outside and clips inside."""

    def forward(self, v: Tensor) -> Tensor:
        return self.fc(pooled(self.cnn(v.transpose(0, 1).flatten(0, 1)))).unflatten(0, (-1, len(v))).mean(0)


@pytest.mark.parametrize("axes", [None, "btchw", "bnchw"])
@pytest.mark.parametrize("kind", [Frames, FramesFirst])
def test_frames_in_the_batch_are_an_axis_of_the_map(kind: type[Frames], axes: str | None) -> None:
    net = kind()
    result = explain(net, CLIPS, axes=axes)
    want = weighted(net.cnn(CLIPS.flatten(0, 1)), net.fc.weight).unflatten(0, (2, 6)) / (64 * 6)
    torch.testing.assert_close(result.raw[:, 0], want)
    assert (result.layer, result.image_size) == ("cnn", (6, 32, 32))
    assert result.view().values.shape == (2, 1, 6, 32, 32)
    assert result.overlay(CLIPS)[0][0].size == (6 * 32, 32)


def test_every_way_to_the_maps_of_clips_is_the_same() -> None:
    net = Frames().eval()
    explainer = Explainer(net, audit=1.0)
    first, again = explainer(CLIPS, target=LABEL), explainer(CLIPS, target=LABEL)
    torch.testing.assert_close(first.raw, again.raw)
    torch.testing.assert_close(explainer(CLIPS[:1], target=LABEL).raw, first.raw[:1])
    torch.testing.assert_close(explainer.compare(CLIPS, target=LABEL)["gradcam"].raw, first.raw)
    torch.testing.assert_close(explainer(CLIPS, target=LABEL, differentiable=True).raw.detach(), first.raw)
    assert explainer(CLIPS, target=LABEL, rule="scorecam").raw.shape == first.raw.shape
    assert explainer.audits.audited == 9
    assert explainer.audits.failures == ()
    assert [layer.space for layer in explainer.layers(CLIPS) if layer.chosen] == [(6, 8, 8)]


class Steps(nn.Module):
    """A network of single frames, one after the other, and a recurrent layer over them."""

    def __init__(self, apart: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.cnn, self.rnn, self.fc, self.apart = (
            conv(),
            nn.LSTM(8, 16, batch_first=True),
            nn.Linear(16, 5),
            apart,
        )

    def forward(self, v: Tensor) -> Tensor:
        steps = torch.stack([pooled(self.cnn(frame)) for frame in self.apart(v)], 1)
        return self.fc(self.rnn(steps)[0].mean(1))


@pytest.mark.parametrize("apart", [lambda v: v.unbind(1), lambda v: [v[:, t] for t in range(6)]])
def test_frames_one_by_one_then_a_recurrent_layer(apart: Callable[[Tensor], Any]) -> None:
    net = Steps(apart)
    result = explain(net, CLIPS)
    features = torch.stack([pooled(net.cnn(v)) for v in CLIPS.unbind(1)], 1)
    want = (net.rnn(features)[0] @ net.fc.weight[LABEL] / 6).detach()
    assert (result.layer, result.grid) == ("rnn", (6, 1, 1))
    torch.testing.assert_close(result.raw[:, 0, :, 0, 0], want)


class Tiles(nn.Module):
    """Tiles of a large image in the batch, put together again."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn, self.fc = conv(), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tiles = x.unflatten(2, (2, 16)).unflatten(4, (2, 16)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        return self.fc(pooled(self.cnn(tiles))).unflatten(0, (len(x), 4)).mean(1)


def test_tiles_in_the_batch_lie_where_they_were_cut_out() -> None:
    net = Tiles()
    result = explain(net, IMAGES, layer="cnn")
    parts = [[net.cnn(IMAGES[..., i : i + 16, j : j + 16]) for j in (0, 16)] for i in (0, 16)]
    whole = torch.cat([torch.cat(row, 3) for row in parts], 2)
    torch.testing.assert_close(result.raw[:, 0], weighted(whole, net.fc.weight) / 64)


# Axes of the input ----------------------------------------------------------------------------


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cnn, self.fc = conv(), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(self.cnn(x.permute(0, 3, 1, 2))))


@pytest.mark.parametrize("axes", [None, "bhwc", "B, H, W, C"])
def test_images_with_channels_last(axes: str | None) -> None:
    net, x = ChannelsLast(), torch.rand(2, 32, 48, 3)
    result = explain(net, x, axes=axes)
    torch.testing.assert_close(result.raw[:, 0], weighted(net.cnn(x.permute(0, 3, 1, 2)), net.fc.weight) / 96)
    assert (result.image_size, result.axes, result.geometry.axes) == ((32, 48), "bhwc", "bhwc")
    assert result.overlay(x)[0][0].size == (48, 32)
    assert result.receptive_field((1, 1)).box == ((3, 6), (3, 6))
    masked = hirescam.explain(net, x, axes=axes, target=LABEL, rule="scorecam")
    assert masked.raw.shape == result.raw.shape


class Series(nn.Module):
    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.fc = layer, nn.Linear(width, 5)

    def steps(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        return out[0] if isinstance(out, tuple) else out

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.steps(x).mean(1))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.Sequential(nn.Linear(4, 16), nn.TransformerEncoder(layer, 2))


@pytest.mark.parametrize("axes", [None, "btc"])
@pytest.mark.parametrize(
    ("make", "width"),
    [
        (lambda: nn.LSTM(4, 8, batch_first=True, bidirectional=True), 16),
        (lambda: nn.Sequential(nn.Linear(4, 50), nn.ReLU()), 50),
        (encoder, 16),
    ],
)
def test_series_with_features_last(make: Callable[[], nn.Module], width: int, axes: str | None) -> None:
    net = Series(make(), width).eval()
    result = explain(net, SIGNALS, axes=axes)
    torch.testing.assert_close(result.raw[:, 0], (net.steps(SIGNALS) @ net.fc.weight[LABEL] / 50).detach())
    assert (result.image_size, result.axes) == ((50,), "btc")


def test_steps_before_the_batch() -> None:
    class StepsFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.rnn, self.fc = nn.Conv1d(50, 8, 3, padding=1), nn.GRU(8, 16), nn.Linear(16, 5)

        def steps(self, x: Tensor) -> Tensor:
            out: Tensor = self.rnn(self.conv(x).permute(2, 0, 1))[0]
            return out

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.steps(x).mean(0))

    net = StepsFirst()
    result = explain(net, SIGNALS)
    torch.testing.assert_close(result.raw[:, 0], (net.steps(SIGNALS) @ net.fc.weight[LABEL] / 4).mT.detach())


class Spectrogram(nn.Module):
    """A wave becomes a picture of frequencies and times inside the network."""

    def __init__(self, mel: bool) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(64))
        self.register_buffer("bank", torch.rand(33, 20) if mel else None)
        self.cnn = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU())
        self.fc = nn.Linear(8, 5)

    def spectrum(self, x: Tensor) -> Tensor:
        found = torch.stft(x, 64, 16, window=self.window, return_complex=True)
        power = torch.view_as_real(found).square().sum(-1)
        if self.bank is not None:
            power = torch.einsum("bft,fm->bmt", power, self.bank)
        return power.clamp_min(1e-6).log().unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(pooled(self.cnn(self.spectrum(x))))


@pytest.mark.parametrize("mel", [False, True])
def test_a_spectrogram_inside_the_network(mel: bool) -> None:
    net = Spectrogram(mel)
    result = explain(net, WAVES, axes="bt")
    rows = 10 if mel else 17
    want = weighted(net.cnn(net.spectrum(WAVES)), net.fc.weight) / (rows * 51)
    torch.testing.assert_close(result.raw[:, 0], want)
    assert result.grid == (rows, 51)
    assert result.image_size == (2 * rows, 1600)
    assert result.geometry.centres[1][:3] == (0.0, 32.0, 64.0)
    assert result.view().values.shape == (2, 1, 2 * rows, 1600)
    assert result.overlay(WAVES)[0][0].size == (640, 160)
    with pytest.raises(hirescam.ModelError, match="axes that the network made"):
        result.receptive_field()
    with pytest.raises(
        LayerError, match="this rule masks the input, and the map has axes that the input has not"
    ):
        hirescam.explain(net, WAVES, axes="bt", rule="scorecam")


def test_waves_need_a_word() -> None:
    with pytest.raises(InputError, match="or say what they are with axes=, such as 'bt'"):
        hirescam.explain(Spectrogram(False).eval(), WAVES)


def test_axes_that_the_model_contradicts_are_not_drawn() -> None:
    words = r"axes='bchw' does not fit this ChannelsLast: .* takes axis 3 for channels, as with axes='bhwc'"
    with pytest.raises(InputError, match=words):
        hirescam.explain(ChannelsLast().eval(), torch.rand(1, 32, 48, 3), axes="bchw")


# Several inputs -------------------------------------------------------------------------------


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.fc = conv(), nn.Linear(16, 5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.fc(torch.cat([pooled(self.backbone(left)), pooled(self.backbone(right))], 1))


SIDES = {"left": torch.randn(2, 3, 32, 32), "right": torch.randn(2, 3, 24, 40)}


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("named", [False, True])
def test_either_side_of_a_pair(side: int, named: bool) -> None:
    net = Pair()
    x = SIDES if named else tuple(SIDES.values())
    name = ("left", "right")[side]
    own = SIDES[name]
    part = net.fc.weight[:, 8 * side : 8 * side + 8]
    maps = net.backbone(own)
    want = weighted(maps, part) / maps[0, 0].numel()
    chosen = explain(net, x, input=name if named else side)
    by_layer = explain(net, x, layer=f"backbone#{side + 1}")
    for result in (chosen, by_layer):
        torch.testing.assert_close(result.raw[:, 0], want)
        assert result.layer == f"backbone#{side + 1}"
        assert result.certificate.offset == "for these other inputs"
        assert result.image_size == tuple(own.shape[2:])


def test_a_pair_without_a_word_is_not_guessed() -> None:
    net, x = Pair().eval(), tuple(SIDES.values())
    words = (
        r"2 inputs that could be the image \(0 of shape .*, 1 of shape .*\): say .* input=0, or name a layer"
    )
    with pytest.raises(InputError, match=words):
        hirescam.explain(net, x)
    with pytest.raises(InputError, match=words):
        hirescam.explain(net, x, layer="fc")
    listed = hirescam.layers(net, x)
    assert {(layer.input, layer.name) for layer in listed if layer.chosen} == {
        (0, "backbone#1"),
        (1, "backbone#2"),
    }


def test_a_mapping_that_is_no_dict() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cnn, self.fc = conv(), nn.Linear(8, 5)

        def forward(self, pixel_values: Tensor, scale: Tensor) -> Tensor:
            return self.fc(pooled(self.cnn(pixel_values)))

    net = Named()
    result = explain(net, UserDict(pixel_values=IMAGES, scale=torch.ones(2)))
    torch.testing.assert_close(result.raw[:, 0], weighted(net.cnn(IMAGES), net.fc.weight) / 64)


def test_detectors_are_wrapped() -> None:
    """What the error says to do works."""
    detection = pytest.importorskip("torchvision").models.detection
    torch.manual_seed(0)
    detector = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4, box_score_thresh=0.0, box_detections_per_img=3
    ).eval()
    pictures = [torch.rand(3, 96, 128), torch.rand(3, 80, 128)]
    for given in (pictures, pictures[:1]):
        with pytest.raises(
            InputError, match=r"list of . pictures .* a module whose forward\(x\) calls it with list"
        ):
            hirescam.explain(detector, given)

    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.detector = detector

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([found["scores"] for found in self.detector(list(x))])

    result = hirescam.explain(Scores().eval(), pictures[0][None], target=0)
    assert result.certificate.guarantee == "none"
    rows, columns = result.grid
    assert rows < columns


# Names that work ------------------------------------------------------------------------------


@dataclass
class Features:
    last: Tensor
    pooled: Tensor


class Backbone(nn.Module):
    """Gives the map and something that was already made of it."""

    def __init__(self, give: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.give = nn.Conv2d(3, 8, 3, stride=4, padding=1), give

    def forward(self, x: Tensor) -> Any:
        features = torch.relu(self.conv(x))
        return self.give(features, pooled(features))


class Late(nn.Module):
    def __init__(self, give: Callable[[Tensor, Tensor], Any], take: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.backbone, self.fc, self.take = Backbone(give), nn.Linear(8, 5), take

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.take(self.backbone(x)))


@pytest.mark.parametrize(
    ("give", "take"),
    [
        (lambda f, p: (f, p), lambda out: out[1]),
        (lambda f, p: [f, [p]], lambda out: out[1][0]),
        (lambda f, p: {"map": f, "pooled": p}, lambda out: out["pooled"]),
        (lambda f, p: UserDict(map=f, pooled=p), lambda out: out["pooled"]),
        (Features, lambda out: out.pooled),
        (Features, lambda out: pooled(out.last)),
        (lambda f, p: (f, p), lambda out: pooled(out[0])),
        (lambda f, p: {"map": f}, lambda out: pooled(out["map"])),
    ],
)
@pytest.mark.parametrize("layer", [None, "backbone"])
def test_a_map_and_what_was_made_of_it(
    give: Callable[[Tensor, Tensor], Any], take: Callable[[Any], Tensor], layer: str | None
) -> None:
    net = Late(give, take)
    result = explain(net, IMAGES, layer=layer)
    torch.testing.assert_close(
        result.raw[:, 0], weighted(torch.relu(net.backbone.conv(IMAGES)), net.fc.weight) / 64
    )
    for one in hirescam.layers(net.eval(), IMAGES):
        hirescam.explain(net, IMAGES, layer=one.name)


def test_a_reentrant_checkpoint_is_named() -> None:
    from torch.utils.checkpoint import checkpoint

    class Reentrant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cnn, self.fc = conv(), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(pooled(checkpoint(self.cnn, x, use_reentrant=True)))

    with pytest.raises(LayerError, match="use use_reentrant=False, which computes the same"):
        hirescam.explain(Reentrant().eval(), IMAGES)


# What layers() lists, explain takes -----------------------------------------------------------


class LastState(nn.Module):
    """A recurrent layer whose last state is read, and whose steps are not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gru = nn.Conv1d(4, 8, 5, stride=4, padding=2), nn.GRU(8, 8, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.gru(self.stem(x).relu().mT)[1][-1])


class Gathered(LastState):
    """The last valid step, by number."""

    def forward(self, x: Tensor) -> Tensor:
        steps = self.gru(self.stem(x).relu().mT)[0]
        return self.fc(steps.gather(1, torch.full((len(x), 1, 8), 4)).squeeze(1))


class Graph(nn.Module):
    """Joints of a skeleton, mixed by a fixed matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("joints", torch.softmax(torch.randn(7, 7), 1))
        self.lift, self.time = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, (5, 1), (2, 1), (2, 0))
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.einsum("bctv,vw->bctw", self.lift(x.permute(0, 3, 1, 2)), self.joints)
        return self.fc(self.time(mixed).relu().mean((2, 3)))


class Stacked(nn.Module):
    """Views one by one, and their features side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn, self.fc = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU()), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.cnn(x[:, i : i + 1]).mean((2, 3)) for i in range(x.shape[1])]
        return self.fc(torch.stack(seen, 1).mean(1))


@pytest.mark.parametrize(
    ("net", "shape"),
    [(LastState, (2, 4, 64)), (Gathered, (2, 4, 64)), (Graph, (2, 20, 7, 3)), (Stacked, (2, 4, 16, 16))],
)
def test_every_layer_that_is_listed_can_be_explained(net: type[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = net().eval(), torch.randn(shape)
    listed = hirescam.layers(model, x)
    assert listed
    for layer in listed:
        assert hirescam.explain(model, x, layer=layer.name).raw.shape[2:] == layer.space


class TimeFirst(nn.Module):
    """Series as ``(t, b, c)``."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.gru, self.fc = nn.Linear(4, 16), nn.GRU(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.gru(self.lift(x))[0].mean(0))


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_time_first_in_batches_of_any_size(batch: int) -> None:
    torch.manual_seed(0)
    model, x = TimeFirst().eval(), torch.randn(12, batch, 4)
    result = hirescam.explain(model, x, axes="tbc")
    assert (result.layer, result.certificate.guarantee, result.grid) == ("gru", "exact", (12,))
    assert hirescam.explain(model, x, axes="tbc", grid=(12,)).layer == "gru"


@pytest.mark.parametrize("kind", [UserDict, ChainMap, MappingProxyType])
def test_outputs_that_are_mappings_and_no_dicts(kind: Any) -> None:
    class Returns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cnn, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Any:
            return kind({"logits": self.fc(self.cnn(x).relu().mean((2, 3))), "size": x.shape})

    model, x = Returns().eval(), torch.randn(2, 3, 8, 8)
    for output in (None, "logits"):
        assert hirescam.explain(model, x, output=output).certificate.guarantee == "exact"
    with pytest.raises(hirescam.OutputError, match=r"a \w+ with the keys \['logits', 'size'\]"):
        hirescam.explain(model, x, output="scores")


def test_no_grid_is_offered_or_taken_where_it_cannot_help() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cnn, self.tap, self.fc = nn.Conv2d(3, 8, 4, stride=4), nn.Identity(), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.cnn(x).flatten(2).mT
            return self.fc(self.tap(tokens[:, torch.tensor([0, *range(47)])]).mean(1))

    model, x = Twice().eval(), torch.randn(1, 3, 24, 32)
    for options in ({}, {"grid": (6, 8)}):
        with pytest.raises(hirescam.LayerError, match="left out, or there twice") as error:
            hirescam.explain(model, x, layer="tap", **options)
        assert "grid=" not in str(error.value)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cnn, self.fc = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(16, 4)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            one, other = self.cnn(torch.cat([left, right])).relu().mean((2, 3)).chunk(2)
            return self.fc(torch.cat([one, other], 1))

    for options in ({"layer": "cnn"}, {}):
        with pytest.raises(hirescam.LayerError) as error:
            hirescam.explain(Both().eval(), (x, x), input=0, **options)
        assert "grid=" not in str(error.value)


@pytest.mark.parametrize("how", ["one question for all images", "questions for all heads"])
def test_questions_of_an_attention_that_are_broadcast(how: str) -> None:
    class Asked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fc = nn.Conv2d(3, 16, 4, stride=4), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.embed(x).flatten(2).mT
            questions = tokens.mean(0, keepdim=True)
            if how == "questions for all heads":
                questions, tokens = tokens[:, None], tokens[:, None].expand(-1, 2, -1, -1)
            answers = nn.functional.scaled_dot_product_attention(questions, tokens, tokens)
            return self.fc(answers.flatten(1, -2).mean(1))

    certificate = hirescam.certify(Asked().eval(), IMAGES)
    assert (certificate.guarantee, certificate.layer) == ("none", "embed")
