"""Which clips a step learns from, and how they get to it."""

import signal
from collections.abc import Generator, Iterator
from typing import TypeVar, final

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from experiments.data.clip import ClipDataset
from experiments.data.draws import Draw, Drawn
from experiments.training.config import TrainConfig

Batch = TypeVar("Batch")


@final
class StepBatches(Sampler[list[Draw]]):
    """The draws of each step from `start` on, for one process of several.

    The order runs through the dataset in epochs, each shuffled by (seed, epoch) alone. Each step has
    n = batch_size / repeats draws. Step s takes the places s n to (s + 1) n of the order; of these, process r of w
    takes every w-th, from the r-th on.
    """

    def __init__(self, config: TrainConfig, size: int, start: int, rank: int = 0, world: int = 1) -> None:
        self.config, self.size, self.start, self.rank, self.world = config, size, start, rank, world

    def __len__(self) -> int:
        return self.config.steps - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        shuffled: dict[int, list[int]] = {}
        draws = self.config.batch_size // self.config.repeats
        for step in range(self.start, self.config.steps):
            first = step * draws
            batch = []
            for place in range(first + self.rank, first + draws, self.world):
                epoch, position = divmod(place, self.size)
                if epoch not in shuffled:
                    shuffled = {epoch - 1: shuffled.get(epoch - 1, []), epoch: self._shuffle(epoch)}
                batch.append(Draw(shuffled[epoch][position], epoch))
            yield batch

    def _shuffle(self, epoch: int) -> list[int]:
        return np.random.default_rng([self.config.seed, epoch]).permutation(self.size).tolist()


@final
class SameClips(Dataset[Drawn]):
    """Draws of a dataset whose clips are the same in every epoch."""

    def __init__(self, clips: ClipDataset) -> None:
        self.clips = clips

    def __getitem__(self, draw: Draw) -> Drawn:
        index, _ = draw
        video, label = self.clips[index]
        return Drawn(video[None], torch.tensor([label]), {})


def batches_of(loader: DataLoader[Batch]) -> Generator[Batch]:
    """Yield what `loader` yields. Once this is closed, its workers are gone, whatever happened to the loop over it."""
    iterator = iter(loader)
    try:
        yield from iterator
    except ValueError as error:
        if loader.num_workers == 0:
            raise
        # A worker's error comes with the worker's traceback before it, in its message.
        raise ValueError(str(error).splitlines()[-1].removeprefix("ValueError: ")) from error
    finally:
        # Left to the end of the process, workers would be asked to terminate, ignore it, and be waited for.
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()
            for worker in iterator._workers:
                worker.kill()  # those that a clip still holds up


def leave_signals_to_the_parent(worker: int) -> None:
    """Let a worker of a loader ignore requests to stop.

    A terminal interrupts, and a cluster terminates, every process of a run, but workers must outlive the step in hand.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
