"""The validated call of a scan, which every backend is handed.

Shapes, dtypes and options are checked here once, so that a backend holds arithmetic only.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Residual = Literal["none", "initial", "elemental"]
MaskedFirstStep = Literal["carry", "skip_only"]


@dataclass(frozen=True)
class ScanCall:
    """The arguments of one selective scan, whose shapes, devices and dtypes agree.

    `B` and `C` have one form, (B or 1, G, N, L or 1): the channels of a group share a row, and an axis of size 1 in
    place of L means that the row is constant in time. The other tensors are as `selective_scan` was given them, and
    those that are absent are None.
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
    masked_first_step: MaskedFirstStep = "carry"
    reverse: bool = False

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype that the scan accumulates in: float64 for a float64 `u`, float32 for everything narrower."""
        return compute_dtype(self.u.dtype)

    @property
    def silent_start(self) -> bool:
        """Whether the first step taken reads nothing of the state, so that it outputs the direct path alone."""
        return self.mask_diagonal and self.masked_first_step == "skip_only"

    def upcast(self) -> "ScanCall":
        """Return the same call with every tensor in `compute_dtype`; validation has refused wider ones."""
        cast: dict[str, Any] = {name: value.to(self.compute_dtype) for name, value in self.tensors().items()}
        return replace(self, **cast)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are present, by the names of the arguments."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def initial_state(self) -> Float[Tensor, "B D N"]:
        """Return h before the first step, in `compute_dtype`: `h0`, or u_1 in every state for "initial", or zero."""
        batch, channels, length = self.u.shape
        shape = (batch, channels, self.A.shape[1])
        if self.h0 is not None:
            return self.h0.to(self.compute_dtype)
        if self.residual == "initial" and length > 0:
            first = self.u[:, :, length - 1 if self.reverse else 0]
            return first.to(self.compute_dtype)[:, :, None].expand(shape)
        return self.u.new_zeros(shape, dtype=self.compute_dtype)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that a scan over a `u` of `dtype` accumulates in."""
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
    masked_first_step: str = "carry",
    reverse: bool = False,
) -> ScanCall:
    """Check the arguments of `selective_scan` against one another and bring `B` and `C` to one form.

    Raises:
        TypeError: An argument is no tensor.
        ValueError: A shape, dtype or device does not fit, an option has no such value, or two options contradict each
            other. The message names the argument, what was met and what was wanted.
    """
    needed = {"u": u, "delta": delta, "A": A, "B": B, "C": C}
    optional = {"D": D, "z": z, "delta_bias": delta_bias, "h0": h0}
    present = needed | {name: value for name, value in optional.items() if value is not None}
    for name, value in present.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: met {type(value).__name__}, wanted a torch.Tensor")
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
    _check_choice(residual, "residual", get_args(Residual))
    _check_choice(masked_first_step, "masked_first_step", get_args(MaskedFirstStep))
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
        masked_first_step=masked_first_step,  # type: ignore[arg-type]  # checked just above
        reverse=reverse,
    )


def _check_choice(value: str, name: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: met {value!r}, wanted one of {', '.join(map(repr, choices))}")


def _check_rank(value: Tensor, name: str, letters: str) -> None:
    if value.ndim != letters.count(",") + 1:
        raise ValueError(f"{name}: met shape {tuple(value.shape)}, wanted {letters}")


def _check_storage(tensors: dict[str, Tensor]) -> None:
    """Check that every tensor is real, on the device of `u`, and no wider than what the scan computes in."""
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
    """Return `B` or `C`, given in any of its three forms, as (B or 1, G, N, L or 1)."""
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
