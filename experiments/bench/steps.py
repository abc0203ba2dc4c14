"""A subcommand is a list of steps; each measures one group, and finished ones are skipped when a run is resumed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from pydantic import JsonValue
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.bench.gate import Gate
from experiments.bench.inputs import ScanInputs
from experiments.bench.peers import Subject
from experiments.bench.results import Measured, Recorder, Row
from experiments.bench.timing import Clock, interleave, wall

Show = Callable[[int, int], None]
"""Called with how much of a step is done, and how much there is."""


class Step(NamedTuple):
    """What one group is called, and how it is measured."""

    group: str
    measure: Callable[[Show], Measured]


def run_steps(steps: Sequence[Step], recorder: Recorder, console: Console) -> None:
    """Measure and save every step that the recorder does not have yet, with a progress bar on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        whole = bar.add_task(recorder.path.stem, total=len(steps))
        for step in steps:
            if not recorder.has(step.group):
                part = bar.add_task(step.group, total=None, visible=False)

                def show(done: int, total: int, part=part) -> None:
                    bar.update(part, completed=done, total=total, visible=True)

                bar.update(whole, description=f"{recorder.path.stem}: {step.group}")
                recorder.add(step.group, step.measure(show))
                bar.remove_task(part)
            bar.advance(whole)


def time_scans(
    group: str,
    subjects: Iterable[Subject],
    quantity: str,
    inputs: ScanInputs,
    gate: Gate,
    *,
    budget: float,
    clock: Clock = wall,
    refuse: Callable[[Subject], str] = lambda subject: "",
) -> tuple[Row, ...]:
    """A row for each subject: its samples, taken in turns with the others', or why there are none.

    ``refuse`` says why a subject that passes the gate is not timed on these inputs.
    """
    case: dict[str, JsonValue] = {"inputs": inputs.says}
    subjects = tuple(subjects)
    problems = {subject.name: gate.problem(subject) or refuse(subject) for subject in subjects}
    calls = {s.name: s.call(inputs, quantity) for s in subjects if not problems[s.name]}
    samples: Mapping[str, tuple[float, ...]] = interleave(calls, budget=budget, clock=clock)
    return tuple(
        Row(
            group,
            subject.name,
            quantity,
            "s",
            case,
            samples.get(subject.name, ()),
            problems[subject.name],
            "one call, which was the first" if len(samples.get(subject.name, ())) == 1 else "",
        )
        for subject in subjects
    )
