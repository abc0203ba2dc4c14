"""What the GPU's steps `training` and `efficiency` count, and the figure; test_gpu_steps.py runs them."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.bench.gpu import efficiency, models, training
from experiments.bench.gpu.efficiency_figure import draw_efficiency, efficiency_points
from experiments.bench.results import Row, new_run
from vmp.config import named_config
from vmp.model import VideoModel


@pytest.mark.parametrize("size", ["tiny", "small", "middle"])
def test_parameters_match(size):
    mamba, attention = models.configs(f"videomambapro_{size}")
    assert models.parameters(attention) == pytest.approx(models.parameters(mamba), rel=models.APART)
    assert attention.attention_inner // attention.num_heads % 8 == 0


@pytest.mark.parametrize("variant", ["paper", "attention"])
def test_counts_go_by_depth(variant):
    config = named_config("vmp_micro", variant, num_classes=3, depth=5)
    assert models.parameters(config) == sum(p.numel() for p in VideoModel(config).parameters())


def test_operations_by_hand():
    """A linear layer is counted as 2 an entry of its weight and token; attention's are these and 4 L L W."""
    layer = torch.nn.Linear(3, 5, bias=False, device="meta")
    with FlopCounterMode(display=False) as counter:
        layer(torch.empty(7, 3, device="meta"))
    assert counter.get_total_flops() == 2 * 3 * 5 * 7

    config = named_config("vmp_micro", "attention", num_classes=3, depth=5)
    length, width, inner = config.token_layout().length, config.d_model, config.attention_inner
    patches = length - 1
    pixels = config.channels * config.tubelet_size * config.patch_size**2
    block = 2 * length * 4 * width * inner + 4 * length**2 * inner
    assert models.flops(config) == (2 * patches * pixels * width + 5 * block + 2 * width * 3, 0)


def test_scan_operations_by_hand():
    config = named_config("vmp_micro", "videomamba", d_state=3)
    tokens, channels = config.token_layout().length, config.d_inner
    assert models.scan_flops(config) == tokens * channels * (7 * 3 + 8)
    assert models.flops(config)[1] == 4 * 2 * models.scan_flops(config)
    assert models.scan_flops(replace(config, residual="elemental")) == tokens * channels * (8 * 3 + 8)


def test_a_subject_that_fails_does_not_stop_the_others(monkeypatch):
    def without_memory(*arguments):
        raise torch.OutOfMemoryError("no memory\nand more")

    monkeypatch.setattr(training, "_train", without_memory)
    rows = []
    training.training(training.TOY, "cpu", rows.append)
    assert [row.problem for row in rows] == ["FAILED: OutOfMemoryError: no memory"] * 6


def test_figure_is_of_saved_rows(tmp_path):
    rows = tuple(
        Row(efficiency.group("videomambapro_tiny", frames), subject, quantity, "", {"frames": frames, "batch": 4}, (v,))
        for frames in (16, 8)
        for subject in (efficiency.MAMBA, efficiency.ATTENTION)
        for quantity, v in (("throughput", 80.0 / frames), ("peak memory", 4e9 * frames))
    )  # fmt: skip
    run = replace(new_run("gpu", "cpu", True, 0, "", {}), rows=rows)
    assert efficiency_points(run, "throughput")["tiny"][efficiency.MAMBA] == [(8, 10.0), (16, 5.0)]
    assert efficiency_points(run, "peak memory")["tiny"][efficiency.ATTENTION] == [(8, 8e9), (16, 16e9)]
    assert draw_efficiency(run, tmp_path).stat().st_size > 0
    assert (tmp_path / "efficiency.svg").exists()
