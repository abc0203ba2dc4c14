"""The state of a run, and one step of it."""

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import vmp
from analysis.files import write_text
from experiments.data.augment import mix
from experiments.data.draws import BadVideos
from experiments.runs import RunFolder, writing
from experiments.training.config import TrainConfig
from experiments.training.optimiser import parameter_groups

LAST_STEP, BAD_VIDEOS = "last_step.safetensors", "bad_videos.json"
_MIXING = 1  # tells the random stream of mixtures from that of stochastic depth


@final
class TrainingState:
    """What changes in a run: weights, their average, optimiser moments, steps done, bad videos met, and time taken.

    It is made from the folder's checkpoint if there is one, and from the model's own weights otherwise.

    Args:
        config: the run.
        accelerator: spreads it over processes.
        model: the model that is trained.
        folder: the run's folder.
        videos: how many videos the list of the clips has; 0 if they are of no list.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        model: vmp.VideoModel,
        folder: RunFolder,
        videos: int = 0,
    ) -> None:
        self.config, self.accelerator, self.folder, self.unwrapped = config, accelerator, folder, model
        model.recompute = config.recompute
        groups = parameter_groups(model, config.weight_decay, config.layer_decay)
        optimizer = torch.optim.AdamW(groups, betas=config.betas, fused=True)
        self._init = model.provenance.get("weights_sha256")
        saved = folder.load() or {"step": 0, "seconds": 0.0, "bad": {}, "init": self._init}
        if saved["init"] != self._init:
            raise ValueError(f"{folder.path}: the run began from other weights than {config.init} now holds")
        if "model" in saved:
            model.load_state_dict(saved["model"])
        self.average = _average(model, config, saved.get("average")) if accelerator.is_main_process else None
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        if "optimizer" in saved:
            self.optimizer.load_state_dict(saved["optimizer"])
        if self.average is not None:
            self.average.to(accelerator.device)
        self.step = saved["step"]
        self.bad = BadVideos(videos, config.max_bad, saved["bad"])
        self.loss = math.nan
        self._began = time.monotonic() - saved["seconds"]
        if accelerator.is_main_process:
            folder.keep_metrics(self.step)
        accelerator.wait_for_everyone()

    def update(self, videos: Float[Tensor, "B 3 T H W"], labels: Int[Tensor, " B"]) -> None:
        """Take one step of the optimiser on this process's share of a batch.

        Raises:
            ValueError: if the loss or a gradient is not finite; no weight has changed then. As gradients are summed
                over processes, all processes find what one of them finds.
        """
        config, rank, device = self.config, self.accelerator.process_index, self.accelerator.device
        torch.manual_seed(int(np.random.SeedSequence([config.seed, self.step, rank]).generate_state(1)[0]))
        rate = config.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        videos, labels = videos.to(device), labels.to(device)
        targets = labels
        if config.mixup or config.cutmix:
            key = [config.seed, self.step, rank, _MIXING]
            videos, targets = mix(
                videos, labels, self.unwrapped.config.num_classes, key, config.mixup, config.cutmix
            )
        self.optimizer.zero_grad()
        means = self._backward(videos, targets)
        limit = math.inf if config.clip_norm is None else config.clip_norm
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), limit))
        self.loss = float(means[0])
        for name, value in (("loss", self.loss), ("norm of the gradient", norm)):
            if not math.isfinite(value):
                raise ValueError(
                    f"the {name} is {value} at step {self.step}: try a learning_rate below {config.learning_rate:g}"
                )
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.unwrapped)
        self.step += 1
        if self.step % config.log_every == 0 or self.step == config.steps:
            self._log(means, rate, norm)

    def _backward(self, videos: Tensor, targets: Tensor) -> Float[Tensor, "2"]:
        """Add up the gradients of the loss; return it, and the accuracy, of this process's share of the batch."""
        config, parts = self.config, self.config.accumulate
        means = torch.zeros(2, device=videos.device)
        for part, (clips, wanted) in enumerate(zip(videos.chunk(parts), targets.chunk(parts), strict=True)):
            last = part == parts - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                with torch.autocast(clips.device.type, torch.bfloat16, config.precision == "bfloat16"):
                    logits = self.model(clips)
                loss = F.cross_entropy(logits.float(), wanted, label_smoothing=config.label_smoothing) / parts
                self.accelerator.backward(loss)
            hits = logits.detach().argmax(1) == (wanted if wanted.ndim == 1 else wanted.argmax(1))
            means += torch.stack([loss.detach(), hits.float().mean() / parts])
        return means

    def note_bad(self, bad: Mapping[int, str]) -> None:
        """Count these bad videos, and those of the other processes.

        Raises:
            ValueError: if there are too many. The steps done are saved, so that a higher `max_bad` can go on from them.
        """
        if self.over_processes(len(bad)):
            found = [dict(bad)] if self.accelerator.num_processes == 1 else gather_object([dict(bad)])
            try:
                self.bad.note({index: problem for one in found for index, problem in one.items()})
            except ValueError:
                if self.step:
                    self.save()
                raise

    def _log(self, means: Float[Tensor, "2"], rate: float, norm: float) -> None:
        loss, accuracy = self.accelerator.reduce(means, "mean").tolist()
        if self.accelerator.is_main_process:
            self.folder.log(
                step=self.step,
                loss=loss,
                accuracy=accuracy,
                learning_rate=rate,
                gradient_norm=norm,
                seconds=round(self._seconds(), 3),
                **({"bad_videos": len(self.bad.found)} if self.config.of_videos else {}),
            )

    def save(self) -> None:
        """Save what a later process needs to continue."""
        if self.accelerator.is_main_process:
            state: dict[str, Any] = {
                "step": self.step,
                "seconds": self._seconds(),
                "bad": self.bad.found,
                "init": self._init,
                "model": self.unwrapped.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            if self.average is not None:
                state["average"] = self.average.state_dict()
            self.folder.save(state)

    def finish(self, weights: pathlib.Path) -> None:
        """Write the final weights, and delete the checkpoint that they replace.

        If weights are averaged, the average is written, and the weights of the last step are written beside it.
        """
        if self.accelerator.is_main_process:
            final, origin = self.unwrapped, {} if self._init is None else {"init_weights_sha256": self._init}
            with writing(weights):
                if self.bad.found:
                    write_text(weights.with_name(BAD_VIDEOS), json.dumps(self.bad.found, indent=2) + "\n")
                if self.average is not None:
                    vmp.save_checkpoint(final, weights.with_name(LAST_STEP), metadata=origin)
                    assert isinstance(self.average.module, vmp.VideoModel)
                    final, origin = self.average.module, {**origin, "ema_decay": str(self.config.ema_decay)}
                vmp.save_checkpoint(final, weights, metadata=origin)
            self.folder.discard_checkpoint()
        self.accelerator.wait_for_everyone()

    def over_processes(self, number: int) -> int:
        """The largest of the numbers that the processes have, so that all of them decide alike."""
        if self.accelerator.num_processes == 1:
            return number
        return int(self.accelerator.gather(torch.tensor([number], device=self.accelerator.device)).max())

    def _seconds(self) -> float:
        return time.monotonic() - self._began


def _average(
    model: vmp.VideoModel, config: TrainConfig, saved: dict[str, Any] | None
) -> AveragedModel | None:
    if config.ema_decay is None:
        return None
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    if saved is not None:
        average.load_state_dict(saved)
    return average
