"""Commands that need `vmp` alone, and the check that the console script `vmp` makes before it runs any other."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vmp.checkpoint import read_checkpoint
from vmp.checkpoint.recognise import FAMILIES
from vmp.config import VARIANTS, model_names
from vmp.model import create_model


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, 2 where the request or the file is at fault."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "sizes":
            _sizes(options.classes, options.variant)
        else:
            _inspect(
                options.path,
                family=options.family,
                allow_nonfinite=options.allow_nonfinite,
                allow_missing=options.allow_missing,
                allow_unexpected=options.allow_unexpected,
            )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vmp", description="Models and checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True)
    sizes = commands.add_parser("sizes", help="parameters of the named models, as image and as video models")
    sizes.add_argument("--classes", type=int, default=1000, help="outputs of the head (default 1000)")
    sizes.add_argument("--variant", choices=list(VARIANTS), help="instead of each name's own")
    inspect = commands.add_parser("inspect", help="what a checkpoint is, and whether its weights are whole")
    inspect.add_argument("path")
    inspect.add_argument("--family", choices=FAMILIES, help="where names and shapes fit several families")
    inspect.add_argument("--allow-nonfinite", action="store_true", help="accept NaN and infinity")
    for fault in ("missing", "unexpected"):
        inspect.add_argument(
            f"--allow-{fault}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"a weight, or a prefix ending in a dot, that may be {fault}; repeatable",
        )
    return parser


def _sizes(classes: int, variant: str | None) -> None:
    print(f"{'model':<22}{'variant':<20}{'image':>12}{'video':>12}   parameters, {classes} classes")
    for name in model_names():
        counts = []
        for kind in ("image", "video"):
            with torch.device("meta"):
                model = create_model(name, variant, kind=kind, num_classes=classes)
            counts.append(_count(model))
        print(
            f"{name:<22}{model.config.variant:<20}{counts[0]:>12,}{counts[1]:>12,}   {counts[0] / 1e6:.1f} M"
        )


def _inspect(path: str, **options: Any) -> None:
    loaded = read_checkpoint(path, **options)
    print(loaded.recognised)
    print(f"parameters      {_count(loaded.model):,}")
    print(f"weights sha256  {loaded.weights_sha256}")
    if loaded.ignored:
        print(f"ignored         {len(loaded.ignored)} entries: {', '.join(loaded.ignored[:4])}, ...")
    for name, value in loaded.config.to_dict().items():
        print(f"{name:<20}{value}")


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def console() -> int:
    """The console script `vmp`: see that the commands are this project's, then run them.

    Returns:
        The exit code; 2, after one line, where another package has the name `analysis` or parts are not installed.
    """
    own = Path(__file__).resolve().parents[1] / "analysis"
    found = find_spec("analysis")
    origin = None if found is None or found.origin is None else Path(found.origin).resolve()
    if origin is None or origin.parent != own:
        met = (
            "is missing"
            if origin is None
            else f"is another package, {origin}, which shadows this toolkit's {own}"
        )
        print(f"error: the package analysis {met}; see PYTHONPATH and the current folder", file=sys.stderr)
        return 2
    try:
        cli = import_module("analysis.cli")
    except ModuleNotFoundError as error:
        if sys.argv[1:2] in (["inspect"], ["sizes"]):
            return main()
        extra = "pip install 'vmp-toolkit[all]'"
        print(
            f"error: {error.name} is not installed; install the toolkit with its extras: {extra}",
            file=sys.stderr,
        )
        return 2
    return cli.main()
