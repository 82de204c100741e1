"""What may be said on the command line; loads nothing heavy, so that the driver starts at once."""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Options:
    """Which networks, how often, on how many threads, and where to write.

    Attributes:
        networks: only these; () is all of the table's.
        rounds: None is as often as the table's time allows.
    """

    networks: tuple[str, ...] = ()
    rounds: int | None = None
    threads: int = 2
    out: Path = RESULTS

    def chosen(self, names: Iterable[str]) -> tuple[str, ...]:
        """The networks to run: those asked for, or all of the table's."""
        return self.networks or tuple(names)

    @property
    def words(self) -> list[str]:
        """The options as words of a command line, those that change the figures; defaults are left out."""
        words = ["--networks", *self.networks] if self.networks else []
        words += ["--rounds", str(self.rounds)] if self.rounds else []
        words += ["--threads", str(self.threads)] if self.threads != Options.threads else []
        return words


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    parser.add_argument("--networks", nargs="+", default=[], help="only these networks")
    parser.add_argument(
        "--rounds", type=int, help="how often; by default as often as the table's time allows"
    )
    parser.add_argument("--threads", type=int, default=Options.threads)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where to write")


def read(found: argparse.Namespace) -> Options:
    """The options that a parser found."""
    return Options(tuple(found.networks), found.rounds, found.threads, found.out.resolve())
