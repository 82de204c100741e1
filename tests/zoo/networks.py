"""The networks: how each is built, what goes in, and what its map is a map of."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import hirescam
import hirescam.models

IMAGE, VIDEO = (3, 64, 64), (3, 8, 64, 64)


def class_score(output: Any, target: int) -> Tensor:
    """The logit of a class."""
    return (output if isinstance(output, Tensor) else output.logits)[0, target]


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
        target: what is explained of the output of one input; None is the predicted class.
        score: reads the score of a target from what the network returns, without the library.
        pair: whether the network takes two inputs, and the second is explained.
        calibrated: whether its batch norms get the statistics of noise.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    axes: str = "hw"
    key: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    spaces: tuple[int, ...] = ()
    target: Any = None
    score: Callable[[Any, int], Tensor] = class_score
    pair: bool = False
    calibrated: bool = True

    @property
    def space(self) -> tuple[int, ...]:
        """The sizes of those axes."""
        return tuple(self.shape[axis] for axis in self.spaces or range(1, len(self.shape)))

    def model(self) -> nn.Module:
        """The network, from seed 0, in evaluation mode and float64."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = self.build().double()
        for name, weight in model.named_parameters():
            if not name.endswith("bias") and not bool(
                weight.any()
            ):  # parts that start as if they were not there
                nn.init.normal_(weight.data, std=0.1)
        if self.calibrated:
            self._calibrate(model)
        return model.eval()

    def _calibrate(self, model: nn.Module) -> None:
        """Give batch norms the statistics of noise: with those of the start, deep networks fade out."""
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        if norms:
            self.run(model, torch.randn(2, *self.shape, dtype=torch.float64))

    def given(self, images: Tensor) -> Any:
        """Images as the network takes them."""
        if self.pair:
            return torch.zeros_like(images) + 0.5, images
        return {self.key: images} if self.key else images

    def run(self, model: nn.Module, images: Tensor) -> Any:
        """What the network returns for them."""
        given = self.given(images)
        with torch.no_grad():
            if self.pair:
                return model(*given)
            return model(**given) if self.key else model(given)


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
    "clip": {"vision_config": TRANSFORMER},
    "convnext": STAGES,
    "convnextv2": STAGES,
    "cvt": {"embed_dim": [16, 16, 32], "num_heads": [1, 1, 2], "depth": [1, 2, 3]},
    "data2vec-vision": TRANSFORMER,
    "deit": TRANSFORMER,
    "dinov2": TRANSFORMER,
    "dinov2_with_registers": TRANSFORMER,
    "donut-swin": SWIN,
    "efficientnet": {
        "image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320,
    },
    "focalnet": {
        "embed_dim": 16, "depths": [1, 1], "hidden_sizes": [16, 32], "focal_levels": [2, 2],
        "focal_windows": [3, 3], "image_size": 64,
    },
    "hgnet_v2": {},
    "hiera": {
        "embed_dim": 16, "image_size": [64, 64], "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8],
    },
    "ijepa": TRANSFORMER,
    "levit": {
        "image_size": 64, "hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "metaclip_2": {"vision_config": TRANSFORMER},
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
    "siglip": {"vision_config": TRANSFORMER},
    "swiftformer": {"embed_dims": [16, 16, 32, 32], "depths": [1, 1, 1, 1]},
    "swin": SWIN,
    "swinv2": SWIN,
    "textnet": {},
    "timm_wrapper": {"architecture": "resnet10t", "do_pooling": True},
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


KINDS = dict.fromkeys(("VideoMAE", "Timesformer", "Vivit", "VJEPA2"), "ForVideoClassification")
KINDS |= dict.fromkeys(("Whisper", "AST"), "ForAudioClassification")


def sound(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A classifier of `transformers` by the names of its classes."""

    def build() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{name}Config")(**options)
        kind = KINDS.get(name, "ForSequenceClassification")
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
    *[
        Entry(
            f"transformers: {name}", sound(name, **SPEECH), (1600,), "t", "input_values", {"axes": "bt"}, (0,)
        )
        for name in ("Hubert", "WavLM", "UniSpeech", "UniSpeechSat", "Data2VecAudio", "Wav2Vec2Conformer")
    ],
    *[
        Entry(
            f"transformers: {name}",
            sound(name, **SPEECH, squeeze_factor=2),
            (1600,),
            "t",
            "input_values",
            {"axes": "bt"},
            (0,),
        )
        for name in ("SEW", "SEWD")
    ],
    Entry(
        "transformers: Wav2Vec2Bert",
        sound(
            "Wav2Vec2Bert",
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            feature_projection_input_dim=16,
            classifier_proj_size=16,
        ),
        (60, 16),
        "t",
        "input_features",
        {"axes": "btc"},
        (0,),
    ),
    Entry(
        "transformers: V-JEPA 2",
        sound(
            "VJEPA2",
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_ratio=2,
            crop_size=64,
            patch_size=8,
            frames_per_clip=4,
            tubelet_size=2,
            num_pooler_layers=1,
            pred_hidden_size=24,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=1,
        ),
        (4, 3, 64, 64),
        "thw",
        "pixel_values_videos",
        spaces=(0, 2, 3),
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
    "resnest14d": 64, "skresnet18": 64, "selecsls42": 64, "res2net50_26w_4s": 64, "dpn48b": 64,
    "cspdarknet53": 64, "xception41": 96, "inception_v3": 139, "repghostnet_050": 64, "repvit_m0_9": 64,
    "mambaout_femto": 64, "rdnet_tiny": 64, "shvit_s1": 64, "efficientvit_b0": 64, "caformer_s18": 64,
    "nextvit_small": 64, "convmixer_1024_20_ks9_p14": 56, "visformer_tiny": 224, "efficientformer_l1": 224,
    "efficientformerv2_s0": 224, "efficientvit_m0": 224, "deit_tiny_patch16_224": 224,
    "cait_xxs24_224": 224, "convit_tiny": 224, "crossvit_9_240": 240, "davit_tiny": 224,
    "beit_base_patch16_224": 224, "eva02_tiny_patch14_224": 224, "gcvit_xxtiny": 224, "mobilevit_xxs": 256,
    "nest_tiny": 224, "pit_ti_224": 224, "sequencer2d_s": 224, "swinv2_tiny_window8_256": 256,
    "swinv2_cr_tiny_224": 224, "tiny_vit_5m_224": 224, "tnt_s_legacy_patch16_224": 224,
    "twins_svt_small": 224, "vitamin_small_224": 224, "volo_d1_224": 224,
    "vit_relpos_small_patch16_224": 224, "gmixer_12_224": 224, "gmlp_ti16_224": 224, "focalnet_tiny_srf": 224,
    "botnet26t_256": 256, "halonet26t": 256, "lambda_resnet26t": 256, "vit_tiny_r_s16_p8_224": 224,
}  # fmt: skip
TORCHVISION = {
    "convnext_tiny": 64, "densenet121": 64, "efficientnet_b0": 64, "googlenet": 96, "inception_v3": 139,
    "mnasnet0_5": 64, "mobilenet_v2": 64, "mobilenet_v3_small": 64, "regnet_y_400mf": 64, "resnet18": 64,
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

        with_auxiliary = name in ("googlenet", "inception_v3")
        options = {"init_weights": True, "aux_logits": False} if with_auxiliary else {}
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


# Segmentation, detection -----------------------------------------------------------------------

PART = torch.zeros(64, 64, dtype=torch.float64)
PART[16:48, 24:56] = 1


def part_score(output: Any, target: int) -> Tensor:
    """The logit of class 2, summed over a region of the picture."""
    logits = output if isinstance(output, Tensor) else output["out"]
    return (logits[0, 2] * PART).sum()


class Dense(nn.Module):
    """The class scores of all anchors, before a detector chooses among them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        import torchvision

        make = getattr(torchvision.models.detection, name)
        self.detector = make(weights=None, weights_backbone=None, num_classes=5)

    def forward(self, x: Tensor) -> Tensor:
        features = list(self.detector.backbone(x).values())
        return self.detector.head(features)["cls_logits"].flatten(1)


def segmenter(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        make = getattr(torchvision.models.segmentation, name)
        return make(weights=None, weights_backbone=None, num_classes=5)  # type: ignore[no-any-return]

    return build


def over_a_region(name: str, build: Callable[[], nn.Module], shape: tuple[int, ...], **options: Any) -> Entry:
    """A network with scores for each pixel, of which those of a region are explained."""
    return Entry(name, build, shape, options=options, target=hirescam.Region(2, PART), score=part_score)


DENSE = [
    *[
        over_a_region(f"torchvision: {name}", segmenter(name), IMAGE, output="out")
        for name in ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
    ],
    over_a_region(
        "MONAI: UNet",
        monai_network(
            "UNet", spatial_dims=2, in_channels=1, out_channels=5, channels=(8, 16, 32), strides=(2, 2)
        ),
        (1, 64, 64),
    ),
    over_a_region(
        "MONAI: SegResNet",
        monai_network("SegResNet", spatial_dims=2, in_channels=1, out_channels=5),
        (1, 64, 64),
    ),
    *[
        Entry(f"torchvision: {name}", partial(Dense, name), (3, 128, 128), target=700)
        for name in ("retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn")
    ],
]


def trained(name: str) -> Callable[[], nn.Module]:
    """A network of hirescam's demo, with the weights that come in a package."""
    return lambda: hirescam.models.resolve(name).module


TRAINED = [
    Entry("hirescam: lite0, trained", trained("lite0"), (3, 128, 128), calibrated=False),
    Entry("hirescam: crepe, trained", trained("crepe"), (1, 1024), "t", calibrated=False),
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


class Pair(nn.Module):
    """Two pictures through one network, and a head that compares them."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2))
        self.fc = nn.Linear(16, 5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.fc(torch.cat([self.backbone(x).mean((2, 3)) for x in (left, right)], 1))


BY_HAND = [
    Entry("EEGNet", EEGNet, (1, 22, 256)),
    Entry("TCN", TCN, (4, 200), "t"),
    Entry("CRNN", CRNN, (1, 32, 96)),
    Entry("CNN-LSTM on frames", Frames, (6, 3, 32, 32), "thw", spaces=(0, 2, 3)),
    Entry("transformer on a series", Series, (50, 4), "t", spaces=(0,)),
    Entry("Siamese pair, on the right", Pair, (3, 64, 48), options={"input": 1}, pair=True),
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
    yield from DENSE
    yield from TRAINED
    yield from BY_HAND
