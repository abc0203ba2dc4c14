"""Lists of labelled videos: plain ones, and those of Kinetics-400, Something-Something V2, UCF101 and HMDB51.

A listed file that is missing or damaged is noticed only when it is read. A list of which nothing is there is refused at
once.
"""

import csv
import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import final

from experiments.data.list_files import (
    PathLike,
    file_beside,
    find_videos,
    read_json,
    read_lines,
    read_names,
    read_text,
)

_MOST_CLASSES = 100_000  # that labels may stand for by their numbers alone
_PROBED = 100  # names of a list that are looked for, of which one has to be there


@final
@dataclasses.dataclass(frozen=True)
class ListedVideo:
    """A labelled video: a file, or a folder of images whose first `total_frames` are the video."""

    path: pathlib.Path
    label: int
    total_frames: int | None = None


@final
@dataclasses.dataclass(frozen=True)
class VideoList:
    """The videos of one list.

    Attributes:
        samples: the videos, in the list's order.
        classes: what labels 0, 1, ... mean.
        mirrored: whether a mirrored clip keeps its class; not so in Something-Something, which tells left from right.
    """

    samples: tuple[ListedVideo, ...]
    classes: tuple[str, ...]
    mirrored: bool = True


def read_dataset(
    dataset: str, listing: PathLike, root: PathLike = "", labels: PathLike | None = None
) -> VideoList:
    """The list of one split of a data set.

    | dataset     | listing                                             | labels                                      |
    |-------------|-----------------------------------------------------|---------------------------------------------|
    | list        | as `read_list`                                      | names, one a line; the numbers if None      |
    | kinetics400 | as `read_list`, or the official CSV of names and    | names, one a line; if None, the names of    |
    |             | YouTube ids: files ID_START_END.mp4 (six digits) or | the CSV in alphabetical order, which have   |
    |             | ID.mp4 in root or up to two folders below           | to be 400                                   |
    | ssv2        | official JSON of ids and templates: files ID.webm,  | official JSON of templates; if None,        |
    |             | ID.mp4 or folders ID of images in root;             | labels.json or something-something-v2-labels|
    |             | or as `read_list`                                   | .json beside the list; names, one a line, or|
    |             |                                                     | None for the numbers                        |
    | ucf101      | official trainlist01.txt, testlist01.txt, ...       | classInd.txt; if None, the one beside it    |
    | hmdb51      | official folder of NAME_test_split1.txt, or a       | none: names of the files, in alphabetical   |
    |             | pattern in it such as FOLDER/*_test_split2.txt,     | order                                       |
    |             | after `train:` or `test:`                           |                                             |

    Args:
        dataset: one of DATASETS.
        listing: the file above.
        root: what paths are relative to; the working directory by default.
        labels: the file above.

    Raises:
        ValueError: if the list cannot be read, is of another form, is empty, or names no file that exists, or if there
            is no such data set; the message names the list and the line.
    """
    if dataset not in _READERS:
        raise ValueError(f"data set {dataset!r}: it must be one of {', '.join(DATASETS)}")
    found = _READERS[dataset](listing, pathlib.Path(root), labels)
    if not any(sample.path.exists() for sample in found.samples[:_PROBED]):
        raise ValueError(
            f"{listing}: nothing it names is there, such as {found.samples[0].path}; is root right?"
        )
    return found


def read_list(path: PathLike, root: PathLike = "") -> list[ListedVideo]:
    """The samples of a list file, with lines `path label` or `frame_folder total_frames label`.

    Fields are separated by spaces, tabs or commas, and a path may contain spaces. Blank lines are skipped. A line is of
    the second form if its path is a folder under `root`, so `clip 12 3` may be either.

    Raises:
        ValueError: if the list cannot be read, has a line of neither form, or has no lines; the message names them.
    """
    return [_parse_line(line, pathlib.Path(root), where) for where, line in read_lines(path)]


_LINE = re.compile(r"(?P<path>\S.*?)(?:[\s,]+(?P<total>\d+))?[\s,]+(?P<label>\d+)")


def _parse_line(line: str, root: pathlib.Path, where: str) -> ListedVideo:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(
            f"{where}: {line!r} is neither `path label` nor `frame_folder total_frames label`, "
            "where labels are 0, 1, ..."
        )
    label, folder = int(match["label"]), root / match["path"]
    if match["total"] is not None and folder.is_dir():
        return ListedVideo(folder, label, int(match["total"]))
    return ListedVideo(root / line[: match.start("label")].rstrip(" \t,"), label)


def _plain(
    listing: PathLike, root: pathlib.Path, labels: PathLike | None, count: int | None = None
) -> VideoList:
    samples = read_list(listing, root)
    if labels is not None:
        classes = read_names(labels)
    else:
        highest = max(sample.label for sample in samples)
        classes = tuple(map(str, range(count or min(highest, _MOST_CLASSES - 1) + 1)))
    return VideoList(_within(samples, len(classes), listing), classes)


KINETICS_CLASSES = 400
_KINETICS_COLUMNS = {"label", "youtube_id", "time_start", "time_end"}


def _kinetics(listing: PathLike, root: pathlib.Path, labels: PathLike | None) -> VideoList:
    where, first = next(read_lines(listing))
    names = None if labels is None else read_names(labels)
    columns = [column.strip() for column in first.split(",")]
    if "youtube_id" not in columns:
        return _plain(listing, root, labels, KINETICS_CLASSES)
    if not set(columns) >= _KINETICS_COLUMNS:
        missing = ", ".join(sorted(_KINETICS_COLUMNS - set(columns)))
        raise ValueError(f"{where}: the list has no column {missing}; it needs labels and times")
    rows = [
        (where, dict(zip(columns, next(csv.reader([line])), strict=False)))
        for where, line in list(read_lines(listing))[1:]
    ]
    for where, row in rows:
        if not (
            row.keys() >= _KINETICS_COLUMNS and row["time_start"].isdigit() and row["time_end"].isdigit()
        ):
            raise ValueError(f"{where}: not a line of {', '.join(columns)}, with times in whole seconds")
    if not rows:
        raise ValueError(f"{listing}: the list is empty")
    classes = names or tuple(sorted({row["label"] for _, row in rows}))
    if names is None and len(classes) != KINETICS_CLASSES:
        raise ValueError(
            f"{listing}: it names {len(classes)} classes and not {KINETICS_CLASSES}, so their numbers cannot be told; "
            "give a file of labels, one name a line"
        )
    timed = [
        f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}" for _, row in rows
    ]
    untimed = [row["youtube_id"] for _, row in rows]
    files = find_videos(root, {*timed, *untimed}, depth=2)
    numbers = _numbers(classes)
    samples = [
        ListedVideo(
            files.get(name) or files.get(short) or root / f"{name}.mp4",
            _number(row["label"], numbers, where),
        )
        for (where, row), name, short in zip(rows, timed, untimed, strict=True)
    ]
    return VideoList(tuple(samples), classes)


SOMETHING_CLASSES = 174


def _something(listing: PathLike, root: pathlib.Path, labels: PathLike | None) -> VideoList:
    if not read_text(listing).lstrip().startswith(("[", "{")):
        return dataclasses.replace(_plain(listing, root, labels, SOMETHING_CLASSES), mirrored=False)
    if labels is None:
        labels = file_beside(listing, "labels.json", "something-something-v2-labels.json")
    given = read_json(labels, dict)
    try:
        classes = tuple(sorted(given, key=lambda name: int(given[name])))
        if [int(given[name]) for name in classes] != list(range(len(classes))):
            raise ValueError
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'{labels}: it must hold {{"template": "number", ...}} with numbers 0, 1, ...'
        ) from error
    entries = read_json(listing, list)
    for position, entry in enumerate(entries, 1):
        if not (isinstance(entry, dict) and "id" in entry and isinstance(entry.get("template"), str)):
            raise ValueError(
                f"{listing}, entry {position}: it must have an id and a template, as train and validation"
            )
    files = find_videos(root, {str(entry["id"]) for entry in entries}, depth=0)
    numbers = _numbers(classes)
    samples = [
        ListedVideo(
            files.get(str(entry["id"])) or root / f"{entry['id']}.webm",
            _number(re.sub(r"[\[\]]", "", entry["template"]), numbers, f"{listing}, entry {position}"),
        )
        for position, entry in enumerate(entries, 1)
    ]
    return VideoList(tuple(samples), classes, mirrored=False)


def _ucf(listing: PathLike, root: pathlib.Path, labels: PathLike | None) -> VideoList:
    index = file_beside(listing, "classInd.txt") if labels is None else labels
    classes: list[str] = []
    for where, line in read_lines(index):
        number, _, name = line.partition(" ")
        if number != str(len(classes) + 1) or not name:
            raise ValueError(f"{where}: {line!r} is not `{len(classes) + 1} ClassName`")
        classes.append(name.strip())
    numbers = _numbers(classes)
    samples = []
    for where, line in read_lines(listing):
        file, _, number = line.partition(" ")
        label = _number(pathlib.PurePosixPath(file).parent.name, numbers, where)
        if number and number.strip() != str(label + 1):
            raise ValueError(
                f"{where}: class {number.strip()}, but {index} numbers {classes[label]} as {label + 1}"
            )
        samples.append(ListedVideo(root / file, label))
    return VideoList(tuple(samples), tuple(classes))


def _hmdb(listing: PathLike, root: pathlib.Path, labels: PathLike | None) -> VideoList:
    part, colon, place = str(listing).partition(":")
    if not colon or part not in ("train", "test"):
        raise ValueError(
            f"{listing}: for hmdb51, the list is train:FOLDER or test:FOLDER, as each file holds both"
        )
    folder, pattern = pathlib.Path(place), "*_test_split1.txt"
    if not folder.is_dir():
        folder, pattern = folder.parent, folder.name
    files = sorted(folder.glob(pattern)) if folder.is_dir() else []
    suffix = re.compile(r"_test_split\d+\.txt")
    classes = tuple(suffix.sub("", file.name) for file in files)
    if not files or len(set(classes)) < len(files) or any(not suffix.search(file.name) for file in files):
        raise ValueError(
            f"{place}: it must be a folder of NAME_test_split1.txt, or a pattern of one split in it"
        )
    wanted = {"train": "1", "test": "2"}[part]
    samples = []
    for label, file in enumerate(files):
        for where, line in read_lines(file):
            name, _, use = line.rpartition(" ")
            if use not in ("0", "1", "2") or not name:
                raise ValueError(
                    f"{where}: {line!r} is not `file.avi use`, with use 0, 1 (train) or 2 (test)"
                )
            if use == wanted:
                samples.append(ListedVideo(root / classes[label] / name.strip(), label))
    if not samples:
        raise ValueError(f"{place}: no video in it is for {part}")
    return VideoList(tuple(samples), classes)


_READERS: dict[str, Callable[[PathLike, pathlib.Path, PathLike | None], VideoList]] = {
    "list": _plain,
    "kinetics400": _kinetics,
    "ssv2": _something,
    "ucf101": _ucf,
    "hmdb51": _hmdb,
}
DATASETS = tuple(_READERS)


def _numbers(classes: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(classes)}


def _number(name: str, numbers: Mapping[str, int], where: str) -> int:
    if name not in numbers:
        raise ValueError(f"{where}: {name!r} is none of the {len(numbers)} classes")
    return numbers[name]


def _within(samples: Sequence[ListedVideo], classes: int, listing: PathLike) -> tuple[ListedVideo, ...]:
    for sample in samples:
        if sample.label >= classes:
            raise ValueError(f"{listing}: {sample.path}: label {sample.label}: there are {classes} classes")
    return tuple(samples)
