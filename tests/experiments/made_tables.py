"""Tables such as a grid leaves, made from effects that are known: what statistics and report are tested on.

`grid_tables(Truth(...))` draws every clip as right or wrong with the probability that `Truth` gives it, and a probe's
number as the variant's mean with noise by seed. Nothing is trained.
"""

import dataclasses
import hashlib
import itertools
import json
import zlib
from collections.abc import Mapping

import numpy as np
import pandas as pd

VARIANTS = (
    "mamba",
    "videomamba",
    "mask",
    "residual_initial",
    "residual_elemental",
    "paper",
    "attention",
)
CHANCE = {"recall": 0.1, "relation": 0.5, "direction": 0.25}
MEDIATORS = ("neutral", "similar to one", "similar to both", "interleaved")
QUANTITIES = {
    ("decay", "decay_index_tokens", "none"): 0.5,
    ("decay", "decay_index_frames", "none"): 0.4,
    ("decay", "half_life_tokens", "tokens"): 6.0,
    ("decay", "effective_context_tokens", "tokens"): 20.0,
    ("contradiction", "contradictory_mass", "none"): 1.1,
    ("contradiction", "mediator_sensitivity", "nats"): 0.8,
    ("contradiction", "transitivity_unmasked", "none"): 0.6,
    ("contradiction", "block_rank", "none"): 5.0,
}
SCOPES = ("ssm", "contribution")


@dataclasses.dataclass(frozen=True)
class Truth:
    """What the tables are drawn from.

    accuracy    probability that a clip is told right, by variant; one that is absent has `base`
    slope       what a frame of distance adds to it, by variant (task recall)
    mediators   what a kind of mediator adds to it, by variant and kind (task relation)
    seed_sd     standard deviation of what a seed adds to all clips of a cell
    probes      what is added to a quantity's mean, by (variant, quantity), after training and before alike
    probe_sd    standard deviation of a probe's number over seeds
    """

    base: float = 0.7
    accuracy: Mapping[str, float] = dataclasses.field(default_factory=dict)
    slope: Mapping[str, float] = dataclasses.field(default_factory=dict)
    mediators: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    seed_sd: float = 0.02
    probes: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    probe_sd: float = 0.02


def grid_tables(
    truth: Truth | None = None,
    *,
    tasks: tuple[str, ...] = ("recall", "relation"),
    frames: tuple[int, ...] = (8,),
    class_tokens: tuple[str, ...] = ("first",),
    variants: tuple[str, ...] = VARIANTS,
    seeds: int = 3,
    clips: int = 200,
    layers: int = 2,
    draw: int = 0,
) -> dict[str, pd.DataFrame]:
    """The tables `cells`, `predictions`, `training`, `probes`, `profiles` and `times` of a grid, by name.

    A cell is a function of its configuration, `truth` and `draw` alone, whatever other cells there are.
    """
    truth = truth or Truth()
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in _MAKERS}
    cells = []
    for task, length, token, seed, variant in itertools.product(
        tasks, frames, class_tokens, range(seeds), variants
    ):
        config = _config(task, length, token, variant, seed, clips)
        cell = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
        rng = np.random.default_rng([draw, zlib.crc32(cell.encode())])
        made = {name: make(config, truth, layers, rng) for name, make in _MAKERS.items()}
        for name, table in made.items():
            table.insert(0, "cell", cell)
            parts[name].append(table)
        cells.append(
            {
                "cell": cell,
                **config,
                "parameters": 50_000 + 100 * VARIANTS.index(variant),
                "chance": CHANCE[task],
                "blind": CHANCE[task],
                "n_test": clips,
                "accuracy": made["predictions"]["correct"].mean(),
                "weights_sha256": hashlib.sha256(cell.encode()).hexdigest(),
            }
        )
    return {
        "cells": pd.DataFrame(cells),
        **{name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()},
    }


def _config(task: str, frames: int, token: str, variant: str, seed: int, clips: int) -> dict[str, object]:
    return {
        "task": task,
        "frames": frames,
        "image_size": 32,
        "patch_size": 8,
        "tubelet_size": 1,
        "d_model": 32,
        "depth": 2,
        "d_state": 8,
        "variant": variant,
        "class_token": token,
        "steps": 200,
        "batch_size": 32,
        "learning_rate": 2e-3,
        "warmup_steps": 20,
        "weight_decay": 0.05,
        "train_clips": 2000,
        "test_clips": clips,
        "probe_clips": 8,
        "seed": seed,
    }


def _predictions(config, truth: Truth, layers: int, rng: np.random.Generator) -> pd.DataFrame:
    task, variant, clips, frames = (config[k] for k in ("task", "variant", "test_clips", "frames"))
    # What a test clip shows is the same for every variant of a seed.
    shown = np.random.default_rng([zlib.crc32(task.encode()), frames, config["seed"]])
    classes = round(1 / CHANCE[task])
    label = shown.integers(classes, size=clips)
    table = pd.DataFrame({"clip": [f"{task}-{k}" for k in range(clips)], "label": label.astype(str)})
    chance_of_right = np.full(clips, truth.accuracy.get(variant, truth.base))
    conditions: dict[str, object] = dict.fromkeys(
        ("cue_frame", "read_direction", "read_distance", "mediator", "gap", "source")
    )
    if task == "recall":
        cue = shown.integers(frames, size=clips)
        backward = config["class_token"] == "first"
        distance = cue + 1 if backward else frames - 1 - cue
        readable = not (backward and variant == "mamba")
        conditions |= {
            "cue_frame": cue,
            "read_direction": ("backward" if readable else "none") if backward else "pooled",
            "read_distance": pd.array(distance, dtype="Int64") if readable or not backward else None,
        }
        centred = distance - distance.mean()
        chance_of_right = chance_of_right + truth.slope.get(variant, 0) * centred
    if task == "relation":
        kinds = np.array(MEDIATORS)[shown.integers(len(MEDIATORS), size=clips)]
        conditions |= {"mediator": kinds, "gap": shown.integers(1, max(frames - 2, 2), size=clips)}
        chance_of_right = chance_of_right + [truth.mediators.get((variant, kind), 0) for kind in kinds]
    if task == "direction":
        conditions["source"] = np.array(["digit", "photograph"])[shown.integers(2, size=clips)]
    chance_of_right = np.clip(chance_of_right + rng.normal(0, truth.seed_sd), 0, 1)
    correct = rng.random(clips) < chance_of_right
    wrong = (label + rng.integers(1, classes, size=clips)) % classes
    table["prediction"] = np.where(correct, label, wrong).astype(str)
    table["correct"] = correct
    table["probability"] = rng.uniform(1 / classes, 1, size=clips)
    for name, values in conditions.items():
        table[name] = values
    for name in ("cue_frame", "read_distance", "gap"):
        table[name] = table[name].astype("Int64")
    return table


def _directions(variant: str, probe: str = "decay") -> tuple[str, ...]:
    if variant == "attention":
        return ("both", "both j<=i", "both j>=i") if probe == "decay" else ("both",)
    return ("forward",) if variant == "mamba" else ("forward", "backward")


def _probes(config, truth: Truth, layers: int, rng: np.random.Generator) -> pd.DataFrame:
    variant = config["variant"]
    rows = []
    for (probe, quantity, unit), mean in QUANTITIES.items():
        centre = mean + truth.probes.get((variant, quantity), 0) + rng.normal(0, truth.probe_sd)
        for trained, layer, direction, scope in itertools.product(
            (True, False), range(layers), _directions(variant, probe), SCOPES
        ):
            value = centre + rng.normal(0, truth.probe_sd / 4)
            rows.append(
                {
                    "trained": trained,
                    "probe": probe,
                    "layer": layer,
                    "direction": direction,
                    "scope": scope,
                    "quantity": quantity,
                    "unit": unit,
                    "value": value,
                    "low": value - truth.probe_sd,
                    "high": value + truth.probe_sd,
                    "n_clips": config["probe_clips"],
                    "note": "",
                }
            )
    return pd.DataFrame(rows)


def _profiles(config, truth: Truth, layers: int, rng: np.random.Generator) -> pd.DataFrame:
    frames = np.arange(config["frames"])
    pairs = [f"{s},{t}" for s, t in itertools.product(frames, repeat=2)]
    parts = []
    for trained, layer, direction, scope in itertools.product(
        (True, False), range(layers), _directions(config["variant"]), SCOPES
    ):
        where = (trained, layer, direction, scope)
        lags = np.exp(-0.4 * frames) * rng.uniform(0.9, 1.1, size=len(frames))
        share = rng.dirichlet(np.ones(len(frames)), size=len(frames)).ravel()
        parts.append((*where, "frame_lag_profile", "W", frames.astype(str), lags, 0.9 * lags, 1.1 * lags))
        parts.append((*where, "frame_matrix", "fraction", pairs, share, share, share))
    labels = ("trained", "layer", "direction", "scope", "quantity", "unit")
    # A column at a time, as thousands of small tables take seconds to join.
    columns = list(zip(*parts, strict=True))
    rows = [len(value) for value in columns[-1]]
    table = {name: np.repeat(column, rows) for name, column in zip(labels, columns, strict=False)}
    for name, column in zip(("index", "value", "low", "high"), columns[len(labels) :], strict=True):
        table[name] = np.concatenate(column)
    return pd.DataFrame(table)


def _training(config, truth: Truth, layers: int, rng: np.random.Generator) -> pd.DataFrame:
    step = np.arange(20, config["steps"] + 1, 20)
    gone = step / config["steps"]
    return pd.DataFrame(
        {
            "step": step,
            "loss": 2 * np.exp(-2 * gone) + rng.uniform(0, 0.1, len(step)),
            "accuracy": truth.base * gone,
            "learning_rate": config["learning_rate"] * (1 - gone),
        }
    )


def _times(config, truth: Truth, layers: int, rng: np.random.Generator) -> pd.DataFrame:
    return pd.DataFrame({"stage": ["train", "judge", "probe"], "seconds": rng.uniform(1, 10, size=3)})


_MAKERS = {
    "predictions": _predictions,
    "training": _training,
    "probes": _probes,
    "profiles": _profiles,
    "times": _times,
}
