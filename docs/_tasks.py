"""Train all networks again, write the tables and the picture of tasks.md: ``python docs/_tasks.py``."""

import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hirescam import Explainer, tasks
from hirescam.metrics import Estimate
from hirescam.overlays import blend
from hirescam.reports import panel
from hirescam.tasks import Task, compare

HERE = Path(__file__).parent
PAGE = HERE / "tasks.md"
SEEDS = (0, 1, 2)
RULES = ("hirescam", "gradcam", "gradcam_pp", "xgradcam", "layercam")
ALWAYS = (
    "dead_hotspot_rate",
    "contradicted_mass",
    "wrong_sign_rate",
    "area_expansion",
    "ablation_correlation",
)
TABLES = {
    "digits_cut": ("unused_mass", *ALWAYS),
    "digits_flatten": ALWAYS,
    "digits_pooled": ALWAYS,
    "grid_pointing": ("relevance_mass", *ALWAYS),
    "planted_tag": ("relevance_mass", *ALWAYS),
}
ROUNDING = 1e-4
DRAWN = ("hirescam", "gradcam", "layercam")
PIXEL, WIDTH = 16, 256
FRAME = (0, 110, 60)
FOOT = "Red adds to the score of the class, blue takes from it. The frame is where the evidence is."


def table(name: str, made: list[Task]) -> str:
    """One line for each rule, then what was measured about the networks, by seed."""
    metrics = TABLES[name]
    pooled = compare(made, rules=RULES, metrics=metrics)
    each = [compare(task, rules=RULES, metrics=metrics) for task in made]
    lines = [f"| rule | {' | '.join(f'`{metric}`' for metric in metrics)} | no positive cell |"]
    lines.append("|---" * (len(metrics) + 2) + "|")
    for rule in RULES:
        cells = [cell(pooled[rule][metric], [one[rule][metric] for one in each]) for metric in metrics]
        missing = pooled[rule]["dead_hotspot_rate"]
        lines.append(f"| `{rule}` | {' | '.join(cells)} | {missing.undefined} of {missing.count} |")
    facts = [
        f"- {fact.replace('_', ' ')}: {', '.join(f'{task.facts[fact]:.2f}' for task in made)}"
        for fact in made[0].facts
    ]
    return "\n".join((*lines, "", *facts))


def cell(pooled: Estimate, each: list[Estimate]) -> str:
    """A value over the images of all seeds, and each seed's."""
    return f"{short(pooled.value)} ({', '.join(short(one.value) for one in each)})"


def short(value: float) -> str:
    """Two digits; rounding of single precision counts as the value it is next to."""
    return next((str(whole) for whole in (0, 1) if abs(value - whole) < ROUNDING), f"{value:.2f}")


def fill(page: str, name: str, text: str) -> str:
    """Put a table between its markers."""
    start, stop = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(stop)}", re.DOTALL)
    assert len(pattern.findall(page)) == 1, f"{PAGE.name} must have {start} and {stop} once"
    return pattern.sub(lambda _: f"{start}\n\n{text}\n\n{stop}", page)


def picture(rows: list[tuple[Task, int, str]]) -> Image.Image:
    """An image and its maps for each row, with a frame around the mask."""
    panels = [panel(_tiles(*row), width=WIDTH) for row in rows[:-1]]
    panels.append(panel(_tiles(*rows[-1]), foot=FOOT, width=WIDTH))
    whole = Image.new("RGB", (panels[0].width, sum(one.height for one in panels)), "white")
    for index, one in enumerate(panels):
        whole.paste(one, (0, sum(above.height for above in panels[:index])))
    return whole


def _tiles(task: Task, index: int, words: str) -> list[tuple[Image.Image, str]]:
    image = _large(task.images[index, 0].clamp(0, 1).numpy())
    plain = Image.fromarray(((1 - image) * 255).astype(np.uint8)).convert("RGB")
    tiles = [(_framed(plain.copy(), task, index), words)]
    for rule in DRAWN:
        one = slice(index, index + 1)
        explainer = Explainer(task.model, layer=task.layer)
        raw = explainer(task.images[one], target=task.target[one], rule=rule).raw[0, 0]
        drawn = blend(plain, _large((raw / raw.abs().max()).numpy()))
        tiles.append((_framed(drawn, task, index), rule))
    return tiles


def _large(values: np.ndarray) -> np.ndarray:
    return np.kron(values, np.ones((PIXEL, PIXEL), np.float32))


def _framed(drawn: Image.Image, task: Task, index: int) -> Image.Image:
    rows, columns = task.masks[index].nonzero(as_tuple=True)
    box = [int(value) * PIXEL for value in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
    ImageDraw.Draw(drawn).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=FRAME, width=2)
    return drawn


def main() -> None:
    """Write everything."""
    page = PAGE.read_text("utf-8")
    for name in TABLES:
        made = [getattr(tasks, name)(seed) for seed in SEEDS]
        page = fill(page, name, table(name, made))
        PAGE.write_text(page, "utf-8")
    tag, grid = tasks.planted_tag(), tasks.grid_pointing()
    three, other = (int((tag.labels == 3).eq(is_three).nonzero()[0]) for is_three in (True, False))
    rows = [(tag, three, "a 3 with its tag"), (tag, other, f"a {int(tag.labels[other])} with the tag of 3")]
    rows.append((grid, 0, f"a mosaic: where is the {int(grid.target[0])}?"))
    picture(rows).save(HERE / "images" / "tasks.png")


if __name__ == "__main__":
    main()
