"""A subcommand is a table of cases; one loop checks, times and saves them, group by group."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from rich.console import Console
from rich.progress import TimeElapsedColumn

from analysis.terminal import progress_bar
from experiments.bench.gate import failure
from experiments.bench.results import Check, Recorder, Row
from experiments.bench.timing import Call, interleave, peak_bytes


@dataclass(frozen=True)
class Case:
    """A row to be: what is measured, on what, and what the gate says of it."""

    group: str
    subject: str
    says: str  # what the subject stands for
    quantity: str
    inputs: str  # in words
    make: Callable[[], Call]  # what it gives is measured; it pickles where that is memory
    checks: Callable[[], tuple[Check, ...]]  # of the gate, made once however often they are asked for
    problem: str = ""  # why it is not measured, whatever the gate says
    budget: float = 0.0  # seconds of samples, as `interleave` takes them
    warm: Callable[[], Call] | None = None  # as `peak_bytes` takes it; given where memory is measured

    def row(self, samples: tuple[float, ...], problem: str) -> Row:
        """Return the row of what was found; of memory, measure it first."""
        if self.warm and not problem:
            try:
                samples = (float(peak_bytes(self.warm, self.make)),)
            except (OSError, BrokenProcessPool) as error:
                problem = f"not measured: the process was ended, or keeps no record of its peak: {error}"
        unit = "bytes" if self.warm else "s"
        note = "one call, which was the first" if unit == "s" and len(samples) == 1 else ""
        return Row(
            self.group, self.subject, self.quantity, unit, {"inputs": self.inputs}, samples, problem, note
        )


def measure(group: Sequence[Case]) -> Iterator[Row | Check]:
    """Yield the checks of a group's cases, and then their rows. Those of one quantity are timed in turns."""
    for case in group:
        yield from () if case.problem else case.checks()
    for quantity in dict.fromkeys(case.quantity for case in group):
        cases = [case for case in group if case.quantity == quantity]
        problems = {case.subject: case.problem or failure(case.checks()) for case in cases}
        timed = {case.subject: case.make() for case in cases if not (case.warm or problems[case.subject])}
        samples = interleave(timed, budget=cases[0].budget)
        for case in cases:
            yield case.row(samples.get(case.subject, ()), problems[case.subject])


def run_cases(cases: Iterable[Case], recorder: Recorder, console: Console) -> None:
    """Measure and save every group that the recorder does not have yet, with a progress bar on a terminal."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    with progress_bar(TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("", total=len(groups))
        for name, group in groups.items():
            bar.update(task, description=f"{recorder.path.stem}: {name}")
            if not recorder.has(name):
                for record in measure(group):
                    recorder.put(record)
                recorder.finish(name)
            bar.advance(task)
