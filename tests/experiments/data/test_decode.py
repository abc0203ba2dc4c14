"""The short way to a frame is the same frame as the definition's, and passes over what it does not need."""

import av
import numpy as np
import pytest

from experiments.data.decode import count_frames, pick_frames, read_packets, read_video
from experiments.data.sampling import sample_uniformly
from tests.experiments.videos import indices, numbered, write_video

TOTAL = 60
FORMS = {
    "one key frame.mp4": {"encoder": {"crf": "1", "g": "250"}},
    "references among B-frames.mp4": {"encoder": {"crf": "1", "g": "20", "bf": "5", "b-pyramid": "normal"}},
    "no B-frames.mp4": {"encoder": {"crf": "1", "g": "10", "bf": "0"}},
    "open groups.mp4": {"encoder": {"crf": "1", "g": "12", "x264-params": "open-gop=1"}},
    "moving refresh.mp4": {"encoder": {"crf": "1", "g": "12", "x264-params": "intra-refresh=1"}},
    "matroska.mkv": {"encoder": {"crf": "1", "g": "12"}},
    "stream.ts": {"encoder": {"crf": "1", "g": "12"}},
    "fragments.mp4": {"encoder": {"crf": "1", "g": "12"}, "movflags": "frag_keyframe+empty_moov"},
    "xvid.avi": {"codec": "mpeg4", "pixels": "yuv420p", "encoder": {"b": "4M", "g": "12", "bf": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9", "encoder": {"crf": "10", "b": "0", "g": "16", "cpu-used": "8"}},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    # A line that moves over the grey keeps the encoder from copying frames.
    frames = numbered(TOTAL, 48, 48, step=4)
    for k in range(TOTAL):
        frames[k, :, k % 48] = 255 - frames[k, :, k % 48]
    return {name: write_video(folder / name, frames, **form) for name, form in FORMS.items()}


@pytest.mark.parametrize("name", FORMS)
def test_both_ways_give_the_same_frames(videos, name):
    path = videos[name]
    packets = read_packets(path)
    assert len(packets) == TOTAL
    served = 0
    for wanted in ([0], [59], [7, 31, 55], [10, 11, 12, 13, 47], list(range(60)), [29]):
        expected, _ = count_frames(path, set(wanted), np.asarray)
        means = [np.median(expected[index]) for index in wanted]
        assert [round((mean - 4) / 4) for mean in means] == wanted
        picked = pick_frames(path, packets, set(wanted), np.asarray)
        if picked is not None:
            served += 1
            assert picked[0].keys() == expected.keys()
            for index in wanted:
                np.testing.assert_array_equal(picked[0][index], expected[index])
    # Where the picture is refreshed bit by bit, there are starts from which the first frames are not whole.
    assert served == 6 or (name == "moving refresh.mp4" and served > 0)


def test_few_frames_but_the_wanted_are_decoded(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    path = write_video(tmp_path / "long.mp4", frames, encoder={"crf": "30", "g": "12"})
    packets, wanted = read_packets(path), set(sample_uniformly(300, 8).tolist())
    _, decoded = count_frames(path, wanted, np.asarray)
    assert decoded == 282
    _, decoded = pick_frames(path, packets, wanted, np.asarray)
    assert decoded <= 8 * 12


def test_frames_before_the_start_that_an_edit_sets_are_not_counted(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", numbered(24))
    with av.open(str(whole)) as source, av.open(str(tmp_path / "later.mp4"), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:
                # Ten frames before zero: the container writes an edit that begins at zero.
                packet.pts, packet.dts = (
                    int(t - 10 / (10 * stream.time_base)) for t in (packet.pts, packet.dts)
                )
                packet.stream = copy
                target.mux(packet)
    clip = np.stack(read_video(tmp_path / "later.mp4", lambda total: np.arange(total), np.asarray))
    assert indices(clip) == list(range(10, 24))


def test_frames_are_given_in_the_order_wanted_and_as_often(tmp_path):
    path = write_video(tmp_path / "clip.mp4", numbered(12))
    clip = np.stack(read_video(path, lambda total: np.array([7, 2, 2, total - 1]), np.asarray))
    assert indices(clip) == [7, 2, 2, 11]
