"""Evaluation: counts by hand, Wilson's interval by its own formula, tables as files, and errors in one line."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from typer.testing import CliRunner

import vmp
from experiments.data import Digits, PhotoPan
from experiments.evaluate import Evaluation, evaluate, main, write_table

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


def test_predictions_survive_a_file(tmp_path):
    path = tmp_path / "folder" / "table.csv"
    write_table(example().table(), path)
    table = pd.read_csv(path)
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


def run_cli(*arguments: object):
    application = typer.Typer()
    application.command()(main)
    return CliRunner().invoke(application, [str(argument) for argument in arguments])


@pytest.fixture
def checkpoint(tmp_path):
    size = {"num_frames": 2, "tubelet_size": 1, "image_size": 16, "patch_size": 8, "d_model": 16, "depth": 1}
    torch.manual_seed(0)
    vmp.save_checkpoint(vmp.create_model("vmp_micro", num_classes=6, **size), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_command_line(checkpoint, tmp_path):
    result = run_cli("--ckpt", checkpoint, "--clips", 12, "--seed", 4, "--out", tmp_path / "table.csv")
    assert result.exit_code == 0, result.output
    correct = pd.read_csv(tmp_path / "table.csv")["correct"]
    assert len(correct) == 12
    assert result.stdout.startswith(f"top-1 {100 * correct.mean():.1f} % (95 % interval ")
    assert result.stdout.rstrip().endswith("n = 12 clips, chance 16.7 %)")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--clips", "6", "--out", "/dev/null/table.csv"), "/dev/null/table.csv: cannot be written"),
        (("--clips", "0"), "size = 0: it must be at least 1"),
        (("--task", "cats"), "task 'cats'"),
        (("--task", "digits-digit"), "the model tells 6 classes apart, and the clips are of 10"),
        (("--task", "video", "--test-list", "none.txt"), "none.txt: the list cannot be read"),
        (("--ckpt", "none.safetensors"), "none.safetensors"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(checkpoint, flags, message):
    result = run_cli(*(() if "--ckpt" in flags else ("--ckpt", checkpoint)), *flags)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
