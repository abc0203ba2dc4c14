"""Lists in the form in which each data set publishes them, cut down to a few lines, and errors that name the line."""

import json

import pytest

from experiments.data.lists import DATASETS, ListedVideo, read_dataset, read_list


@pytest.fixture
def root(tmp_path):
    (tmp_path / "videos").mkdir()
    return tmp_path / "videos"


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_plain_lines_of_both_forms(tmp_path, root):
    touch(root, "a clip.mp4", "b.mp4", "b 12")
    (root / "frames").mkdir()
    listing = tmp_path / "list.txt"
    listing.write_text("a clip.mp4 3\n\nb.mp4,0\nframes 24 7\n  b.mp4\t2 \nb 12 5\nframes 1\ngone.mp4 4\n")
    expected = [
        ListedVideo(root / "a clip.mp4", 3),
        ListedVideo(root / "b.mp4", 0),
        ListedVideo(root / "frames", 7, 24),
        ListedVideo(root / "b.mp4", 2),
        ListedVideo(root / "b 12", 5),
        ListedVideo(root / "frames", 1),
        ListedVideo(root / "gone.mp4", 4),  # found out when it is read
    ]
    assert read_list(listing, root) == expected
    plain = read_dataset("list", listing, root)
    assert (plain.samples, plain.mirrored) == (tuple(expected), True)
    assert plain.classes == tuple("01234567")
    names = write(tmp_path / "names.txt", *"abcdefgh")
    assert read_dataset("list", listing, root, names).classes == tuple("abcdefgh")


KINETICS = "label,youtube_id,time_start,time_end,split,is_cc"


def test_kinetics(tmp_path, root):
    touch(root, "train/riding a bike/-3B32lodo2M_000059_000069.mp4", "QQpoQfAqrXc.mkv")
    listing = write(
        tmp_path / "train.csv",
        KINETICS,
        "riding a bike,-3B32lodo2M,59,69,train,0",
        '"riding, or walking",QQpoQfAqrXc,0,10,train,1',
        "zumba,notThere123,7,17,train,0",
    )
    names = write(tmp_path / "names.txt", "zumba", "riding a bike", "riding, or walking")
    found = read_dataset("kinetics400", listing, root, names)
    assert found.samples == (
        ListedVideo(root / "train/riding a bike/-3B32lodo2M_000059_000069.mp4", 1),
        ListedVideo(root / "QQpoQfAqrXc.mkv", 2),
        ListedVideo(root / "notThere123_000007_000017.mp4", 0),
    )
    assert found.classes == ("zumba", "riding a bike", "riding, or walking")
    assert found.mirrored
    with pytest.raises(
        ValueError, match=r"train\.csv: it names 3 classes and not 400.*give a file of labels"
    ):
        read_dataset("kinetics400", listing, root)
    every = write(
        tmp_path / "all.csv",
        KINETICS,
        *(f"class {k:03},QQpoQfAqrXc,0,10,train,0" for k in reversed(range(400))),
    )
    numbers = [sample.label for sample in read_dataset("kinetics400", every, root).samples]
    assert numbers == list(reversed(range(400)))


def test_kinetics_by_paths_and_numbers(tmp_path, root):
    touch(root, "a.mp4", "b.mp4")
    for separator in (",", " "):
        found = read_dataset(
            "kinetics400", write(tmp_path / "l", f"a.mp4{separator}399", f"b.mp4{separator}0"), root
        )
        assert found.samples == (ListedVideo(root / "a.mp4", 399), ListedVideo(root / "b.mp4", 0))
        assert len(found.classes) == 400
    with pytest.raises(ValueError, match=r"b\.mp4: label 400: there are 400 classes"):
        read_dataset("kinetics400", write(tmp_path / "l", "a.mp4 0", "b.mp4 400"), root)


def something(tmp_path, *entries):
    labels = {"Moving something up": "1", "Approaching something with your camera": "0"}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "validation.json").write_text(json.dumps(list(entries)))
    return tmp_path / "validation.json"


def test_something_something(tmp_path, root):
    touch(root, "7.webm", "12.mp4", "3/img_00001.jpg")
    up = {"label": "moving pen up", "template": "Moving [something] up", "placeholders": ["pen"]}
    camera = {"label": "…", "template": "Approaching [something] with your camera", "placeholders": ["…"]}
    listing = something(
        tmp_path, {"id": "12", **up}, {"id": "7", **camera}, {"id": "3", **up}, {"id": "4", **up}
    )
    found = read_dataset("ssv2", listing, root)
    assert found.samples == (
        ListedVideo(root / "12.mp4", 1),
        ListedVideo(root / "7.webm", 0),
        ListedVideo(root / "3", 1),
        ListedVideo(root / "4.webm", 1),
    )
    assert found.classes == ("Approaching something with your camera", "Moving something up")
    assert not found.mirrored
    (tmp_path / "labels.json").rename(tmp_path / "other.json")
    assert read_dataset("ssv2", listing, root, tmp_path / "other.json") == found


def test_a_plain_list_of_something_something_is_not_mirrored_either(tmp_path, root):
    touch(root, "74225/img_00001.jpg", "7.webm")
    found = read_dataset("ssv2", write(tmp_path / "train.txt", "74225 62 140", "7.webm 173"), root)
    assert found.samples == (ListedVideo(root / "74225", 140, 62), ListedVideo(root / "7.webm", 173))
    assert found.classes == tuple(map(str, range(174)))
    assert not found.mirrored


def test_ucf101(tmp_path, root):
    touch(root, "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi")
    write(tmp_path / "classInd.txt", "1 ApplyEyeMakeup", "2 ApplyLipstick")
    names = ("ApplyLipstick/v_ApplyLipstick_g01_c01.avi", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi")
    train = write(tmp_path / "trainlist01.txt", f"{names[0]} 2", f"{names[1]} 1")
    test = write(tmp_path / "testlist01.txt", *names)
    for listing in (train, test):
        found = read_dataset("ucf101", listing, root)
        assert found.samples == (ListedVideo(root / names[0], 1), ListedVideo(root / names[1], 0))
        assert found.classes == ("ApplyEyeMakeup", "ApplyLipstick")


def test_hmdb51(tmp_path, root):
    splits = tmp_path / "splits"
    splits.mkdir()
    write(splits / "wave_test_split1.txt", "a.avi 1 ", "b.avi 2 ", "c.avi 0 ")
    write(splits / "brush_hair_test_split1.txt", "d e.avi 2 ", "f.avi 1 ")
    write(splits / "wave_test_split2.txt", "a.avi 2 ")
    write(splits / "brush_hair_test_split2.txt", "f.avi 0 ")
    touch(root, "wave/a.avi", "wave/b.avi", "brush_hair/f.avi")
    train = read_dataset("hmdb51", f"train:{splits}", root)
    assert train.samples == (ListedVideo(root / "brush_hair/f.avi", 0), ListedVideo(root / "wave/a.avi", 1))
    assert train.classes == ("brush_hair", "wave")
    test = read_dataset("hmdb51", f"test:{splits}", root)
    assert test.samples == (ListedVideo(root / "brush_hair/d e.avi", 0), ListedVideo(root / "wave/b.avi", 1))
    second = read_dataset("hmdb51", f"test:{splits}/*_test_split2.txt", root)
    assert second.samples == (ListedVideo(root / "wave/a.avi", 1),)
    assert second.classes == train.classes


BAD = {
    "another data set": ("kinetics", "train.csv", "", r"^data set 'kinetics': it must be one of list, kinetics400"),
    "no list": ("list", "none.txt", None, r"none\.txt: the list cannot be read: No such file"),
    "empty": ("list", "l", "\n\n", r"l: the list is empty"),
    "not text": ("list", "l", b"\xff\xfe\x00", r"l: the list cannot be read: not text in UTF-8"),
    "no label": ("list", "l", "b.mp4 1\nb.mp4", r"l, line 2: 'b\.mp4' is neither"),
    "negative label": ("list", "l", "b.mp4 -1", r"l, line 1: 'b\.mp4 -1' is neither"),
    "no class": ("list", "l", "b.mp4 0\nb.mp4 99999999999999999", r"b\.mp4: label 9+: there are 100000 classes"),
    "nothing there": ("list", "l", "c.mp4 1\nd.mp4 2", r"l: nothing it names is there, such as .*c\.mp4"),
    "kinetics without labels": ("kinetics400", "l", "youtube_id,time_start,time_end\nb,0,10", r"no column label"),
    "kinetics times": ("kinetics400", "l", KINETICS + "\n\nx,b,0,ten,train,0", r"l, line 3: not a line of"),
    "kinetics short": ("kinetics400", "l", KINETICS + "\nx,b,0", r"l, line 2: not a line of"),
    "kinetics empty": ("kinetics400", "l", KINETICS, r"l: the list is empty"),
    "ssv2 not JSON": ("ssv2", "l", "[\n{]", r"l, line 2: not JSON"),
    "ssv2 an object": ("ssv2", "l", "{}", r"l: it must hold a list"),
    "ssv2 test": ("ssv2", "l", '[{"id": "1"}]', r"l, entry 1: it must have an id and a template"),
    "ssv2 class": ("ssv2", "l", '[{"id": "b", "template": "Eat [it]"}]', r"entry 1: 'Eat it' is none of the 2"),
    "ucf class": ("ucf101", "l", "Walk/b.avi 1\nSwim/b.avi 2", r"l, line 2: 'Swim' is none of the 1 classes"),
    "ucf number": ("ucf101", "l", "Walk/b.avi 0", r"l, line 1: class 0, but .* numbers Walk as 1"),
    "hmdb part": ("hmdb51", "{tmp}", None, r"for hmdb51, the list is train:FOLDER or test:FOLDER"),
    "hmdb folder": ("hmdb51", "train:{tmp}/none", None, r"none: it must be a folder of NAME_test_split1\.txt"),
    "hmdb two splits": ("hmdb51", "train:{tmp}/*.txt", None, r"it must be a folder of NAME_test_split1\.txt"),
    "hmdb use": ("hmdb51", "train:{tmp}/*split3.txt", None, r"split3\.txt, line 2: 'b\.avi 3' is not"),
    "hmdb none": ("hmdb51", "test:{tmp}/*split4.txt", None, r"no video in it is for test"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_lists_are_named_in_one_line(tmp_path, root, case):
    dataset, listing, content, message = BAD[case]
    touch(root, "b.mp4")
    something(tmp_path, {})
    write(tmp_path / "classInd.txt", "1 Walk")
    write(tmp_path / "wave_test_split3.txt", "a.avi 1", "b.avi 3")
    write(tmp_path / "wave_test_split4.txt", "a.avi 1")
    if content is not None:
        (tmp_path / listing).write_bytes(content if isinstance(content, bytes) else content.encode())
    place = listing.format(tmp=tmp_path) if "{tmp}" in listing else tmp_path / listing
    with pytest.raises(ValueError, match=message) as caught:
        read_dataset(dataset, place, root)
    assert "\n" not in str(caught.value)


def test_bad_labels_are_named(tmp_path, root):
    listing = write(tmp_path / "trainlist01.txt", "Walk/b.avi 1")
    with pytest.raises(ValueError, match=r"trainlist01\.txt: beside it there is no classInd\.txt"):
        read_dataset("ucf101", listing, root)
    write(tmp_path / "classInd.txt", "1 Walk", "3 Swim")
    with pytest.raises(ValueError, match=r"classInd\.txt, line 2: '3 Swim' is not `2 ClassName`"):
        read_dataset("ucf101", listing, root)
    something(tmp_path, {"id": "b", "template": "Moving [something] up"})
    (tmp_path / "labels.json").write_text('{"Moving something up": "2"}')
    with pytest.raises(ValueError, match=r"labels\.json: it must hold .* with numbers 0, 1"):
        read_dataset("ssv2", tmp_path / "validation.json", root)
    something(tmp_path, {"id": "b", "template": "Moving [something] up"})
    with pytest.raises(ValueError, match="nowhere: the folder of videos cannot be read"):
        read_dataset("ssv2", tmp_path / "validation.json", tmp_path / "nowhere")


def test_the_mark_that_begins_some_texts_is_no_part_of_a_path(tmp_path, root):
    touch(root, "b.mp4")
    (tmp_path / "l").write_text("b.mp4 1\n", encoding="utf-8-sig")
    assert read_list(tmp_path / "l", root) == [ListedVideo(root / "b.mp4", 1)]


@pytest.mark.parametrize("dataset", ["list", "kinetics400"])
def test_a_class_named_twice_is_refused(tmp_path, root, dataset):
    touch(root, "b.mp4")
    names = write(tmp_path / "names.txt", "walk", "swim", "walk")
    with pytest.raises(ValueError, match=r"names\.txt, line 3: 'walk' comes a second time"):
        read_dataset(dataset, write(tmp_path / "l", "b.mp4 1"), root, names)


def test_every_data_set_is_among_those_tested():
    assert DATASETS == ("list", "kinetics400", "ssv2", "ucf101", "hmdb51")
