"""provenance.json: what a grid ran on, one session for each time that it was started."""

import dataclasses
import json
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import torch

from analysis.files import write_text
from analysis.provenance import now, this_machine, versions
from experiments.cell import CellConfig

PROVENANCE = "provenance.json"
PACKAGES = (
    *("vmp-toolkit", "torch", "numpy", "numba", "accelerate", "joblib", "pillow", "pyarrow", "scikit-image"),
    "scikit-learn",
)


def add_session(out: pathlib.Path, *, cells: Sequence[CellConfig], **about: Any) -> None:
    """Add this process to the sessions of a grid's folder, with its versions, its commit and its machine.

    Args:
        out: the grid's folder.
        cells: every cell of the grid.
        **about: what else is told of the session, in types that JSON has.

    Raises:
        ValueError: The file of the sessions before is damaged.
    """
    path = out / PROVENANCE
    try:
        sessions = json.loads(path.read_text(encoding="utf-8"))["sessions"] if path.exists() else {}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: damaged; delete it to go on without the sessions before") from error
    session = {
        "date": now(),
        **about,
        "python": platform.python_version(),
        "versions": versions(*PACKAGES),
        "commit": _commit(),
        "machine": dataclasses.asdict(this_machine("cuda" if torch.cuda.is_available() else "cpu")),
    }
    sessions[str(len(sessions) + 1)] = session
    seeds = sorted({cell.seed for cell in cells})
    content = {"cells": len(cells), "seeds": seeds, "sessions": sessions}
    write_text(path, json.dumps(content, indent=2) + "\n")


def _commit() -> str | None:
    """Return the toolkit's commit, with "-dirty" where files differ from it; None outside of a repository."""
    here = pathlib.Path(__file__)

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=here.parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # not a repository that only has an environment in it
        return git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None
