"""The CUDA kernels of the mamba_ssm package, where it is installed; `vmp.scan.plain` adds the options they lack.

Of what `selective_scan_fn` (mamba_ssm 2.2 to 2.3) can do, only y of the plain scan is used, in float32. It could apply
softplus, D and the gate too, but it has neither mask nor residual between them; its last state has no gradient; and
inputs in half precision are stored in half precision before the gate.
"""

from jaxtyping import Float
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from torch import Tensor

from vmp.scan.call import ScanCall
from vmp.scan.plain import Steps, complete

# Limits of the extension: the states that its shared memory holds, and the channels that its grid holds.
MAX_STATES, MAX_CHANNELS = 256, 65535


def supports(call: ScanCall) -> str | None:
    """Return why this backend cannot serve `call`, or None where it can."""
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
    """Run the scan; its gradients cannot be differentiated again.

    Returns:
        The output (B, D, L) and the state after the last step (B, D, N), both float32.
    """
    return complete(_plain, call)


def _plain(steps: Steps, A: Float[Tensor, "D N"]) -> Float[Tensor, "B D K"]:
    return selective_scan_fn(steps.u, steps.delta, A, steps.B, steps.C)
