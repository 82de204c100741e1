"""Which of the 1000 ImageNet classes are a thing of a PASCAL VOC class: a table of facts.

Only classes that are beyond doubt such a thing: tame dogs and cats, no pickup or ambulance for a car, no
aircraft carrier for a boat. ImageNet has no class for people.
"""

from collections.abc import Sequence

OF_VOC: dict[str, tuple[int | range, ...]] = {
    "aeroplane": (404, 895),  # airliner, warplane
    "bicycle": (444, 671, 870, 880),  # bicycle built for two, mountain bike, tricycle, unicycle
    "bird": (
        range(7, 25),
        range(80, 101),
        range(127, 147),
    ),  # cock to owl, grouse to swan, stork to albatross
    # canoe, catamaran, container ship, fireboat, gondola, lifeboat, liner, pirate ship, schooner, speedboat,
    # trimaran, yawl
    "boat": (472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 871, 914),
    "bottle": (440, 720, 737, 898, 907),  # for beer, pills, pop, water, wine
    "bus": (654, 779, 874),  # minibus, school bus, trolleybus
    # beach wagon, cab, convertible, jeep, limousine, minivan, Model T, racer, sports car
    "car": (436, 468, 511, 609, 627, 656, 661, 751, 817),
    "cat": (range(281, 286),),  # tabby to Egyptian cat
    "chair": (423, 559, 765, 857),  # barber chair, folding chair, rocking chair, throne
    "cow": (345,),  # ox
    "diningtable": (532,),
    "dog": (range(151, 269),),  # Chihuahua to Mexican hairless
    "horse": (339,),  # sorrel
    "motorbike": (665, 670),  # moped, motor scooter
    "person": (),
    "pottedplant": (738,),  # the pot: there is no class for what grows in it
    "sheep": (348, 349),  # ram, bighorn
    "sofa": (831,),  # studio couch
    "train": (466, 547, 565, 705, 820),  # bullet train, electric, freight car, passenger car, steam
    "tvmonitor": (664, 782, 851),  # monitor, screen, television
}
"""Members by VOC class."""

_ANCHORS = {0: "tench", 151: "Chihuahua", 281: "tabby", 404: "airliner", 851: "television", 999: "toilet t"}


def is_imagenet(labels: Sequence[str] | None) -> bool:
    """Tell whether labels are those of ImageNet-1k in their standard order.

    Example:
        >>> is_imagenet(["cat", "dog"])
        False
    """
    if labels is None or len(labels) != 1000:
        return False
    return all(labels[index].casefold().startswith(word.casefold()) for index, word in _ANCHORS.items())


def members(wanted: str) -> tuple[int, ...]:
    """List the ImageNet classes that are a thing of this VOC class, in order; none if it is unknown.

    Example:
        >>> members("cat")
        (281, 282, 283, 284, 285)
    """
    parts = OF_VOC.get(wanted, ())
    return tuple(index for part in parts for index in (part if isinstance(part, range) else (part,)))
