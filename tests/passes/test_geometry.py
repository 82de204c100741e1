"""Axes of one pass: where they start, what has none, what operations do not show, and which are channels."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hirescam
from hirescam.passes.geometry import Geometry
from hirescam.passes.input_axes import InputAxes, usual_axes
from hirescam.passes.parts import Part, Role, channels, unknown
from hirescam.planning import Planner
from passes.made import call
from passes.test_axis_rules import shown_to


def test_what_does_not_depend_on_the_image_has_no_axes() -> None:
    geometry = Geometry(lambda tensor: False)
    image = torch.rand(2, 3, 4, 6)
    geometry.start(image, usual_axes(image))
    with shown_to(geometry):
        weight = torch.ones(3) * 2
        zeros = torch.zeros_like(image)
    assert geometry.of(weight) is None
    assert geometry.of(zeros) is None


def test_what_depends_on_the_image_and_was_not_seen_is_unknown() -> None:
    geometry = Geometry(lambda tensor: True)
    assert geometry.of(torch.zeros(2, 3)) == (unknown(2), unknown(3))


def test_an_image_starts_with_axes_as_they_are_said() -> None:
    geometry, image = Geometry(lambda tensor: False), torch.rand(4, 2, 6, 3)
    geometry.start(image, InputAxes("hbwc"))
    rows, columns = Part(Role.PLACE, 4, 0), Part(Role.PLACE, 6, 1)
    assert geometry.of(image) == ((rows,), (Part(Role.BATCH, 2),), (columns,), channels(3))


def test_a_part_that_is_written_into_zeros_goes_on_beyond_itself() -> None:
    geometry, image = Geometry(lambda tensor: False), torch.rand(2, 3, 4, 6)
    geometry.start(image, usual_axes(image))
    with shown_to(geometry):
        canvas = torch.zeros(2, 3, 8, 10)
        canvas[..., 1:5, 3:9].copy_(image)
    axes = geometry.of(canvas)
    assert axes is not None
    assert [(axis[0].size, axis[0].first) for axis in axes[2:]] == [(8, -1.0), (10, -3.0)]
    with shown_to(geometry):
        turned = torch.zeros(2, 3, 6, 4)
        turned.mT.copy_(image)
    assert geometry.of(turned) is None or Role.UNKNOWN in {
        part.role for a in geometry.of(turned) for part in a
    }


# Which axis is taken for channels -------------------------------------------------------------


class Takes(nn.Module):
    """A first layer, and what is done to the images before it."""

    def __init__(self, layer: nn.Module, before: Any = lambda x: x) -> None:
        super().__init__()
        self.layer, self.before = layer, before

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(self.before(x))
        out = out[0] if isinstance(out, tuple) else out
        return out.reshape(len(x), -1)[:, :4]


TURNED = torch.eye(8) + torch.randn(8, 8)


@pytest.mark.parametrize(
    ("net", "shape", "letters"),
    [
        (Takes(nn.Conv2d(3, 4, 3)), (2, 3, 8, 8), None),
        (Takes(nn.Conv2d(3, 4, 3), lambda x: x.permute(0, 3, 1, 2)), (2, 8, 9, 3), "bhwc"),
        (Takes(nn.Conv2d(3, 4, 3), lambda x: x.flatten(0, 1)), (2, 5, 3, 8, 8), "btchw"),
        (Takes(nn.Conv2d(3, 4, 3), lambda x: x[:, 0]), (2, 5, 3, 8, 8), "btchw"),
        (Takes(nn.Conv2d(3, 4, 3), lambda x: torch.cat(x.unbind(1))), (2, 5, 3, 8, 8), "btchw"),
        (Takes(nn.Conv3d(3, 4, 3)), (2, 3, 5, 8, 8), None),
        (Takes(nn.Linear(5, 4)), (2, 9, 5), "btc"),
        (Takes(nn.Linear(9, 4), lambda x: x.mT), (2, 9, 5), None),
        (Takes(nn.LSTM(5, 4, batch_first=True)), (2, 9, 5), "btc"),
        (Takes(nn.GRU(9, 4, batch_first=True), lambda x: x.mT), (2, 9, 5), None),
        (Takes(nn.LSTM(8, 4, batch_first=True), lambda x: x.squeeze(1)), (2, 1, 6, 8), None),
        (Takes(nn.Linear(192, 4), lambda x: x.flatten(1)), (2, 3, 8, 8), None),
        # no axis of channels: windows run over what would be one, or it is a part of the batch
        (Takes(nn.Conv2d(1, 4, (1, 3)), lambda x: x[:, None]), (2, 9, 15), "bhw"),
        (Takes(nn.Conv2d(1, 4, 3), lambda x: x[:, None]), (2, 9, 15), "bhw"),
        (Takes(nn.Conv3d(1, 4, 3), lambda x: x[:, None]), (2, 9, 8, 8), "bthw"),
        (Takes(nn.Conv2d(1, 4, 3), lambda x: x.flatten(0, 1)[:, None]), (2, 5, 8, 8), "bthw"),
        # windows with the channels that were said, after sums over something else
        (Takes(nn.Conv2d(3, 4, 3), lambda x: x @ TURNED), (2, 3, 8, 8), None),
        (Takes(nn.Linear(4, 4), lambda x: x.unfold(2, 4, 4)), (2, 3, 16), None),
    ],
)
def test_which_axis_the_first_sums_are_taken_over(
    net: nn.Module, shape: tuple[int, ...], letters: str | None
) -> None:
    planner = Planner(net.eval(), None, None, None, None)
    planner.look()
    found = planner.graph(call(torch.randn(shape)), None).contradicted
    assert (found and found.letters) == letters


def test_axes_that_the_model_contradicts_are_an_error() -> None:
    net, x = Takes(nn.Conv2d(3, 4, 3)).eval(), torch.randn(2, 3, 8, 8)
    with pytest.raises(hirescam.InputError, match="takes axis 1 for channels, as with axes='bchw'"):
        hirescam.explain(net, x, axes="bdhw")
    grey = Takes(nn.Conv2d(1, 4, 3), lambda x: x[:, None]).eval()
    with pytest.raises(
        hirescam.InputError, match="takes none of their axes for channels, as with axes='bhw'"
    ):
        hirescam.explain(grey, x[:, 0], axes="bct")


# Networks that people have --------------------------------------------------------------------


def raw(net: nn.Module, x: Tensor, **options: Any) -> Tensor:
    return hirescam.explain(net.eval(), x, target=1, **options).raw[:, 0]


def test_padding_that_lengthens_a_signal() -> None:
    net = nn.Sequential(
        nn.Conv1d(12, 32, 16, padding=8), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 5)
    )
    x = torch.randn(2, 12, 200)
    want = (net[:2](x) * net[4].weight[1][:, None]).sum(1) / 201
    torch.testing.assert_close(raw(net, x), want.detach())


@pytest.mark.parametrize("stride", [(4, 1), (1, 4)])
def test_strides_along_one_axis(stride: tuple[int, int]) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 12, 5, stride=stride, padding=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )
    x = torch.randn(2, 1, 40, 101)
    want = (net[:2](x) * net[4].weight[1][:, None, None]).sum(1)
    torch.testing.assert_close(raw(net, x), (want / want[0].numel()).detach())


def test_as_many_channels_as_rows_and_columns() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    )
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(
        raw(net, x), ((net[:2](x) * net[4].weight[1][:, None, None]).sum(1) / 256).detach()
    )


class Recurrent(nn.Module):
    """A convolution and a recurrent layer on a signal."""

    def __init__(self, kind: type[nn.RNNBase], last: bool, both: bool, first: bool) -> None:
        super().__init__()
        self.last, self.first = last, first
        self.cnn = nn.Sequential(nn.Conv1d(1, 8, 5, stride=4, padding=2), nn.ReLU())
        self.rnn = kind(8, 16, batch_first=first, bidirectional=both)
        self.fc = nn.Linear(32 if both else 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.cnn(x).permute((0, 2, 1) if self.first else (2, 0, 1))
        out = self.rnn(steps)[0]
        out = out if self.first else out.transpose(0, 1)
        return self.fc(out[:, -1] if self.last else out.mean(1))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_layers_have_maps_over_steps(kind: type[nn.RNNBase], last: bool, both: bool) -> None:
    net, x = Recurrent(kind, last, both, first=True).eval(), torch.randn(2, 1, 160)
    found = hirescam.explain(net, x, target=1, layer="rnn")
    assert found.raw.shape[2:] == (40,)
    assert found.certificate.single_token == last
    out = net.rnn(net.cnn(x).mT)[0]
    want = out @ net.fc.weight[1]
    if last:
        want = want * (torch.arange(40) == 39)
    torch.testing.assert_close(found.raw[:, 0], (want if last else want / 40).detach())


class Blocks(nn.Module):
    """Tokens in the order of 2 × 2 blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.fc = nn.Conv2d(3, 12, 4, stride=4), nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.embed(x).unflatten(2, (4, 2)).unflatten(4, (4, 2))
        return self.fc(self.norm(a.permute(0, 3, 5, 2, 4, 1).flatten(1, 4)).mean(1))


def test_tokens_in_another_order_are_drawn_in_their_place() -> None:
    net, x = Blocks().eval(), torch.randn(1, 3, 32, 32)
    found = hirescam.explain(net, x, target=1, layer="norm")
    want = (net.norm(net.embed(x).movedim(1, -1)) @ net.fc.weight[1]) / 64
    torch.testing.assert_close(found.raw[:, 0], want.detach())
    assert found.certificate.guarantee == "exact"


class Attention(nn.Module):
    """Attention over the places of an image; what is inside is no map."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.fc = nn.Conv2d(3, 16, 4, stride=4), nn.Linear(16, 48), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).mT
        q, k, v = self.mix(tokens).chunk(3, -1)
        return self.fc((tokens + (q @ k.mT).softmax(-1) @ v).mean(1))


class Pool(nn.Module):
    """An attention over places without a way around it, read at one of them."""

    def __init__(self, fused: bool, questions: int) -> None:
        super().__init__()
        self.embed, self.ask = nn.Conv2d(3, 16, 4, stride=4), nn.Parameter(torch.randn(1, questions or 1, 16))
        self.fused, self.questions, self.fc = fused, questions, nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).mT
        query = self.ask.expand(len(x), -1, -1) if self.questions else tokens
        if self.fused:
            answers = nn.functional.scaled_dot_product_attention(query, tokens, tokens)
        else:
            answers = (query @ tokens.mT).softmax(-1) @ tokens
        return self.fc(answers[:, 0])


@pytest.mark.parametrize("questions", [0, 1, 5])
@pytest.mark.parametrize("fused", [False, True])
def test_what_an_attention_answers_has_no_places(fused: bool, questions: int) -> None:
    net, x = Pool(fused, questions).eval(), torch.randn(1, 3, 32, 32)
    result = hirescam.explain(net, x)
    assert (result.layer, result.certificate.guarantee) == ("embed", "none")


def test_inside_an_attention_there_is_no_map() -> None:
    net, x = Attention().eval(), torch.randn(1, 3, 32, 32)
    assert not any(layer.name.startswith("softmax") for layer in hirescam.layers(net, x))
    result = hirescam.explain(net, x)
    assert result.raw.shape[2:] == (8, 8)
    assert result.certificate.guarantee == "exact"
