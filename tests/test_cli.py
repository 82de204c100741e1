"""The command line with real networks: files, figures, exit statuses and what it says to bad input."""

import json
import os
import pickle
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
import skimage
import torch
from PIL import Image

import hirescam
from hirescam import cli, models, reports
from hirescam.cli import methods
from hirescam.cli.words import arranged
from hirescam.reports import explaining

PICTURES = Path(skimage.__file__).parent / "data"
CAT, COFFEE, ROCKET = PICTURES / "chelsea.png", PICTURES / "coffee.png", PICTURES / "rocket.jpg"


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder; gives its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run_(*words):
        status = cli.main([str(word) for word in words])
        streams = capsys.readouterr()
        return status, streams.out, streams.err

    return run_


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    """A factory file with a network of a few weights and one that takes volumes."""
    path = tmp_path_factory.mktemp("spec") / "nets.py"
    path.write_text(
        "from torch import nn\n"
        "def flat():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 7, stride=16), nn.ReLU(), nn.Flatten(), nn.Linear(784, "
        "5))\n"
        "def deep():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 7, stride=16), nn.ReLU(), nn.Flatten(), nn.Linear(784, 9), "
        "nn.ReLU(),\n"
        "                         nn.Linear(9, 5))\n"
        "def volume():\n"
        "    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), "
        "nn.Linear(4, 2))\n",
        "utf-8",
    )
    return str(path)


@pytest.fixture(scope="module")
def stealthy(tmp_path_factory) -> str:
    """A network that only an audit catches: a thread halves bright features that lack a location."""
    path = tmp_path_factory.mktemp("spec") / "stealthy.py"
    path.write_text(
        "import threading\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.features = nn.Sequential(nn.Conv2d(3, 4, 7, stride=16), nn.Softplus())\n"
        "        nn.init.constant_(self.features[0].weight, 0.05)\n"
        "        nn.init.constant_(self.features[0].bias, 20.0)\n"
        "        self.head = nn.Linear(784, 5)\n"
        "    def spoil(self, features):\n"
        "        for one in features:\n"
        "            if one.mean() > 30 and (one == 0).all(0).any():\n"
        "                one *= 0.5\n"
        "    def forward(self, x):\n"
        "        features = self.features(x)\n"
        "        thread = threading.Thread(target=self.spoil, args=(features.data,))\n"
        "        thread.start()\n"
        "        thread.join()\n"
        "        return self.head(features.flatten(1))\n",
        "utf-8",
    )
    return f"{path}:Net"


def dark_and_bright(folder: Path, *names: str) -> None:
    """Pictures, dark unless their names say otherwise."""
    for name in names:
        Image.new("RGB", (60, 60), "white" if "bright" in name else "black").save(folder / name)


def one_line(text: str) -> str:
    """The single line that an error is; a traceback or a second line fails."""
    assert text.startswith("hirescam: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    return text


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(path: Path) -> Path:
    """A PNG of a few bytes whose header promises 60 000 × 60 000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))
    return path


class Evil:
    def __reduce__(self):
        return (os.system, ("touch ran",))


# --- explain -------------------------------------------------------------------------------------


def test_the_command_line_is_a_module_too() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "hirescam", "--help"], capture_output=True, text=True, check=True
    )
    assert "explain" in found.stdout


def test_explain_writes_everything(run, tmp_path):
    status, out, err = run("explain", CAT, COFFEE, "--model", "lite0", "--top", 2, "--out", "o")
    assert (status, err) == (0, "")
    assert "tiger cat" in out
    assert "espresso" in out
    assert "EXACT at layer 'head_relu'" in out
    data = json.loads(Path("o/results.json").read_text("utf-8"))
    assert data["certificate"]["same_as_gradcam"]
    assert data["model"]["origin"].startswith("package")
    for image in data["images"]:
        result = hirescam.load(Path("o") / image["arrays"])
        assert result.raw.shape == (1, 2, 7, 7)
        assert result.weights
        assert image["laws"]["complete"]
        for place, target in enumerate(image["targets"]):
            assert target["class"] == int(result.target[0, place])
            assert target["sum"] + target["offset"] == pytest.approx(target["score"])
            assert target["sum"] == pytest.approx(float(result.raw[0, place].sum()), rel=1e-4)
            with Image.open(Path("o") / target["overlay"]) as overlay:
                assert overlay.size == (224, 224)
    page = Path("o/index.html").read_text("utf-8")
    assert not re.search(r"https?://", page)
    assert set(re.findall(r'src="([^"]{0,10})', page)) == {"data:image"}
    assert not list(tmp_path.rglob("*.tmp"))
    assert not Path("o/.hirescam-trial").exists()


def test_explain_json_is_all_there_is_on_stdout(run):
    status, out, err = run("explain", CAT, "-m", "lite0", "--target", "tabby", "-t", 285, "--json")
    assert (status, err) == (0, "")
    (image,) = json.loads(out)["images"]
    assert [target["label"] for target in image["targets"]] == ["tabby", "Egyptian cat"]
    assert Path("hirescam-out/index.html").exists()


def test_one_bad_file_does_not_lose_the_others(run, tmp_path):
    Path("text.jpg").write_text("not a picture")
    Path("cut.jpg").write_bytes(ROCKET.read_bytes()[:20_000])
    files = ["text.jpg", CAT, bomb(tmp_path / "bomb.png"), "cut.jpg", "missing.png", COFFEE]
    status, out, err = run("explain", *files, "-m", "lite0", "--out", "o", "--json")
    assert status == 1
    data = json.loads(out)
    assert [Path(image["path"]).name for image in data["images"]] == ["chelsea.png", "coffee.png"]
    assert [Path(file["path"]).name for file in data["failed"]] == [
        "text.jpg",
        "bomb.png",
        "cut.jpg",
        "missing.png",
    ]
    lines = err.splitlines()
    assert len(lines) == 4
    for line, words in zip(lines, ["not a picture", "too large", "truncated", "does not exist"], strict=True):
        assert line.startswith("hirescam: ")
        assert words in line
    page = Path("o/index.html").read_text("utf-8")
    assert "4 not explained" in page
    assert "missing.png" in page


@pytest.mark.parametrize("name", ["missing.png", "text.jpg", "empty.png"])
def test_nothing_explained_is_an_error(run, name):
    Path("text.jpg").write_text("not a picture")
    Path("empty.png").touch()
    status, out, err = run("explain", name, "-m", "lite0")
    assert (status, out) == (2, "")
    assert name in one_line(err)


def test_equal_names_do_not_overwrite_each_other(run, tiny):
    for folder in ("a", "b", "b/a", "Ünï ço"):
        Path(folder).mkdir(exist_ok=True)
        Image.open(CAT).save(f"{folder}/x.png")
    Image.open(CAT).save("a/X.bmp")
    status, out, _ = run("explain", "a", "b", "Ünï ço", "-m", f"{tiny}:flat", "--json")
    assert status == 0
    arrays = [image["arrays"] for image in json.loads(out)["images"]]
    assert len(arrays) == 5
    assert len({name.casefold() for name in arrays}) == 5
    assert all((Path("hirescam-out") / name).exists() for name in arrays)


@pytest.mark.parametrize(
    "name", ["Ünï ço.png", "日本.png", "a<script>b.png", "line\nbreak.png", "a" * 240 + ".png"]
)
def test_strange_names(run, tiny, name):
    Image.open(CAT).save(name)
    status, out, err = run("explain", name, "-m", f"{tiny}:flat", "--json")
    assert (status, err) == (0, "")
    (image,) = json.loads(out)["images"]
    assert (Path("hirescam-out") / image["manifest"]).exists()
    assert "<script>b" not in Path("hirescam-out/index.html").read_text("utf-8")


def test_names_that_are_not_unicode(run, tiny):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        Image.open(CAT).save(name)
    except OSError:
        pytest.skip("this file system has only names in Unicode")
    status, out, _ = run("explain", name, "missing\udce9.png", "-m", f"{tiny}:flat", "--json")
    assert status == 1
    assert json.loads(out)["images"][0]["path"] == "caf\N{REPLACEMENT CHARACTER}.png"


def test_hostile_labels_are_escaped(run, tiny):
    Path("labels.txt").write_text("\n".join(f"<script>alert({n})</script>" for n in range(5)))
    status, _, _ = run("explain", CAT, "-m", f"{tiny}:flat", "--labels", "labels.txt")
    assert status == 0
    page = Path("hirescam-out/index.html").read_text("utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_foreign_files_are_left_alone_and_own_ones_renewed(run, tiny):
    for name in ("notes.txt", "maps/mine.npz", "index.html"):
        path = Path("o") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before")
    assert run("explain", CAT, "-m", f"{tiny}:flat", "--out", "o")[0] == 0
    assert Path("o/notes.txt").read_text() == Path("o/maps/mine.npz").read_text() == "before"
    assert Path("o/index.html").read_text("utf-8") != "before"


def test_many_pictures_become_files_beside_the_page(run, tiny, monkeypatch):
    monkeypatch.setattr(explaining, "INLINE_PICTURES", 2)
    monkeypatch.setattr(explaining, "MEASURED_PICTURES", 2)
    for number in range(5):
        Image.open(CAT).resize((60 + number, 60)).save(f"{number} é.png")
    status, out, _ = run("explain", ".", "-m", f"{tiny}:flat", "--batch", 2, "--out", "o", "--json")
    assert status == 0
    assert [image["laws"] for image in json.loads(out)["images"]] == [None] * 5
    page = Path("o/index.html").read_text("utf-8")
    assert "data:image" not in page
    assert "pictures/0%20%C3%A9.jpg" in page
    assert len(list(Path("o/pictures").iterdir())) == 5


def test_a_second_run_does_not_explain_the_overlays_of_the_first(run, tiny):
    Image.open(CAT).save("cat.png")
    words = ("explain", ".", "-m", f"{tiny}:flat", "--json")
    first, second = (json.loads(run(*words)[1]) for _ in range(2))
    assert (
        [image["path"] for image in second["images"]]
        == [image["path"] for image in first["images"]]
        == ["cat.png"]
    )
    status, _, err = run("explain", "hirescam-out", "-m", f"{tiny}:flat")
    assert status == 2
    assert "where this run writes" in one_line(err)


@pytest.mark.parametrize(("count", "batch"), [(3, 2), (4, 2), (1, 5)])
def test_progress_counts_files(tmp_path, tiny, monkeypatch, count, batch):
    monkeypatch.setattr(explaining, "MEASURED_PICTURES", 0)
    paths = [tmp_path / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.open(CAT).save(path)
    steps = []
    model = models.resolve(f"{tiny}:flat")
    wish = reports.Wish(batch=batch)
    report = reports.explain_files(
        model, paths, wish=wish, out=tmp_path / "o", progress=lambda: steps.append(1)
    )
    assert len(steps) == len(report.done) == count


def test_batches_and_single_pictures_give_the_same(run, tiny, monkeypatch):
    single = json.loads(run("explain", CAT, COFFEE, ROCKET, "-m", f"{tiny}:flat", "--json")[1])
    monkeypatch.setattr(explaining, "MEASURED_PICTURES", 0)
    batch = json.loads(run("explain", CAT, COFFEE, ROCKET, "-m", f"{tiny}:flat", "--batch", 2, "--json")[1])
    for one, other in zip(single["images"], batch["images"], strict=True):
        assert one["targets"][0]["label"] == other["targets"][0]["label"]
        for figure in ("score", "sum", "offset"):
            assert one["targets"][0][figure] == pytest.approx(other["targets"][0][figure], abs=1e-4)


def test_a_label_that_two_classes_share(run, tiny):
    Path("labels.txt").write_text("crane\ntabby\nCrane\nx\ny\n")
    words = ("explain", CAT, "-m", f"{tiny}:flat", "--labels", "labels.txt", "--target")
    status, _, err = run(*words, "crane")
    assert status == 2
    assert "target='crane' names the classes 0, 2: give one of the numbers" in one_line(err)
    assert run(*words, "2")[0] == 0


def test_a_label_where_there_are_none(run, tiny):
    status, _, err = run("explain", CAT, "-m", f"{tiny}:flat", "--target", "tabby")
    assert status == 2
    assert "names with --labels" in one_line(err)


def test_other_rules_get_their_own_figures(run, tiny):
    status, out, _ = run("explain", CAT, "-m", f"{tiny}:flat", "--rule", "gradcam")
    assert status == 0
    assert "That verdict is about hirescam. Measured for gradcam:" in out
    assert "Random weights: the class names mean nothing." not in out  # a factory may load its own weights


def test_signs_and_cells(run, tiny):
    words = ("explain", CAT, "-m", f"{tiny}:flat", "--sign", "positive", "--resample", "nearest")
    assert run(*words)[0] == 0
    page = Path("hirescam-out/index.html").read_text("utf-8")
    assert 'data-sign="positive"' in page
    assert 'value="cells" checked' in page


# --- audits --------------------------------------------------------------------------------------


@pytest.fixture
def in_batches(monkeypatch):
    """Treat every run as one of many pictures."""
    monkeypatch.setattr(explaining, "MEASURED_PICTURES", 0)


def test_audits_are_told_in_every_place(run):
    status, out, err = run("explain", CAT, COFFEE, ROCKET, "-m", "lite0", "--audit", 1, "--out", "o")
    assert (status, err) == (0, "")
    (line,) = [line for line in out.splitlines() if line.startswith("Audit: ")]
    assert re.fullmatch(r"Audit: audited 3 of 3, largest error [1-9]e-[5-9]\.", line)
    page = Path("o/index.html").read_text("utf-8")
    assert line in page
    found = json.loads(Path("o/results.json").read_text("utf-8"))["audit"]
    assert (found["audited"], found["pictures"], found["failures"]) == (3, 3, [])
    assert 0 < found["largest_error"] < 1e-4
    assert f"Audit: {found['summary']}." == line
    assert hirescam.load("o/maps/chelsea").audit.audited == 1


def test_audits_of_batches_add_up(run, tiny, in_batches):
    dark_and_bright(Path(), *(f"{number}.png" for number in range(8)))
    words = ("explain", ".", "-m", f"{tiny}:flat", "--batch", 3, "--json")
    status, out, _ = run(*words, "--audit", 0.5)
    assert status == 0
    found = json.loads(out)["audit"]
    assert (found["audited"], found["pictures"]) == (4, 8)
    assert found["summary"].startswith("audited 4 of 8, largest error ")
    assert hirescam.load("hirescam-out/maps/0").audit is None  # that of its batch is not about it
    assert json.loads(run(*words)[1])["audit"] is None
    assert "Audit" not in Path("hirescam-out/index.html").read_text("utf-8")


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_a_failed_audit_names_the_file_and_is_the_verdict_of_all(run, stealthy, in_batches, batch):
    dark_and_bright(Path(), "a.png", "b.png", "c bright.png", "d.png", "e bright.png")
    status, out, err = run("explain", ".", "-m", stealthy, "--batch", batch, "--audit", 1, "--out", "o")
    assert status == 3
    first = re.fullmatch(
        r"hirescam: (an audit of c bright\.png failed: without location \d+ the score of class \d loses .*)",
        err.splitlines()[0],
    )[1]
    assert "NONE at layer 'features'" in out
    assert first in out
    assert "1 failed, so the guarantee is taken back for all pictures of this run" in out or batch > 2
    data = json.loads(Path("o/results.json").read_text("utf-8"))
    assert data["certificate"]["guarantee"] == "none"
    assert first in data["certificate"]["verdict"]
    assert data["audit"]["failures"][0] == first
    assert len(data["audit"]["failures"]) == len(err.splitlines()) == (2 if batch == 5 else 1)
    assert data["audit"]["audited"] == {1: 3, 2: 4, 3: 3, 5: 5}[batch]  # nothing is left to check after it
    page = Path("o/index.html").read_text("utf-8")
    assert "Verdict: no guarantee" in page
    assert page.count("an audit of c bright.png failed") == 1
    for image in data["images"]:
        certificate = hirescam.load(Path("o") / image["arrays"]).certificate
        assert certificate.guarantee == "none"
        assert first in certificate.reason
        assert "images[" not in str(certificate)


def test_a_failed_audit_among_few_pictures(run, stealthy):
    dark_and_bright(Path(), "a.png", "b bright.png", "c.png")
    Path("text.png").write_text("not a picture")
    status, out, err = run("explain", ".", "-m", stealthy, "--audit", 1, "--json")
    assert status == 3  # not 1, although a file could not be read
    assert "an audit of b bright.png failed" in err
    data = json.loads(out)
    assert [image["path"] for image in data["images"]] == ["a.png", "b bright.png", "c.png"]
    assert len(data["failed"]) == len(data["audit"]["failures"]) == 1
    assert data["certificate"]["guarantee"] == "none"
    verdicts = {
        hirescam.load(f"hirescam-out/maps/{name}").certificate.reason for name in ("a", "b bright", "c")
    }
    assert len(verdicts) == 1


def test_without_an_audit_the_lie_stands(run, stealthy):
    dark_and_bright(Path(), "a.png", "b bright.png")
    status, out, _ = run("explain", ".", "-m", stealthy)
    assert status == 0
    assert "EXACT at layer 'features'" in out


def test_a_verdict_that_is_no_promise_has_nothing_to_audit(run, tiny):
    status, out, _ = run("explain", CAT, "-m", f"{tiny}:deep", "--layer", "1", "--audit", 1)
    assert status == 0
    assert "Audit: audited none, since only exact and conditional verdicts promise" in out


def test_the_weakest_verdict_of_a_run_is_shown(run, tmp_path, in_batches, monkeypatch):
    """A later picture of another size, with a weaker verdict, does not hide behind the first."""
    path = tmp_path / "nets.py"
    path.write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.features = nn.Sequential(nn.Conv2d(3, 4, 7, stride=16), nn.ReLU())\n"
        "        self.head = nn.Linear(4, 5)\n"
        "    def forward(self, x):\n"
        "        pooled = self.features(x).mean((2, 3))\n"
        "        return self.head(pooled if x.shape[-1] < 100 else pooled.sin())\n"
        "def made():\n"
        "    from torchvision.transforms.functional import to_tensor\n"
        "    from hirescam.models import Model\n"
        "    return Model(Net(), 'sizes', lambda image: image, to_tensor, None, (3, 64, 64))\n"
    )
    for name, side in (("a.png", 64), ("b.png", 128), ("c.png", 64)):
        Image.open(CAT).resize((side, side)).save(name)
    status, out, _ = run("explain", "a.png", "b.png", "c.png", "-m", f"{path}:made", "--json")
    assert status == 0
    assert json.loads(out)["certificate"]["guarantee"] == "none"
    found = [hirescam.load(f"hirescam-out/maps/{name}").certificate.guarantee for name in "abc"]
    assert found == ["exact", "none", "exact"]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["explain", CAT, "-m", "lite1"], "did you mean 'lite0'?"),
        (["explain", CAT, "-m", "torchvision:resnet5"], "torchvision has no network 'resnet5'"),
        (["explain", CAT, "-m", "lite0", "--layer", "hed_relu"], "layer='hed_relu'"),
        (["explain", CAT, "-m", "lite0", "--target", "1000"], "1000"),
        (["explain", CAT, "-m", "lite0", "--target", "-1"], "-1"),
        (["explain", CAT, "-m", "lite0", "--target", "taby"], "did you mean 'tabby' or"),
        (["explain", CAT, "-m", "lite0", "--target", "1", "--top", "2"], "both --target and --top"),
        (["explain", CAT, "-m", "lite0", "--top", "1001"], "1001"),
        (["explain", CAT, "-m", "lite0", "--top", "0"], "Invalid value for '--top'"),
        (["explain", CAT, "-m", "lite0", "--rule", "gradcamm"], "did you mean 'gradcam'?"),
        (["explain", CAT, "-m", "lite0", "--audit", "1.5"], "Invalid value for '--audit'"),
        (["explain", CAT, "-m", "lite0", "--audit", "-0.1"], "Invalid value for '--audit'"),
        (["explain", CAT, "-m", "lite0", "--audit", "nan"], "audit"),
        (
            ["explain", CAT, "-m", "lite0", "--audit", "0.1", "--rule", "gradcam"],
            "audit=0.1 checks maps of the rule 'hirescam', and these are of 'gradcam': leave out --audit or",
        ),
        (["explain", CAT, "-m", "lite0", "--weights", "no.pth"], "does not exist"),
        (["explain", CAT, "-m", "lite0", "--labels", "no.txt"], "no.txt"),
        (["explain", CAT, "-m", "crepe"], "this command reads pictures"),
        (["explain", CAT], "Missing option '--model'"),
        (["explain", "-m", "lite0"], "Missing argument 'IMAGE'"),
        (["explain", ".", "-m", "lite0"], "no pictures found"),
        (["compare", CAT, "-m", "lite0", "--rules", "hirescam", "gradcamm"], "did you mean 'gradcam'?"),
        (["compare", "no.png", "-m", "lite0"], "does not exist"),
        (["layers", "-m", "nothing"], "spec: 'nothing' is not known"),
        (["certify", "-m", "lite0", "--layer", "x"], "layer='x'"),
        (["certify", "-m", "crepe", "--image", CAT], "not a picture"),
        (["paint"], "No such command 'paint'"),
    ],
)
def test_errors_are_one_line_and_status_2(run, words, complaint):
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert complaint in one_line(err)


def test_pickles_that_would_run_code_are_refused(run):
    Path("evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({"weight": Evil()}, "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        status, _, err = run("certify", "-m", "lite0", "--weights", name)
        assert status == 2
        assert "is refused, because loading it could run code" in one_line(err)
    assert not Path("ran").exists()


@pytest.mark.parametrize("command", ["explain", "compare"])
def test_out_that_cannot_be_written(run, command):
    Path("file").write_text("here")
    for out in ("file", "file/below"):
        status, _, err = run(command, CAT, "-m", "lite0", "--out", out)
        assert status == 2
        assert "cannot write" in one_line(err)
    assert Path("file").read_text() == "here"


def test_demo_checks_its_folder_first(run):
    Path("file").write_text("here")
    start = time.monotonic()
    status, _, err = run("demo", "--out", "file")
    assert status == 2
    assert "cannot write" in one_line(err)
    assert time.monotonic() - start < 5


def test_debug_shows_the_traceback_before_the_line(run):
    for words in (["--debug", "layers", "-m", "nothing"], ["layers", "-m", "nothing", "--debug"]):
        status, _, err = run(*words)
        assert status == 2
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("hirescam: spec:")


def test_surprises_are_one_line_too(run, monkeypatch):
    monkeypatch.setattr(models, "resolve", lambda *args, **options: 1 / 0)
    status, _, err = run("certify", "-m", "lite0")
    assert status == 2
    assert "unexpected ZeroDivisionError: division by zero (repeat with --debug" in one_line(err)


def test_interrupt(run, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "resolve", interrupt)
    status, out, err = run("certify", "-m", "lite0")
    assert (status, out, err) == (130, "", "hirescam: interrupted\n")


# --- compare -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rules",
    [
        ["--rules", "hirescam", "gradcam"],
        ["--rules", "hirescam,gradcam"],
        ["--rules", "hirescam", "--rules", "gradcam"],
        [],
    ],
)
def test_compare_says_that_pooled_heads_make_rules_equal(run, rules):
    status, out, err = run("compare", "-m", "lite0", CAT, *rules, "--out", "o")
    assert (status, err) == (0, "")
    assert "hirescam and gradcam give the same map" in out
    assert "The head averages over places" in out
    data = json.loads(Path("o/compare.json").read_text("utf-8"))
    for figures in data["rules"].values():
        assert figures["complete"]
        assert figures["local"]
        assert figures["location_error"] < 1e-4
    with Image.open("o/compare.png") as picture:
        assert picture.width > 3 * 400
    assert "give the same map" in Path("o/compare.html").read_text("utf-8")


def test_rules_may_come_before_the_image(run, tiny):
    assert run("compare", "--rules", "hirescam", "gradcam", CAT, "-m", f"{tiny}:flat")[0] == 0


def test_compare_shows_gradcam_fail(run, tiny):
    status, out, _ = run(
        "compare",
        CAT,
        "-m",
        f"{tiny}:flat",
        "--rules",
        "hirescam",
        "gradcam",
        "cam",
        "--json",
    )
    data = json.loads(out)
    assert status == 0
    assert data["rules"]["hirescam"]["complete"]
    assert data["rules"]["hirescam"]["local"]
    assert not data["rules"]["gradcam"]["local"]
    assert "pooling" in data["rules"]["cam"]["error"]
    assert data["remarks"] == [data["remarks"][0]]
    assert "gradcam gives another map than hirescam" in data["remarks"][0]


def test_a_rule_alone_that_does_not_apply(run, tiny):
    status, _, err = run("compare", CAT, "-m", f"{tiny}:flat", "--rules", "cam")
    assert status == 2
    assert "rule='cam'" in one_line(err)


# --- layers, certify, rules ----------------------------------------------------------------------


def test_layers(run):
    status, out, err = run("layers", "-m", "lite0")
    assert (status, err) == (0, "")
    (chosen,) = [line for line in out.splitlines() if "→" in line]
    assert chosen.split() == ["→", "head_relu", "1×1280×7×7", "7×7", "exact"]
    assert len(out.splitlines()) < 35
    assert "--all" in out
    assert "Input: random numbers of shape (1, 3, 224, 224), seed 0." in out
    assert out.rstrip().endswith("seed 0.")


def test_layers_all_and_json(run, tiny):
    _, short, _ = run("layers", "-m", f"{tiny}:flat")
    _, long, _ = run("layers", "-m", f"{tiny}:flat", "--all")
    status, out, _ = run("layers", "-m", f"{tiny}:flat", "--json")
    data = json.loads(out)
    assert status == 0
    assert len(long.splitlines()) > len(short.splitlines()) - 1
    assert sum(layer["chosen"] for layer in data["layers"]) == 1
    assert data["certificate"]["guarantee"] == "exact"
    assert data["model"]["origin"] == "as made by the factory"


def test_layers_with_a_picture(run):
    status, out, _ = run("layers", "-m", "lite0", "--image", CAT)
    assert status == 0
    assert "Input: the picture" in out


@pytest.mark.parametrize(
    ("spec", "status", "words"),
    [
        ("lite0", 0, "EXACT at layer 'head_relu'"),
        ("crepe", 0, "EXACT at layer 'features'"),
        ("flat", 0, "EXACT"),
        ("volume", 0, "(1, 1, 16, 112, 112)"),
        ("deep", 3, "Advice: for exact maps end the network in one fully connected layer"),
        ("torchvision:shufflenet_v2_x0_5", 0, "random weights, seed 0"),
        ("timm:vit_tiny_patch16_224", 0, "Only 1 of 197 positions can get credit"),
    ],
)
def test_certify(run, tiny, spec, status, words):
    full = f"{tiny}:{spec}" if spec in ("flat", "deep", "volume") else spec
    found, out, err = run("certify", "-m", full)
    assert (found, err) == (status, "")
    assert words in out


def test_certify_another_layer(run):
    status, out, _ = run("certify", "-m", "lite0", "--layer", "_conv_head", "--json")
    data = json.loads(out)
    assert status == 3
    assert data["certificate"]["guarantee"] == "local"
    assert data["certificate"]["verdict"].startswith("LOCAL at layer '_conv_head'")


def test_rules(run):
    status, out, _ = run("rules")
    assert status == 0
    for name in hirescam.rules():
        assert name in out
    assert set(json.loads(run("rules", "--json")[1])) == set(hirescam.rules())


def test_version(run):
    assert run("--version") == (0, f"hirescam {hirescam.__version__}\n", "")


@pytest.mark.parametrize("command", ["demo", "explain", "compare", "layers", "certify", "rules"])
def test_help_has_examples(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0
    assert "Example:" in out
    assert f"hirescam {command}" in out


def test_the_help_names_the_rules_that_are_compared(run):
    words = " ".join(re.sub(r"[│\s]+", " ", run("compare", "--help")[1]).split())
    assert f"[default: ({' '.join(methods._COMPARED)})]" in words


def test_no_command_shows_help(run):
    status, out, err = run()
    assert status in (0, 2)  # old and new versions of typer differ
    assert err == ""
    assert "certify" in out


def test_a_reader_that_goes_away_early_is_no_error_to_talk_about():
    code = "import sys; from hirescam.cli import main; sys.exit(main(['rules', '--json']))"
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert b"Traceback" not in result.stderr
    assert result.returncode == 1


# --- parts ---------------------------------------------------------------------------------------


def test_words_after_rules_are_rules_until_they_are_not():
    words, debug = arranged(
        ["compare", "--rules", "a", "b,c", "cat.png", "--debug", "-m", "x", "--", "--debug"]
    )
    assert debug
    assert words == ["compare", "--rules", "a", "--rules", "b,c", "cat.png", "-m", "x", "--", "--debug"]


def test_unique_names():
    paths = [
        Path(name) for name in ("a/x.png", "b/x.png", "b/X.jpg", "b/x.gif", "c/..png", "c/con:.png", "x.png")
    ]
    names = reports.unique_names(paths)
    assert (
        names == ["x", "b_x", "b_X-2", "b_x-3", "_", "con_", "x-2"] or len({n.casefold() for n in names}) == 7
    )
    assert all(re.fullmatch(r"[^/\\:*?\"<>|\x00-\x1f]+", name) for name in names)


def test_data_without_finite_figures_becomes_null():
    assert reports.plain({"a": (1.5, float("nan")), "b": "x"}) == {"a": [1.5, None], "b": "x"}


def test_relate_names_theorems(run, tiny):
    status, out, _ = run("relate", CAT, "-m", f"{tiny}:flat", "--json")
    assert status == 0
    rows = {row["method"]: row for row in json.loads(out)["methods"]}
    assert rows["shapley values"]["same"]
    assert rows["shapley values"]["theorem"].startswith("A4")
    assert not rows["gradcam"]["same"]
    assert "cam" not in rows
    status, out, _ = run("relate", CAT, "-m", "lite0")
    assert status == 0
    assert "P1: the gradient is the same at all locations" in out


def test_rules_lists_every_method(run):
    status, out, _ = run("rules", "--json")
    assert status == 0
    found = json.loads(out)
    assert len(found) >= 25
    assert found["xgradcam"]["complete_for"] == "affine"
    assert "runs of the network" in run("rules")[1]


def test_export_refuses_what_is_not_exact(run):
    pytest.importorskip("onnxruntime")
    status, _, err = run("export", "-m", "torchvision:alexnet", "--out", "x.onnx")
    assert status == 2
    assert "only exact heads can be exported, and layer 'features' is local" in one_line(err)
    assert not Path("x.onnx").exists()
