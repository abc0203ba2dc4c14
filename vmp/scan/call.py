"""One validated scan call: what every backend is handed.

Shapes and dtypes are checked here once, so that backends hold arithmetic only.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Residual = Literal["none", "initial", "elemental"]


@dataclass(frozen=True)
class ScanCall:
    """The arguments of one selective scan, of agreed shapes, devices and dtypes.

    `B` and `C` are held in one form, (B or 1, G, N, L or 1): G groups of channels share a row, and an axis of
    size 1 in place of L is constant in time. The other tensors are as `selective_scan` was given them; `None`
    is absent.
    """

    u: Float[Tensor, "B D L"]
    delta: Float[Tensor, "B D L"]
    A: Float[Tensor, "D N"]
    B: Float[Tensor, "B1 GB N L1"]
    C: Float[Tensor, "B2 GC N L2"]
    D: Float[Tensor, "D"] | None = None
    z: Float[Tensor, "B D L"] | None = None
    delta_bias: Float[Tensor, "D"] | None = None
    delta_softplus: bool = False
    h0: Float[Tensor, "B D N"] | None = None
    residual: Residual = "none"
    mask_diagonal: bool = False
    reverse: bool = False

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the scan accumulates in: float64 for a float64 `u`, float32 for everything narrower."""
        return compute_dtype(self.u.dtype)

    def upcast(self) -> "ScanCall":
        """The same call with every tensor in `compute_dtype`; validation saw to it that none is wider."""
        cast: dict[str, Any] = {name: value.to(self.compute_dtype) for name, value in self.tensors().items()}
        return replace(self, **cast)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are present, by argument name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def initial_state(self) -> Float[Tensor, "B D N"]:
        """h before the first step, in `compute_dtype`: `h0`, u_1 in every state for "initial", or zero."""
        batch, channels, length = self.u.shape
        shape = (batch, channels, self.A.shape[1])
        if self.h0 is not None:
            return self.h0.to(self.compute_dtype)
        if self.residual == "initial" and length > 0:
            first = self.u[:, :, length - 1 if self.reverse else 0]
            return first.to(self.compute_dtype)[:, :, None].expand(shape)
        return self.u.new_zeros(shape, dtype=self.compute_dtype)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype a scan over a `u` of `dtype` accumulates in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def validate(
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
    h0: Tensor | None = None,
    residual: str = "none",
    mask_diagonal: bool = False,
    reverse: bool = False,
) -> ScanCall:
    """Check the arguments of `selective_scan` against one another and bring `B` and `C` to one form.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: a shape, dtype or device does not fit, or options contradict each other. The message names
            the argument, what was met and what was wanted.
    """
    named = {
        "u": u,
        "delta": delta,
        "A": A,
        "B": B,
        "C": C,
        "D": D,
        "z": z,
        "delta_bias": delta_bias,
        "h0": h0,
    }
    optional = {"D", "z", "delta_bias", "h0"}
    for name, value in named.items():
        if not isinstance(value, Tensor) and not (value is None and name in optional):
            raise TypeError(f"{name}: met {type(value).__name__}, wanted a torch.Tensor")
    present = {name: value for name, value in named.items() if value is not None}
    _check_rank(u, "u", "(B, D, L)")
    _check_rank(A, "A", "(D, N)")
    batch, channels, length = u.shape
    states = A.shape[1]
    wanted = {
        "delta": ("(B, D, L)", (batch, channels, length)),
        "A": ("(D, N)", (channels, states)),
        "D": ("(D,)", (channels,)),
        "z": ("(B, D, L)", (batch, channels, length)),
        "delta_bias": ("(D,)", (channels,)),
        "h0": ("(B, D, N)", (batch, channels, states)),
    }
    for name, (letters, shape) in wanted.items():
        if name in present and tuple(present[name].shape) != shape:
            raise ValueError(f"{name}: met shape {tuple(present[name].shape)}, wanted {letters} = {shape}")
    _check_storage(present)
    if residual not in get_args(Residual):
        raise ValueError(
            f"residual: met {residual!r}, wanted one of {', '.join(map(repr, get_args(Residual)))}"
        )
    if h0 is not None and residual == "initial":
        raise ValueError(
            'h0: met together with residual="initial", which sets h_0 = u_1; wanted one of the two'
        )
    return ScanCall(
        u=u,
        delta=delta,
        A=A,
        B=_grouped(B, "B", batch, channels, states, length),
        C=_grouped(C, "C", batch, channels, states, length),
        D=D,
        z=z,
        delta_bias=delta_bias,
        delta_softplus=delta_softplus,
        h0=h0,
        residual=residual,  # type: ignore[arg-type]  # checked just above
        mask_diagonal=mask_diagonal,
        reverse=reverse,
    )


def _check_rank(value: Tensor, name: str, letters: str) -> None:
    if value.ndim != letters.count(",") + 1:
        raise ValueError(f"{name}: met shape {tuple(value.shape)}, wanted {letters}")


def _check_storage(tensors: dict[str, Tensor]) -> None:
    """Every tensor real, on the device of `u`, and none wider than the scan computes in."""
    u = tensors["u"]
    computed = compute_dtype(u.dtype)
    for name, value in tensors.items():
        if not value.dtype.is_floating_point:
            raise ValueError(f"{name}: met dtype {value.dtype}, wanted a real floating point dtype")
        if value.device != u.device:
            raise ValueError(f"{name}: met device {value.device}, wanted {u.device}, where u is")
        if value.dtype.itemsize > computed.itemsize:
            raise ValueError(
                f"{name}: met dtype {value.dtype}, wanted {computed} or narrower, as u is {u.dtype} "
                f"and the scan never casts down"
            )


def _grouped(value: Tensor, name: str, batch: int, channels: int, states: int, length: int) -> Tensor:
    """`B` or `C` in any of its three forms as (B or 1, G, N, L or 1)."""
    shape = tuple(value.shape)
    if shape == (channels, states):
        return value[None, :, :, None]
    if shape == (batch, states, length):
        return value[:, None]
    grouped = value.ndim == 4 and (shape[0], *shape[2:]) == (batch, states, length)
    if grouped and shape[1] > 0 and channels % shape[1] == 0:
        return value
    wanted = (
        f"(B, N, L) = {(batch, states, length)}, (B, G, N, L) = ({batch}, G, {states}, {length}) with G a "
        f"divisor of D = {channels}, or (D, N) = {(channels, states)}"
    )
    raise ValueError(f"{name}: met shape {shape}, wanted {wanted}")
