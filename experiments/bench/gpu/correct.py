"""The tests of the scan and of the matrix on the device: every option, dtype and odd length, output and gradients."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.bench.results import Check, Emit, Row

GROUP = "correctness"
ROOT = Path(__file__).parents[3]
TESTS = (
    *("tests/vmp/scan/test_backends.py", "tests/vmp/scan/test_plain.py", "tests/vmp/scan/test_triton_gpu.py"),
    "tests/analysis/matrix/test_strips_triton.py",
)
ON_DEVICE = "triton or mamba_ssm"
"""Which of these tests run on the device; the others need none, and the CPU's machines run them."""
SUMMARY = re.compile(r"(\d+) (passed|failed|skipped|error)")


def correctness(tests: Sequence[str], which: str, device: str, emit: Emit) -> None:
    """Run the tests in processes side by side, as what takes time is the compilation of hundreds of kernels.

    Args:
        tests: files of tests, from the project's root.
        which: of the tests in them, pytest's `-k`.
        device: "cuda", or "cpu" for a rehearsal, in which Triton's interpreter runs the kernels.
        emit: takes a row with the number of tests that passed, or which failed, and for each tensor and dtype the
            largest deviation from the definition in float64 beside what `tests/tolerances.py` allows.
    """
    workers = 0 if device == "cpu" else max(1, (os.cpu_count() or 1) - 2)
    with TemporaryDirectory() as folder:
        found = Path(folder) / "deviations.jsonl"
        command = [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", str(workers), "-k", which),
            *("--hypothesis-profile=gpu", f"--deviations={found}", "--tb=line", "-rf", *tests),
        ]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        said: list[str] = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line.rstrip())
                print(line, end="", file=sys.stderr, flush=True)
            process.wait()
        finally:
            # What was compared counts, however the step ends.
            for check in worst(found):
                emit(check)
            emit(outcome(said, process.poll()))


def outcome(said: list[str], code: int | None) -> Row:
    """What pytest counted, from its last lines; `code` is its exit code, None where it was cut off."""
    counts = {what: int(count) for count, what in SUMMARY.findall(said[-1] if said else "")}
    failed = [line.removeprefix("FAILED ")[:150] for line in said if line.startswith("FAILED ")]
    passed = float(counts.get("passed", 0))
    if code is None:
        return Row(GROUP, "tests", "passed", "tests", problem="FAILED: cut off before the last test")
    if code or not passed:
        named = f"{len(failed)} tests: {'; '.join(failed[:8])}" if failed else " ".join(said[-2:])
        return Row(GROUP, "tests", "passed", "tests", problem=f"FAILED: {named}"[:2000])
    note = f"{counts.get('skipped', 0)} skipped"
    return Row(GROUP, "tests", "passed", "tests", samples=(passed,), note=note)


def worst(path: Path) -> list[Check]:
    """The largest deviation of each backend, tensor and dtype, in units of what is allowed."""
    largest: dict[tuple[str, str], tuple[float, float]] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        told = json.loads(line)
        backend = "mamba_ssm_cuda" if "mamba_ssm" in told["test"] else "triton_gpu"
        key = (f"{backend}, {told['dtype']}", told["tensor"])
        found = (float(told["deviation"]), float(told["allowed"]))
        largest[key] = max(largest.get(key, found), found, key=_share)
    return [
        Check(GROUP, subject, tensor, "generated scans, `tests/vmp/scan`", *found)
        for (subject, tensor), found in sorted(largest.items())
    ]


def _share(found: tuple[float, float]) -> float:
    """How much of what is allowed a deviation takes; a NaN more than all."""
    share = found[0] / found[1]
    return math.inf if math.isnan(share) else share
