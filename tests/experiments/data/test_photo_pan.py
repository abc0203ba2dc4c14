"""Pans and zooms: labels checked by image registration, the split, and how well windows are resampled."""

import itertools

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from experiments.data.photo_pan import (
    CLASSES,
    PHOTOGRAPHS,
    SPLIT_PHOTOGRAPHS,
    TRAVEL,
    PhotoPan,
    WindowPath,
    photograph,
)

SHIFT_OF = {"pan left": (0, -1), "pan right": (0, 1), "pan up": (-1, 0), "pan down": (1, 0)}


def register(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How far (rows, columns) the content moved: phase correlation, and a centroid about its peak."""
    window = np.outer(np.hanning(len(before)), np.hanning(len(before)))
    spectra = [np.fft.fft2((frame - frame.mean()) * window) for frame in (before, after)]
    cross = spectra[1] * spectra[0].conj()
    surface = np.fft.fftshift(np.fft.ifft2(cross / (np.abs(cross) + 1e-9)).real)
    peak = np.array(np.unravel_index(surface.argmax(), surface.shape))
    rows, columns = (slice(max(0, p - 2), p + 3) for p in peak)
    near = surface[rows, columns].clip(0)
    corner = np.array([rows.start, columns.start])
    return corner + ndimage.center_of_mass(near) - len(before) // 2


def log_magnification(before: np.ndarray, after: np.ndarray) -> float:
    """The zoom about the frame's centre, of a grid of zooms, under which `before` best becomes `after`."""
    side = len(before)
    middle, inner = (side - 1) / 2, slice(side // 4, -side // 4)

    def likeness(log_zoom: float) -> float:
        scale = np.exp(-log_zoom)
        moved = ndimage.affine_transform(
            before, [scale, scale], middle * (1 - scale), order=1, mode="nearest"
        )
        return np.corrcoef(moved[inner, inner].ravel(), after[inner, inner].ravel())[0, 1]

    return max(np.linspace(-0.3, 0.3, 25), key=likeness)


@pytest.mark.parametrize("split", SPLIT_PHOTOGRAPHS)
def test_labels_agree_with_image_registration(split):
    dataset = PhotoPan(split, num_frames=9, image_size=64, seed=1, size=60)
    right, moved = 0, 0
    for index in range(60):
        label = CLASSES[dataset.label(index)]
        grey = dataset.frames(index).astype(float).mean(-1)
        if label in SHIFT_OF:
            window = -np.median([register(*pair) for pair in itertools.pairwise(grey)], axis=0)
            along = window @ SHIFT_OF[label]
            across = np.abs(window - along * np.array(SHIFT_OF[label])).max()
            right += along > 0.7 and across < 0.5 * along
            moved += along
        else:
            zoom = np.mean([log_magnification(grey[k], grey[k + 2]) for k in (0, 3, 6)])
            right += zoom > 0.02 if label == "zoom in" else zoom < -0.02
    assert right == 60
    # A pan covers 0.25 to 0.65 windows in 8 steps, 0.45 on average: 3.6 of 64 pixels a step over 40 pans.
    assert moved / 40 == pytest.approx(0.45 * 64 / 8, rel=0.15)


def test_split_is_by_photograph():
    train, held_out = (set(SPLIT_PHOTOGRAPHS[split]) for split in ("train", "held-out"))
    assert not train & held_out
    assert train | held_out == set(PHOTOGRAPHS)
    assert held_out == {"camera", "coffee", "grass", "moon"}
    for split in SPLIT_PHOTOGRAPHS:
        dataset = PhotoPan(split, 2, 16, size=200)
        assert {dataset.name(i).split("-")[0] for i in range(200)} == set(SPLIT_PHOTOGRAPHS[split])


def test_no_two_photographs_are_the_same_picture():
    small = {name: photograph(name)[:256, :256].astype(float).mean(-1) for name in PHOTOGRAPHS}
    for first, second in itertools.combinations(PHOTOGRAPHS, 2):
        rows = min(len(small[first]), len(small[second]))
        assert abs(np.corrcoef(small[first][:rows].ravel(), small[second][:rows].ravel())[0, 1]) < 0.9


def test_photographs_are_rgb_and_load_without_pooch(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    for name in PHOTOGRAPHS:
        pixels = photograph.__wrapped__(name)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert min(pixels.shape[:2]) >= 300
        assert pixels.std() > 10
    with pytest.raises(ValueError, match="no photograph 'lena'"):
        photograph("lena")


def test_every_pair_of_class_and_photograph_comes_once_in_a_cycle():
    for split, photographs in SPLIT_PHOTOGRAPHS.items():
        cycle = len(CLASSES) * len(photographs)
        dataset = PhotoPan(split, 2, 16, size=cycle)
        pairs = {(dataset.label(i), dataset.name(i).split("-")[0]) for i in range(cycle)}
        assert len(pairs) == cycle


def test_reversed_path_is_the_opposite_class():
    path = WindowPath(x=100.0, y=90.0, side=50.0, travel=0.5, zoom=1.5)
    opposite = {"pan left": "pan right", "pan up": "pan down", "zoom in": "zoom out"}
    for first, second in opposite.items():
        np.testing.assert_allclose(path.boxes(first, 7)[::-1], path.boxes(second, 7))


def test_paths_have_the_stated_geometry():
    path = WindowPath(x=100.0, y=90.0, side=50.0, travel=0.5, zoom=1.5)
    left, top, right, bottom = path.boxes("pan right", 6).T
    np.testing.assert_allclose(np.diff(left), 0.5 * 50 / 5)
    np.testing.assert_allclose(right - left, 50)
    np.testing.assert_allclose((top, bottom), (np.full(6, 65), np.full(6, 115)))
    left, top, right, bottom = path.boxes("zoom in", 6).T
    sides = right - left
    np.testing.assert_allclose(sides[1:] / sides[:-1], 1.5 ** (-1 / 5))
    np.testing.assert_allclose(((left + right) / 2, (top + bottom) / 2), (np.full(6, 100), np.full(6, 90)))
    for label in CLASSES:
        np.testing.assert_allclose(path.boxes(label, 7)[3], (75, 65, 125, 115))


def test_size_and_number_of_frames_sample_the_same_path():
    coarse, fine = PhotoPan("held-out", 3, 32), PhotoPan("held-out", 5, 64)
    for index in range(12):
        halved = fine.frames(index)[::2].astype(float).reshape(3, 32, 2, 32, 2, 3).mean((2, 4))
        difference = halved - coarse.frames(index)
        assert np.abs(difference).mean() < 4  # of 255: the filters differ, the window does not
        assert abs(difference.mean()) < 0.5


def test_windows_shrink_without_aliasing():
    # A pattern too fine for the small frame must come out as its mean, not as another pattern.
    dataset = PhotoPan("held-out", 2, 8)
    stripes = np.zeros((300, 300, 3), np.uint8)
    stripes[:, ::2] = 255
    dataset._images[0] = Image.fromarray(stripes)
    frames = dataset._render(0, WindowPath(150.0, 150.0, 150.0, TRAVEL[0], 1.5), "pan right")
    assert np.abs(frames.astype(int) - 128).max() <= 3


def test_a_step_of_a_fraction_of_a_pixel_moves_the_picture_by_it():
    dataset = PhotoPan("held-out", 9, 64)
    columns = np.arange(400)
    wave = np.rint(127.5 + 100 * np.sin(2 * np.pi * columns / 25)).astype(np.uint8)
    dataset._images[0] = Image.fromarray(np.broadcast_to(wave[None, :, None], (400, 400, 3)).copy())
    frames = dataset._render(0, WindowPath(200.0, 200.0, 64.0, 2 / 64, 1.5), "pan right")  # 1/4 pixel a frame
    turn = np.exp(2j * np.pi * np.arange(50) / 25)
    phases = np.unwrap([np.angle((frame[32, :50, 0] - 127.5) @ turn.conj()) for frame in frames])
    np.testing.assert_allclose(np.diff(phases), 2 * np.pi * 0.25 / 25, rtol=0.05)
