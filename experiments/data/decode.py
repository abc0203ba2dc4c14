"""Frames out of a video file, by their place in the order in which they are shown.

Two ways to the same frames. The definition decodes the file from its start and counts. The short way starts at the
key frame before each wanted one, and passes over frames that no other refers to; it serves where the container says
when each frame is shown, and gives up, leaving the file to the definition, where anything but the wanted frames comes
out.
"""

import bisect
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import av
import numpy as np
from av.stream import Disposition
from av.video.frame import PictureType
from jaxtyping import Int, UInt8
from PIL import Image
from torch.utils.data import get_worker_info

Choose = Callable[[int], Int[np.ndarray, " n"]]
View = Callable[[Image.Image], UInt8[np.ndarray, "..."]]
Frames = dict[int, UInt8[np.ndarray, "..."]]

# Containers that keep the time at which each frame is shown. AVI and MPEG's streams leave it to be guessed.
_TIMED = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
# A stream that ends before this share of the duration its header declares was cut off.
_WHOLE = 0.9


class Packet(NamedTuple):
    """When a packet's frame is shown, when it is to be decoded, and whether decoding can start there."""

    pts: int | None
    dts: int | None
    key: bool


def read_video(path: pathlib.Path, choose: Choose, view: View) -> list[UInt8[np.ndarray, "..."]]:
    """`experiments.data.read_frames` of a file.

    Raises:
        ValueError, av.FFmpegError: the file cannot be read, or no frame of it decoded.
    """
    packets = read_packets(path)
    wanted = choose(len(packets)).tolist()
    picked = pick_frames(path, packets, set(wanted), view)
    if picked is not None:
        return [picked[0][index] for index in wanted]
    frames, decoded = count_frames(path, set(wanted), view)
    if 0 < decoded <= max(wanted):  # some packets carry no picture of their own: sample what there is
        wanted = choose(decoded).tolist()
        frames, _ = count_frames(path, set(wanted), view)
    if not frames:
        raise ValueError(f"{path}: no frame could be decoded")
    return [frames[index] for index in wanted]


def read_packets(path: pathlib.Path) -> list[Packet]:
    """The packets of the frames that are shown, as stored; ValueError if the file ends before the video does."""
    with _open(path) as container:
        stream = _video_stream(path, container)
        packets: list[Packet] = []
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise ValueError(f"{path}: cut short: frame {len(packets) + 1} is not all there")
            if packet.size and not packet.is_discard:
                packets.append(Packet(packet.pts, packet.dts, packet.is_keyframe))
        if not packets:
            raise ValueError(f"{path}: cut short: it holds no frame")
        _check_duration(path, container, stream, packets)
        return packets


def count_frames(path: pathlib.Path, wanted: set[int], view: View) -> tuple[Frames, int]:
    """The wanted frames' views, by index; and how many were decoded from the start to get to the last of them."""
    frames, decoded = {}, 0
    with _open(path) as container:
        stream = _use_threads(_video_stream(path, container))
        for frame in container.decode(stream):
            if decoded in wanted:
                frames[decoded] = view(_upright(frame))
            decoded += 1
            if decoded > max(wanted):
                break
    return frames, decoded


def pick_frames(
    path: pathlib.Path, packets: Sequence[Packet], wanted: set[int], view: View
) -> tuple[Frames, int] | None:
    """As `count_frames`, decoding little else than the wanted frames; None where that does not find them."""
    place = {packet.pts: position for position, packet in enumerate(packets)}
    stamps = [packet.pts for packet in packets if packet.pts is not None]
    shown = sorted(set(stamps))
    keys = sorted(packet.pts for packet in packets if packet.key and packet.pts is not None)
    if len(shown) < len(packets) or not keys or keys[0] != shown[0]:
        return None
    index = {shown[i]: i for i in wanted}
    groups: dict[int, set[int]] = {}  # the times to show from each key frame on
    for pts in sorted(index):
        groups.setdefault(keys[bisect.bisect_right(keys, pts) - 1], set()).add(pts)
    frames, decoded = {}, 0
    with _open(path) as container:
        stream = _use_threads(_video_stream(path, container))
        if container.format.name not in _TIMED or (stream.codec_context.has_b_frames and stamps == shown):
            return None  # frames are shown in another order than stored, and the times do not tell it
        # A decoder of AV1 keeps to what it is to skip when it is opened: nothing.
        stream.codec_context.open(strict=False)
        for key, times in groups.items():
            start, last = place[key], max(place[pts] for pts in times)
            if start > 0:
                dts = packets[start].dts
                container.seek(key if dts is None else dts, stream=stream)
            try:
                for frame in _decode_between(container, stream, key, packets[last].pts, times):
                    decoded += 1
                    if frame.pts == key and frame.pict_type != PictureType.I:
                        return None  # the container calls frames key frames that are none
                    if frame.pts in times:
                        frames[index[frame.pts]] = view(_upright(frame))
            except av.FFmpegError:
                return None  # the definition says what is wrong with the file, if it is the file
    return (frames, decoded) if frames.keys() == wanted else None


def _open(path: pathlib.Path) -> av.container.InputContainer:
    # Titles and the like need not be in UTF-8 for the frames to be good.
    return av.open(str(path), metadata_errors="replace")


def _decode_between(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    first: int,
    last: int | None,
    times: set[int],
) -> Iterator[av.VideoFrame]:
    """Frames of the packets from that of time `first` to that of time `last`; of the frames to which no other refers,
    only those of `times`."""
    started = False
    for packet in container.demux(stream):
        started = started or packet.pts == first
        if started and packet.size:
            stream.codec_context.skip_frame = "DEFAULT" if packet.pts in times else "NONREF"
            yield from packet.decode()
            if packet.pts == last:
                break
    yield from stream.decode(None)
    stream.codec_context.flush_buffers()


def _upright(frame: av.VideoFrame) -> Image.Image:
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _video_stream(path: pathlib.Path, container: av.container.InputContainer) -> av.VideoStream:
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not pictures:
        kinds = sorted({stream.type for stream in container.streams})
        raise ValueError(f"{path}: no video stream in it, only {' and '.join(kinds) or 'an empty container'}")
    if pictures[0].codec_context is None:
        raise ValueError(f"{path}: damaged, or of a video codec that there is no decoder for")
    return pictures[0]


def _use_threads(stream: av.VideoStream) -> av.VideoStream:
    """The stream, decoded on all cores; in a loader's worker on one, as the other workers have the others."""
    stream.thread_type = "AUTO"
    if get_worker_info() is not None:
        stream.codec_context.thread_count = 1
    return stream


def _check_duration(
    path: pathlib.Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    packets: Sequence[Packet],
) -> None:
    """ValueError unless the packets last about as long as the header says, as far as it says anything."""
    stamps = [packet.pts for packet in packets if packet.pts is not None]
    if len(stamps) < 2 or stream.time_base is None:
        return
    span = max(stamps) - min(stamps)
    lasting = float((span + span / (len(stamps) - 1)) * stream.time_base)
    declared = float((stream.duration or 0) * stream.time_base)
    if not declared and container.duration and len(container.streams) == 1:
        declared = container.duration / av.time_base
    if lasting < _WHOLE * declared:
        raise ValueError(f"{path}: cut short: {lasting:.2f} s are there of {declared:.2f} s of video")
