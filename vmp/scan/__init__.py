"""The selective scan of Mamba with VideoMambaPro's mask and residuals: one definition, several backends.

`vmp.scan.spec` is the definition. A backend is a module with `supports(call)` and `scan(call)`; see
docs/adding-a-backend.md.
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
    """What a backend's module defines."""

    def supports(self, call: ScanCall) -> str | None:
        """Why this backend cannot serve `call`, or None where it can."""

    def scan(self, call: ScanCall) -> tuple[Tensor, Tensor]:
        """Output (B, D, L), in `call.compute_dtype` or the dtype of `u`, and the state after the last step (B, D, N)
        in `call.compute_dtype`.
        """


def available_backends() -> dict[str, str | None]:
    """Every backend, in the order "auto" tries them, with why it cannot run on this machine, or None."""
    return {name: _load(name)[1] for name in BACKENDS}


def choose_backend(u: Float[Tensor, "B D L"], *, backend: str = "auto") -> str:
    """The backend that `selective_scan` would run on inputs of the device and dtype of `u`, by name.

    Raises:
        ValueError: `backend` is no backend's name, or names one that cannot serve such inputs here.
    """
    channels = u.shape[1]
    constant = u.new_zeros(channels, 1)
    return _choose(validate(u, u, constant, constant, constant), backend)[0]


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: Literal[False] = False,
    *,
    h0: Tensor | None = None,
    residual: str = "none",
    mask_diagonal: bool = False,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    return_last_state: Literal[True],
    h0: Tensor | None = None,
    residual: str = "none",
    mask_diagonal: bool = False,
    reverse: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


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
    reverse: bool = False,
    backend: str = "auto",
) -> Float[Tensor, "B D L"] | tuple[Float[Tensor, "B D L"], Float[Tensor, "B D N"]]:
    """The selective scan: a superset of `mamba_ssm.selective_scan_fn`, same arguments in the same order.

    For each batch item and channel, with Abar_t[n] = exp(delta_t A[n]):

        h_t[n] = Abar_t[n] h_{t-1}[n] + delta_t B_t[n] u_t
        y_t    = sum_n C_t[n] h_t[n] + D u_t
        out_t  = y_t silu(z_t)

    Arguments:
        u: the input, (B, D, L).
        delta: the step sizes, (B, D, L), not negative once bias and softplus are applied.
        A: the decay rates, (D, N), real and negative, in 1 / step size.
        B, C: input and output weights of the states: (B, N, L), (B, G, N, L) with D a multiple of G, or
            (D, N).
        D: weight of the direct path, (D,).
        z: the gate, (B, D, L).
        delta_bias: added to delta, (D,), before softplus.
        delta_softplus: whether the step sizes are softplus(delta + delta_bias).
        return_last_state: whether the state after the last step taken is returned too.
        h0: the state before the first step, (B, D, N); zero by default.
        residual: "none"; "initial", h_0[n] = u_1 for every n; or "elemental",
            h_t[n] = Abar_t[n] (h_{t-1}[n] + u_t) + delta_t B_t[n] u_t, our reading of the paper's elemental
            residual connection.
        mask_diagonal: y_t = sum_n C_t[n] Abar_t[n] h_{t-1}[n] + D u_t: the own token's term, that of the
            elemental residual included, leaves the output but not the state.
        reverse: steps run from t = L to 1, and "first" means L.
        backend: a name of `available_backends`, or "auto" for the first of them that serves this call.

    Returns:
        out, (B, D, L) in the dtype of `u`; with `return_last_state` also the state (B, D, N) in the dtype the
        scan computes in: float64 for a float64 `u`, else float32. Both are differentiable in every tensor
        argument.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: a shape, dtype, device or option does not fit, or a backend asked for by name cannot serve
            the call; the message says why.

    Source: Gu and Dao, arXiv 2312.00752; mask and residual from Lu, Salah and Poppe, arXiv 2406.19006.
    """
    call = validate(
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        delta_softplus,
        h0=h0,
        residual=residual,
        mask_diagonal=mask_diagonal,
        reverse=reverse,
    )
    out, last_state = _choose(call, backend)[1].scan(call)
    out = out.to(u.dtype)
    return (out, last_state) if return_last_state else out


def _choose(call: ScanCall, name: str) -> tuple[str, Backend]:
    """The backend of that name, or with "auto" the first that serves `call`; its name and the module."""
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
"""What `_load` gave of every backend, once torch.compile has met a scan."""


def _load_all() -> None:
    """Fill `_LOADED`.

    torch.compile cannot trace an import. It runs this while it traces, before it looks at `_LOADED`, which it then
    holds for unchanging.
    """
    _LOADED.update((name, _load(name)) for name in BACKENDS if name not in _LOADED)


# As torch.compiler.assume_constant_result would mark it, which imports the compiler, for a second and more.
_load_all._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _load(name: str) -> tuple[Backend | None, str | None]:
    """A backend's module, or why it cannot be imported here: a missing dependency. Our own faults are raised."""
    try:
        return cast(Backend, import_module(f"vmp.scan.{name}")), None
    except ImportError as error:
        if (error.name or "").startswith("vmp"):
            raise
        return None, str(error)
