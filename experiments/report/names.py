"""What variants and bases of a comparison are called on the page."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

VARIANTS: Mapping[str, str] = {
    "mamba": "Mamba, forward only",
    "videomamba": "VideoMamba",
    "mask": "+ mask",
    "residual_initial": "+ residual, initial",
    "residual_elemental": "+ residual, elemental",
    "paper": "VideoMambaPro",
    "attention": "self-attention",
}
"""In the order of every table and figure."""

LOOKS: Mapping[str, Mapping[str, Any]] = {
    "mamba": {"color": "#000000", "marker": "D"},
    "videomamba": {"color": "#555555", "marker": "s"},
    "mask": {"color": "#56B4E9", "marker": "v"},
    "residual_initial": {"color": "#009E73", "marker": "^"},
    "residual_elemental": {"color": "#CC79A7", "marker": "P"},
    "paper": {"color": "#D55E00", "marker": "o"},
    "attention": {"color": "#0072B2", "marker": "X"},
}
"""How each variant is drawn: told apart by marker as well as by colour."""

_SAID: Mapping[str, str] = {
    "frames": "{} frames",
    "image_size": "{} pixels",
    "patch_size": "patches of {}",
    "tubelet_size": "tubelets of {}",
    "steps": "{} steps",
}


def variant_label(variant: str) -> str:
    return VARIANTS.get(variant, variant)


def base_labels(table: pd.DataFrame, fields: Sequence[str], cells: pd.DataFrame) -> pd.Series:
    """The base of each row: its task, and of ``fields`` those that differ between cells of the task; and how it is
    read out, where that differs between any.

    Args:
        fields: columns of both, those of `experiments.statistics.tables.base_fields`.
    """
    of_task = {
        task: [field for field in fields if field != "task" and group[field].nunique(dropna=False) > 1]
        for task, group in cells.groupby("task")
    }
    if cells["class_token"].nunique() > 1:
        of_task = {task: list(dict.fromkeys([*named, "class_token"])) for task, named in of_task.items()}
    labels = [
        ", ".join([row["task"], *(_said(field, row[field]) for field in of_task[row["task"]])])
        for row in table[list(fields)].to_dict("records")
    ]
    return pd.Series(labels, index=table.index, dtype=object)


def base_setting(cells: pd.DataFrame) -> str:
    """How the models of one base were made, in words."""
    cell = cells.iloc[0]
    return (
        f"{cell['frames']} frames of {cell['image_size']} x {cell['image_size']} pixels in patches of "
        f"{cell['patch_size']}; width {cell['d_model']}, depth {cell['depth']}; {cell['steps']} steps of "
        f"{cell['batch_size']} clips; judged on {cell['n_test']} clips"
    )


def _said(field: str, value: object) -> str:
    if field == "class_token":
        return "mean pooling" if value == "none" else f"class token {value}"
    return _SAID[field].format(value) if field in _SAID else f"{field.replace('_', ' ')} {value}"


def slug(label: str) -> str:
    """A label as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
