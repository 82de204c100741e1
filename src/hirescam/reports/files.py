"""Names and places of the files that a run reads and writes."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from hirescam import io
from hirescam.errors import ImageFileError
from hirescam.wording import printable

_MOST_NAME_BYTES = 100


def find_pictures(given: Sequence[Path], out: Path) -> list[Path]:
    """List picture files as `hirescam.io.find_images` does, without what an earlier run wrote into ``out``.

    Raises:
        HirescamError: there are none.
    """
    found, own, named = io.find_images(given), out.resolve(), set(given)
    kept = [path for path in found if path in named or own not in path.resolve().parents]
    if not kept:
        raise ImageFileError(
            f"all pictures found lie in {str(out)!r}, where this run writes: name other files"
        )
    return kept


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Name the output of each picture after its file, so that no two collide on any file system."""
    taken: set[str] = set()
    return [_claim(path, taken) for path in paths]


def check_writable(out: Path) -> None:
    """Create a folder and try to write into it.

    Raises:
        InputError: that is not possible.
    """
    trial = out / ".hirescam-trial"
    io.write_bytes(trial, b"")
    trial.unlink(missing_ok=True)


def _claim(path: Path, taken: set[str]) -> str:
    stem = _file_name(path.stem)
    name = stem
    if _key(name) in taken and path.parent.name:
        name = _file_name(f"{path.parent.name}_{stem}")
    base, count = name, 1
    while _key(name) in taken:
        count += 1
        name = f"{base}-{count}"
    taken.add(_key(name))
    return name


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _file_name(text: str) -> str:
    """Keep letters, digits and a few signs of any language, within what file systems allow."""
    kept = re.sub(r"[^\w\- ()+,=@]", "_", printable(text)).strip(" _") or "picture"
    return kept.encode()[:_MOST_NAME_BYTES].decode(errors="ignore")
