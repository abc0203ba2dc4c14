"""What the GPU kernels take of a multiprocessor, compiled for a GPU that need not be there.

A scan on tensors without storage goes through the backend as any other; its launches are recorded rather than run,
and compiled with the very arguments and constants that a Hopper GPU would be given.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHAPES = ((8, 1569), (1, 12_545))
"""Batch and tokens of the GPU targets, with D = 1152 and N = 16."""
CHANNELS, STATES = 1152, 16
ORDERS = {"tokens fastest": (0, 1, 2), "channels fastest": (0, 2, 1)}
"""How u, delta and z lie in memory: the axes of (B, D, L), slowest first."""

# Of a Hopper multiprocessor: registers, given out 8 a thread at a time; bytes of shared memory, of which a program
# takes 1 KiB more than it asks for; programs. H100 has 132.
PROCESSORS, REGISTERS, SHARED, PROGRAMS = 132, 65_536, 228 * 1024, 32


@dataclass(frozen=True)
class KernelResources:
    """A kernel of one warp, compiled with every option on.

    Arguments:
        kernel: its name, with the shape and the order in memory for which the backend launches it.
        dtype: that of u, delta and z.
        target: the GPU it is compiled for.
        registers: a thread.
        spilled_bytes: of stack a thread; the kernels have no arrays, so that all of it is spilled registers.
        warps: how many of them a multiprocessor holds at a time.
        instructions: issued in its loops over steps for 32 state updates. An exp2 takes the special function units
            of a scheduler for 8 issue slots, so that 8 is where they, and not the issue of instructions, are the bound.
    """

    kernel: str
    dtype: str
    target: str
    registers: int
    spilled_bytes: int
    warps: int
    instructions: float | None


def kernel_resources(*, backward: bool = True) -> list[KernelResources]:
    """Every kernel that the Triton backend launches for `SHAPES`, `DTYPES` and `ORDERS`, in a process of its own.

    Of its own, as Triton decides at import whether it compiles or interprets.

    Raises:
        RuntimeError: the kernels do not compile, with what the compiler said, or the process was ended.
    """
    command = [sys.executable, "-m", "experiments.bench.resources", *(["--backward"] if backward else [])]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"compiling the kernels ended with status {done.returncode}: {done.stderr.strip()}"
        )
    return [KernelResources(**row) for row in json.loads(done.stdout)]


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel: what it was given."""

    kernel: str
    arguments: tuple[Any, ...]
    constants: dict[str, Any]


def launches(batch: int, length: int, dtype: torch.dtype, order: str, *, backward: bool) -> list[Launch]:
    """The launches of one scan with every option, in their order. For a process that runs nothing else."""
    # The backend refuses to load where nothing can run it, and nothing is run here.
    torch.cuda.is_available = lambda: True
    from vmp.scan import triton_gpu
    from vmp.scan.call import validate

    recorded: list[Launch] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *arguments, **constants: recorded.append(Launch(self.name, arguments, constants))

    recorders = {name: Recorder(name) for name in ("forward", "backward", "chunk_states", "carry")}
    triton_gpu.kernels = SimpleNamespace(**recorders)  # type: ignore[assignment]
    triton_gpu._processors = lambda device: PROCESSORS

    axes, shape = ORDERS[order], (batch, CHANNELS, length)
    stored = torch.empty([shape[axis] for axis in axes], dtype=dtype, device="meta")
    u = stored.permute([axes.index(axis) for axis in range(3)]).requires_grad_(backward)
    A = torch.empty(CHANNELS, STATES, device="meta")
    B = torch.empty(batch, length, STATES, dtype=dtype, device="meta").transpose(1, 2)
    call = validate(u, u, A, B, B, A[:, 0], u, A[:, 0], True, residual="elemental", mask_diagonal=True)
    out, _ = triton_gpu.scan(call)
    if backward:
        out.backward(torch.empty_like(out))
    return recorded


def compiled(launch: Launch) -> Any:
    """The kernel, compiled as Triton would for these arguments: what is absent, 1 or divisible by 16 is compiled in."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from vmp.scan import triton_kernels

    kernel = getattr(triton_kernels, launch.kernel)
    names = {torch_dtype: name for name, torch_dtype in DTYPES.items()}
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    given = dict(zip(kernel.arg_names, launch.arguments, strict=False)) | launch.constants
    for at, parameter in enumerate(kernel.params):
        value = given[parameter.name]
        tensor, known = isinstance(value, torch.Tensor), not parameter.do_not_specialize
        if not tensor and (parameter.is_constexpr or value is None or (known and value == 1)):
            signature[parameter.name], constants[at,] = "constexpr", value
            continue
        signature[parameter.name] = f"*{names[value.dtype]}" if tensor else "i32"
        if tensor or (known and value % 16 == 0):
            attributes[at,] = [["tt.divisibility", 16]]
    options = {name: value for name, value in launch.constants.items() if name not in kernel.arg_names}
    target = GPUTarget("cuda", 90, 32)
    return compile(ASTSource(kernel, signature, constants, attributes), target=target, options=options)


def resources(launch: Launch, name: str, dtype: str) -> KernelResources:
    """What one launch takes, read from the machine code."""
    kernel = compiled(launch)
    with TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(kernel.asm["cubin"])
        usage = _tool("cuobjdump", "-res-usage", str(binary))
        code = _tool("nvdisasm", "-c", str(binary))
    used = {key: int(value) for key, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    warps = min(
        PROGRAMS,
        REGISTERS // (32 * 8 * -(-used["REG"] // 8)),
        SHARED // (kernel.metadata.shared + 1024),
    )
    loops = [loop for loop in _innermost_loops(code) if "MUFU.EX2" in loop]
    updates = STATES * launch.constants["W"] * launch.constants.get("T", 1)
    issued = sum(len(INSTRUCTION.findall(loop)) for loop in loops) * 32 / updates
    counted = round(issued, 1) if "T" in launch.constants else None
    return KernelResources(
        f"{launch.kernel} {name}", dtype, "sm_90", used["REG"], used["STACK"], warps, counted
    )


INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/", re.MULTILINE)
LABEL = re.compile(r"^(\.L_x_\d+):", re.MULTILINE)
BRANCH = re.compile(r"BRA .*`\((\.L_x_\d+)\)")


def _innermost_loops(code: str) -> Iterator[str]:
    """The text between a label and a branch back to it, where no other branch back lies between."""
    labels = {found[1]: found.start() for found in LABEL.finditer(code)}
    back = [
        (labels[found[1]], found.end())
        for found in BRANCH.finditer(code)
        if labels.get(found[1], len(code)) < found.start()
    ]
    for begin, end in back:
        if not any(begin <= other and last < end for other, last in back):
            yield code[begin:end]


def _tool(name: str, *arguments: str) -> str:
    """What one of the CUDA tools that Triton brings along prints."""
    from triton import knobs

    path = getattr(knobs.nvidia, name).path
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def main(backward: bool) -> None:
    """Print every row as JSON."""
    rows: dict[KernelResources, None] = {}
    for (batch, length), (dtype, torch_dtype), order in product(SHAPES, DTYPES.items(), ORDERS):
        for launch in launches(batch, length, torch_dtype, order, backward=backward):
            adjoint = " of the adjoint" if launch.constants.get("ADJOINT") else ""
            name = f"B={batch}, L={length}, {order}{adjoint}"
            rows[resources(launch, name, dtype)] = None
    print(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main(backward="--backward" in sys.argv)
