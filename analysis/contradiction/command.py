"""The command `vmp contradiction`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, no_type_check

import torch
import typer
from matplotlib.figure import Figure

from analysis.command import (
    EXAMPLE,
    CheckpointOption,
    JsonOption,
    OutOption,
    RequestFor,
    probe_and_show,
    with_request_options,
)
from analysis.contradiction.control import FRESH, NO_CONTROL, control_request, untrained_control
from analysis.contradiction.example import example_figure, find_example, save_example
from analysis.contradiction.measure import Contradiction
from analysis.engine import Entry
from analysis.request import Opened, open_request
from analysis.result import Result
from analysis.terminal import HELP, new_app

app = new_app()


@app.command("contradiction", **HELP)
@with_request_options
@no_type_check  # Typer passes the context of the click that it stands on, which is no `typer.Context`.
def contradiction(
    request_for: RequestFor,
    context: typer.Context,
    checkpoint: CheckpointOption,
    control: Annotated[
        Path | None,
        typer.Option(help="Self-attention checkpoint to compare with; else fresh weights of the same size."),
    ] = None,
    no_control: Annotated[bool, typer.Option("--no-control", help="Compare with nothing.")] = False,
    mediators: Annotated[
        int, typer.Option(min=1, help="Tokens replaced, one at a time, in each layer and clip.")
    ] = Contradiction.mediators,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """How far the relation of two tokens depends on the tokens between them, and on how unlike they are."""
    if control is not None and no_control:
        raise typer.BadParameter("--control and --no-control were both given")
    opened = open_request(request_for(checkpoint))
    others = [] if no_control else _control(opened, control)

    def example(result: Result, folder: Path) -> Mapping[str, Callable[[], Figure]]:
        found = find_example(result, opened.model, next(opened.samples()), seed=opened.request.seed)
        if found is None:
            return {}
        save_example(found, folder / EXAMPLE)
        return {"example": partial(example_figure, found)}

    alone = opened.config.mixer == "attention" and not others and not no_control
    probe_and_show(
        opened, [Contradiction(mediators)], context.obj, out, json,
        others=others, extra=example, notes=[NO_CONTROL] if alone else [],
    )  # fmt: skip


def _control(opened: Opened, path: Path | None) -> list[Entry]:
    """The self-attention that contradiction stands beside; none for a checkpoint that is self-attention itself."""
    request = opened.request
    entry = opened.entry("")
    if path is None:
        if opened.config.mixer == "attention":
            return []
        label, model = untrained_control(opened.config, torch.device(request.device), request.seed)
        notes = (*entry.notes, FRESH)
        return [
            Entry(label, model, opened.samples, entry.count, entry.shown, layers=entry.layers, notes=notes)
        ]
    other = control_request(opened, path).entry(f"self-attention, {path.name}")
    return [replace(entry, name=other.name, model=other.model, origin=other.origin)]
