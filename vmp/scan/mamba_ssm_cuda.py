"""The CUDA kernels of the mamba_ssm package where they are installed, with the options they lack by `vmp.scan.plain`.

Of `selective_scan_fn` (mamba_ssm 2.2 to 2.3) only y is used: it would compute softplus, D and gate too, but in between
it knows neither mask nor residual; its last state has no gradient, and half precision inputs are stored in half
precision before the gate. Everything is float32 here.
"""

from jaxtyping import Float
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from torch import Tensor

from vmp.scan.call import ScanCall
from vmp.scan.plain import Steps, complete

# Bounds of the extension: its shared memory holds as many states, and its grid as many channels.
MAX_STATES, MAX_CHANNELS = 256, 65535


def supports(call: ScanCall) -> str | None:
    """Why this backend cannot serve `call`, or None where it can."""
    batch, channels, _ = call.u.shape
    states = call.A.shape[1]
    if call.u.device.type != "cuda":
        return f"u is on {call.u.device} and the extension runs on CUDA devices"
    if call.compute_dtype.itemsize > 4:
        return f"u is {call.u.dtype} and the extension computes in float32"
    if not 1 <= states <= MAX_STATES:
        return f"N is {states} and the extension takes 1 to {MAX_STATES} states"
    if not (batch and 1 <= channels <= MAX_CHANNELS):
        return (
            f"u is {tuple(call.u.shape)} and the extension takes B of 1 or more and D of 1 to {MAX_CHANNELS}"
        )
    return None


def scan(call: ScanCall) -> tuple[Float[Tensor, "B D L"], Float[Tensor, "B D N"]]:
    """Output (B, D, L) and the state after the last step (B, D, N), both float32. Gradients come once."""
    return complete(_plain, call)


def _plain(steps: Steps, A: Float[Tensor, "D N"]) -> Float[Tensor, "B D K"]:
    return selective_scan_fn(steps.u, steps.delta, A, steps.B, steps.C)
