"""Classes of the network for classes of the data."""

import json

import pytest
from torchvision.models import ResNet18_Weights

import miniature
from hirescam.errors import InputError, TargetError
from hirescam.evaluation import CLASSES, naming_of, read_classes
from hirescam.evaluation.imagenet import OF_VOC, is_imagenet, members

LABELS = tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
SINGLE = {
    "aeroplane": {"airliner", "warplane"},
    "bicycle": {"bicycle-built-for-two", "mountain bike", "tricycle", "unicycle"},
    "boat": {
        *("canoe", "catamaran", "container ship", "fireboat", "gondola", "lifeboat", "liner", "pirate"),
        *("schooner", "speedboat", "trimaran", "yawl"),
    },
    "bottle": {"beer bottle", "pill bottle", "pop bottle", "water bottle", "wine bottle"},
    "bus": {"minibus", "school bus", "trolleybus"},
    "car": {
        *(
            "beach wagon",
            "cab",
            "convertible",
            "jeep",
            "limousine",
            "minivan",
            "Model T",
            "racer",
            "sports car",
        ),
    },
    "cat": {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"},
    "chair": {"barber chair", "folding chair", "rocking chair", "throne"},
    "cow": {"ox"},
    "diningtable": {"dining table"},
    "horse": {"sorrel"},
    "motorbike": {"moped", "motor scooter"},
    "person": set(),
    "pottedplant": {"pot"},
    "sheep": {"ram", "bighorn"},
    "sofa": {"studio couch"},
    "train": {"bullet train", "electric locomotive", "freight car", "passenger car", "steam locomotive"},
    "tvmonitor": {"monitor", "screen", "television"},
}
"""The table again, by label."""


def test_the_table_of_imagenet_is_right_by_label():
    assert set(OF_VOC) == set(CLASSES)
    for name, labels in SINGLE.items():
        assert {LABELS[index] for index in members(name)} == labels, name
    dogs, birds = members("dog"), members("bird")
    assert (len(dogs), LABELS[dogs[0]], LABELS[dogs[-1]]) == (118, "Chihuahua", "Mexican hairless")
    assert LABELS[dogs[0] - 1] == "sea lion"
    assert LABELS[dogs[-1] + 1] == "timber wolf"
    ends = {"cock", "great grey owl", "black grouse", "black swan", "white stork", "albatross"}
    assert ends <= {LABELS[index] for index in birds}
    beside = {LABELS[index] for index in (6, 25, 79, 101, 126, 147)}
    assert beside == {"stingray", "European fire salamander", "centipede", "tusker", "isopod", "grey whale"}
    assert len(birds) == 18 + 21 + 20


def test_no_class_of_imagenet_is_two_things():
    every = [index for name in OF_VOC for index in members(name)]
    assert len(every) == len(set(every))
    assert members("unicorn") == ()


def test_imagenet_is_known_by_its_labels():
    assert is_imagenet(LABELS)
    assert is_imagenet([f"{label}, and other words" for label in LABELS])
    assert not is_imagenet(LABELS[::-1])
    assert not is_imagenet(LABELS[:999])
    assert not is_imagenet(None)


def test_a_table_of_ones_own_comes_before_labels_and_those_before_imagenet():
    model = miniature.model(labels=LABELS)
    own = {"dog": ["tabby", 7, 7], "tench": 3}
    found = naming_of(model, ["dog", "cat", "tench", "goldfish", "person", "unicorn"], own)
    assert found == {
        "dog": (281, 7),
        "cat": (281, 282, 283, 284, 285),
        "tench": (3,),
        "goldfish": (1,),
        "person": (),
        "unicorn": (),
    }
    assert naming_of(miniature.model(), ["Cat", "person"]) == {"Cat": (0,), "person": ()}
    assert naming_of(miniature.model(labels=None), ["cat"]) == {"cat": ()}


def test_a_table_is_read_and_checked(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"cat": ["tabby", 285]}))
    assert read_classes(path) == {"cat": ["tabby", 285]}
    with pytest.raises(TargetError, match=r"classes: for 'cat', target='tabbi' is no class .* 'tabby'"):
        naming_of(miniature.model(labels=LABELS), ["cat"], {"cat": "tabbi"})
    for text in ("[]", "{", '{"cat": 1.5}', '{"cat": [true]}', '{"cat": {}}'):
        path.write_text(text)
        with pytest.raises(InputError, match="cannot be used"):
            read_classes(path)
    path.write_text(" " * 2_000_000)
    with pytest.raises(InputError, match="larger than"):
        read_classes(path)
    with pytest.raises(InputError, match=r"missing.json.* cannot be used"):
        read_classes(tmp_path / "missing.json")
