"""The probes' command lines with `--device cuda`: every number beside that of `--device cpu`."""

import io
import json
import os
import sys
import time
import tomllib
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from experiments.bench.gpu.clips import NUDGE
from experiments.bench.results import Check, Emit, Row

GROUP = "probes"
ROOT = Path(__file__).parents[3]
EPS = float(np.finfo(np.float32).eps)
FACTOR = 8
"""How many times what the nudge does to a quantity the devices may be apart: rounding comes in at every layer."""
FLOOR = 64.0
"""Units of eps that any quantity may be apart: what the gate of the bench allows float32."""
FAILURES = 20
"""Quantities of a probe that are named where they fail."""
NUMBERS = {"Infinity": np.inf, "-Infinity": -np.inf, "NaN": np.nan, None: np.nan}
SAYS = {
    "decay": "`python -m analysis.decay`, on clips of noise, compilation included",
    "contradiction": "`python -m analysis.contradiction`, likewise, with its control",
}


Key = tuple[str, str, str, str]
"""Checkpoint, probe, clips, and the device, or "reference" for the CPU."""


@dataclass(frozen=True)
class ProbeSizes:
    """What is probed: checkpoints by the name of their file, and what the command lines ask for."""

    checkpoints: tuple[str, ...] = ("vmp_micro_paper", "vmp_micro_attention")
    clips: int = 2
    layers: str = "0,-1"
    scopes: str = "all"
    mediators: int = 8


TOY = ProbeSizes(("vmp_micro_paper",), 1, "0", "ssm", 2)


@dataclass(frozen=True)
class Numbers:
    """Numbers of a result by quantity and scope, in the order in which the result has them."""

    by_name: dict[tuple[str, str], np.ndarray]

    @property
    def count(self) -> int:
        return sum(len(values) for values in self.by_name.values())


def probes_step(sizes: ProbeSizes, device: str, emit: Emit) -> None:
    """Run each probe on the CPU, on the CPU with clips nudged by some eps, and on the device, all at a time.

    Two devices round differently, and some quantities magnify that: the nudge shows how much each of them does.

    Args:
        sizes: what is probed.
        device: "cuda", or "cpu" for a rehearsal, in which all numbers are the same.
        emit: takes a row with the seconds of each run, and checks of a probe's numbers once its runs are there.
    """
    runs = [
        (checkpoint, probe, data, on)
        for checkpoint, probe in product(sizes.checkpoints, SAYS)
        for data, on in (("noise", device), ("noise", "reference"), ("nudged", "reference"))
    ]
    workers = 1 if device == "cpu" else min(len(runs), len(os.sched_getaffinity(0)))
    results: dict[Key, Numbers] = {}
    with TemporaryDirectory() as folder:
        _stand_in(Path(folder))
        # Spawned, as a process that has used the device cannot be forked.
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        try:
            waiting = {pool.submit(_run, folder, key[1], _arguments(sizes, *key)): key for key in runs}
            for done in as_completed(waiting):
                key = waiting[done]
                _take(key, *done.result(), results, emit)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _stand_in(folder: Path) -> None:
    """What an installation of this package would tell Python of it, where it is run from its folder uninstalled."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    sources = "".join(f"{name} = experiments.bench.gpu.clips:{name}\n" for name in ("noise", "nudged"))
    (told / "entry_points.txt").write_text(f"[analysis.clips]\n{sources}")


def _arguments(sizes: ProbeSizes, checkpoint: str, probe: str, data: str, on: str) -> list[str]:
    """The command line of a run."""
    return [
        *(
            "--json",
            "--ckpt",
            str(ROOT / f"experiments/checkpoints/{checkpoint}.safetensors"),
            "--data",
            data,
        ),
        *(
            "--clips",
            str(sizes.clips),
            "--layers",
            sizes.layers,
            "--scope",
            sizes.scopes,
            "--bootstrap",
            "100",
        ),
        *("--device", "cpu" if on == "reference" else on),
        *(("--mediators", str(sizes.mediators)) if probe == "contradiction" else ()),
    ]


def _run(folder: str, probe: str, arguments: list[str]) -> tuple[float, str, str]:
    """Run a command line in this process: its seconds, what it printed, and why it failed, or ""."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    torch.set_num_threads(1)
    main = import_module("analysis.cli").main
    out, errors, code, problem = io.StringIO(), io.StringIO(), 1, ""
    began = time.perf_counter()
    try:
        with redirect_stdout(out), redirect_stderr(errors):
            code = main([probe, *arguments])
    except Exception as error:
        problem = f"FAILED: {type(error).__name__}: {error}"[:500]
    if code and not problem:
        problem = f"FAILED: {errors.getvalue().strip()}"[-500:]
    return time.perf_counter() - began, out.getvalue(), problem


def _take(
    key: Key,
    seconds: float,
    printed: str,
    problem: str,
    results: dict[Key, Numbers],
    emit: Emit,
) -> None:
    """Emit the seconds of a run, and the checks of its probe where this was the last of its three runs."""
    checkpoint, probe, data, on = key
    subject = f"{checkpoint}, {on}{', nudged' if data == 'nudged' else ''}"
    emit(Row(GROUP, subject, probe, "s", samples=() if problem else (seconds,), problem=problem))
    if problem:
        return
    results[key] = numbers(json.loads(printed))
    mine = {(k[2], k[3] == "reference"): found for k, found in results.items() if k[:2] == key[:2]}
    if len(mine) == 3:
        of_device, of_cpu, nudged = mine["noise", False], mine["noise", True], mine["nudged", True]
        for check in compare(probe, checkpoint, of_device, of_cpu, nudged):
            emit(check)


def numbers(result: dict[str, Any]) -> Numbers:
    """Every number that a probe found, by quantity and scope; what says where it comes from is left out."""
    found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for row in (*result["summary"], *result["curves"]):
        for end in (row["value"], row["low"], row["high"]):
            known = end is None or isinstance(end, str)
            found[row["quantity"], row["scope"]].append(NUMBERS[end] if known else float(end))
    return Numbers({key: np.array(values) for key, values in found.items()})


def compare(
    probe: str, checkpoint: str, got: Numbers, expected: Numbers, nudged: Numbers
) -> tuple[Check, ...]:
    """A check of each quantity that fails, or of the one that is nearest to failing, in units of eps of float32."""
    inputs = f"{checkpoint}, {expected.count} numbers in {len(expected.by_name)} quantities and scopes"
    if got.by_name.keys() != expected.by_name.keys():
        return (Check(GROUP, probe, "which quantities there are", inputs, np.inf, 0.0),)
    checks = []
    for key, wanted in expected.by_name.items():
        apart = _apart(got.by_name[key], wanted)
        allowed = max(FLOOR, FACTOR * _apart(nudged.by_name.get(key, wanted), wanted))
        origin = f"; {FACTOR} x what {NUDGE} eps of the clips do to it" if allowed > FLOOR else ""
        checks.append(Check(GROUP, probe, ", ".join(filter(None, key)), inputs + origin, apart, allowed))
    failed = [check for check in checks if not check.passed]
    return tuple(failed[:FAILURES]) or (max(checks, key=lambda check: check.deviation / check.allowed),)


def _apart(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference over the largest magnitude, in eps; infinite where numbers are not finite in one alone."""
    finite = np.isfinite(wanted)
    if got.shape != wanted.shape or not np.array_equal(got[~finite], wanted[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    gap, scale = np.abs(got[finite] - wanted[finite]).max(), np.abs(wanted[finite]).max()
    return float(gap / scale / EPS) if gap else 0.0
