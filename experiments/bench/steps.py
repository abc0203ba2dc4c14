"""A subcommand is a list of steps; each measures one group, and a resumed run skips those that are complete."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.bench.results import Check, Recorder, Row
from experiments.bench.timing import Call, Clock, PeakError, interleave, peak_bytes, wall


class Step(NamedTuple):
    """One group of a run.

    Attributes:
        group: its name.
        records: measures it, and gives each row and check as soon as it is known.
    """

    group: str
    records: Callable[[], Iterable[Row | Check]]


def run_steps(steps: Sequence[Step], recorder: Recorder, console: Console) -> None:
    """Measure and save every step that the recorder does not have yet, with a progress bar on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(steps))
        for step in steps:
            bar.update(task, description=f"{recorder.path.stem}: {step.group}")
            if not recorder.has(step.group):
                for record in step.records():
                    recorder.put(record)
                recorder.finish(step.group)
            bar.advance(task)


def timed_rows(
    group: str,
    quantity: str,
    calls: Mapping[str, Call | str],
    inputs: str | Mapping[str, str],
    *,
    budget: float,
    most: int = 60,
    clock: Clock = wall,
) -> Iterator[Row]:
    """Time calls in turns.

    Args:
        group, quantity: of every row.
        calls: a call by the name of its subject, or the reason why that is not timed.
        inputs: what the calls are given, in words; by name where they differ.
        budget: seconds of samples of each call, as `interleave` takes it.
        most: most samples of each call.
        clock: measures one call.

    Yields:
        A row for each name, in order.
    """
    ready = {name: call for name, call in calls.items() if not isinstance(call, str)}
    samples = interleave(ready, budget=budget, most=most, clock=clock)
    for name, call in calls.items():
        says = inputs if isinstance(inputs, str) else inputs[name]
        taken, problem = samples.get(name, ()), call if isinstance(call, str) else ""
        note = "one call, which was the first" if len(taken) == 1 else ""
        yield Row(group, name, quantity, "s", {"inputs": says}, taken, problem, note)


def memory_row(
    group: str,
    name: str,
    quantity: str,
    inputs: str,
    problem: str,
    make: Callable[..., Call],
    *arguments: Any,
) -> Row:
    """Measure the peak memory of `make(*arguments)()`, as `peak_bytes` does, unless there is a problem already."""
    samples: tuple[float, ...] = ()
    if not problem:
        try:
            samples = (float(peak_bytes(make, *arguments)),)
        except PeakError as error:
            problem = f"not measured: {error}"
    return Row(group, name, quantity, "bytes", {"inputs": inputs}, samples, problem)
