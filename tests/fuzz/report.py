"""Many programs and sequences in several processes, and a report of what came of them."""

import json
import re
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fuzz.grammar import Program, draw_program
from fuzz.running import Outcome, class_of, examine, shorter, shrink
from fuzz.sequences import Sequence as CallSequence
from fuzz.sequences import draw_sequence, smaller_sequences
from fuzz.source import Seeded

_CHUNK = 20
_SECONDS = 60


@dataclass(frozen=True)
class Task:
    """Some heads or sequences, by number."""

    what: str
    seed: int
    numbers: range

    def draw(self, number: int) -> Program | CallSequence:
        """Draw one of them."""
        source = Seeded(f"{self.seed}-{self.what}-{number}")
        return draw_program(source) if self.what == "head" else draw_sequence(source)


def work(task: Task) -> list[Outcome]:
    """Examine the heads or sequences of a task."""
    torch.set_num_threads(1)
    return [guarded(task.draw(number)) for number in task.numbers]


def one(drawn: Program | CallSequence) -> Outcome:
    """Examine one head or sequence."""
    if isinstance(drawn, Program):
        return examine(drawn)
    return Outcome(repr(drawn), "sequence", "", tuple(drawn.run()))


def guarded(drawn: Program | CallSequence) -> Outcome:
    """Examine something; it is false if that takes too long, or if the fuzzer itself fails."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {_SECONDS} seconds")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    kind = drawn.kind.name.lower() if isinstance(drawn, Program) else "sequence"
    try:
        return one(drawn)
    except TimeoutError as error:
        return Outcome(repr(drawn), kind, "crash", (f"crash: {error}",), judged=False)
    except Exception as error:
        failure = f"the fuzzer failed: {type(error).__name__}: {error}"
        return Outcome(repr(drawn), kind, "unusable", (failure,), judged=False)
    finally:
        signal.alarm(0)


def smallest(task: Task, number: int, kind: str) -> str:
    """Shrink one head or sequence as long as it fails in the same way, and return its repr."""
    torch.set_num_threads(1)

    def fails(candidate: Program | CallSequence) -> bool:
        return any(kind_of(problem) == kind for problem in guarded(candidate).violations)

    smaller = shorter if task.what == "head" else smaller_sequences
    return repr(shrink(task.draw(number), smaller, fails))


SUBDIVIDED = ("crash", "model not as it was", "the fuzzer failed")


def kind_of(violation: str) -> str:
    """``false exact``, ``wrong map`` and so on; crashes and things left behind by what they are."""
    kind, _, rest = re.sub(r" \(action \d+\)$", "", violation).partition(": ")
    return f"{kind}: {class_of(rest)[:60]}" if kind in SUBDIVIDED else kind


@dataclass(frozen=True)
class Report:
    """All outcomes, in order, and the smallest examples of each kind of failure."""

    heads: list[Outcome]
    sequences: list[Outcome]
    examples: dict[str, list[str]]

    @property
    def false(self) -> int:
        """How many heads and sequences have something false about them."""
        return sum(bool(outcome.violations) for outcome in [*self.heads, *self.sequences])

    @property
    def affine(self) -> list[Outcome]:
        """Heads that are affine by construction and by brute force."""
        return [outcome for outcome in self.heads if outcome.kind == "affine" and outcome.affine]

    @property
    def refused(self) -> list[Outcome]:
        """Those of them that got less than EXACT."""
        return [outcome for outcome in self.affine if outcome.refused]

    def show(self, console: Console) -> None:
        """Print the tables."""
        console.print(self._verdicts())
        share = len(self.refused) / max(1, len(self.affine))
        console.print(
            f"affine heads: {len(self.affine)}, refused: {len(self.refused)} ({share:.1%}, wanted < 1 %)"
        )
        held = [outcome for outcome in self.heads if outcome.kind == "normalising" and outcome.refused]
        for title, outcomes in (("refused", self.refused), ("heads with normalisers, refused", held)):
            if outcomes:
                console.print(counted(title, Counter(class_of(outcome.refused) for outcome in outcomes)))
        kinds = Counter(kind for outcome in self._failed() for kind in {*map(kind_of, outcome.violations)})
        if kinds:
            console.print(counted("false (0 wanted)", kinds))
        for kind, examples in self.examples.items():
            for example in examples:
                console.print(f"{kind}: {example}", markup=False, highlight=False, soft_wrap=True)
        console.print(
            f"false: {self.false} of {len(self.heads)} heads and {len(self.sequences)} sequences (0 wanted)"
        )

    def _failed(self) -> Iterator[Outcome]:
        return (outcome for outcome in [*self.heads, *self.sequences] if outcome.violations)

    def _verdicts(self) -> Table:
        table = Table("by construction", "verdict", "heads", "false", "affine by brute force", title="heads")
        groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
        for outcome in self.heads:
            groups[outcome.kind, outcome.verdict].append(outcome)
        for (kind, verdict), group in sorted(groups.items()):
            false, affine = sum(bool(o.violations) for o in group), sum(o.affine for o in group)
            table.add_row(kind, verdict, *map(str, (len(group), false, affine)))
        return table

    def save(self, path: Path) -> None:
        """Write everything as JSON; of heads without anything to say, only the counts."""
        telling = [outcome for outcome in self.heads if outcome.violations or outcome.refused]
        data = {
            "heads": len(self.heads),
            "sequences": len(self.sequences),
            "false": self.false,
            "affine": len(self.affine),
            "refused": len(self.refused),
            "verdicts": {
                f"{k} {v}": n for (k, v), n in Counter((o.kind, o.verdict) for o in self.heads).items()
            },
            "not judged": sum(not outcome.judged for outcome in self.heads),
            "milliseconds in the library": mean([outcome.seconds[0] for outcome in self.heads]),
            "milliseconds in all": mean([outcome.seconds[1] for outcome in self.heads]),
            "examples": self.examples,
            "telling heads": [asdict(outcome) for outcome in telling],
            "failing sequences": [asdict(outcome) for outcome in self.sequences if outcome.violations],
        }
        path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")


def mean(seconds: list[float]) -> float:
    """In milliseconds."""
    return round(1000 * sum(seconds) / max(1, len(seconds)), 1)


def counted(title: str, counts: Counter[str]) -> Table:
    """A table of counts, the largest first."""
    table = Table("count", "what", title=title)
    for what, count in counts.most_common():
        table.add_row(str(count), what.replace("[", r"\["))
    return table


def run(heads: int, sequences: int, *, seed: int, processes: int, examples: int, console: Console) -> Report:
    """Run so many heads and sequences, and shrink some of the failures."""
    tasks = [
        Task(what, seed, range(start, min(start + _CHUNK, count)))
        for what, count in (("head", heads), ("sequence", sequences))
        for start in range(0, count, _CHUNK)
    ]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        found = _all(pool, tasks, console)
        numbered = {task: list(zip(task.numbers, found[task], strict=True)) for task in tasks}
        smaller = _examples(pool, numbered, examples)
    outcomes = {
        what: [o for task in tasks if task.what == what for o in found[task]] for what in ("head", "sequence")
    }
    return Report(outcomes["head"], outcomes["sequence"], smaller)


def _all(pool: Executor, tasks: list[Task], console: Console) -> dict[Task, list[Outcome]]:
    found: dict[Task, list[Outcome]] = {}
    with Progress(console=console) as progress:
        line = progress.add_task("heads and sequences", total=sum(len(task.numbers) for task in tasks))
        waiting = {pool.submit(work, task): task for task in tasks}
        for future in as_completed(waiting):
            task = waiting[future]
            found[task] = future.result()
            progress.advance(line, len(task.numbers))
    return found


def _examples(
    pool: Executor, found: dict[Task, list[tuple[int, Outcome]]], most: int
) -> dict[str, list[str]]:
    """The smallest programs for some failures of each kind, without repeats."""
    waiting = defaultdict(list)
    for task, outcomes in found.items():
        for number, outcome in outcomes:
            for kind in dict.fromkeys(map(kind_of, outcome.violations)):
                if outcome.program and len(waiting[kind]) < most:
                    waiting[kind].append(pool.submit(smallest, task, number, kind))
    return {kind: sorted({f.result() for f in futures}, key=len) for kind, futures in waiting.items()}
