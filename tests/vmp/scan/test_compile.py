"""A mixer's scan under torch.compile: in Triton without a graph break, with the results of eager calls.

In a process of its own, without the checks of shapes that the other tests wrap the mixer's functions in; in one for all
cases, as torch takes longer to start than to compile any of them.
"""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

PROGRAM = """
import copy, json, sys, traceback
import torch
from tests.interpreter import hasten
from vmp.config import named_config
from vmp.model import Block
from vmp.scan import numba_cpu

def results(blocks, clip, half):
    stream = start = clip.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        for block in blocks:
            stream = block(stream)
    stream.square().mean().backward()
    return [stream.detach(), start.grad, *(p.grad for block in blocks for p in block.parameters())]

def check(scan, dtype, variant, device):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    if device == "as on a GPU":
        # There "auto" comes to Triton.
        numba_cpu.supports = lambda call: f"u is on {call.u.device}"
    torch.manual_seed(0)
    config = named_config("vmp_micro", variant=variant, d_model=8, d_state=2)
    eager = [Block(config, 0.0) for _ in range(2)]
    for block in eager:
        block.mixer.backend = scan
    compiled = copy.deepcopy(eager)
    for block in compiled:
        block.compile(backend="aot_eager", fullgraph=True)
    clip = torch.randn(1, 5, 8)
    # Eager first: einops fills a table at its first call, which would be traced once more.
    wanted = results(eager, clip, dtype == "bfloat16")
    for got, expected in zip(results(compiled, clip, dtype == "bfloat16"), wanted, strict=True):
        torch.testing.assert_close(got, expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "the blocks share no artefact"
    with torch.no_grad():
        torch.testing.assert_close(compiled[0](clip), eager[0](clip))

hasten()
supports, told = numba_cpu.supports, []
for case in json.loads(sys.argv[1]):
    try:
        check(*case)
        told.append("")
    except Exception:
        told.append(traceback.format_exc())
    numba_cpu.supports = supports
print(json.dumps(told))
"""

COMPILED = [
    ("triton_gpu", "float32", "released", "on the CPU"),
    ("auto", "bfloat16", "paper", "as on a GPU"),
    ("auto", "float32", "released", "on the CPU"),  # numba cannot be traced, so it is the portable backend
]
REFUSED = ("numba_cpu", "float32", "paper", "on the CPU")


def test_compiled_as_eager_or_a_backend_that_cannot_be_traced_says_so(pytestconfig: pytest.Config) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, json.dumps([*COMPILED, REFUSED])]
    done = subprocess.run(command, env=environment, cwd=pytestconfig.rootpath, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *failures, refusal = json.loads(done.stdout)
    assert dict(zip(COMPILED, failures, strict=True)) == dict.fromkeys(COMPILED, "")
    assert "'numba_cpu' cannot serve this call: torch.compile cannot trace a call of numba's code" in refusal
