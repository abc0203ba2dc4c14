"""`model`: a whole model and a training step, each beside the same with its scan left out; on the CPU."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import default_collate

import vmp
from experiments.bench.gate import deviation, failure
from experiments.bench.peers import scan_left_out
from experiments.bench.results import Check, Row
from experiments.bench.steps import Step, timed_rows
from experiments.bench.timing import Call
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
    WHOLE: "the model as it is: its forward pass without gradients, or one update of vmp_micro on photo-pan by "
    "`experiments.train`, with forward, backward, clipping, AdamW and metrics",
    WITHOUT: "the same with every call of `selective_scan` answered by its input u: linear, convolution and norm "
    "layers, and what is between them; the scan's gate goes with it",
}


@dataclass(frozen=True)
class ModelSizes:
    """What is timed: the fields of the whole model, and the fields and batch of the model that is trained."""

    fields: tuple[tuple[str, Any], ...] = ()
    micro: tuple[tuple[str, Any], ...] = ()
    batch: int = 32
    budget: float = 30.0

    name = "videomambapro_tiny"


_SMALL = (("num_frames", 2), ("image_size", 32), ("depth", 2), ("d_model", 16), ("d_state", 4))
QUICK = ModelSizes(_SMALL, (*_SMALL, ("image_size", 16), ("tubelet_size", 1)), batch=2, budget=0.05)


@final
class ModelBench:
    """The steps of `model`."""

    def __init__(self, sizes: ModelSizes, seed: int) -> None:
        self.sizes, self.seed = sizes, seed

    def steps(self) -> list[Step]:
        """Return the steps in the order in which they run, the gate first."""
        return [
            Step("gate", lambda: self._checks),
            Step("whole model", self._whole),
            Step("training step", self._training),
        ]

    def model(self) -> tuple[vmp.VideoModel, Tensor]:
        """Return the whole model, and a clip for it."""
        torch.manual_seed(self.seed)
        model = vmp.create_model(self.sizes.name, **dict(self.sizes.fields)).eval()
        config = model.config
        return model, torch.randn(1, config.channels, config.num_frames, config.image_size, config.image_size)

    @cached_property
    @torch.no_grad()
    def _checks(self) -> tuple[Check, ...]:
        """The logits against the same model in float64 with the specification's scan."""
        model, clip = self.model()
        says = self._says(model, clip)
        got = model(clip)
        exact = model.double()
        for module in exact.modules():
            if isinstance(module, MambaMixer):
                module.backend = "spec"
        return (Check("gate", WHOLE, "logits", says, deviation(got, exact(clip.double())), ALLOWED),)

    def _says(self, model: vmp.VideoModel, clip: Tensor) -> str:
        frames, size = clip.shape[2], clip.shape[3]
        return f"{self.sizes.name}, {frames} frames of {size} x {size}, {model.token_layout().length} tokens, float32"

    @torch.no_grad()
    def _whole(self) -> Iterator[Row]:
        model, clip = self.model()
        calls = self._both(lambda: model(clip))
        yield from timed_rows(
            "whole model", "forward", calls, self._says(model, clip), budget=self.sizes.budget, most=20
        )

    def _training(self) -> Iterator[Row]:
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
        says = f"vmp_micro, {tuple(videos.shape)}, {model.token_layout().length} tokens, float32"
        with TemporaryDirectory() as folder:
            run = TrainingState(
                config, Accelerator(cpu=True), model, RunFolder(Path(folder), config.model_dump(mode="json"))
            )
            calls = self._both(lambda: run.update(videos, labels))
            yield from timed_rows(
                "training step", "time", calls, says, budget=self.sizes.budget / 3, most=100
            )

    def _both(self, call: Call) -> dict[str, Call | str]:
        """Return the call, and the same with its scan left out, or why they are not timed."""

        def without() -> None:
            with scan_left_out():
                call()

        problem = failure(self._checks)
        return {WHOLE: problem or call, WITHOUT: problem or without}


def plan(quick: bool, seed: int) -> tuple[list[Step], dict[str, str]]:
    """Return the steps of the subcommand, and what each subject stands for."""
    return ModelBench(QUICK if quick else ModelSizes(), seed).steps(), SAYS
