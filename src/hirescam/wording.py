"""Words that help texts, messages and defaults share.

Nothing heavy is imported here: help and complaints about the command line come at once.
"""

import os
from pathlib import Path

FORMS = "lite0, crepe, torchvision:NAME, timm:NAME, package.module:factory or file.py:factory"
"""What a reference to a network may look like."""

DEFAULT_RULES = ("hirescam", "gradcam")
"""What ``hirescam evaluate`` compares unless told."""

DEFAULT_METRICS = ("faithfulness", "localisation")
"""The kinds of metrics that it measures unless told."""


def printable(path: Path | str) -> str:
    """Write a path so that any terminal, page and JSON file can hold it."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
