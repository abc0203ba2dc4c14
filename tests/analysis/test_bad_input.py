"""What no probe can measure, on each command: one line that says why, or a gap with its reason below the table."""

import json

import pytest
import torch

from analysis.cli import main
from tests.analysis.models import TINY
from tests.analysis.test_families import mamba
from vmp import create_model
from vmp.checkpoint import save_checkpoint

COMMANDS = {
    "decay": ["--bootstrap", "100"],
    "contradiction": ["--bootstrap", "100", "--mediators", "2", "--no-control"],
    "compare": ["--bootstrap", "100", "--random-orders", "1"],
    "theory": ["--cases", "1"],
}
FEW = ["--layers", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("models")
    for variant in ("paper", "mamba"):
        torch.manual_seed(0)
        model = create_model("vmp_micro", variant=variant, num_classes=3, **TINY)
        save_checkpoint(model, made / f"{variant}.safetensors")
    mamba(hidden_act="gelu").float().save_pretrained(made / "gelu")
    (made / "bert").mkdir()
    (made / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return made


def run(command, path, *flags):
    twice = ["--ckpt", str(path)] * (2 if command == "compare" else 1)
    return main([command, *twice, *COMMANDS[command], *map(str, flags)])


def one_line(capsys):
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return shown.err


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_of_an_unknown_family(command, folder, capsys):
    assert run(command, folder / "bert") == 2
    error = one_line(capsys)
    assert "model_type 'bert' is not known; there are videomae" in error
    assert str(folder / "bert") in error


@pytest.mark.parametrize("command", ["decay", "contradiction", "theory"])
def test_a_layer_that_is_not_the_one_that_captures_know(command, folder, capsys):
    capsys.readouterr()
    assert run(command, folder / "gelu", "--length", 9) == 2
    assert "layer 0: the activation of MambaMixer is 'gelu'" in one_line(capsys)


def test_two_tokens_are_too_few_for_lags_and_triples(folder, capsys):
    short = ("--frames", 1, "--size", 8, "--clips", 2, *FEW)
    assert run("decay", folder / "paper.safetensors", *short) == 0
    text = said(capsys)
    assert "Gap: half-life (tokens): 2 tokens: at least three are needed to measure a fall" in text
    assert "Gap: half-life (frames): one frame" in text
    assert run("contradiction", folder / "paper.safetensors", *short) == 0
    text = said(capsys)
    assert "2 tokens: a triple takes 9, as a mediator's convolution is to reach neither token" in text
    assert "transitivity residual, transitivity residual, unmasked: 2 tokens: a triple takes 3" in text
    assert "Gap: contradictory mass: no row with 4 keys or more" in text
    assert run("compare", folder / "paper.safetensors", *short) == 0
    text = said(capsys)
    both = "Gap: paper (1), paper (2): "
    assert f"{both}half-life (tokens): 2 tokens: at least three are needed to measure a fall" in text
    for part in ("frames", "tubes"):
        assert (
            f"Relevance of paper (1), paper (2) has gaps: deletion of {part}: one of them is the whole clip"
            in text
        )
    assert run("theory", folder / "paper.safetensors", *short) == 2
    assert "2 tokens; at least 6 are needed" in one_line(capsys)


def test_a_direction_that_is_not_there(folder, capsys):
    flags = ("--clips", 1, *FEW)
    for command in ("decay", "contradiction", "compare"):
        assert run(command, folder / "mamba.safetensors", *flags) == 0
        text = said(capsys)
        assert "The model scans forward only: there is no backward direction." in text
        assert "One clip was shown: there are no intervals over clips." in text
        assert "–" not in text.replace("m–n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_one_clip_has_no_interval_in_any_number(command, folder, capsys):
    assert run(command, folder / "paper.safetensors", "--clips", 1, *FEW, "--json") == 0
    found = list(numbers(json.loads(capsys.readouterr().out)))
    assert found
    for m in found:
        if m["quantity"] in ("spectrum", "residual_profile"):  # Of one scan, with a band over its channels.
            assert m["low"] is None or "over channels; no interval over clips" in m["note"]
            continue
        assert (m["low"], m["high"]) == (None, None)
        assert "one clip" in m["note"]


def numbers(record):
    """Every record with an interval, however deep, that has a value; entries of curves have none."""
    if isinstance(record, list):
        for item in record:
            yield from numbers(item)
    elif isinstance(record, dict):
        if {"low", "high", "n_clips", "value"} <= set(record) and record["value"] is not None:
            yield record
        for name, item in record.items():
            if name != "curves" or "findings" in record:  # Those of the claims are numbers with notes.
                yield from numbers(item)
