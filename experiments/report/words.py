"""Names and numbers as the page shows them."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

VARIANT_LABELS: Mapping[str, str] = {
    "mamba": "Mamba, forward only",
    "videomamba": "VideoMamba",
    "mask": "+ mask",
    "residual_initial": "+ residual, initial",
    "residual_elemental": "+ residual, elemental",
    "paper": "VideoMambaPro",
    "attention": "self-attention",
}
"""The variants in the order of every table and figure."""

VARIANT_LOOKS: Mapping[str, Mapping[str, Any]] = {
    name: {"color": color, "marker": marker}
    for name, color, marker in zip(
        VARIANT_LABELS,
        ("#000000", "#555555", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2"),
        "Dsv^PoX",
        strict=True,
    )
}
"""How each variant is drawn. The marker tells the variants apart where the colour does not."""

_FIELDS_IN_WORDS: Mapping[str, str] = {
    "frames": "{} frames",
    "image_size": "{} pixels",
    "patch_size": "patches of {}",
    "tubelet_size": "tubelets of {}",
    "steps": "{} steps",
}


def variant_label(variant: str) -> str:
    return VARIANT_LABELS.get(variant, variant)


def base_labels(table: pd.DataFrame, fields: Sequence[str], cells: pd.DataFrame) -> pd.Series:
    """Name the base of each row by its task and by the fields that differ between the cells of that task.

    How a model is read out is named in every base as soon as it differs between any two cells.

    Args:
        table: the rows.
        fields: columns of `table` and of `cells`, as `experiments.statistics.bases.base_fields` gives them.
        cells: the grid's cells.
    """
    of_task = {
        task: [field for field in fields if field != "task" and group[field].nunique(dropna=False) > 1]
        for task, group in cells.groupby("task")
    }
    if cells["class_token"].nunique() > 1:
        of_task = {task: list(dict.fromkeys([*named, "class_token"])) for task, named in of_task.items()}
    labels = [
        ", ".join([row["task"], *(_field_in_words(field, row[field]) for field in of_task[row["task"]])])
        for row in table[list(fields)].to_dict("records")
    ]
    return pd.Series(labels, index=table.index, dtype=object)


def by_base(table: pd.DataFrame, fields: Sequence[str], cells: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each base, by its label, in the order of the table."""
    labels = base_labels(table, fields, cells)
    return {label: table[labels == label] for label in dict.fromkeys(labels)}


def base_setting(cells: pd.DataFrame) -> str:
    """How the models of one base were made, in words."""
    cell = cells.iloc[0]
    return (
        f"{cell['frames']} frames of {cell['image_size']} x {cell['image_size']} pixels in patches of "
        f"{cell['patch_size']}; width {cell['d_model']}, depth {cell['depth']}; {cell['steps']} steps of "
        f"{cell['batch_size']} clips; judged on {cell['n_test']} clips"
    )


def _field_in_words(field: str, value: object) -> str:
    if field == "class_token":
        return "mean pooling" if value == "none" else f"class token {value}"
    return _FIELDS_IN_WORDS.get(field, field.replace("_", " ") + " {}").format(value)


def slug(label: str) -> str:
    """A label as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.1f} %"


def signed_points(difference: float) -> str:
    """A difference of two shares in points, with a sign unless it rounds to 0."""
    said = f"{100 * difference:+.1f}"
    return "-" if np.isnan(difference) else "0.0" if float(said) == 0 else said


def p_value(p: float) -> str:
    return "-" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval(low: float, high: float, said: Callable[[float], str]) -> str:
    """Both ends of an interval, or the words "no interval"."""
    return "no interval" if np.isnan(low) or np.isnan(high) else f"{said(low)} to {said(high)}"
