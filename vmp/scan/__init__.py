"""The selective scan of Mamba with VideoMambaPro's mask and residuals: one definition and several backends.

The definition is `vmp.scan.spec`. A backend is a module with `supports(call)` and `scan(call)`;
docs/adding-a-backend.md describes how to add one.
"""

from importlib import import_module
from typing import Literal, Protocol, cast, overload

import torch
from jaxtyping import Float
from torch import Tensor

from vmp.scan.call import ScanCall, validate

__all__ = ["ScanCall", "available_backends", "choose_backend", "selective_scan"]

# In the order in which "auto" tries them.
BACKENDS = ("numba_cpu", "triton_gpu", "mamba_ssm_cuda", "chunked", "spec")


class Backend(Protocol):
    """The two functions that the module of a backend defines."""

    def supports(self, call: ScanCall) -> str | None:
        """Return why this backend cannot serve `call`, or None where it can."""

    def scan(self, call: ScanCall) -> tuple[Tensor, Tensor]:
        """Run the scan.

        Returns:
            The output (B, D, L), in `call.compute_dtype` or the dtype of `u`, and the state after the last step
            (B, D, N), in `call.compute_dtype`.
        """


def available_backends() -> dict[str, str | None]:
    """Return every backend, in the order in which "auto" tries them, with the reason if it cannot run here or None."""
    return {name: _load(name)[1] for name in BACKENDS}


def choose_backend(u: Float[Tensor, "B D L"], *, backend: str = "auto") -> str:
    """Return the name of the backend that `selective_scan` would run on inputs of the device and dtype of `u`.

    Raises:
        ValueError: No backend is called `backend`, or that backend cannot serve such inputs here.
    """
    channels = u.shape[1]
    constant = u.new_zeros(channels, 1)
    return _choose(validate(u, u, constant, constant, constant), backend)[0]


@overload
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    delta_bias: Tensor | None = None, delta_softplus: bool = False, return_last_state: Literal[False] = False,
    *, h0: Tensor | None = None, residual: str = "none", mask_diagonal: bool = False, masked_first_step: str = "carry",
    reverse: bool = False, backend: str = "auto",
) -> Tensor: ...  # fmt: skip


@overload
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, z: Tensor | None = None,
    delta_bias: Tensor | None = None, delta_softplus: bool = False, *, return_last_state: Literal[True],
    h0: Tensor | None = None, residual: str = "none", mask_diagonal: bool = False, masked_first_step: str = "carry",
    reverse: bool = False, backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


def selective_scan(
    u: Float[Tensor, "B D L"],
    delta: Float[Tensor, "B D L"],
    A: Float[Tensor, "D N"],
    B: Float[Tensor, "B N L"] | Float[Tensor, "B G N L"] | Float[Tensor, "D N"],
    C: Float[Tensor, "B N L"] | Float[Tensor, "B G N L"] | Float[Tensor, "D N"],
    D: Float[Tensor, "D"] | None = None,
    z: Float[Tensor, "B D L"] | None = None,
    delta_bias: Float[Tensor, "D"] | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    h0: Float[Tensor, "B D N"] | None = None,
    residual: str = "none",
    mask_diagonal: bool = False,
    masked_first_step: str = "carry",
    reverse: bool = False,
    backend: str = "auto",
) -> Float[Tensor, "B D L"] | tuple[Float[Tensor, "B D L"], Float[Tensor, "B D N"]]:
    """Run the selective scan: a superset of `mamba_ssm.selective_scan_fn`, with its arguments in its order.

    For each batch item and channel, with Abar_t[n] = exp(delta_t A[n]):

        h_t[n] = Abar_t[n] h_{t-1}[n] + delta_t B_t[n] u_t
        y_t    = sum_n C_t[n] h_t[n] + D u_t
        out_t  = y_t silu(z_t)

    Args:
        u: The input, (B, D, L).
        delta: The step sizes, (B, D, L), which are not negative once bias and softplus are applied.
        A: The decay rates, (D, N), real and negative, in 1 / step size.
        B: The input weights of the states: (B, N, L), (B, G, N, L) with D a multiple of G, or (D, N).
        C: The output weights of the states, in one of the same three shapes.
        D: The weight of the direct path, (D,).
        z: The gate, (B, D, L).
        delta_bias: A bias that is added to delta before softplus, (D,).
        delta_softplus: Whether the step sizes are softplus(delta + delta_bias).
        return_last_state: Whether the state after the last step taken is returned too.
        h0: The state before the first step, (B, D, N); it is zero by default.
        residual: "none"; "initial", which sets h_0[n] = u_1 for every n; or "elemental", which sets
            h_t[n] = Abar_t[n] (h_{t-1}[n] + u_t) + delta_t B_t[n] u_t, our reading of the paper's elemental
            residual connection.
        mask_diagonal: Whether y_t = sum_n C_t[n] Abar_t[n] h_{t-1}[n] + D u_t: the own token's term, that of the
            elemental residual included, then leaves the output but not the state.
        masked_first_step: What the first step taken by a masked scan reads: "carry", the decayed state before it, as
            every other step does; or "skip_only", nothing, so that its y is D u alone, as in the code released with
            VideoMambaPro. The state is the same either way. Without the mask, this option has no effect.
        reverse: Whether the steps run from t = L to 1; "first" then means L.
        backend: A name that `available_backends` gives, or "auto" for the first of them that serves this call.

    Returns:
        The output, (B, D, L) in the dtype of `u`. With `return_last_state`, also the state (B, D, N) in the dtype that
        the scan computes in: float64 for a float64 `u`, float32 otherwise. Both are differentiable in every tensor
        argument.

    Raises:
        TypeError: An argument is no tensor.
        ValueError: A shape, dtype, device or option does not fit, or a backend that was asked for by name cannot serve
            the call; the message says why.

    Source: Gu and Dao, arXiv 2312.00752; mask and residual from Lu, Salah and Poppe, arXiv 2406.19006.
    """
    call = validate(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, h0=h0, residual=residual,
        mask_diagonal=mask_diagonal, masked_first_step=masked_first_step, reverse=reverse,
    )  # fmt: skip
    out, last_state = _choose(call, backend)[1].scan(call)
    out = out.to(u.dtype)
    return (out, last_state) if return_last_state else out


def _choose(call: ScanCall, name: str) -> tuple[str, Backend]:
    """Return name and module of the backend of that name or, for "auto", of the first that serves `call`."""
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"backend: met {name!r}, wanted one of {', '.join(map(repr, ('auto', *BACKENDS)))}")
    compiling = torch.compiler.is_compiling()
    if compiling:
        _load_all()
    reasons = {}
    for candidate in BACKENDS if name == "auto" else (name,):
        module, reason = _LOADED[candidate] if compiling else _load(candidate)
        reason = reason if module is None else module.supports(call)
        if module is not None and reason is None:
            return candidate, module
        reasons[candidate] = reason
    raise ValueError(
        "backend: "
        + "; ".join(
            f"{candidate!r} cannot serve this call: {reason}" for candidate, reason in reasons.items()
        )
    )


_LOADED: dict[str, tuple[Backend | None, str | None]] = {}
"""What `_load` returned for every backend, once torch.compile has met a scan."""


def _load_all() -> None:
    """Fill `_LOADED`.

    torch.compile cannot trace an import. It runs this function while it traces, before it looks at `_LOADED`, which it
    then takes for constant.
    """
    _LOADED.update((name, _load(name)) for name in BACKENDS if name not in _LOADED)


# The mark that torch.compiler.assume_constant_result sets; that function imports the compiler, which takes a second.
_load_all._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _load(name: str) -> tuple[Backend | None, str | None]:
    """Return a backend's module, or the dependency that is missing here; a fault of our own is raised."""
    try:
        return cast(Backend, import_module(f"vmp.scan.{name}")), None
    except ImportError as error:
        if (error.name or "").startswith("vmp"):
            raise
        return None, str(error)
