"""What is timed: this project's backends, and the scans of other packages where they are installed."""

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, final
from unittest.mock import patch

import torch
from torch import Tensor

import vmp
import vmp.mixer
from experiments.bench.inputs import ScanInputs
from experiments.bench.timing import Call
from vmp.scan import available_backends, choose_backend

OPTIONS: dict[str, Any] = {"residual": "elemental", "mask_diagonal": True}
"""What is switched on in a scan that is not plain."""

QUANTITIES = ("forward", "forward+backward")
"""What is timed of a scan."""

FAST_MATH = 100.0
"""Slack of kernels that are compiled with fast maths, whose exponential is some ulp off at every step. What is left is
below 1e-3 of the largest entry in float32: still the same function."""

COMPARED_PLAIN = ("numba_cpu", "triton_gpu")
"""Backends that are timed without options too, as the kernels of others are."""


@final
@dataclass(frozen=True)
class Contender:
    """A selective scan that can be timed."""

    name: str  # in tables
    scan: Callable[..., Tensor] | None  # from u, delta, A, B, C, D to the output; None where it is absent
    says: str  # exactly what is timed
    plain: bool = False  # whether it runs without mask and residual, which the packages of others lack
    tokens_first: bool = False  # whether the tokens' axis comes before the channels'
    held: tuple[int, int] = (0, 0)  # arrays of B D L N numbers at its peak, about, without and with gradients
    loops: bool = False  # whether it takes a step of Python for each token
    slack: float = 1.0  # how many times the deviation that a backend of this project is allowed in the gate
    absent: str = ""  # why it cannot be timed here

    def call(self, inputs: ScanInputs, quantity: str) -> Call:
        """Return a call to time: one of `QUANTITIES`, the first without gradients, the second with all of them."""
        assert self.scan is not None, self.absent
        scan, arguments = self.scan, tuple(self._turned(*inputs.tensors()))

        @torch.no_grad()
        def forward() -> Tensor:
            return scan(*arguments)

        def backward() -> tuple[Tensor, ...]:
            leaves = [x.detach().requires_grad_() for x in arguments]
            out = scan(*leaves)
            dy = inputs.dy.mT if self.tokens_first else inputs.dy
            return out.detach(), *torch.autograd.grad(out, leaves, dy)

        return forward if quantity == "forward" else backward

    def results(self, inputs: ScanInputs) -> tuple[Tensor, ...]:
        """Return the output, and the gradients of `inputs.NAMES` in the layout of the inputs."""
        found: Any = self.call(inputs, "forward+backward")()
        return found[0].mT if self.tokens_first else found[0], *self._turned(*found[1:])

    def _turned(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
    ) -> tuple[Tensor, ...]:
        """The tensors between the layout of the inputs and that of the scan, in either direction."""
        if self.tokens_first:
            u, delta, B, C = (x.mT.contiguous() for x in (u, delta, B, C))
        return u, delta, A, B, C, D


def backends(device: str) -> tuple[Contender, ...]:
    """Return every backend, the compiled ones plain too, and the token loop."""
    like = torch.zeros(1, 1, 1, device=device)
    own = []
    for name in available_backends():
        absent, loops = "", name == "spec"
        try:
            choose_backend(like, backend=name)
        except ValueError as error:
            absent = str(error).removeprefix("backend: ")
        for plain in (False, True) if name in COMPARED_PLAIN else (False,):
            says = f'`vmp.selective_scan(..., backend="{name}")`' + (", no mask or residual" if plain else "")
            one = Contender(
                f"{name}, plain" if plain else name,
                partial(vmp.selective_scan, backend=name, **({} if plain else OPTIONS)),
                says + (": one step of Python for each token" if loops else ""),
                plain=plain,
                held=(0, 6 if loops else 0),
                loops=loops,
                slack=FAST_MATH if name == "mamba_ssm_cuda" else 1.0,
                absent=absent,
            )
            own.append(one)
    return (*own, TOKEN_LOOP)


def token_loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Scan as torch code of Mamba does where no kernel is at hand, with mask and elemental residual."""
    dtype = u.dtype
    u, delta, B, C = (x.to(A.dtype) for x in (u, delta, B, C))
    Abar = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    own = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u) + Abar * u[..., None]
    h = u.new_zeros(u.shape[0], *A.shape)
    y = []
    for t in range(u.shape[2]):
        decayed = Abar[:, :, t] * h
        h = decayed + own[:, :, t]
        y.append(torch.einsum("bdn,bn->bd", decayed, C[:, :, t]))
    return (torch.stack(y, dim=2) + D[:, None] * u).to(dtype)


TOKEN_LOOP = Contender(
    "token loop",
    token_loop,
    "`experiments.bench.peers.token_loop`: exp(delta A) and delta B u of all tokens at once, (B, D, L, N), then one "
    "step of torch for each token",
    held=(3, 6),
    loops=True,
)


def mambapy() -> Contender:
    """Return mambapy's scan. The method reads nothing of the block it belongs to."""
    says = "`mambapy.mamba.MambaBlock.selective_scan`, its parallel scan, on (B, L, D) tensors"
    how = {"tokens_first": True, "held": (6, 12)}
    return _other("mambapy.mamba", lambda of: partial(of.MambaBlock.selective_scan, None), says, **how)


def transformers() -> Contender:
    """Return the scan of transformers in torch."""
    says = (
        "`transformers.models.mamba.modeling_mamba.mamba_selective_scan`, its torch path: the scan alone, without the "
        "mixer's projections"
    )
    # It warns, at import, that a kernel would be faster.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    module = "transformers.models.mamba.modeling_mamba"
    return _other(module, lambda of: partial(_unwrapped, module), says, held=(3, 6), loops=True)


def _unwrapped(module: str, *inputs: Tensor) -> Tensor:
    """The function itself: what decorates it would run a kernel of another package, and does not pickle."""
    return inspect.unwrap(import_module(module).mamba_selective_scan)(*inputs)


def mamba_ssm() -> Contender:
    """Return mamba_ssm's CUDA kernel."""
    says = "`mamba_ssm.ops.selective_scan_interface.selective_scan_fn`, its CUDA kernel"
    module = "mamba_ssm.ops.selective_scan_interface"
    return _other(module, lambda of: of.selective_scan_fn, says, slack=FAST_MATH)


def _other(module: str, scan: Callable[[Any], Callable[..., Tensor]], says: str, **fields: Any) -> Contender:
    """The plain scan of another package, which may not be installed."""
    name = module.split(".")[0]
    try:
        return Contender(name, scan(import_module(module)), says, plain=True, **fields)
    except ImportError as error:
        return Contender(name, None, says, plain=True, absent=f"not installed: {error}", **fields)


def _its_input(u: Tensor, *args: Any, **options: Any) -> Tensor:
    return u


@contextlib.contextmanager
def scan_left_out() -> Iterator[None]:
    """Have every scan of a mixer give back its input u within a block, in compiled code too."""
    with patch.object(vmp.mixer, "selective_scan", _its_input):
        yield
