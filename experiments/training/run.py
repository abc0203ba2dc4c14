"""The moving parts of a run, and one step of it."""

import math
import pathlib
import time
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

import vmp
from experiments.runs import RunFolder
from experiments.training.config import TrainConfig
from experiments.training.optimiser import parameter_groups


@final
class Run:
    """The moving parts of a run: weights, optimiser moments, the number of steps done, and the time they took.

    Made from the folder's checkpoint where there is one, and from the model's own weights otherwise.
    """

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, model: vmp.VideoModel, folder: RunFolder
    ) -> None:
        self.config, self.accelerator, self.folder, self.unwrapped = config, accelerator, folder, model
        optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), betas=config.betas)
        saved = folder.load()
        if saved is not None:
            model.load_state_dict(saved["model"])
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        if saved is not None:
            self.optimizer.load_state_dict(saved["optimizer"])
        self.step = 0 if saved is None else saved["step"]
        self.loss = math.nan
        self._began = time.monotonic() - (0.0 if saved is None else saved["seconds"])
        if accelerator.is_main_process:
            folder.keep_metrics(self.step)
        accelerator.wait_for_everyone()

    def update(self, videos: Tensor, labels: Tensor) -> None:
        """One step of the optimiser on this process's share of a batch."""
        config, rank, device = self.config, self.accelerator.process_index, self.accelerator.device
        torch.manual_seed(int(np.random.SeedSequence([config.seed, self.step, rank]).generate_state(1)[0]))
        rate = config.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        labels = labels.to(device)
        logits = self.model(videos.to(device))
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.loss = float(loss.detach())
        if not math.isfinite(self.loss):
            raise ValueError(
                f"the loss is {self.loss} at step {self.step}: try a learning_rate below {config.learning_rate:g}"
            )
        self.optimizer.step()
        self.step += 1
        if self.step % config.log_every == 0 or self.step == config.steps:
            hits = (logits.detach().argmax(1) == labels).float().mean()
            self._log(torch.stack([loss.detach(), hits]), rate, float(norm))

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
            )

    def save(self) -> None:
        """Put what a later process needs to go on into the folder."""
        if self.accelerator.is_main_process:
            self.folder.save(
                {
                    "step": self.step,
                    "seconds": self._seconds(),
                    "model": self.unwrapped.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                }
            )

    def finish(self, weights: pathlib.Path) -> None:
        """Write the final weights, and drop the checkpoint that they replace."""
        if self.accelerator.is_main_process:
            vmp.save_checkpoint(self.unwrapped, weights)
            self.folder.discard_checkpoint()
        self.accelerator.wait_for_everyone()

    def over_processes(self, number: int) -> int:
        """The largest of a number that each process has, so that all of them decide alike."""
        if self.accelerator.num_processes == 1:
            return number
        return int(self.accelerator.gather(torch.tensor([number], device=self.accelerator.device)).max())

    def _seconds(self) -> float:
        return time.monotonic() - self._began
