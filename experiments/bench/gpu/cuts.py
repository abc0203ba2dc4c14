"""Which cuts of a pass of the Triton backend are worth timing on a device, beside the one that `plan` makes.

What is being decided. Forward, where the batch alone fills the device (B = 8): 4 lanes a channel with 8 or 4 channels a
program in one pass, or wider programs that issue fewer instructions a state but leave schedulers with one warp, or
with a second pass over chunks. Where it does not (B = 1): how wide a program is, and how many chunks there are, as
fewer leave the device idle and each costs the carry. Backward, every cut has chunks or a program of few channels:
wider programs write fewer parts of the gradients of B and C, which torch then sums, and spill registers.
"""

import math

from vmp.scan.triton_gpu import K, Plan

# The multiprocessors of an H200, channels of the targets, and channels a program with whether states are spread.
PROCESSORS, CHANNELS = 132, 1152
FORWARD = ((8, True), (16, True), (32, False))
BACKWARD = ((8, True), (16, True))


def cuts(batch: int, length: int, *, backward: bool) -> list[Plan]:
    """Every layout with 4, 8, 12 and 16 warps a multiprocessor, or in one pass where that makes as many.

    First comes the uncut pass of each layout that gives half a warp to every scheduler.
    """
    chosen: dict[Plan, None] = {}
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
