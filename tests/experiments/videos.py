"""Video files that tests encode themselves: frames that tell their own index, and pans over photographs."""

import pathlib

import av
import numpy as np

from experiments.data import PhotoPan


def write_video(
    path: pathlib.Path,
    frames: np.ndarray,
    rotation: int = 0,
    codec: str = "libx264",
    pixels: str = "yuv444p",
    encoder: dict[str, str] | None = None,
    title: str = "",
    **options: str,
) -> pathlib.Path:
    """Encode RGB frames (T, H, W, 3) at 10 frames a second; `options` are the container's."""
    with av.open(str(path), "w", options=options) as container:
        if title:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=10, options=encoder or {"crf": "1", "g": "8"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbered(count: int, height: int = 32, width: int = 32, step: int = 8) -> np.ndarray:
    """Grey frames: frame k has the level step * k + 4, so that `indices` tells which one it is."""
    levels = (step * np.arange(count) + 4).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def indices(clip: np.ndarray, step: int = 8) -> list[int]:
    """Which of the `numbered` frames these are."""
    return [round((frame.mean() - 4) / step) for frame in clip]


def write_pans(
    folder: pathlib.Path, count: int, num_frames: int = 16, size: int = 48, seed: int = 0
) -> list[int]:
    """Files pan-0.mp4, pan-1.mp4, ... of pans and zooms over photographs, wider than high; their labels, 0 to 5."""
    pans = PhotoPan("train", num_frames, size, seed, count)
    for index in range(count):
        frames = pans.frames(index)
        wide = np.concatenate([frames, frames[:, :, ::-1][:, :, : size // 4]], axis=2)
        write_video(folder / f"pan-{index}.mp4", wide, pixels="yuv420p", encoder={"crf": "18"})
    return [pans.label(index) for index in range(count)]


def write_list(path: pathlib.Path, labels: list[int]) -> pathlib.Path:
    """A plain list of the files that `write_pans` leaves."""
    path.write_text("".join(f"pan-{index}.mp4 {label}\n" for index, label in enumerate(labels)))
    return path
