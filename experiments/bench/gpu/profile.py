"""Hardware counters of our kernels, by Nsight Compute where it is installed and the driver lets it read them."""

import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from experiments.bench.gpu.scans import GpuSizes
from experiments.bench.results import Emit, Row

GROUP = "profile"
METRICS = {
    "gpu__time_duration.sum": "duration",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue slots used",
    "sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active": "special functions, of peak",
    "sm__inst_executed_pipe_fma.avg.pct_of_peak_sustained_active": "multiply-adds, of peak",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps resident",
    "l1tex__throughput.avg.pct_of_peak_sustained_active": "L1, of peak",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed": "L2, of peak",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "memory, of peak",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": "stalled on memory, warps",
    "smsp__average_warps_issue_stalled_math_pipe_throttle_per_issue_active.ratio": "stalled on a busy pipe, warps",
    "smsp__average_warps_issue_stalled_wait_per_issue_active.ratio": "stalled on a fixed latency, warps",
    "smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio": "stalled on shuffle or exp, warps",
}
"""What is read, and its name in the rows."""
KERNELS = "regex:^(forward|backward|chunk_states|carry|_far|_near)$"


def profile(sizes: GpuSizes, device: str, emit: Emit) -> None:
    """Profile one call of each kernel at the first launch of each case.

    Args:
        sizes: the scans; the matrix is at L = 1569.
        device: "cuda"; in a rehearsal there is nothing to read, and a row says so.
        emit: takes a row for each kernel and counter.
    """
    ncu = shutil.which("ncu")
    if device == "cpu" or ncu is None:
        emit(
            Row(
                GROUP,
                "ncu",
                "counters",
                "",
                problem="not measured: " + ("a rehearsal" if ncu else "no ncu here"),
            )
        )
        return
    command = [
        *(ncu, "--csv", "--clock-control", "none", "--target-processes", "all", "-k", KERNELS),
        *("--metrics", ",".join(METRICS), sys.executable, "-m", "experiments.bench.gpu.profile"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    rows = list(read(done.stdout))
    for row in rows:
        emit(row)
    if not rows:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        emit(Row(GROUP, "ncu", "counters", "", problem=f"not measured: {' '.join(said)}"[:500]))


def read(text: str) -> Iterator[Row]:
    """Rows from ncu's CSV, which begins after what it and the program print; launches of a kernel are numbered."""
    lines = text.splitlines()
    begin = next((at for at, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    for record in csv.DictReader(io.StringIO("\n".join(lines[begin:]))):
        name = METRICS.get(record["Metric Name"])
        try:
            value = float(record["Metric Value"].replace(",", ""))
        except ValueError:
            continue
        if name:
            kernel = f"{record['Kernel Name'].split('(')[0]}, launch {record['ID']}"
            case = {"grid": record.get("Grid Size", ""), "block": record.get("Block Size", "")}
            yield Row(GROUP, kernel, name, record["Metric Unit"], dict(case), (value,))


def main() -> None:
    """What is profiled: forward and backward of both cases, then one pass over the matrix."""
    from experiments.bench import reduce as reduction
    from experiments.bench.inputs import draw
    from experiments.bench.peers import backends

    sizes = GpuSizes()
    first = next(one for one in backends("cuda") if one.name == "triton_gpu")
    for batch, length in sizes.cases:
        inputs = draw(
            *(batch, sizes.channels, sizes.states, length), seed=sizes.seed, dtype=sizes.dtype, device="cuda"
        )
        first.call(inputs, "forward")()
        first.call(inputs, "forward+backward")()
    whole = reduction.ReduceSizes()
    layout = whole.layout(whole.frames[0])
    reduction.one_pass(reduction.operator(whole, layout, sizes.seed, "cuda"), layout)()


if __name__ == "__main__":
    main()
