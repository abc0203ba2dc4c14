"""Runs steps one after another, each in a process of its own that is ended when its time is up.

A kernel that hangs, or that leaves the device in error, costs its own step and no other. What a step hands over is
written at once, so that whatever ends a run, nothing that was measured is lost.
"""

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, final

from rich.console import Console

from experiments.bench.results import Check, Emit, Recorder, Row

STEP = "step"
"""The subject of a step's own row: the seconds it took, and why it has no figure."""
GRACE = 5.0
"""Seconds that a step whose time is up has to hand over what it holds."""
READY = ("torch", "triton", "numpy", "analysis.reduce", "experiments.bench.results")
"""Imported once, in the process that all steps are forked from; none of them touches the device."""


@final
@dataclass(frozen=True)
class GpuStep:
    """One step.

    Attributes:
        name: of the step, for `--only`.
        limit: seconds after which it is ended.
        says: what it measures, in a line.
        run: given the device and `emit`, measures and emits; a function of a module, as another process calls it.
    """

    name: str
    limit: float
    says: str
    run: Callable[[str, Emit], None]


def show_plan(steps: Sequence[GpuStep], within: float, console: Console) -> None:
    """Print what will be run, and how long it may take."""
    console.print(f"{len(steps)} steps, at most {sum(s.limit for s in steps):.0f} s, within {within:.0f} s:")
    for number, step in enumerate(steps, 1):
        console.print(f"  {number}. {step.name} ({step.limit:.0f} s): {step.says}", highlight=False)


def run_apart(
    steps: Sequence[GpuStep], device: str, recorder: Recorder, within: float, console: Console
) -> bool:
    """Run every step that the recorder does not have yet; True where each came to its end.

    Args:
        steps: in their order, the most worth first.
        device: "cuda", or "cpu" for a rehearsal.
        recorder: keeps what they emit.
        within: seconds for all of them; what is left of it bounds each step's own limit.
        console: told how each step ended.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(READY))
    began, complete = time.monotonic(), True
    for step in steps:
        if recorder.has(step.name):
            console.print(f"{step.name}: kept from the earlier run")
            continue
        left = within - (time.monotonic() - began)
        if left < 1:
            problem = f"not begun: the {within:.0f} s of the whole run were over"
            taken = 0.0
        else:
            start = time.monotonic()
            problem = _run_one(context, step, device, min(step.limit, left), recorder, console)
            taken = time.monotonic() - start
        recorder.put(Row(step.name, STEP, "time", "s", samples=() if problem else (taken,), problem=problem))
        recorder.finish(step.name)
        complete = complete and not problem
        console.print(f"{step.name}: {problem or 'done'} ({taken:.1f} s)", markup=False, highlight=False)
    return complete


def _run_one(
    context: Any, step: GpuStep, device: str, limit: float, recorder: Recorder, console: Console
) -> str:
    """Run one step; why it did not come to its end, or ""."""
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(step, device, theirs), name=step.name)
    child.start()
    theirs.close()
    deadline, stopping, problem = time.monotonic() + limit, False, "the process ended without a word"
    while True:
        try:
            ready = ours.poll(max(0.0, deadline - time.monotonic()))
            record = ours.recv() if ready else None
        except EOFError:
            break
        if isinstance(record, (Row, Check)):
            recorder.put(record)
            console.print(f"  {_line(record)}", markup=False, highlight=False)
        elif isinstance(record, str):
            problem = record
            break
        elif stopping:
            problem = ""
            break
        else:
            _signal(child.pid, signal.SIGTERM)
            deadline, stopping = time.monotonic() + GRACE, True
    if stopping:
        problem = f"cut off after {limit:.0f} s; what it had handed over is kept"
    child.join(GRACE)
    _signal(child.pid, signal.SIGKILL)
    child.join()
    if problem == "the process ended without a word":
        problem += f", exit code {child.exitcode}"
    return problem


def _signal(pid: int, which: signal.Signals) -> None:
    """Signal the child and all that it started; it leads a group of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, which)


def _child(step: GpuStep, device: str, parent: Connection) -> None:
    os.setpgrp()
    signal.signal(signal.SIGTERM, _stop)
    try:
        step.run(device, parent.send)
        parent.send("")
    except SystemExit:
        pass
    except BaseException as error:
        traceback.print_exc()
        said = (str(error).strip().splitlines() or [""])[0]
        parent.send(f"FAILED: {type(error).__name__}: {said}"[:500])


def _stop(signum: int, frame: object) -> None:
    """Unwind, so that a step's `finally` hands over what it holds."""
    raise SystemExit


def _line(record: Row | Check) -> str:
    """A record in a line, for whoever watches."""
    if isinstance(record, Check):
        found = f"{record.deviation:.3g} of {record.allowed:g}{'' if record.passed else '  FAILED'}"
        return f"{record.group}: {record.subject}: {record.tensor} {found}"
    figure = f"{record.median:.4g} {record.unit}" if record.samples else record.problem
    return f"{record.group}: {record.subject}: {record.quantity} {figure} {record.note}".rstrip()
