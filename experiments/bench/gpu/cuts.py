"""Which cuts of a pass of the Triton backend are worth timing on a device, beside the one that `plan` makes.

What is being decided. Forward, where the batch alone fills the device (B = 8): 4 lanes a channel with 8 or 4 channels a
program in one pass, or wider programs that issue fewer instructions a state but leave schedulers with one warp, or
with a second pass over chunks. Where it does not (B = 1): how wide a program is, and how many chunks there are, as
fewer leave the device idle and each costs the carry. Backward, every cut has chunks or a program of few channels:
wider programs write fewer parts of the gradients of B and C, which torch then sums, and spill registers.
"""

import math

from vmp.scan.triton_gpu import K, Plan, plan

# Multiprocessors of an H200, channels and states of the targets; then channels a program and whether states are spread.
PROCESSORS, CHANNELS, STATES = 132, 1152, 16
FORWARD = ((8, True), (16, True), (32, False))
BACKWARD = ((8, True), (16, True))


def cuts(batch: int, length: int, *, backward: bool) -> list[Plan]:
    """The cut that `plan` makes; then every layout uncut where that gives half a warp to every scheduler, and with 4,
    8, 12 and 16 warps a multiprocessor. Ten at most.
    """
    chosen = dict.fromkeys([plan(batch, CHANNELS, 1, STATES, length, PROCESSORS, backward=backward)])
    whole = math.ceil(length / K) * K
    for wanted in (0, 4, 8, 12, 16):
        for width, vector in BACKWARD if backward else FORWARD:
            programs = batch * math.ceil(CHANNELS / width)
            if wanted == 0 and programs < 2 * PROCESSORS:
                continue
            if wanted and programs >= wanted * PROCESSORS:
                continue
            chunks = max(1, round(wanted * PROCESSORS / programs))
            chunk = min(whole, max(2 * K, math.ceil(length / chunks / K) * K))
            chosen[Plan(width, chunk, vector)] = None
    return list(chosen)[:10]
