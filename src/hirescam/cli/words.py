"""The words after ``hirescam`` are put into the order that typer expects."""

import re
from collections.abc import Sequence
from pathlib import Path

_SEVERAL = {"compare": ("--rules",), "evaluate": ("--rules", "--metrics")}
"""Options that take several words, by command."""

_NAMES = re.compile(r"[^\W\d][\w,]*(:[^\s/\\]+)?")
_COMMA = re.compile(r",(?![^()\[\]]*[)\]])")


def arranged(words: Sequence[str]) -> tuple[list[str], bool]:
    """Take ``--debug`` from anywhere, and let ``--rules a b c`` stand for ``--rules a --rules b ...``.

    The same for ``--metrics``.
    """
    words = list(words)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]
    head = [word for word in words[:end] if word != "--debug"]
    for option in _SEVERAL.get(head[0], ()) if head else ():
        head = _spread(head, option)
    return head + words[end:], debug


def _spread(words: Sequence[str], option: str) -> list[str]:
    result: list[str] = []
    values = 0
    for word in words:
        if values and not _is_rule(word):
            values = 0
        result += [option, word] if values > 1 else [word]
        values = 1 if word == option else values + bool(values)
    return result


def _is_rule(word: str) -> bool:
    """A word after ``--rules`` is a rule unless it is an option or looks like a file."""
    return bool(_NAMES.fullmatch(word)) and not Path(word).exists()


def split_names(words: Sequence[str] | None) -> list[str]:
    """Take names apart that are separated by commas; not within brackets, as in ``name:option=(1,2)``."""
    return [name for word in words or () for name in _COMMA.split(word) if name]
