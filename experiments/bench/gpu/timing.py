"""Clocks of a device: events around replayed graphs, around single calls, or the wall clock of a rehearsal."""

import torch

from experiments.bench.timing import Call, Clock, wall


def events(call: Call) -> float:
    """Seconds between CUDA events around a call, what Python takes to launch it included."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def clock_of(device: str) -> Clock:
    """The clock of single calls on that device."""
    return wall if device == "cpu" else events


def captured(call: Call, device: str, copies: int = 10) -> tuple[Call, int]:
    """A call to time in the place of `call`, and how many calls of it that holds.

    On a GPU it is the replay of a graph of `copies` calls, so that what is timed is the device's work alone: a scan of
    0.1 ms takes Python longer to launch than the device to compute. In a rehearsal it is the call itself.
    """
    if device == "cpu":
        return call, 1
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(copies):
            call()
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay, copies


def device_seconds(call: Call, device: str, repeats: int, copies: int = 10) -> tuple[float, ...]:
    """Seconds that the device takes for `call`, of that many repeats, after a warm-up."""
    replay, held = captured(call, device, copies)
    clock = clock_of(device)
    clock(replay)
    return tuple(clock(replay) / held for _ in range(repeats))
