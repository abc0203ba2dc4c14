"""The command `vmp compare`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from analysis.command import (
    OUTPUTS,
    JsonOption,
    OutOption,
    RequestFor,
    session,
    show_or_print,
    with_request_options,
    write,
)
from analysis.compare import compare as comparison
from analysis.contradiction import Contradiction
from analysis.decay import Decay
from analysis.engine import run
from analysis.relevance import Relevance
from analysis.request import Opened, RequestError, open_request
from analysis.result import with_notes
from analysis.terminal import HELP, new_app

app = new_app()


def compare(
    request_for: RequestFor,
    context: typer.Context,
    checkpoints: Annotated[
        list[Path],
        typer.Option(
            "--ckpt", help="Weights, in any format the toolkit knows. Repeat it.", show_default=False
        ),
    ],
    random_orders: Annotated[
        int, typer.Option(min=1, help="Random orders a clip, for deletion.")
    ] = Relevance.random_orders,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Decay, contradiction and faithfulness of several models on the same clips, in the scope contribution."""
    if len(checkpoints) < 2:
        raise RequestError(f"{len(checkpoints)} checkpoint given; a comparison needs two: repeat --ckpt")
    # All are read before any is probed, so that one that will not do is told at once.
    opened = [
        _comparable(open_request(replace(request_for(path), scopes=(comparison.SCOPE,))))
        for path in checkpoints
    ]
    names = comparison.short_names(checkpoints)
    measures = [Decay(draw=()), Contradiction(), Relevance(random_orders)]
    with session(out, OUTPUTS) as at:
        result = run(
            [one.entry(name) for name, one in zip(names, opened, strict=True)],
            measures,
            source=opened[0].source,
            command=context.obj,
            layers=None,
            scopes=(comparison.SCOPE,),
            resamples=opened[0].request.bootstrap,
            seed=opened[0].request.seed,
            resume=at.keep,
            progress=at.step,
        )
        result = with_notes(result, comparison.notes(result))
        if out is not None:
            write(result, out, lambda _: comparison.figures(result), at.drawn)
    show_or_print(result, comparison.tables(result), out, json, comparison.joint_columns(result))


app.command("compare", **HELP)(with_request_options(compare, {"scope"}))


def _comparable(opened: Opened) -> Opened:
    if opened.config.kind == "language":
        raise RequestError(
            f"{opened.request.checkpoint}: is a language model; models are compared on clips, and it takes none"
        )
    return opened
