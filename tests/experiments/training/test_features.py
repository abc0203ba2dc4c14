"""What training on real data adds to a step: rates by layer, averages, mixtures, parts, recomputation, bfloat16."""

import math

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file
from torch.autograd.graph import saved_tensors_hooks

import vmp
from experiments.data.augment import mix
from experiments.runs import RunFolder
from experiments.train import TrainConfig, train
from experiments.training.optimiser import parameter_groups
from experiments.training.start import make_model
from experiments.training.state import TrainingState
from tests.experiments.training.small import TINY
from vmp import mixer

CONFIG = TrainConfig(
    fields=TINY, variant="paper", steps=3, batch_size=4, warmup_steps=0, log_every=1, workers=0
)


def run_of(tmp_path, **changes) -> TrainingState:
    """A run before its first step."""
    config = CONFIG.model_copy(update=changes)
    torch.manual_seed(config.seed)
    model, _ = make_model(config)
    folder = RunFolder(tmp_path, config.model_dump(mode="json"))
    return TrainingState(config, Accelerator(mixed_precision="no"), model, folder)


def batch(size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(size, 3, 2, 16, 16, generator=generator), torch.tensor([0, 5, 2, 3] * (size // 4))


def test_rates_fall_from_the_head_to_the_embeddings(tmp_path):
    model = vmp.create_model("vmp_micro", "videomamba", **TINY, num_classes=6)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, 0.05, 0.5)
    scale_of = {name_of[id(p)]: group["scale"] for group in groups for p in group["params"]}
    assert scale_of.keys() == set(name_of.values())
    both_ways = ("conv1d{}.weight", "conv1d{}.bias", "x_proj{}.weight", "dt_proj{}.weight", "dt_proj{}.bias")
    block = [name.format(way) for name in both_ways for way in ("", "_b")]
    block += ["A_log", "A_b_log", "D", "D_b", "in_proj.weight", "out_proj.weight"]
    expected = {
        **dict.fromkeys(("patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token"), 0.125),
        **dict.fromkeys(("pos_embed", "temporal_pos_embedding"), 0.125),
        **{f"layers.0.{name}": 0.25 for name in ("norm.weight", *(f"mixer.{name}" for name in block))},
        **{f"layers.1.{name}": 0.5 for name in ("norm.weight", *(f"mixer.{name}" for name in block))},
        **dict.fromkeys(("norm_f.weight", "head.weight", "head.bias"), 1.0),
    }
    assert scale_of == expected
    for group in groups:
        exempt = {name_of[id(p)] in model.no_weight_decay() for p in group["params"]}
        assert exempt == {group["weight_decay"] == 0}
    run = run_of(tmp_path, layer_decay=0.5, variant="videomamba")
    run.update(*batch())
    rates = {round(group["lr"] / CONFIG.learning_rate, 6) for group in run.optimizer.param_groups}
    assert rates == {0.125, 0.25, 0.5, 1.0}


def test_the_average_is_the_run_s_weights_and_the_last_step_s_are_beside_it(tmp_path, monkeypatch):
    steps: list[dict[str, torch.Tensor]] = []
    update = TrainingState.update

    def update_and_keep(run, *clips):
        update(run, *clips)
        steps.append({name: value.clone() for name, value in run.unwrapped.state_dict().items()})

    monkeypatch.setattr(TrainingState, "update", update_and_keep)
    weights = train(CONFIG.model_copy(update={"ema_decay": 0.7}), tmp_path)
    averaged, last = load_file(weights), load_file(tmp_path / "last_step.safetensors")
    assert len(steps) == 3
    for name, value in averaged.items():
        first, second, third = (step[name].double() for step in steps)
        expected = 0.49 * first + 0.21 * second + 0.3 * third
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
        assert torch.equal(last[name], steps[2][name])
    assert any(not torch.equal(averaged[name], last[name]) for name in averaged)


def test_the_loss_of_a_mixture_is_its_shares_cross_entropy_with_every_class(tmp_path):
    run = run_of(tmp_path, mixup=0.8, cutmix=1.0, label_smoothing=0.1)
    videos, labels = batch()
    mixed, shares = mix(videos, labels, 6, [CONFIG.seed, 0, 0, 1], 0.8, 1.0)
    assert not torch.equal(mixed, videos)
    with torch.no_grad():
        log_probability = run.unwrapped(mixed).double().log_softmax(1)
    smoothed = 0.9 * shares.double() + 0.1 / 6
    run.update(videos, labels)
    assert run.loss == pytest.approx(float(-(smoothed * log_probability).sum(1).mean()), rel=1e-6)


def test_parts_of_a_batch_add_up_to_it(tmp_path):
    runs = [run_of(tmp_path / str(parts), accumulate=parts) for parts in (1, 4)]
    for run in runs:
        run.update(*batch())
    whole, parts = runs
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    for one, other in zip(whole.unwrapped.parameters(), parts.unwrapped.parameters(), strict=True):
        scale = float(one.grad.abs().max())
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6 * max(1.0, scale))


def test_recomputation_gives_the_same_gradients_in_less_memory():
    torch.manual_seed(0)
    model = vmp.create_model("vmp_micro", "paper", **{**TINY, "depth": 4, "drop_path": 0.3}, num_classes=6)
    videos, labels = batch()
    gradients, kept = [], []
    for recompute in (False, True):
        model.recompute = recompute
        model.zero_grad()
        torch.manual_seed(1)
        saved: list[int] = []

        def count(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.numel() * tensor.element_size())
            return tensor

        # Within a block that is to be run again, nothing is kept, and these hooks are not called.
        with saved_tensors_hooks(count, lambda tensor: tensor):
            loss = F.cross_entropy(model(videos), labels)
        kept.append(sum(saved))
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))
    assert kept[1] < kept[0] / 4


def test_bfloat16_computes_in_it_and_keeps_steps_rates_stream_weights_and_loss_in_float32(
    tmp_path, monkeypatch
):
    plain, half = (run_of(tmp_path / precision, precision=precision) for precision in ("float32", "bfloat16"))
    seen = []
    half.unwrapped.layers[0].mixer.in_proj.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    half.unwrapped.layers[0].register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    plain.update(*batch())
    scan, scanned = mixer.selective_scan, set()

    def scan_and_note(u, delta, A, *others, **options):
        out = scan(u, delta, A, *others, **options)
        scanned.add((u.dtype, delta.dtype, A.dtype, out.dtype))
        return out

    monkeypatch.setattr(mixer, "selective_scan", scan_and_note)
    half.update(*batch())
    assert seen == [torch.bfloat16, torch.float32]
    # With such inputs the scan itself adds up in float32 (tests/vmp/scan).
    assert scanned == {(torch.bfloat16, torch.float32, torch.float32, torch.bfloat16)}
    assert half.loss != plain.loss
    assert half.loss == pytest.approx(plain.loss, rel=2**-7)
    assert {p.dtype for p in half.unwrapped.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in half.unwrapped.parameters()} == {torch.float32}


def test_no_limit_on_gradients(tmp_path):
    norms = []
    for limit in (None, 1e-3):
        run = run_of(tmp_path / str(limit), clip_norm=limit)
        run.update(*batch())
        norms.append(
            math.sqrt(sum(float(p.grad.double().square().sum()) for p in run.unwrapped.parameters()))
        )
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


def test_a_gradient_that_is_not_finite_changes_no_weight(tmp_path):
    """As the sum over processes is where another one's loss is not, though the own is."""
    run = run_of(tmp_path, ema_decay=0.5)
    before = {name: value.clone() for name, value in run.unwrapped.state_dict().items()}
    run.unwrapped.head.bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(
        ValueError, match=r"the norm of the gradient is (nan|inf) at step 0: try a learning_rate"
    ):
        run.update(*batch())
    assert math.isfinite(run.loss)
    assert run.step == 0
    assert all(torch.equal(before[name], value) for name, value in run.unwrapped.state_dict().items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"repeats": 2},
            r"repeats is for lists of videos \(list, kinetics400, ssv2, ucf101, hmdb51\), not for photo",
        ),
        ({"randaugment": 2}, "randaugment is for lists of videos"),
        ({"task": "ucf101"}, "task ucf101 needs train_list, the list of its videos"),
        (
            {"batch_size": 6, "accumulate": 4},
            "batch_size 6 is not a multiple of repeats 1 times accumulate 4",
        ),
        ({"precision": "float16"}, "precision: Input should be 'float32' or 'bfloat16'"),
        ({"ema_decay": 1.0}, "ema_decay: Input should be less than 1"),
        ({"crop_scale": [0.0, 1.0]}, "crop_scale.0: Input should be greater than 0"),
        (
            {"task": "list", "train_list": "l", "crop_scale": [1.0, 0.5]},
            r"crop_scale \[1\.0, 0\.5\]: the least share comes first",
        ),
        ({"learning_rate": math.inf}, "learning_rate: Input should be a finite number"),
        ({"mixup": math.inf}, "mixup: Input should be a finite number"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_in_a_line(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        TrainConfig.read(None, fields)
    assert len(str(caught.value).splitlines()) == 1
