"""`model`: a whole model with and without its scan, and a training step, by part."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import default_collate

import vmp
import vmp.mixer
from experiments.bench.gate import deviation, failure
from experiments.bench.parts import by_part
from experiments.bench.results import Check, Measured, Row
from experiments.bench.steps import Show, Step
from experiments.bench.timing import Call, interleave
from experiments.data.clip import ClipDataset
from experiments.runs import RunFolder
from experiments.training.config import TrainConfig
from experiments.training.start import make_model
from experiments.training.state import TrainingState
from vmp.mixer import MambaMixer

WHOLE, WITHOUT = "whole", "scan left out"
ALLOWED = 1000.0
"""Units of eps: what a layer adds is added 24 times over and fed to the next."""
SAYS = {
    WHOLE: "the model as it is, no gradient",
    WITHOUT: "the same with every call of `selective_scan` answered by its input u: linear, convolution and norm "
    "layers, and what is between them; the scan's gate goes with it",
    "step": "`experiments.train`, one update of vmp_micro on photo-pan: forward, backward, clipping, AdamW, metrics",
}


@dataclass(frozen=True)
class ModelSizes:
    """What is timed: a model's name and fields, and the fields and batch of the one that is trained."""

    fields: tuple[tuple[str, Any], ...] = ()
    micro: tuple[tuple[str, Any], ...] = ()
    batch: int = 32
    budget: float = 30.0

    name = "videomambapro_tiny"


_SMALL = (("num_frames", 2), ("image_size", 32), ("depth", 2), ("d_model", 16), ("d_state", 4))
QUICK = ModelSizes(
    _SMALL, (*_SMALL[:1], ("image_size", 16), ("tubelet_size", 1), *_SMALL[2:]), batch=2, budget=0.05
)


@final
class ModelBench:
    """The steps of `model`."""

    def __init__(self, sizes: ModelSizes, seed: int) -> None:
        self.sizes, self.seed = sizes, seed

    def steps(self) -> list[Step]:
        return [
            Step("gate", self._gate),
            Step("whole model", self._whole),
            Step("training step", self._training),
        ]

    def _model(self) -> tuple[vmp.VideoModel, Tensor]:
        torch.manual_seed(self.seed)
        model = vmp.create_model(self.sizes.name, **dict(self.sizes.fields)).eval()
        config = model.config
        return model, torch.randn(1, config.channels, config.num_frames, config.image_size, config.image_size)

    def _gate(self, show: Show) -> Measured:
        return Measured(checks=self._checks)

    @functools.cached_property
    @torch.no_grad()
    def _checks(self) -> tuple[Check, ...]:
        """The logits against the same model in float64 with the specification's scan."""
        model, clip = self._model()
        says = self._says(model, clip)
        got = model(clip)
        exact = model.double()
        for module in exact.modules():
            if isinstance(module, MambaMixer):
                module.backend = "spec"
        gap = deviation(got, exact(clip.double()))
        return (Check("gate", WHOLE, "logits", says, gap, ALLOWED),)

    def _says(self, model: vmp.VideoModel, clip: Tensor) -> str:
        frames, size = clip.shape[2], clip.shape[3]
        return f"{self.sizes.name}, {frames} frames of {size} x {size}, {model.token_layout().length} tokens, float32"

    @torch.no_grad()
    def _whole(self, show: Show) -> Measured:
        model, clip = self._model()
        group, case = "whole model", {"inputs": self._says(model, clip)}
        problem = failure(self._checks)
        if problem:
            return Measured((Row(group, WHOLE, "forward", "s", dict(case), problem=problem),))

        def without() -> None:
            with scan_left_out():
                model(clip)

        calls: dict[str, Call] = {WHOLE: lambda: model(clip), WITHOUT: without}
        samples = interleave(calls, budget=self.sizes.budget, most=20)
        rows = [Row(group, name, "forward", "s", dict(case), taken) for name, taken in samples.items()]
        with scan_recorded():
            parts = by_part(lambda: model(clip))
        return Measured((*rows, *_parts(group, "part of the forward pass", parts)))

    def _training(self, show: Show) -> Measured:
        group = "training step"
        config = TrainConfig(
            model="vmp_micro",
            fields=dict(self.sizes.micro),
            steps=100_000,
            batch_size=self.sizes.batch,
            seed=self.seed,
            workers=0,
        )
        torch.manual_seed(self.seed)
        model, dataset = make_model(config)
        assert isinstance(dataset, ClipDataset)  # it makes its clips
        videos, labels = default_collate([dataset[index] for index in range(config.batch_size)])
        case = {"inputs": f"vmp_micro, {tuple(videos.shape)}, {model.token_layout().length} tokens, float32"}
        with TemporaryDirectory() as folder:
            run = TrainingState(
                config, Accelerator(cpu=True), model, RunFolder(Path(folder), config.model_dump(mode="json"))
            )
            phases = Phases(run)
            interleave(
                {"step": functools.partial(phases.step, videos, labels)},
                budget=self.sizes.budget / 3,
                most=100,
            )
            rows = [
                Row(group, name, "phase of a step", "s", dict(case), tuple(taken))
                for name, taken in phases.after_warm_up().items()
            ]
            with scan_recorded():
                parts = by_part(lambda: run.update(videos, labels))
        return Measured((*rows, *_parts(group, "part of a step", parts)))


def _parts(group: str, quantity: str, parts: dict[str, float]) -> list[Row]:
    return [
        Row(group, name, quantity, "s", samples=(seconds,), note="under the profiler")
        for name, seconds in parts.items()
    ]


@final
class Phases:
    """Wall clock of each phase of a training step, taken around the calls that `TrainingState.update` makes."""

    def __init__(self, run: TrainingState) -> None:
        self._run = run
        self._spent: dict[str, float] = {}
        self.samples: dict[str, list[float]] = {
            name: [] for name in ("step", "forward", "backward", "clipping", "optimizer", "other")
        }
        timed: tuple[tuple[str, Any, str], ...] = (
            ("forward", run.model, "forward"),
            ("backward", run.accelerator, "backward"),
            ("clipping", run.accelerator, "clip_grad_norm_"),
            ("optimizer", run.optimizer, "step"),
            ("optimizer", run.optimizer, "zero_grad"),
        )
        for phase, owner, method in timed:
            setattr(owner, method, self._timed(phase, getattr(owner, method)))

    def step(self, videos: Tensor, labels: Tensor) -> None:
        """One update; its phases become samples."""
        self._spent = dict.fromkeys(self.samples, 0.0)
        start = time.perf_counter()
        self._run.update(videos, labels)
        self._spent["step"] = whole = time.perf_counter() - start
        self._spent["other"] = 2 * whole - sum(self._spent.values())
        for name, spent in self._spent.items():
            self.samples[name].append(spent)

    def after_warm_up(self) -> dict[str, list[float]]:
        """The samples but for the first, unless it is the only one."""
        return {name: taken[1:] or taken for name, taken in self.samples.items()}

    def _timed(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self._spent[phase] = self._spent.get(phase, 0.0) + time.perf_counter() - start

        return inner


@contextlib.contextmanager
def replaced_scan(replace: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Within it, the mixer's scan is what ``replace`` makes of it.

    Raises RuntimeError where no scan went through it, as then nothing was left out or recorded.
    """
    original = vmp.mixer.selective_scan
    calls = 0
    inner = replace(original)

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return inner(*args, **kwargs)

    vmp.mixer.selective_scan = counted
    try:
        yield
    finally:
        vmp.mixer.selective_scan = original
    if not calls:
        raise RuntimeError("vmp.mixer called no selective_scan, so that it could not be replaced")


def scan_left_out() -> contextlib.AbstractContextManager[None]:
    """Within it, the mixer's scan gives back its input and does no work."""
    return replaced_scan(lambda scan: lambda u, *args, **kwargs: u)


def scan_recorded() -> contextlib.AbstractContextManager[None]:
    """Within it, torch's profiler sees the mixer's scan under the name "scan"."""

    def replace(scan: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            with torch.profiler.record_function("scan"):
                return scan(*args, **kwargs)

        return recorded

    return replaced_scan(replace)
