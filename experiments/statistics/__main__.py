"""McNemar's test of two files of predictions: `python -m experiments.statistics ONE.csv OTHER.csv`."""

import pathlib
from typing import Annotated

import typer
from rich.console import Console

from experiments.statistics.mcnemar import mcnemar


def main(
    one: Annotated[pathlib.Path, typer.Argument(help="Predictions that experiments.evaluate wrote.")],
    other: Annotated[pathlib.Path, typer.Argument(help="Those of another model on the same clips.")],
) -> None:
    """Print how two models' hits fall together on the same clips, with McNemar's p-value."""
    try:
        found = mcnemar(one, other)
    except ValueError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        raise typer.Exit(2) from None
    typer.echo(
        f"{100 * found.difference:+.1f} points on {found.clips} clips: {found.only_one} told right by the first alone, "
        f"{found.only_other} by the second alone; McNemar p = {found.p_value:.3g} "
        f"({'exact' if found.exact else 'chi-square, corrected'})"
    )


if __name__ == "__main__":
    typer.run(main)
