"""Every benchmark measures a small network, checks what it times, and is in the documentation."""

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from benchmarks import TABLES, micro, startup, summary, timing
from benchmarks.memory import Use, use
from benchmarks.networks import NETWORKS, build, images
from benchmarks.options import RESULTS, Options
from benchmarks.results import cell_text, command, markdown, name_of, write
from benchmarks.timing import Rounds, paired
from benchmarks.variants import (
    CAPTUM,
    OURS,
    TORCHCAM,
    WrongMapsError,
    check,
    checked,
    definition,
    one_class_each,
    same_classes,
)

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
WRITTEN = ("summary", *TABLES)
TOY = Options(networks=("toy",), rounds=1, threads=1)
OF_NETWORKS = [table for table in TABLES if table not in ("micro", "startup")]
ONE_PROCESS = [table for table in OF_NETWORKS if table != "engines"]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_PAUSE", 0.0)


@pytest.mark.parametrize("table", ONE_PROCESS)
@pytest.mark.filterwarnings("ignore")  # captum's, grad-cam's and the profiler's own
def test_a_table_of_a_toy_network(table: str, tmp_path: Path) -> None:
    made = import_module(f"benchmarks.{table}").make(TOY)
    assert made.rows
    assert {row["network"] for row in made.rows} == {"toy"}
    assert all(row.keys() == made.rows[0].keys() for row in made.rows)
    for row in made.rows:
        assert any(isinstance(cell, dict) and cell.keys() & {"ratio", "bytes"} for cell in row.values())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore")  # the compiler's and the exporter's own
def test_the_engines_of_a_toy_network() -> None:
    rows = import_module("benchmarks.engines").make(TOY).rows
    assert [row["engine"] for row in rows] == 2 * ["eager", "torch.compile", "ONNX Runtime", "OpenVINO"]
    assert all(row["difference"]["difference"] < 1e-5 for row in rows)


@pytest.mark.parametrize("part", micro.PARTS, ids=", ".join)
def test_a_part_of_a_toy_network(part: tuple[str, str]) -> None:
    prepare, counts = micro.PARTS[part]
    assert prepare("toy", *counts)() is not None


def test_starting_is_timed_in_fresh_processes() -> None:
    rows = {row["what"]: row for row in startup.make(TOY).rows}
    assert rows["python alone"]["ms"]["milliseconds"] < rows["import torch"]["ms"]["milliseconds"]
    beyond = {what for what, row in rows.items() if row["beyond torch ÷ importing torch"]}
    assert beyond == {"import hirescam", "from hirescam import *"}


def test_a_command_that_fails_is_not_timed() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        startup.command("hirescam paint")()


def test_a_row_of_what_pytest_benchmark_found() -> None:
    stats = {"median": 0.002, "q1": 0.001, "q3": 0.003, "rounds": 9}
    row = micro.row({"params": {"part": ["bare forward", "toy"]}, "stats": stats})
    assert [cell_text(cell) for cell in row.values()] == ["bare forward", "toy", "2", "1", "3", "9"]


def test_the_driver_refuses_a_table_that_there_is_not() -> None:
    words = [sys.executable, "-m", "benchmarks", "one_imge"]
    result = subprocess.run(words, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "no such table: one_imge" in result.stderr


# --- what is committed ---------------------------------------------------------------------------


@pytest.mark.parametrize("table", WRITTEN)
def test_the_page_includes_the_table(table: str) -> None:
    assert f"```{{include}} ../benchmarks/results/{name_of(table)}.md\n```" in PAGE


@pytest.mark.parametrize("table", WRITTEN)
def test_json_and_markdown_agree(table: str) -> None:
    stem = RESULTS / name_of(table)
    data = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    assert data["table"] == table
    assert stem.with_suffix(".md").read_text(encoding="utf-8") == markdown(data)


def test_nothing_else_is_committed() -> None:
    names = {f"{name_of(table)}.{suffix}" for table in WRITTEN for suffix in ("json", "md")}
    assert {path.name for path in RESULTS.iterdir()} == names


@pytest.mark.parametrize("table", OF_NETWORKS)
def test_no_network_is_missing(table: str) -> None:
    rows = json.loads((RESULTS / f"{name_of(table)}.json").read_text(encoding="utf-8"))["rows"]
    assert {row["network"] for row in rows} == set(import_module(f"benchmarks.{table}").NAMES)


def test_no_part_is_missing() -> None:
    rows = json.loads((RESULTS / "micro.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["part"], row["network"]) for row in rows] == list(micro.PARTS)


def test_no_way_of_starting_is_missing() -> None:
    rows = json.loads((RESULTS / "startup.json").read_text(encoding="utf-8"))["rows"]
    known = (startup.ALONE, startup.TORCH, *startup.STATEMENTS, *startup.COMMANDS)
    assert tuple(row["what"] for row in rows) == known


def test_the_summary_is_that_of_the_tables(tmp_path: Path) -> None:
    for path in RESULTS.glob("*.json"):
        shutil.copy(path, tmp_path)
    summary.collect(tmp_path)
    assert (tmp_path / "summary.md").read_text("utf-8") == (RESULTS / "summary.md").read_text("utf-8")


# --- what is checked before it is timed ------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # captum's own
def test_wrong_maps_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    import captum.attr

    original = captum.attr.LayerGradientXActivation.attribute

    def doubled(self, *words, **options):
        return 2 * original(self, *words, **options)

    model, x, index = build("toy"), images("toy", 2), one_class_each(2)
    checked(model, "toy", x, index, (OURS, CAPTUM))
    monkeypatch.setattr(captum.attr.LayerGradientXActivation, "attribute", doubled)
    with pytest.raises(WrongMapsError, match=r"toy: the maps of captum differ by \d"):
        checked(model, "toy", x, index, (OURS, CAPTUM))


def test_maps_of_another_shape_are_not_timed() -> None:
    maps = torch.ones(1, 2, 3, 3)
    with pytest.raises(WrongMapsError, match=r"\(1, 1, 3, 3\), not \(1, 2, 3, 3\)"):
        check(OURS, "toy", maps[:, :1], maps)


def test_nan_is_not_timed() -> None:
    maps = torch.ones(1, 2, 3, 3)
    with pytest.raises(WrongMapsError):
        check(OURS, "toy", maps * float("nan"), maps)


def test_torchcam_is_compared_without_negative_values_and_only_where_it_is_the_same_method() -> None:
    maps = torch.tensor([[[[1.0, -2.0]]]])
    assert check(TORCHCAM, "toy", maps.relu(), maps) == 0
    with pytest.raises(WrongMapsError):
        check(TORCHCAM, "toy", maps, maps)
    assert check(TORCHCAM, "flatten", maps, maps) == 0
    assert not NETWORKS["flatten"].averages


def test_the_definition_by_hand() -> None:
    model, x = build("toy"), images("toy", 2)
    index = torch.tensor([[3, 999], [0, 5]])
    layer = model.features(x)
    weights = model.head.weight[index]  # (b, t, k); the mean divides by the number of places
    by_hand = torch.einsum("btk,bkhw->bthw", weights, layer) / layer[0, 0].numel()
    torch.testing.assert_close(definition(model, "toy", x, index), by_hand.detach())


def test_classes() -> None:
    assert one_class_each(3).tolist() == [[7], [68], [129]]
    assert len(set(one_class_each(64).flatten().tolist())) == 64
    assert same_classes(2, 5).tolist() == 2 * [[0, 200, 400, 600, 800]]
    assert same_classes(1, 1000)[0].tolist() == list(range(1000))


# --- how it is measured ----------------------------------------------------------------------------


def test_ratios_are_taken_round_by_round() -> None:
    found = Rounds({"bare": [1.0, 2.0, 4.0], "a": [2.0, 2.0, 12.0], "b": [1.0, None, 4.0]}, "bare")
    assert found.cell("a") == {
        "ratio": 2.0, "low": 1.5, "high": 2.5, "milliseconds": 2000.0, "rounds": 3
    }  # fmt: skip
    assert found.cell("b")["ratio"] == 1.0
    assert found.cell("b")["rounds"] == 2
    assert found.less("a", "b") == {"ratio": 1.5, "low": 1.25, "high": 1.75}


class Clock:
    """A clock that moves only when a variant runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def work(self, name: str, seconds: float):
        def run() -> None:
            self.log.append(name)
            self.now += seconds

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


def test_variants_take_turns_in_another_order_every_round(clock: Clock) -> None:
    paired({name: clock.work(name, 1.0) for name in "abc"}, seconds=0, rounds=8)
    rounds = ["".join(clock.log[start : start + 3]) for start in range(3, 27, 3)]
    assert {"".join(sorted(one)) for one in rounds} == {"abc"}
    assert len(set(rounds)) > 2


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 5), (20, 10), (1000, 31)])
def test_the_time_decides_how_many_rounds_there_are(clock: Clock, seconds: float, rounds: int) -> None:
    found = paired({"a": clock.work("a", 1.0), "b": clock.work("b", 1.0)}, seconds=seconds)
    assert found.cell("b")["rounds"] == rounds


def test_a_slow_variant_sits_rounds_out_but_not_all(clock: Clock) -> None:
    works = {"bare": clock.work("bare", 1.0), "slow": clock.work("slow", 60.0)}
    found = paired(works, seconds=0, rounds=9)
    assert found.cell("slow")["rounds"] == 3
    assert found.cell("slow")["ratio"] == 60
    assert found.cell("bare")["rounds"] == 9


@pytest.mark.filterwarnings("ignore")  # the profiler's own
def test_bytes_alive_are_counted() -> None:
    kept: list[torch.Tensor] = []
    before = [torch.empty(1000)]  # its return is no gain

    def work() -> torch.Tensor:
        before.clear()
        if not kept:
            kept.append(torch.empty(250))
        for _ in range(3):
            torch.empty(5000)
        return torch.empty(500)

    found, result = use(work)
    assert found == Use(peak=4 * (250 + 5000), kept=4 * 250)
    assert len(result) == 500


# --- how it is written -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "–"),
        ("resnet18", "resnet18"),
        (16, "16"),
        ({"ratio": 1.0249, "low": 1.0, "high": 1.05}, "1.02 (1.00 to 1.05)"),
        ({"ratio": 1.5, "low": 1.5, "high": 1.5, "rounds": 1}, "1.50"),
        ({"milliseconds": 35.27}, "35.3"),
        ({"milliseconds": 1234.5}, "1234"),
        ({"bytes": 182_400_000, "kept": 2_588_376}, "182 (2.59 kept)"),
        ({"bytes": 3136, "kept": 0}, "0.00314"),
        ({"seconds": 12.345}, "12.3"),
        ({"difference": 3.4e-7}, "3e-07"),
        ({"difference": 0.0}, "0"),
        ({"share": 1.0137}, "1.014"),
    ],
)
def test_a_cell(cell: object, text: str) -> None:
    assert cell_text(cell) == text


def test_the_command_is_what_was_asked_for() -> None:
    assert command("benchmarks/one_image.py", Options()) == "python -m benchmarks one_image"
    asked = Options(("toy", "vgg16"), rounds=3, threads=1)
    assert command("memory.py", asked) == (
        "python -m benchmarks memory --networks toy vgg16 --rounds 3 --threads 1"
    )


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    conditions = {
        "command": "python -m benchmarks one_image", "date": "2026-01-31", "cpu": "CPU", "cores": 2,
        "threads": 1, "system": "Linux x86_64", "python": "3.11.0", "versions": {"torch": "2.6"},
        "others": 0.125,
    }  # fmt: skip
    rows = [{"network": "a", "hirescam": {"ratio": 1.0, "low": 1.0, "high": 1.0}}]
    text = write({"table": "one_image", "conditions": conditions, "rows": rows}, tmp_path)
    assert text == (
        "| network | hirescam |\n|---|---|\n| a | 1.00 |\n\n"
        "*CPU, 2 cores, 1 thread, Linux x86_64; Python 3.11.0, torch 2.6; 2026-01-31. "
        "Other processes used 12% of the machine meanwhile.* `python -m benchmarks one_image`\n"
    )
    assert json.loads((tmp_path / "one-image.json").read_text("utf-8"))["rows"] == rows


def ratio(value: float) -> dict[str, float]:
    return {"ratio": value, "low": value, "high": value}


def test_the_summary_judges_by_the_worst_network() -> None:
    tables = {table: [] for table in summary.TABLES}
    tables["one_image"] = [
        {"network": name, "hirescam": ratio(ours), "grad-cam": ratio(peer), "captum": None}
        for name, ours, peer in (("resnet18", 1.01, 3.0), ("resnet50", 1.05, 4.0), ("vgg16", 1.08, 5.0))
    ]
    first, second = summary.rows(tables)
    assert (first["measured"], first["verdict"]) == ("1.01 to 1.05", "missed by 0.02")
    assert (first["the worst"], first["grad-cam"]) == ("resnet50: 1.05", "3.00 to 4.00")
    assert (second["measured"], second["verdict"], second["captum"]) == ("1.08", "met", None)


def test_the_summary_refuses_tables_of_several_machines(tmp_path: Path) -> None:
    for table in summary.TABLES:
        path = RESULTS / f"{name_of(table)}.json"
        text = path.read_text(encoding="utf-8")
        data = json.loads(text)
        data["conditions"]["cores"] = 64 if table == "memory" else 2
        (tmp_path / path.name).write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"differ in cores \(2, 64\)"):
        summary.collect(tmp_path)


def test_the_summary_says_which_table_is_missing(tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"one-image.json is missing; python -m benchmarks one_image makes it"
    ):
        summary.collect(tmp_path)
