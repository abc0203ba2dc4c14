"""A mixer's scan under torch.compile: in Triton without a graph break, with the results of eager calls.

In a process of its own, without the checks of shapes that the other tests wrap the mixer's functions in.
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

PROGRAM = """
import copy, sys
import torch
from vmp.config import named_config
from vmp.model import Block
from vmp.scan import numba_cpu

scan, dtype, variant, *as_on_a_gpu = sys.argv[1:]
if as_on_a_gpu:
    # There "auto" comes to Triton.
    numba_cpu.supports = lambda call: f"u is on {call.u.device}"
half = dtype == "bfloat16"
torch.manual_seed(0)
config = named_config("vmp_micro", variant=variant, d_model=8, d_state=2)
eager = [Block(config, 0.0) for _ in range(2)]
for block in eager:
    block.mixer.backend = scan
compiled = copy.deepcopy(eager)
for block in compiled:
    block.compile(backend="aot_eager", fullgraph=True)
clip = torch.randn(1, 5, 8)

def results(blocks):
    stream = start = clip.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        for block in blocks:
            stream = block(stream)
    stream.square().mean().backward()
    return [stream.detach(), start.grad, *(p.grad for block in blocks for p in block.parameters())]

# Eager first: einops fills a table at its first call, which would be traced once more.
wanted = results(eager)
for got, expected in zip(results(compiled), wanted, strict=True):
    torch.testing.assert_close(got, expected)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "the blocks share no artefact"
with torch.no_grad():
    torch.testing.assert_close(compiled[0](clip), eager[0](clip))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("triton_gpu", "float32", "released"),
        ("auto", "bfloat16", "paper", "as on a GPU"),
        ("auto", "float32", "released"),  # the CPU's numba cannot be traced, so it is the portable backend
    ],
)
def test_compiled_as_eager(arguments: tuple[str, ...]) -> None:
    done = compiled(*arguments)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_backend_that_cannot_be_traced_says_so() -> None:
    done = compiled("numba_cpu", "float32", "paper")
    assert done.returncode == 1
    assert (
        "'numba_cpu' cannot serve this call: torch.compile cannot trace a call of numba's code" in done.stderr
    )


def compiled(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)
