"""McNemar's test of two files of predictions: `python -m experiments.statistics ONE.csv OTHER.csv`."""

import pathlib
import sys
from typing import Annotated

import typer

from analysis.terminal import run_app
from experiments.statistics.mcnemar import mcnemar

app = typer.Typer(add_completion=False)


@app.command()
def main(
    one: Annotated[pathlib.Path, typer.Argument(help="Predictions that experiments.evaluate wrote.")],
    other: Annotated[pathlib.Path, typer.Argument(help="Those of another model on the same clips.")],
) -> None:
    """Print how two models' hits fall together on the same clips, with McNemar's p-value."""
    found = mcnemar(one, other)
    typer.echo(
        f"{100 * found.difference:+.1f} points on {found.clips} clips: {found.only_one} told right by the first alone, "
        f"{found.only_other} by the second alone; McNemar p = {found.p_value:.3g} "
        f"({'exact' if found.exact else 'chi-square, corrected'})"
    )


if __name__ == "__main__":
    sys.exit(run_app(app))
