"""Evaluation: counts by hand, Wilson's interval by its own formula, tables as files, and errors in one line."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import scipy.special
import torch

import vmp
from experiments import evaluate as evaluating
from experiments.data import Digits, PhotoPan, read_list
from experiments.data.views import VideoViews
from experiments.evaluate import Evaluation, app, evaluate, write_predictions
from experiments.runs import RunFolder
from experiments.statistics.mcnemar import mcnemar
from tests.experiments.commands import assert_refused, run_command
from tests.experiments.videos import write_list, write_pans

CLASSES = ("a", "b", "c")


def example() -> Evaluation:
    """Five clips, of which three are told right."""
    logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]])
    return Evaluation(tuple("vwxyz"), np.array([0, 1, 1, 2, 2]), logits + 3, CLASSES)


def test_accuracy_confusion_and_interval():
    evaluation = example()
    assert evaluation.predictions.tolist() == [0, 1, 0, 2, 1]
    assert evaluation.accuracy == 3 / 5
    assert evaluation.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    z, n, p = 1.959963984540054, 5, 0.6
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert evaluation.interval == pytest.approx((centre - half, centre + half))


def test_top_five_counts_labels_among_the_five_largest_logits():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 9)), rng.integers(0, 9, 200)
    evaluation = Evaluation(tuple(map(str, range(200))), labels, logits, tuple("abcdefghi"))
    hits = [
        label in sorted(range(9), key=lambda c: -row[c])[:5]
        for row, label in zip(logits, labels, strict=True)
    ]
    assert evaluation.within(5).tolist() == hits
    assert evaluation.top5 == sum(hits) / 200
    assert (evaluation.within(1) == (evaluation.predictions == labels)).all()
    # Of equal logits the first classes count as larger, as argmax takes them.
    level = Evaluation(("x", "y"), np.array([4, 5]), np.zeros((2, 9)), tuple("abcdefghi"))
    assert level.within(5).tolist() == [True, False]
    assert level.within(1).tolist() == [False, False]


def test_accuracy_by_class():
    table = example().class_table()
    assert table["class"].tolist() == ["a", "b", "c"]
    assert table["clips"].tolist() == [1, 2, 2]
    assert table["correct"].tolist() == [1, 1, 1]
    assert table["accuracy"].tolist() == [1, 0.5, 0.5]
    # Wilson's interval of 1 of 1 begins at 1 / (1 + z^2).
    assert table["low"][0] == pytest.approx(1 / (1 + 1.959963984540054**2))
    assert table["high"][0] == pytest.approx(1)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_predictions_survive_a_file(tmp_path, suffix):
    path = tmp_path / "folder" / f"table.{suffix}"
    write_predictions(example().table(), path)
    table = pd.read_csv(path) if suffix == "csv" else pd.read_parquet(path)
    assert table["top5"].tolist() == [True] * 5
    assert table["clip"].tolist() == list("vwxyz")
    assert table["label"].tolist() == ["a", "b", "b", "c", "c"]
    assert table["prediction"].tolist() == ["a", "b", "a", "c", "b"]
    assert table["correct"].tolist() == [True, True, False, True, False]
    np.testing.assert_allclose(table["probability"], [0.7, 0.6, 0.5, 0.6, 0.8])
    assert [file.name for file in path.parent.iterdir()] == [path.name]


class Oracle(torch.nn.Module):
    """Says class 2 of a clip whose mean is above 0 and class 1 otherwise."""

    def __init__(self):
        super().__init__()
        self.config = vmp.config.named_config("vmp_micro", num_classes=10)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, videos):
        assert not self.training
        bright = videos.mean((1, 2, 3, 4)) > -1.84
        return torch.nn.functional.one_hot(torch.where(bright, 2, 1), 10) * self.scale


def test_evaluate_asks_the_model_about_every_clip():
    dataset = Digits("held-out", "digit", 2, 32, size=25)
    model = Oracle().train()
    evaluation = evaluate(model, dataset, batch_size=7)
    expected = [2 if dataset[k][0].mean() > -1.84 else 1 for k in range(25)]
    assert evaluation.predictions.tolist() == expected
    assert set(expected) == {1, 2}
    assert evaluation.labels.tolist() == [k % 10 for k in range(25)]
    assert evaluation.names == tuple(dataset.name(k) for k in range(25))
    assert model.training


def test_number_of_classes_must_agree():
    with pytest.raises(ValueError, match="the model tells 10 classes apart, and the clips are of 6"):
        evaluate(Oracle(), PhotoPan("held-out", size=2))


class Mean(torch.nn.Module):
    """Six logits: the mean of a view's channels, and of their halves; it notes how many views it is given."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.config = vmp.config.named_config("vmp_micro", num_classes=6)
        self.scale = torch.nn.Parameter(torch.tensor(scale))
        self.given = []

    def forward(self, videos):
        self.given.append(len(videos))
        halves = torch.cat([videos.mean((2, 3, 4)), videos[..., : videos.shape[-1] // 2].mean((2, 3, 4))], 1)
        return halves * self.scale


@pytest.fixture(scope="module")
def pans(tmp_path_factory):
    """A list of ten videos, of which 3 is missing and 7 is damaged."""
    folder = tmp_path_factory.mktemp("pans")
    write_list(folder / "list.txt", write_pans(folder, 10, num_frames=12, size=32))
    (folder / "pan-3.mp4").unlink()
    (folder / "pan-7.mp4").write_bytes(b"no video")
    return folder


def views_of(pans, **options) -> VideoViews:
    return VideoViews(read_list(pans / "list.txt", pans), "abcdef", 2, 16, root=pans, **options)


GOOD = [0, 1, 2, 4, 5, 6, 8, 9]


@pytest.mark.parametrize("workers", [0, 2])
def test_probabilities_are_averaged_over_views_and_bad_videos_are_left_out(pans, workers):
    views, model = views_of(pans, clips=2, crops=3), Mean(scale=20.0)
    evaluation = evaluate(model, views, batch_size=12, workers=workers, max_bad=0.2)
    assert evaluation.names == tuple(f"pan-{k}.mp4" for k in GOOD)
    assert evaluation.labels.tolist() == [views.label(k) for k in GOOD]
    with torch.no_grad():
        logits = [Mean(scale=20.0)(views.views(k)).double().numpy() for k in GOOD]
    # Views disagree, so that the mean of the logits would tell another story.
    expected = np.stack([scipy.special.softmax(one, axis=1).mean(0) for one in logits])
    assert np.abs(expected - scipy.special.softmax([one.mean(0) for one in logits], axis=1)).max() > 1e-2
    np.testing.assert_allclose(np.exp(evaluation.logits), expected, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(evaluation.table()["probability"], expected.max(1), rtol=1e-5)
    assert model.given == [12, 6, 12, 6, 12]  # two videos at a time, and the good ones of them
    assert list(evaluation.left_out) == ["pan-3.mp4", "pan-7.mp4"]
    assert evaluation.left_out["pan-3.mp4"] == f"{pans / 'pan-3.mp4'}: no such file or folder"
    assert evaluation.left_out["pan-7.mp4"].startswith(f"{pans / 'pan-7.mp4'}: damaged, or not a video")


def test_a_video_of_more_views_than_the_model_takes_is_shown_in_parts(pans):
    model = Mean()
    evaluate(model, views_of(pans, clips=5, crops=3), batch_size=4, max_bad=0.2)
    assert model.given == [4, 4, 4, 3] * 8


def test_more_bad_videos_than_may_be_end_it(pans):
    with pytest.raises(
        ValueError, match=r"^2 of 10 videos of the list are .* max_bad allows 1: .*pan-7\.mp4"
    ):
        evaluate(Mean(), views_of(pans), max_bad=0.1)


def test_a_list_of_which_nothing_can_be_read_has_no_accuracy(pans):
    samples = views_of(pans).samples
    with pytest.raises(
        ValueError, match=r"none of the 2 videos can be read; the first: .*pan-3\.mp4: no such"
    ):
        evaluate(Mean(), VideoViews([samples[3], samples[7]], "abcdef", 2, 16), max_bad=1.0)


@pytest.mark.parametrize("stopped_by", [KeyboardInterrupt, RuntimeError])
def test_an_evaluation_that_was_stopped_goes_on_to_the_same_result(pans, tmp_path, stopped_by):
    def stop(clips: int) -> None:
        if clips >= 6:
            raise stopped_by

    views = views_of(pans, clips=2)
    whole = evaluate(Mean(), views, batch_size=4, max_bad=0.2)
    with pytest.raises(stopped_by):
        evaluate(Mean(), views, 4, max_bad=0.2, folder=RunFolder(tmp_path / "kept", {"a": 1}), show=stop)
    model = Mean()
    again = evaluate(model, views, 4, max_bad=0.2, folder=RunFolder(tmp_path / "kept", {"a": 1}))
    assert model.given == [2, 4]  # videos 6 (7 is bad), 8 and 9
    np.testing.assert_array_equal(again.logits, whole.logits)
    assert (again.names, again.left_out) == (whole.names, whole.left_out)
    with pytest.raises(ValueError, match="another configuration: a was 1 and is now 2"):
        RunFolder(tmp_path / "kept", {"a": 2})


def test_what_is_done_is_kept_every_few_seconds(pans, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluating, "SAVE_SECONDS", 0.0)
    folder, seen = RunFolder(tmp_path / "kept", {}), []
    evaluate(
        Mean(), views_of(pans), 4, max_bad=0.2, folder=folder, show=lambda clips: seen.append(folder.load())
    )
    assert [state["clips"] for state in seen] == [4, 8, 10]
    assert [state["kept"] for state in seen] == [GOOD[:3], GOOD[:6], GOOD]
    assert [list(state["bad"]) for state in seen] == [[3], [3, 7], [3, 7]]
    assert [len(state["logits"]) for state in seen] == [3, 6, 8]


@pytest.fixture
def checkpoint(tmp_path):
    size = {"num_frames": 2, "tubelet_size": 1, "image_size": 16, "patch_size": 8, "d_model": 16, "depth": 1}
    torch.manual_seed(0)
    vmp.save_checkpoint(vmp.create_model("vmp_micro", num_classes=6, **size), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_command_line(checkpoint, tmp_path):
    result = run_command(
        app, "--ckpt", checkpoint, "--count", 12, "--seed", 4, "--out", tmp_path / "table.csv"
    )
    assert result.exit_code == 0, result
    table = pd.read_csv(tmp_path / "table.csv")
    assert len(table) == 12
    first, second = result.stdout.splitlines()
    assert first.startswith(f"top-1 {100 * table['correct'].mean():.1f} % (95 % interval ")
    assert first.endswith("n = 12 clips, chance 16.7 %)")
    assert second.startswith(f"top-5 {100 * table['top5'].mean():.1f} % (95 % interval ")
    assert second.endswith("chance 83.3 %)")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "table.csv"]


def test_command_line_on_videos(checkpoint, tmp_path, pans):
    flags = ("--ckpt", checkpoint, "--task", "list", "--test-list", pans / "list.txt", "--root", pans)
    views = ("--clips", 2, "--crops", 3)
    (tmp_path / "names.txt").write_text("left\nright\nup\ndown\nin\nout\n")
    result = run_command(
        app,
        *flags, *views, "--max-bad", 0.2, "--labels", tmp_path / "names.txt",
        "--out", tmp_path / "table.parquet", "--per-class", tmp_path / "classes.csv",
    )  # fmt: skip
    assert result.exit_code == 0, result
    table = pd.read_parquet(tmp_path / "table.parquet")
    assert table["clip"].tolist() == [f"pan-{k}.mp4" for k in GOOD]
    assert set(table["label"]) <= {"left", "right", "up", "down", "in", "out"}
    assert "n = 8 of 10 videos, 2 left out as missing or damaged; 2 x 3 views of each" in result.stdout
    assert [line.split(": ")[:2] for line in result.stderr.splitlines()] == [
        ["left out", str(pans / "pan-3.mp4")],
        ["left out", str(pans / "pan-7.mp4")],
    ]
    classes = pd.read_csv(tmp_path / "classes.csv")
    assert classes["clips"].sum() == 8
    assert classes["correct"].sum() == table["correct"].sum()


def test_too_many_bad_videos_lose_nothing_of_what_is_done(checkpoint, tmp_path, pans):
    flags = ("--ckpt", checkpoint, "--task", "list", "--test-list", pans / "list.txt", "--root", pans)
    result = run_command(app, *flags, "--max-bad", 0.1, "--batch-size", 2, "--out", tmp_path / "table.csv")
    assert_refused(result, "2 of 10 videos of the list are missing or damaged, and max_bad allows 1")
    kept = tmp_path / "table.csv.unfinished"
    assert json.loads((kept / "config.json").read_text())["views"] == [1, 1]
    refused = run_command(app, *flags, "--max-bad", 0.2, "--crops", 3, "--out", tmp_path / "table.csv")
    assert_refused(refused, "another configuration: views was [1, 1] and is now [1, 3]")
    assert run_command(app, *flags, "--max-bad", 0.2, "--out", tmp_path / "table.csv").exit_code == 0
    assert not kept.exists()
    assert len(pd.read_csv(tmp_path / "table.csv")) == 8


def test_an_interrupted_command_goes_on_where_it_was(checkpoint, tmp_path, pans, monkeypatch):
    flags = ("--ckpt", checkpoint, "--task", "list", "--test-list", pans / "list.txt", "--root", pans)
    flags += ("--max-bad", 0.2, "--batch-size", 2, "--out", tmp_path / "table.csv")
    made, make = [], VideoViews.views

    def views_until_six(views, index):
        made.append(index)
        if made[-1] == 6:
            raise KeyboardInterrupt
        return make(views, index)

    monkeypatch.setattr(VideoViews, "views", views_until_six)
    stopped = run_command(app, *flags)
    assert stopped.exit_code == 130
    assert stopped.stderr == "stopped; the same command goes on from there\n"
    assert not (tmp_path / "table.csv").exists()
    made.append(-1)
    monkeypatch.setattr(VideoViews, "views", lambda views, index: made.append(index) or make(views, index))
    assert run_command(app, *flags).exit_code == 0
    assert made == [*range(7), -1, *range(6, 10)]
    once = run_command(app, *flags[:-1], tmp_path / "again.csv")
    assert once.exit_code == 0
    assert (tmp_path / "table.csv").read_text() == (tmp_path / "again.csv").read_text()
    assert run_command(app, *flags[:-1], tmp_path / "again.parquet").exit_code == 0
    same = mcnemar(tmp_path / "table.csv", tmp_path / "again.parquet")
    assert (same.clips, same.only_one, same.only_other) == (8, 0, 0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--count", "6", "--out", "/dev/null/table.csv"), "/dev/null"),
        (("--count", "0"), "size = 0: it must be at least 1"),
        (("--batch-size", "0"), "batch_size 0"),
        (("--device", "cuda:99"), "--device 'cuda:99' cannot be used"),
        (("--task", "cats"), "task 'cats': it must be one of recall, relation, direction, photo-pan, "),
        (("--task", "digits-digit"), "the model tells 6 classes apart, and the clips are of 10"),
        (("--task", "list", "--test-list", "none.txt"), "none.txt: the list cannot be read"),
        (("--task", "kinetics400"), "task kinetics400 needs --test-list"),
        (("--crops", "3"), "--crops and --stride are for lists of videos, not for photo-pan"),
        (("--ckpt", "none.safetensors"), "none.safetensors"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(checkpoint, flags, message):
    assert_refused(run_command(app, *(() if "--ckpt" in flags else ("--ckpt", checkpoint)), *flags), message)
