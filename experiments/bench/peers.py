"""What is timed: this project's backends, and the scans of other packages where they are installed."""

import contextlib
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, final
from unittest.mock import patch

import torch
from jaxtyping import Float
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
    """A selective scan that can be timed.

    Attributes:
        name: its name in tables.
        scan: from u, delta, A, B, C, D to the output.
        says: exactly what is timed.
        plain: whether it runs without mask and residual, which the packages of others lack.
        tokens_first: whether u, delta, B, C and the output have the tokens' axis before the channels'.
        held: how many arrays of B D L N numbers it holds at its peak, about, without and with gradients.
        loops: whether it takes a step of Python for each token.
        slack: how many times the deviation that a backend of this project is allowed in the gate.
        absent: why it cannot be timed here, or "".
    """

    name: str
    scan: Callable[..., Tensor] | None
    says: str
    plain: bool = False
    tokens_first: bool = False
    held: tuple[int, int] = (0, 0)
    loops: bool = False
    slack: float = 1.0
    absent: str = ""

    def call(self, inputs: ScanInputs, quantity: str) -> Call:
        """Return a call to time: one of `QUANTITIES`, the first without gradients, the second with all of them."""
        assert self.scan is not None, self.absent
        scan, arguments = self.scan, self._arguments(inputs)

        @torch.no_grad()
        def forward() -> Tensor:
            return scan(*arguments)

        return forward if quantity == "forward" else partial(self._gradients, arguments, inputs.dy)

    def results(self, inputs: ScanInputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the output and the gradients of `inputs.NAMES`, in the layout of the inputs."""
        out, gradients = self._gradients(self._arguments(inputs), inputs.dy)
        if self.tokens_first:
            du, ddelta, dA, dB, dC, dD = gradients
            return out.mT, (du.mT, ddelta.mT, dA, dB.mT, dC.mT, dD)
        return out, gradients

    def _arguments(self, inputs: ScanInputs) -> tuple[Tensor, ...]:
        """The inputs, laid out as the scan takes them."""
        if not self.tokens_first:
            return inputs.tensors()
        u, delta, A, B, C, D = inputs.tensors()
        return u.mT.contiguous(), delta.mT.contiguous(), A, B.mT.contiguous(), C.mT.contiguous(), D

    def _gradients(
        self, arguments: tuple[Tensor, ...], dy: Float[Tensor, "B D L"]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        assert self.scan is not None, self.absent
        leaves = [x.detach().requires_grad_() for x in arguments]
        out = self.scan(*leaves)
        return out.detach(), torch.autograd.grad(out, leaves, dy.mT if self.tokens_first else dy)


def backends(device: str) -> tuple[Contender, ...]:
    """Return every backend, the compiled ones plain too, and the token loop."""
    like = torch.zeros(1, 1, 1, device=device)
    own = []
    for name in available_backends():
        absent = ""
        try:
            choose_backend(like, backend=name)
        except ValueError as error:
            absent = str(error).removeprefix("backend: ")
        own.append(_own(name, absent))
        if name in COMPARED_PLAIN:
            own.append(_own(name, absent, plain=True))
    return (*own, TOKEN_LOOP)


def _own(name: str, absent: str, *, plain: bool = False) -> Contender:
    loops = name == "spec"
    says = f'`vmp.selective_scan(..., backend="{name}")`' + (", no mask or residual" if plain else "")
    return Contender(
        f"{name}, plain" if plain else name,
        partial(vmp.selective_scan, backend=name, **({} if plain else OPTIONS)),
        says + (": one step of Python for each token" if loops else ""),
        plain=plain,
        held=(0, 6 if loops else 0),
        loops=loops,
        slack=FAST_MATH if name == "mamba_ssm_cuda" else 1.0,
        absent=absent,
    )


def token_loop(
    u: Float[Tensor, "B D L"],
    delta: Float[Tensor, "B D L"],
    A: Float[Tensor, "D N"],
    B: Float[Tensor, "B N L"],
    C: Float[Tensor, "B N L"],
    D: Float[Tensor, " D"],
) -> Float[Tensor, "B D L"]:
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
    return _other(
        "mambapy", "mambapy.mamba", lambda module: partial(module.MambaBlock.selective_scan, None), says,
        tokens_first=True, held=(6, 12),
    )  # fmt: skip


def transformers() -> Contender:
    """Return the scan of transformers in torch. What decorates it would run a kernel of another package."""
    says = (
        "`transformers.models.mamba.modeling_mamba.mamba_selective_scan`, its torch path: the scan alone, without the "
        "mixer's projections"
    )
    # It warns, at import, that a kernel would be faster.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return _other(
        "transformers", "transformers.models.mamba.modeling_mamba",
        lambda module: inspect.unwrap(module.mamba_selective_scan), says, held=(3, 6), loops=True,
    )  # fmt: skip


def mamba_ssm() -> Contender:
    """Return mamba_ssm's CUDA kernel."""
    says = "`mamba_ssm.ops.selective_scan_interface.selective_scan_fn`, its CUDA kernel"
    module = "mamba_ssm.ops.selective_scan_interface"
    return _other("mamba_ssm", module, lambda module: module.selective_scan_fn, says, slack=FAST_MATH)


def _other(
    name: str, module: str, scan: Callable[[Any], Callable[..., Tensor]], says: str, **fields: Any
) -> Contender:
    """The plain scan of another package, which may not be installed."""
    try:
        return Contender(name, scan(import_module(module)), says, plain=True, **fields)
    except ImportError as error:
        return Contender(name, None, says, plain=True, absent=f"not installed: {error}")


def _its_input(u: Tensor, *args: Any, **options: Any) -> Tensor:
    return u


def scan_left_out() -> contextlib.AbstractContextManager[Any]:
    """Have every scan of a mixer give back its input u within a block, in compiled code too."""
    return patch.object(vmp.mixer, "selective_scan", _its_input)
