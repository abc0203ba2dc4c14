"""Trains one model on one task: `python -m experiments.train --task photo-pan --steps 1000 --out runs/one`.

A run can be stopped or killed at any step. The same command continues it, and it ends with the same bits as if it had
not been interrupted. That rests on one rule: the learning rate, the clips of a batch and the random draws of a step are
functions of the configuration and the step, so that weights, optimiser moments and the step's number are all there is
to save.

`accelerate launch --num_processes N -m experiments.train ...` spreads each batch over N GPUs. Over N processes on a
CPU it does so with ACCELERATE_USE_CPU=true in the environment and --multi_gpu among the flags; --cpu asks for mpirun.

A run's folder holds config.json, metrics.jsonl, checkpoint.pt until the run is finished, and then
weights.safetensors. If weights are averaged (`ema_decay`), that file is the average, and last_step.safetensors holds
the weights of the last step. bad_videos.json names the videos of a list that could not be read.
"""

import json
import pathlib
import sys
from typing import Annotated, Any

import typer
from accelerate import PartialState

from analysis.terminal import Stopped, run_app
from experiments.training.config import TrainConfig
from experiments.training.loop import train
from experiments.training.state import BAD_VIDEOS

__all__ = ["RECIPES", "Stopped", "TrainConfig", "app", "train"]

RECIPES = pathlib.Path(__file__).parent / "recipes"

app = typer.Typer(add_completion=False)


def _parse_settings(settings: list[str]) -> dict[str, Any]:
    """Read `name=value` pairs; a value is JSON if it can be read as such, and text otherwise."""
    parsed = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: it must have the form name=value")
        try:
            parsed[name] = json.loads(value)
        except json.JSONDecodeError:
            parsed[name] = value
    return parsed


def _recipe(name: str) -> pathlib.Path:
    names = sorted(path.stem for path in RECIPES.glob("*.json"))
    if name not in names:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(names)}")
    return RECIPES / f"{name}.json"


@app.command()
def main(
    out: Annotated[pathlib.Path, typer.Option(help="Folder of the run; a run in it goes on.")],
    config: Annotated[pathlib.Path | None, typer.Option(help="JSON file of TrainConfig's fields.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Name of a file of experiments/recipes, such as k400_tiny_f16.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="recall, ...; or of videos: list, kinetics400, ssv2, ucf101, hmdb51."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model, such as vmp_micro.")] = None,
    variant: Annotated[str | None, typer.Option(help="paper, videomamba, mask, ...")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates of the weights.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Clips in an update, over all processes.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, clips and their order.")] = None,
    init: Annotated[str | None, typer.Option(help="Checkpoint to start from.")] = None,
    train_list: Annotated[
        str | None, typer.Option(help="Of videos: list of `path label` lines, or the data set's own file.")
    ] = None,
    root: Annotated[str | None, typer.Option(help="Of videos: folder that the list starts from.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Of videos: file of classes, where the list needs one.")
    ] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any field, as name=value, in JSON.")
    ] = None,
) -> None:
    """Train a model, or go on with a run that was stopped or killed. Options go before the file's values."""
    given = locals()
    flags = {name: given[name] for name in TrainConfig.model_fields if name in given}
    if config is not None and recipe is not None:
        raise ValueError("--config and --recipe: both are files of fields; give one of them")
    file = config if recipe is None else _recipe(recipe)
    chosen = TrainConfig.read(file, {**flags, **_parse_settings(settings or [])})
    weights = train(chosen, out, progress=sys.stderr.isatty())
    if PartialState().is_main_process:
        bad = weights.with_name(BAD_VIDEOS)
        if bad.exists():
            count = len(json.loads(bad.read_text(encoding="utf-8")))
            said = f"{count} videos of the list could not be read and were replaced: {bad} names them"
            typer.echo(said, err=True)
        typer.echo(weights)
    PartialState().destroy_process_group()


if __name__ == "__main__":
    sys.exit(run_app(app))
