"""One cell: its configuration, its clips, how its read-out reaches a cue, and that it resumes to the same bits."""

import re

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import vmp
from experiments import cell as cells
from experiments.bench.gpu.models import parameters
from experiments.cell import CELL_VARIANTS, TEST_SEED, CellConfig, run_cell
from experiments.data.tasks import held_clips, task_dataset
from experiments.grid_tables import SCHEMAS, read_table
from experiments.presets import PRESETS, Ablation, Preset
from experiments.probing import attention_rows, layer_directions
from experiments.training.state import TrainingState
from tests.experiments.grids import TINY, TINY_GRID, tiny_grid  # noqa: F401


def changed(**fields) -> CellConfig:
    return CellConfig.model_validate({**TINY.model_dump(), **fields})


def test_an_id_is_of_every_field_and_of_nothing_else():
    others = {
        "task": "direction",
        "frames": 8,
        "image_size": 32,
        "patch_size": 4,
        "tubelet_size": 2,
        "d_model": 32,
        "depth": 3,
        "d_state": 8,
        "variant": "mask",
        "class_token": "none",
        "steps": 13,
        "batch_size": 5,
        "learning_rate": 1e-3,
        "warmup_steps": 3,
        "weight_decay": 0.1,
        "train_clips": 25,
        "test_clips": 13,
        "probe_clips": 4,
        "seed": 7,
    }
    assert list(others) == list(CellConfig.model_fields)
    ids = {changed(**{name: value}).id for name, value in others.items()}
    assert len(ids - {TINY.id}) == len(others)
    assert CellConfig.model_validate_json(TINY.model_dump_json()).id == TINY.id
    assert re.fullmatch("[0-9a-f]{12}", TINY.id)
    # What a folder is called must not change from one version to the next.
    assert changed(probe_clips=3).id == "dfbae361dfbb"
    assert set(SCHEMAS["cells"].names) > set(CellConfig.model_fields)


def test_variants_have_parameters_within_two_per_cent_in_every_preset():
    """Of one patch: more patches add the same numbers to every variant, which brings the variants nearer."""
    for make in PRESETS.values():
        for block in make().blocks:
            base, *others = block.cells(0)
            sizes = {
                cell.variant: parameters(
                    cell.model_copy(update={"frames": 1, "image_size": cell.patch_size}).model()
                )
                for cell in (base, *others)
                if cell.model_copy(update={"variant": base.variant}) == base
            }
            assert sizes == pytest.approx(dict.fromkeys(CELL_VARIANTS, sizes[base.variant]), rel=0.02)


def test_a_preset_is_bases_with_one_change_each_at_every_seed():
    block = Ablation(base=TINY, changes={"variant": ("mask", "mamba"), "frames": (8,)})
    grid = Preset(blocks=(block, Ablation(base=changed(class_token="none"))), seeds=(3, 5))
    told = [(c.variant, c.frames, c.class_token, c.seed) for c in grid.cells()]
    assert told == [
        (variant, frames, "first", seed)
        for seed in (3, 5)
        for variant, frames in (("videomamba", 4), ("mask", 4), ("mamba", 4), ("videomamba", 8))
    ] + [("videomamba", 4, "none", seed) for seed in (3, 5)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"variant": ("videomamba",)}, "variant = 'videomamba' is no change of one field"),
        ({"seed": (4,)}, "seed = 4 is no change of one field of the base; seeds are the grid's own"),
        ({"frames": ("many",)}, "frames: Input should be a valid integer"),
        ({"frame": (8,)}, "frame: there is no such field"),
    ],
)
def test_a_change_that_is_none_or_cannot_be_is_refused(changes, told):
    with pytest.raises(ValidationError, match=re.escape(told)):
        Ablation(base=TINY, changes=changes)


def test_a_cell_that_comes_twice_is_refused():
    with pytest.raises(ValidationError, match="the same cell comes twice"):
        Preset(blocks=(Ablation(base=TINY), Ablation(base=TINY)), seeds=(0,))
    with pytest.raises(ValidationError, match="the same cell comes twice"):
        Preset(blocks=(Ablation(base=TINY),), seeds=(0, 0))


def test_held_clips_are_the_tasks_own():
    source = task_dataset("relation", "held-out", 6, 32, 3, 5)
    held = held_clips("relation", "held-out", 6, 32, 3, 5)
    assert len(held) == 5
    assert held.classes == source.classes
    for index in range(5):
        assert torch.equal(held[index][0], source[index][0])
        assert held.label(index) == source.label(index)
        assert held.name(index) == source.name(index)
        assert held.conditions(index) == source.conditions(index)
    assert held_clips("relation", "held-out", 6, 32, 3, 5) is held


def test_clips_too_many_to_hold_are_made_as_they_are_needed(monkeypatch):
    assert TINY.training().workers == 0
    monkeypatch.setattr(cells, "HELD_BYTES", 24 * 4 * 16 * 16 * 3 - 1)
    assert TINY.training().workers > 0
    assert torch.equal(TINY.clips("train")[3][0], task_dataset("photo-pan", "train", 4, 16, 0, 24)[3][0])


@pytest.mark.parametrize(
    ("variant", "class_token"),
    [
        *((variant, "none") for variant in CELL_VARIANTS),
        *((variant, "first") for variant in ("mamba", "videomamba", "attention")),
    ],
)
def test_every_variant_makes_a_cell_whose_read_out_reaches_a_cue_its_way(tmp_path, variant, class_token):
    config = changed(
        task="recall",
        image_size=32,
        patch_size=16,
        variant=variant,
        class_token=class_token,
        depth=1,
        steps=1,
        test_clips=40,
        probe_clips=1,
    )
    direction, distances = {
        "none": ("pooled", (3, 2, 1, 0)),
        "first": ("none", (None,) * 4) if variant == "mamba" else ("backward", (1, 2, 3, 4)),
    }[class_token]
    run_cell(config, tmp_path)
    rows = read_table(tmp_path, "predictions").to_pylist()
    source = task_dataset("recall", "held-out", 4, 32, 1000, 40)
    assert {row["cue_frame"] for row in rows} == {0, 1, 2, 3}
    for index, row in enumerate(rows):
        assert row["cue_frame"] == source.conditions(index)["cue_frame"]
        assert row["read_direction"] == direction
        assert row["read_distance"] == distances[row["cue_frame"]]
    # A forward scan brings a class token before the first frame nothing, so that every clip looks alike to it.
    assert (len({row["probability"] for row in rows}) == 1) == (direction == "none")
    model = vmp.load_checkpoint(tmp_path / "weights.safetensors")
    assert model.config.variant == variant
    with np.load(tmp_path / "rows.npz") as file:
        assert tuple(file["directions"]) == layer_directions(model)


def test_an_interrupted_cell_ends_with_the_same_bits(tiny_grid, tmp_path, monkeypatch):  # noqa: F811
    whole = tiny_grid / "cells" / TINY.id
    update = TrainingState.update

    def update_and_die(run, *batch):
        update(run, *batch)
        if run.step == 11:
            raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "update", update_and_die)
        with pytest.raises(MemoryError):
            run_cell(TINY, tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == 10
    # What a kill may leave behind.
    (tmp_path / ".weights.safetensors.1.partial").touch()
    (tmp_path / ".cell.json.1.tmp").touch()
    with monkeypatch.context() as patch:
        patch.setattr(cells, "evaluate", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            run_cell(TINY, tmp_path)
    assert not (tmp_path / "cell.json").exists()
    run_cell(TINY, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in whole.iterdir())
    for table in set(SCHEMAS) - {"times"}:
        assert (tmp_path / f"{table}.parquet").read_bytes() == (whole / f"{table}.parquet").read_bytes(), (
            table
        )
    assert (tmp_path / "cell.json").read_bytes() == (whole / "cell.json").read_bytes()
    # A finished cell is left alone.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")}
    run_cell(TINY, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")} == before


def test_rows_for_the_viewer_are_shares_of_each_token(tiny_grid):  # noqa: F811
    for cell in TINY_GRID.cells():
        with np.load(tiny_grid / "cells" / cell.id / "rows.npz") as file:
            rows = {name: file[name] for name in file.files}
        directions = {"videomamba": ["forward", "backward"], "attention": ["both"]}[cell.variant]
        assert rows["directions"].tolist() == directions
        assert rows["layers"].tolist() == [0, 1]
        assert rows["P"].shape == (2, 2, len(directions), 17, 17)
        assert rows["P"].dtype == np.float16
        assert rows["P"].astype(float).sum(-1) == pytest.approx(1, abs=5e-3)
        assert rows["class_positions"].tolist() == [0]
        assert rows["grid"].tolist() == [4, 2, 2]
        clips = task_dataset("photo-pan", "held-out", 4, 16, 1000 + cell.seed, 12)
        predictions = read_table(tiny_grid / "cells" / cell.id, "predictions").to_pylist()
        said = {row["clip"]: row["prediction"] for row in predictions}
        for k, index in enumerate(cell.probed()):
            assert np.array_equal(rows["frames"][k], clips.frames(index))
            assert rows["names"][k] == clips.name(index)
            assert rows["labels"][k] == clips.classes[clips.label(index)]
            assert rows["predictions"][k] == said[clips.name(index)]
        if cell.variant == "videomamba":
            # Forward and backward, but for the convolution, which has the direction of its scan.
            past = np.tril(np.ones((17, 17), bool))
            assert not rows["P"][:, :, 0][..., ~past].any()
            assert not rows["P"][:, :, 1][..., ~past.T].any()


def test_probed_clips_are_those_of_a_seed_and_show_what_the_test_shows():
    for block in PRESETS["quick"]().blocks:
        for seed in (0, 1, 2):
            (indices,) = {tuple(cell.probed()) for cell in block.cells(seed)}
            assert len(set(indices)) == block.base.probe_clips
            base = block.cells(seed)[0]
            clips = task_dataset(  # Not held, as no frame is looked at.
                base.task, "held-out", base.frames, base.image_size, TEST_SEED + seed, base.test_clips
            )
            seen = {name: {clips.conditions(k)[name] for k in indices} for name in clips.conditions(0)}
            # In a row, the first clips of recall all have the cue in their first frame.
            assert len(seen.get("cue_frame", "many")) >= 4
            assert len(seen.get("mediator", "many")) >= 2
            assert len(seen.get("source", "many")) >= 2
            assert len({clips.label(k) for k in indices}) >= 2
        assert len({tuple(block.cells(seed)[0].probed()) for seed in (0, 1, 2)}) == 3


def test_rows_of_a_model_too_large_for_the_viewer_are_of_some_layers_and_clips(monkeypatch):
    config = changed(depth=5, variant="mamba")
    clips = [config.clips("held-out").clip(index) for index in range(3)]
    model = vmp.VideoModel(config.model()).eval()
    whole = attention_rows(model, clips)
    assert whole["P"].shape[:2] == (3, 5)
    monkeypatch.setattr("experiments.probing.VIEWED_BYTES", 3 * 17 * 17 * 2)
    part = attention_rows(model, clips)
    assert part["layers"].tolist() == [0, 2, 4]
    assert part["names"].tolist() == [clips[0].name]
    assert np.array_equal(part["P"], whole["P"][:1, [0, 2, 4]])


def test_quick_is_three_tasks_of_seven_models_and_no_seed_that_its_settings_were_tried_on():
    cells = PRESETS["quick"]().cells()
    assert len(cells) == 63
    assert {(c.task, c.variant) for c in cells} == {
        (task, variant) for task in ("recall", "relation", "direction") for variant in CELL_VARIANTS
    }
    assert not {cell.seed for cell in cells} & {90, 91, 92}
    assert {cell.class_token for cell in cells if cell.task == "recall"} == {"first"}
