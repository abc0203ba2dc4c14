"""What a grid ran on: provenance.json, a session for each time it was started."""

import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import torch

from experiments.bench.results import now, this_machine
from experiments.cell import CellConfig
from experiments.runs import write_text

PROVENANCE = "provenance.json"
PACKAGES = (
    *("vmp-toolkit", "torch", "numpy", "numba", "accelerate", "joblib", "pillow", "pyarrow", "scikit-image"),
    "scikit-learn",
)


def add_session(out: pathlib.Path, *, cells: Sequence[CellConfig], **about: Any) -> None:
    """Add this process to the sessions of a grid's folder: what is said `about` it, versions, commit and machine."""
    path = out / PROVENANCE
    try:
        sessions = json.loads(path.read_text(encoding="utf-8"))["sessions"] if path.exists() else {}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: damaged; delete it to go on without the sessions before") from error
    session = {
        "date": now(),
        **about,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
        "machine": dataclasses.asdict(this_machine("cuda" if torch.cuda.is_available() else "cpu")),
    }
    sessions[str(len(sessions) + 1)] = session
    seeds = sorted({cell.seed for cell in cells})
    content = {"cells": len(cells), "seeds": seeds, "sessions": sessions}
    write_text(path, json.dumps(content, indent=2) + "\n")


def _commit() -> str | None:
    """The commit that the toolkit is at, "-dirty" where files differ from it; None outside of a repository."""
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
