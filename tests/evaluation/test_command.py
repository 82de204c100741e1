"""``hirescam evaluate`` and ``hirescam metrics``: words in, tables and files out, one line for an error."""

import json
import re
from pathlib import Path

import pytest

import hirescam
import miniature
from hirescam import cli, metrics
from hirescam.cli import evaluating
from hirescam.cli.words import arranged, split_names
from hirescam.evaluation import PLAUSIBILITY

SPEC = f"{Path(miniature.__file__)}:model"


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder; gives its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    miniature.voc(tmp_path)

    def run_(*words):
        status = cli.main([str(word) for word in words])
        streams = capsys.readouterr()
        return status, streams.out, streams.err

    return run_


def evaluated(run, *words):
    return run("evaluate", "-m", SPEC, *words)


def test_a_table_for_terminals_and_files_for_the_rest(run):
    words = ("--data", "voc:VOCdevkit", "--rules", "hirescam", "gradcam,random:seed=3", "--out", "o")
    status, out, err = evaluated(run, *words, "--metrics", "wrong_sign_rate", "pointing_game:tolerance=5")
    assert (status, err) == (0, "")
    assert "random (seed=3)" in out
    assert "pointing_game (tolerance=5) ↑" in out
    assert PLAUSIBILITY in " ".join(out.split())
    assert "4 samples on 4 pictures of VOCdevkit/VOC2012, val; model mini, as made by the factory" in out
    assert "Left out, 1: no class of the network for 'person'." in out
    assert "EXACT at layer '1'" in out
    assert out.rstrip().endswith("Look at o/index.html")
    assert {"index.html", "summary.json", "summary.csv", "values.csv"} <= {
        path.name for path in Path("o").iterdir()
    }


def test_json_is_all_there_is_on_stdout(run):
    words = ("--data", "VOCdevkit/VOC2012/JPEGImages", "--metrics", "wrong_sign_rate", "--limit", 2, "--json")
    status, out, err = evaluated(run, *words)
    assert (status, err) == (0, "")
    data = json.loads(out)
    assert (data["samples"], data["options"]["limit"]) == (2, 2)
    assert [row["rule"] for row in data["rows"]] == ["hirescam", "gradcam"]
    assert data["rows"][0]["samples"] == 2
    assert Path(data["page"]).exists()
    assert "plausibility" not in out


def test_choices_reach_the_evaluation(run):
    Path("classes.json").write_text(json.dumps({"person": ["bird", 3]}))
    words = (
        "--data",
        "voc:VOCdevkit",
        "--classes",
        "classes.json",
        "--truth",
        "boxes",
        "--whole",
        "--multilabel",
    )
    status, out, _ = evaluated(
        run, *words, "--metrics", "iou", "--confidence", 0.5, "--seed", 3, "--batch", 3
    )
    assert status == 0
    assert "5 samples on 4 pictures" in out
    assert "50% intervals" in out
    assert "the union of the boxes" in out
    data = json.loads(Path("hirescam-evaluation/summary.json").read_text("utf-8"))
    assert data["options"] == {"limit": None, "seed": 3, "confidence": 0.5, "whole": True, "multilabel": True}
    status, out, _ = evaluated(run, "--data", "voc:VOCdevkit", "--target", "predicted")
    assert status == 0
    assert "Without masks" in out


def test_folders_may_name_the_class(run, tmp_path):
    for name in ("cat", "dog", "unicorn"):
        miniature.picture(tmp_path / f"in/{name}/1.png")
    status, out, _ = evaluated(run, "--data", "in", "--target", "labelled", "--metrics", "wrong_sign_rate")
    assert status == 0
    assert "Left out, 1: no class of the network for 'unicorn'." in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--data", "nothing"], "'nothing' is not a folder"),
        (["--data", "empty"], "no pictures found"),
        (["--data", "voc:nothing"], "data='voc:nothing' is not a folder"),
        (["--data", "voc:empty"], "not in the layout of PASCAL VOC"),
        (["--data", "voc:VOCdevkit", "--split", "test"], "split='test' is not a list"),
        (["--data", "voc:VOCdevkit", "--metrics", "pointing"], "did you mean 'pointing_game'"),
        (["--data", "voc:VOCdevkit", "--rules", "hiressam"], "did you mean 'hirescam'"),
        (["--data", "voc:VOCdevkit", "--metrics", "unused_mass"], "metric='unused_mass' needs unused"),
        (["--data", "voc:VOCdevkit", "--classes", "no.json"], "classes: 'no.json' cannot be used"),
        (["--data", "voc:VOCdevkit", "--confidence", "95"], "confidence=95.0 must be between 0 and 1"),
        (["--data", "voc:VOCdevkit", "--layer", "x"], "layer='x'"),
        (["--data", "texts"], "none of the samples can be used"),
        (["--data", "voc:VOCdevkit", "--target", "dog"], "Invalid value for '--target'"),
    ],
)
def test_errors_are_one_line(run, words, complaint):
    Path("empty").mkdir()
    Path("texts").mkdir()
    Path("texts/a.jpg").write_text("not a picture")
    status, out, err = evaluated(run, *words)
    assert (status, out) == (2, "")
    assert err.startswith("hirescam: ")
    assert err.count("\n") == 1
    assert complaint in err


def test_one_bad_picture_is_said_and_the_status_is_one(run):
    Path("VOCdevkit/VOC2012/JPEGImages/a.jpg").write_text("not a picture")
    Path("VOCdevkit/VOC2012/Annotations/d.xml").unlink()
    status, out, err = evaluated(run, "--data", "voc:VOCdevkit", "--metrics", "wrong_sign_rate")
    assert status == 1
    assert err.count("\n") == 1
    assert "not a picture" in err
    assert "Left out, 1: annotation missing or unusable." in out
    status, out, _ = evaluated(
        run, "--data", "voc:VOCdevkit", "--metrics", "wrong_sign_rate", "--rules", "cam"
    )
    assert status == 1
    assert "wrong_sign_rate of cam failed for 2: " in out


def test_a_run_that_was_interrupted_says_how_it_goes_on(run, monkeypatch):
    def stopped(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluating.evaluation, "evaluate", stopped)
    status, _, err = evaluated(run, "--data", "voc:VOCdevkit", "--out", "o")
    assert status == 130
    kept, last = err.splitlines()
    assert kept == "hirescam: what was measured is kept in o: the same command goes on from there"
    assert last == "hirescam: interrupted"


def test_metrics_are_listed(run):
    status, out, err = run("metrics")
    assert (status, err) == (0, "")
    assert PLAUSIBILITY in out
    status, out, _ = run("metrics", "--json")
    data = json.loads(out)
    assert set(data) == set(metrics.metrics())
    assert data["wrong_sign_rate"]["needs"] == ["raw", "effects"]
    assert data["wrong_sign_rate"]["options"] == {"level": 0.05}
    assert list(data).index("wrong_sign_rate") < list(data).index("pointing_game")


def test_names_may_be_spread_and_have_options():
    words = ["evaluate", "--rules", "a", "b:c=1", "--metrics", "all", "x:y=(1,2)", "--out", "o"]
    rules, wanted = ["--rules", "a", "--rules", "b:c=1"], ["--metrics", "all", "--metrics", "x:y=(1,2)"]
    assert arranged(words)[0] == ["evaluate", *rules, *wanted, "--out", "o"]
    assert split_names(["a,b", "x:y=(1,2),z", ""]) == ["a", "b", "x:y=(1,2)", "z"]


def test_options_that_are_shown_exist(run):
    _, out, _ = run("evaluate", "--help")
    text = (Path(__file__).parents[2] / "docs/evaluate.md").read_text("utf-8")
    shown = set(re.findall(r"\w+:\w+=\w+", out + text))
    assert len(shown) >= 2
    for word in shown:
        name, options = word.split(":")
        known = hirescam.rules().get(name) or metrics.get(name)
        assert options.split("=")[0] in known.options


def test_the_example_trains_a_head(run, tmp_path, monkeypatch, capsys):
    """On pictures of noise: that it runs, that the head is exact and flat, and that its weights load."""
    examples = Path(__file__).parents[2] / "examples/voc_head.py"
    miniature.voc(tmp_path, split="train")
    namespace: dict[str, object] = {"__name__": "example"}
    exec(compile(examples.read_text("utf-8"), str(examples), "exec"), namespace)
    for head, grid in (("flatten", 49), ("pooled", 1)):
        monkeypatch.setattr(
            "sys.argv", ["voc_head.py", "VOCdevkit", "--head", head, "--out", f"{head}.safetensors"]
        )
        namespace["main"]()
        said = capsys.readouterr().out
        assert said.startswith(f"{head} head: mean average precision 1.000 on 4 pictures of val (4 classes")
        words = ("-m", f"{examples}:{head}", "--weights", f"{head}.safetensors", "--data", "voc:VOCdevkit")
        status, out, err = run("evaluate", *words, "--metrics", "wrong_sign_rate", "--json", "--out", head)
        assert (status, err) == (0, "")
        data = json.loads(out)
        assert data["certificate"]["guarantee"] == "exact"
        assert data["certificate"]["same_as_gradcam"] is (head == "pooled")
        assert data["options"]["multilabel"] is True
        assert namespace["HEADS"][head]().module.head.weight.shape == (20, 1280 * grid)
