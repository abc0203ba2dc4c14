"""`scan`: the selective scan on the CPU beside other implementations: time, growth in L, memory, and hard inputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from typing import NamedTuple

import torch

from experiments.bench.cases import Case
from experiments.bench.gate import Gate
from experiments.bench.inputs import ScanInputs, draw, in_words
from experiments.bench.peers import QUANTITIES, Contender, backends, mambapy, transformers
from experiments.bench.timing import Call

FIRST = "numba_cpu"
"""The backend that hard inputs and long sequences are tried on."""
MOST_BYTES = 4e9
"""What a contender that keeps every state may take."""
WARM_LENGTH = 65


@dataclass(frozen=True)
class ScanSizes:
    """What is timed; `budget` is seconds of samples of each contender, `loop_length` what loops are gated on."""

    channels: int = 384
    states: int = 16
    length: int = 1569
    lengths: tuple[int, ...] = (196, 392, 784, 1569, 3136, 6272, 12544, 25088, 50176)
    memory_lengths: tuple[int, ...] = lengths
    all_states: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    loop_length: int = 392
    budget: float = 5.0


SIZES, QUICK = ScanSizes(), ScanSizes(8, 4, 65, (32, 64), (64,), (1, 4), 33, 0.02)


class Asked(NamedTuple):
    """What `draw` is asked for."""

    channels: int
    states: int
    length: int
    seed: int
    dtype: torch.dtype = torch.float32
    kind: str = "usual"


@lru_cache(maxsize=2)
def drawn(asked: Asked) -> ScanInputs:
    """Draw inputs: the same for all that take turns, and for the gate."""
    return draw(1, **asked._asdict())


def scan_call(one: Contender, quantity: str, asked: Asked) -> Call:
    """Return a contender's call."""
    return one.call(drawn(asked), quantity)


def of_the_cpu() -> tuple[Contender, ...]:
    """Return the contenders that a CPU runs: Triton's interpreter is no way to run a scan."""
    own = (one for one in backends("cpu") if not one.name.startswith("triton_gpu"))
    return (*own, mambapy(), transformers())


def cases(sizes: ScanSizes, seed: int, among: Sequence[Contender] = ()) -> Iterator[Case]:
    """Yield every case; those of one contender are about `FIRST`, or the first of `among` where that is missing."""
    among = among or of_the_cpu()
    first = next((one for one in among if one.name == FIRST), among[0])
    usual = Asked(sizes.channels, sizes.states, sizes.length, seed)
    short = usual._replace(length=sizes.loop_length)
    gate = Gate("gate", lambda one: drawn(short if one.loops else usual))

    def case(
        group: str, one: Contender, quantity: str, asked: Asked = usual, refused: str = "", gate: Gate = gate
    ) -> Case:
        make, checks = partial(scan_call, one, quantity, asked), partial(gate.checks, one)
        says, problem = in_words(1, *asked[:3], asked.dtype), one.absent or refused
        return Case(group, one.name, one.says, quantity, says, make, checks, problem, sizes.budget / 5)

    for quantity, one in product(QUANTITIES, among):
        yield replace(case(quantity, one, quantity), budget=sizes.budget)
    for length, quantity, one in product(sizes.lengths, QUANTITIES, among):
        refused = refusal(one, quantity, length, sizes)
        yield case(f"growth L={length}", one, quantity, usual._replace(length=length), refused)
    for length in sizes.memory_lengths:
        # All of them at the length of the main timings.
        for one, quantity in product(among if length == sizes.length else (first,), QUANTITIES):
            refused = refusal(one, quantity, length, sizes)
            warm = partial(scan_call, one, quantity, usual._replace(length=WARM_LENGTH))
            at_length = case(f"memory L={length}", one, quantity, usual._replace(length=length), refused)
            yield replace(at_length, warm=warm)
    kinds = {kind: usual._replace(kind=kind) for kind in ("usual", "decaying", "silent")}
    states = {
        f"N={states}, {str(dtype).removeprefix('torch.')}": usual._replace(states=states, dtype=dtype)
        for dtype, states in product((torch.float32, torch.float64), sizes.all_states)
    }
    for group, variants in (("states", states), ("decay", kinds)):
        own = Gate(group, partial(_shorter, variants, sizes.loop_length))
        for quantity, (name, asked) in product(QUANTITIES, variants.items()):
            yield case(group, replace(first, name=name, says=""), quantity, asked, gate=own)


def _shorter(variants: Mapping[str, Asked], length: int, one: Contender) -> ScanInputs:
    return drawn(variants[one.name]._replace(length=length))


def refusal(one: Contender, quantity: str, length: int, sizes: ScanSizes) -> str:
    """Return why a contender is not measured at a length that others are measured at, or ""."""
    gradients = quantity != "forward"
    if gradients and one.loops and one.held[0] and length >= sizes.length:
        return f"not timed: its backward pass grows as L squared; L={sizes.length} is timed once, above"
    needed = one.held[gradients] * sizes.channels * sizes.states * length * torch.float32.itemsize
    if needed > MOST_BYTES:
        return f"not timed: it takes about {needed / 1e9:.0f} GB, above {MOST_BYTES / 1e9:.0f} GB"
    return ""
