"""Where the report's numbers come from: versions, machine, commands, times, and the hash of every model's weights."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from analysis.tables import number
from experiments.report.illustration import Block, Table
from experiments.report.numbers import percent
from experiments.report.saved import SavedGrid
from experiments.statistics import base_fields


def provenance(grid: SavedGrid, command: str) -> Iterator[Block]:
    """Commands, versions and machine; times; and every model with the hash of its weights."""
    sessions = dict(grid.provenance["sessions"])
    rows = [["this page", command], ["seeds", ", ".join(map(str, sorted(set(grid.cells["seed"]))))]]
    caption = "Commands, versions and machine"
    if sessions:
        *_, last = sessions.values()
        rows += [[name, text] for name, text in _flat(last)]
    if len(sessions) > 1:
        caption += f", of the last of the {len(sessions)} times that the grid was started or went on"
    yield Block(tables=(Table(caption, ("what", "value"), rows),))
    times = grid.tables["times"].groupby("stage", sort=False)["seconds"].agg(["sum", "mean", "max"])
    lines = [
        [stage, *(number(value) for value in row)]
        for stage, row in zip(times.index, times.values, strict=True)
    ]
    yield Block(tables=(Table("Seconds by stage", ("stage", "all cells", "mean a cell", "longest"), lines),))
    fields = [*base_fields(grid.cells), "variant", "seed"]
    hashes = [
        [
            row["cell"],
            *(str(row[field]) for field in fields),
            percent(row["accuracy"]),
            row["weights_sha256"][:16],
        ]
        for _, row in grid.cells.iterrows()
    ]
    head = (
        "cell",
        *(field.replace("_", " ") for field in fields),
        "accuracy",
        "SHA-256 of the weights, first 16 digits",
    )
    yield Block(tables=(Table("Every model", head, hashes),))


def _flat(fields: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested fields, each as text."""
    for name, value in fields.items():
        said = f"{before}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{said}, ")
        else:
            yield said, "none" if value is None else value if isinstance(value, str) else json.dumps(value)
