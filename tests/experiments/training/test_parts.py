"""The parts of training by themselves: schedule, order of clips, weight decay, signals."""

import math
import signal

import pytest

import vmp
from experiments.train import TrainConfig
from experiments.training.batches import StepBatches
from experiments.training.optimiser import parameter_groups
from experiments.training.stopping import StopSignal
from tests.experiments.training.small import TINY


def test_learning_rate_warms_up_and_falls_along_a_cosine():
    config = TrainConfig(steps=110, warmup_steps=10, learning_rate=0.5, final_rate=0.1)
    assert [config.rate(step) for step in range(10)] == pytest.approx([0.05 * k for k in range(1, 11)])
    assert config.rate(10) == pytest.approx(0.5)
    assert config.rate(60) == pytest.approx((0.5 + 0.05) / 2)
    assert config.rate(35) == pytest.approx(0.05 + 0.45 * (1 + math.sqrt(0.5)) / 2)
    assert config.rate(110) == pytest.approx(0.05)
    assert all(config.rate(step) > config.rate(step + 1) for step in range(10, 109))


def test_batches_cover_every_epoch_once_and_split_over_processes():
    config = TrainConfig(steps=15, batch_size=4, seed=3)
    batches = [[draw[0] for draw in batch] for batch in StepBatches(config, size=20, start=0)]
    assert [len(batch) for batch in batches] == [4] * 15
    flat = [index for batch in batches for index in batch]
    epochs = [flat[k : k + 20] for k in (0, 20, 40)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(20))
    assert epochs[0] != epochs[1] != epochs[2]
    assert [[draw[0] for draw in batch] for batch in StepBatches(config, 20, start=6)] == batches[6:]
    halves = [
        [[draw[0] for draw in batch] for batch in StepBatches(config, 20, 0, rank, 2)] for rank in (0, 1)
    ]
    for whole_batch, first, second in zip(batches, *halves, strict=True):
        assert sorted(first + second) == sorted(whole_batch)
        assert len(first) == len(second) == 2
    drawn = [draw for batch in StepBatches(config, size=7, start=0) for draw in batch]
    assert [epoch for _, epoch in drawn] == [place // 7 for place in range(60)]
    odd = [index for index, _ in drawn]
    assert all(sorted(odd[k : k + 7]) == list(range(7)) for k in range(0, 56, 7))


def test_weight_decay_is_for_matrices_alone():
    model = vmp.create_model("vmp_micro", "videomamba", **TINY, num_classes=3)
    decayed, exempt = parameter_groups(model, 0.05)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    names = [{name_of[id(p)] for p in group["params"]} for group in (decayed, exempt)]
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.05, 0)
    assert names[0] | names[1] == set(name_of.values())
    assert not names[0] & names[1]
    assert {name.removeprefix("layers.0.mixer.") for name in names[0] if "layers.1" not in name} == {
        "patch_embed.proj.weight",
        "in_proj.weight",
        "conv1d.weight",
        "conv1d_b.weight",
        "x_proj.weight",
        "x_proj_b.weight",
        "dt_proj.weight",
        "dt_proj_b.weight",
        "out_proj.weight",
        "head.weight",
    }


@pytest.fixture
def interrupts():
    """SIGINT raises as in a terminal: a shell starts background jobs with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_stop_signal_notes_the_first_and_lets_the_second_through(interrupts):
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
