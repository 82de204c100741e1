"""The networks: how each is built, what goes in, and what its map is a map of."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

IMAGE, VIDEO = (3, 64, 64), (3, 8, 64, 64)


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Attributes:
        name: family and variant.
        build: makes it.
        shape: of one input.
        axes: what the axes of the map are, one letter each; ``f`` are frequencies that the network makes.
        key: the argument that the input goes to; ``""`` is the only one.
        options: more arguments of `hirescam.explain`.
        spaces: numbers of the axes of the input that the map lies on; by default all but the first.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    axes: str = "hw"
    key: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    spaces: tuple[int, ...] = ()

    @property
    def space(self) -> tuple[int, ...]:
        """The sizes of those axes."""
        return tuple(self.shape[axis] for axis in self.spaces or range(1, len(self.shape)))

    def model(self) -> nn.Module:
        """The network, from seed 0, in evaluation mode and float64."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.build().eval().double()

    def given(self, images: Tensor) -> Any:
        """Images as the network takes them."""
        return {self.key: images} if self.key else images


# Hugging Face ---------------------------------------------------------------------------------

TRANSFORMER = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 64, "patch_size": 8,
}  # fmt: skip
STAGES = {"hidden_sizes": [16, 16, 16, 32], "depths": [1, 1, 1, 1]}
SWIN = {
    "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 64,
    "patch_size": 4,
}  # fmt: skip
HUGGING_FACE: dict[str, dict[str, Any]] = {
    "beit": TRANSFORMER,
    "bit": STAGES | {"embedding_size": 16, "num_groups": 4},
    "convnext": STAGES,
    "convnextv2": STAGES,
    "data2vec-vision": TRANSFORMER,
    "deit": TRANSFORMER,
    "dinov2": TRANSFORMER,
    "dinov2_with_registers": TRANSFORMER,
    "donut-swin": SWIN,
    "focalnet": {
        "embed_dim": 16, "depths": [1, 1], "hidden_sizes": [16, 32], "focal_levels": [2, 2],
        "focal_windows": [3, 3], "image_size": 64,
    },
    "hgnet_v2": {},
    "ijepa": TRANSFORMER,
    "levit": {
        "image_size": 64, "hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.35},
    "mobilevit": {
        "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 16, 16, 16, 16, 16, 32], "image_size": 64,
        "num_attention_heads": 2,
    },
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.5},
    "poolformer": STAGES,
    "pp_lcnet": {},
    "pvt": STAGES | {"image_size": 64, "num_attention_heads": [1, 1, 1, 1]},
    "pvt_v2": STAGES | {"num_attention_heads": [1, 1, 1, 1]},
    "regnet": STAGES | {"embedding_size": 16, "groups_width": 8},
    "resnet": STAGES | {"embedding_size": 16},
    "segformer": STAGES | {"num_attention_heads": [1, 1, 1, 1]},
    "swiftformer": {"embed_dims": [16, 16, 32, 32], "depths": [1, 1, 1, 1]},
    "swin": SWIN,
    "swinv2": SWIN,
    "textnet": {},
    "vit": TRANSFORMER,
    "vit_msn": TRANSFORMER,
}  # fmt: skip


def hugging_face(kind: str) -> Callable[[], nn.Module]:
    """An image classifier from a small configuration."""

    def build() -> nn.Module:
        import transformers

        known = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
        config = next(one for one in known if one.model_type == kind)
        cls = known[config]
        made = config(**HUGGING_FACE[kind])
        made.num_labels = 5
        return (cls[0] if isinstance(cls, tuple) else cls)(made)  # type: ignore[no-any-return]

    return build


def sound(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A classifier of `transformers` by the names of its classes."""

    def build() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{name}Config")(**options)
        kind = {"VideoMAE": "ForVideoClassification", "Timesformer": "ForVideoClassification",
                "Vivit": "ForVideoClassification", "Whisper": "ForAudioClassification",
                "AST": "ForAudioClassification"}.get(name, "ForSequenceClassification")  # fmt: skip
        return getattr(transformers, name + kind)(config)  # type: ignore[no-any-return]

    return build


SPEECH = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 16,
}  # fmt: skip
OTHERS = [
    Entry(
        "transformers: AST",
        sound(
            "AST",
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_length=96,
            num_mel_bins=32,
            patch_size=8,
            frequency_stride=8,
            time_stride=8,
        ),
        (96, 32),
        "tf",
        "input_values",
        {"axes": "btf"},
        (0, 1),
    ),
    Entry(
        "transformers: Whisper",
        sound(
            "Whisper",
            d_model=32,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=64,
            num_mel_bins=16,
            max_source_positions=50,
        ),
        (16, 100),
        "t",
        "input_features",
    ),
    Entry(
        "transformers: Wav2Vec2",
        sound("Wav2Vec2", **SPEECH),
        (1600,),
        "t",
        "input_values",
        {"axes": "bt"},
        (0,),
    ),
    Entry(
        "transformers: HuBERT", sound("Hubert", **SPEECH), (1600,), "t", "input_values", {"axes": "bt"}, (0,)
    ),
    Entry(
        "transformers: WavLM", sound("WavLM", **SPEECH), (1600,), "t", "input_values", {"axes": "bt"}, (0,)
    ),
    Entry(
        "transformers: VideoMAE",
        sound("VideoMAE", **TRANSFORMER, num_frames=4, tubelet_size=2),
        (4, 3, 64, 64),
        "thw",
        "pixel_values",
        spaces=(0, 2, 3),
    ),
    Entry(
        "transformers: TimeSformer",
        sound("Timesformer", **TRANSFORMER, num_frames=4),
        (4, 3, 64, 64),
        "thw",
        "pixel_values",
        spaces=(0, 2, 3),
    ),
    Entry(
        "transformers: ViViT",
        sound(
            "Vivit",
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=64,
            num_frames=4,
            tubelet_size=[2, 8, 8],
        ),
        (4, 3, 64, 64),
        "thw",
        "pixel_values",
        spaces=(0, 2, 3),
    ),
]

# timm, torchvision, MONAI ---------------------------------------------------------------------

TIMM = {
    "resnet10t": 64, "resnetv2_18": 64, "seresnet18": 64, "regnetx_002": 64, "efficientnet_lite0": 64,
    "mobilenetv3_small_050": 64, "mobilenetv4_conv_small_035": 64, "mixnet_s": 64, "rexnet_100": 64,
    "ghostnet_050": 64, "densenet121": 64, "dla46_c": 64, "ese_vovnet19b_dw": 64, "hrnet_w18_small": 64,
    "vgg11": 64, "nfnet_l0": 64, "convnext_atto": 64, "inception_next_tiny": 64, "repvgg_a0": 64,
    "mobileone_s0": 64, "fasternet_t0": 64, "starnet_s1": 64, "edgenext_xx_small": 64, "poolformer_s12": 64,
    "fastvit_t8": 64, "hgnetv2_b0": 64, "lcnet_035": 64, "pvt_v2_b0": 64, "vit_tiny_patch16_224": 224,
    "xcit_nano_12_p16_224": 224, "swin_tiny_patch4_window7_224": 224, "mixer_s32_224": 224,
    "resmlp_12_224": 224, "hiera_tiny_224": 224, "mobilevitv2_050": 256, "resnet50_clip": 224,
    "coat_lite_tiny": 224, "levit_128s": 224, "mvitv2_tiny": 224, "maxvit_pico_rw_256": 256,
}  # fmt: skip
TORCHVISION = {
    "convnext_tiny": 64, "densenet121": 64, "efficientnet_b0": 64, "googlenet": 96, "mnasnet0_5": 64,
    "mobilenet_v2": 64, "mobilenet_v3_small": 64, "regnet_y_400mf": 64, "resnet18": 64,
    "shufflenet_v2_x0_5": 64, "squeezenet1_1": 64, "swin_t": 64, "swin_v2_t": 64, "vgg11": 64,
}  # fmt: skip
VIDEOS = ("r3d_18", "swin3d_t")


def timm_network(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=5)  # type: ignore[no-any-return]

    return build


def torchvision_network(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        options = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
        found = getattr(torchvision.models, name, None) or getattr(torchvision.models.video, name)
        return found(weights=None, num_classes=5, **options)  # type: ignore[no-any-return]

    return build


def monai_network(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from monai.networks import nets

        return getattr(nets, name)(**options)  # type: ignore[no-any-return]

    return build


MONAI = [
    Entry(
        "MONAI: DenseNet121 2-D",
        monai_network("DenseNet121", spatial_dims=2, in_channels=1, out_channels=5),
        (1, 64, 64),
    ),
    Entry(
        "MONAI: DenseNet121 3-D",
        monai_network("DenseNet121", spatial_dims=3, in_channels=1, out_channels=5),
        (1, 64, 64, 64),
        "dhw",
    ),
    Entry(
        "MONAI: ResNet10 3-D",
        monai_network("resnet10", spatial_dims=3, n_input_channels=1, num_classes=5),
        (1, 32, 64, 64),
        "dhw",
    ),
    Entry(
        "MONAI: SENet", monai_network("SEResNet50", spatial_dims=2, in_channels=1, num_classes=5), (1, 64, 64)
    ),
    Entry(
        "MONAI: EfficientNet-B0",
        monai_network(
            "EfficientNetBN",
            model_name="efficientnet-b0",
            spatial_dims=2,
            in_channels=1,
            num_classes=5,
            pretrained=False,
        ),
        (1, 64, 64),
    ),
]


# By hand --------------------------------------------------------------------------------------


class EEGNet(nn.Module):
    """Filters over time, then over electrodes, then over time again."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Conv2d(1, 8, (1, 65), padding=(0, 32))
        self.electrodes = nn.Conv2d(8, 16, (22, 1), groups=8)
        self.separable = nn.Sequential(
            nn.Conv2d(16, 16, (1, 17), padding=(0, 8), groups=16), nn.Conv2d(16, 16, 1)
        )
        self.fc = nn.Linear(16 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        first = nn.functional.avg_pool2d(nn.functional.elu(self.electrodes(self.time(x))), (1, 4))
        second = nn.functional.avg_pool2d(nn.functional.elu(self.separable(first)), (1, 8))
        return self.fc(second.flatten(1))


class TCN(nn.Module):
    """Dilated convolutions with a way around each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 24, 1)
        self.steps = nn.ModuleList(nn.Conv1d(24, 24, 3, padding=2**i, dilation=2**i) for i in range(4))
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for step in self.steps:
            x = x + torch.relu(step(x))
        return self.fc(x.mean(2))


class CRNN(nn.Module):
    """Columns of a line of text, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU())
        self.rnn, self.fc = nn.LSTM(8 * 16, 16, bidirectional=True, batch_first=True), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(self.cnn(x).permute(0, 3, 1, 2).flatten(2))[0].mean(1))


class Frames(nn.Module):
    """A network of pictures on each frame, and a recurrent layer over them."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.rnn, self.fc = nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = self.cnn(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.fc(self.rnn(features)[0].mean(1))


class Series(nn.Module):
    """A transformer over a series."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.embed, self.encoder, self.fc = (
            nn.Linear(4, 32),
            nn.TransformerEncoder(layer, 2),
            nn.Linear(32, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.encoder(self.embed(x)).mean(1))


class Spectrum(nn.Module):
    """A spectrogram inside the network."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(64))
        self.cnn = nn.Sequential(nn.Conv2d(1, 8, 3, stride=(2, 1), padding=1), nn.ReLU())
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.stft(x, 64, 16, window=self.window, return_complex=True).abs()
        return self.fc(self.cnn(spectrum.unsqueeze(1)).mean((2, 3)))


BY_HAND = [
    Entry("EEGNet", EEGNet, (1, 22, 256)),
    Entry("TCN", TCN, (4, 200), "t"),
    Entry("CRNN", CRNN, (1, 32, 96)),
    Entry("CNN-LSTM on frames", Frames, (6, 3, 32, 32), "thw", spaces=(0, 2, 3)),
    Entry("transformer on a series", Series, (50, 4), "t", spaces=(0,)),
    Entry("spectrogram inside", Spectrum, (1600,), "ft", "", {"axes": "bt"}, (0,)),
]


def every() -> Iterator[Entry]:
    """All networks."""
    for kind in HUGGING_FACE:
        yield Entry(f"transformers: {kind}", hugging_face(kind), IMAGE, key="pixel_values")
    yield from OTHERS
    for name, side in TIMM.items():
        yield Entry(f"timm: {name}", timm_network(name), (3, side, side))
    for name, side in TORCHVISION.items():
        yield Entry(f"torchvision: {name}", torchvision_network(name), (3, side, side))
    for name in VIDEOS:
        yield Entry(f"torchvision: {name}", torchvision_network(name), VIDEO, "thw")
    yield from MONAI
    yield from BY_HAND
