"""One decay probe from a request to a result: load, show, reduce, measure, write."""

import hashlib
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch

from analysis.decay.figures import write_figures
from analysis.decay.heatmaps import Heatmap, save_heatmaps
from analysis.decay.measure import measure
from analysis.decay.probe import Probed, probe
from analysis.decay.result import DecayResult
from analysis.decay.unfinished import Unfinished
from analysis.inputs import DEFAULT_SOURCE, VIDEO_SOURCE, DistinctFrames, Sample, clips, random_tokens
from analysis.results import (
    CheckpointInfo,
    InputInfo,
    Layout,
    Provenance,
    check_replaceable,
    replacing,
    save,
    write_csv,
)
from analysis.weights import Scope
from vmp.checkpoint import Loaded, read_checkpoint
from vmp.config import ModelConfig

SCOPES: tuple[Scope, ...] = get_args(Scope)
DEFAULT_CLIPS = 8
DEFAULT_LENGTH = 512
MOST_DRAWN = 6
"""Layers drawn as heatmaps where more were chosen: the first, the last and some evenly between."""

CLIP_SHAPE = {"num_frames": "--frames", "image_size": "--size"}
"""Overrides that say what a clip is, and their flags."""

WRITTEN = frozenset({"result.json", "decay.csv", "lag_profiles.csv", "heatmaps.npz", "figures"})
"""What `write` puts into its folder."""


class RequestError(ValueError):
    """A request that cannot be met; the message is one line for the user."""


@dataclass(frozen=True)
class Request:
    """What to probe and with what.

    Attributes:
        video: files, or folders of frames, a clip each; or data: a clip source. Neither means
            `DEFAULT_SOURCE`.
        clips: how many; None for one a video file, else `DEFAULT_CLIPS`.
        layers: such as "all", "0,3,-1" or "0-5".
        scopes: such as ("ssm",), or ("all",).
        seed: of the clips and the bootstrap.
        bootstrap: resamples.
        length: tokens a sequence, for language models.
        overrides: arguments of `vmp.load_checkpoint`, such as variant or num_frames; None for those not
            given.
    """

    checkpoint: Path
    video: tuple[Path, ...] = ()
    data: str | None = None
    clips: int | None = None
    layers: str = "all"
    scopes: tuple[str, ...] = ("ssm",)
    device: str = "cpu"
    seed: int = 0
    bootstrap: int = 1000
    length: int | None = None
    overrides: tuple[tuple[str, Any], ...] = ()


Step = Callable[[str, int], None]
"""Called as work goes on, with what is being done and how many steps there are in all."""


def run(
    request: Request, command: str, step: Step | None = None, keep: Unfinished | None = None
) -> tuple[DecayResult, tuple[Heatmap, ...]]:
    """Probe one checkpoint.

    Args:
        command: the command line, for the result's provenance.
        step: called after each layer, direction, scope and clip.
        keep: where the sums of finished clips wait, so that the same request goes on after a kill. The caller
            discards them.

    Raises:
        RequestError: a request or a checkpoint that will not do. InputError: a clip that cannot be read. Both
            with a message for the user.
    """
    scopes = parse_scopes(request.scopes)
    device = parse_device(request.device)
    loaded = _load(request)
    config = loaded.config
    if config.mixer == "attention":
        raise RequestError(f"{request.checkpoint}: its mixers are self-attention, which has no scan to probe")
    layers = parse_layers(request.layers, config.depth)
    # Half precision is a way to store weights; a probe computes in float32 at least.
    dtype = torch.promote_types(next(loaded.model.parameters()).dtype, torch.float32)
    draw = layers_to_draw(layers)
    source, count, samples = _samples(request, config)
    shown = DistinctFrames(samples)
    if keep is not None:
        keep.begin(_clips_depend_on(request, loaded))
    total = count * len(layers) * (2 if config.directions == "both" else 1) * len(scopes)
    probed = probe(
        loaded.model.to(device, dtype),
        shown,
        layers=layers,
        scopes=scopes,
        draw=draw,
        progress=None if step is None else lambda done: step(done, total),
        unfinished=keep,
    )
    layout = Layout(
        length=probed.layout.length,
        class_positions=tuple(probed.layout.class_positions),
        frames=probed.layout.frames,
        patches=probed.layout.patches,
    )
    measurements, curves = measure(probed.sums, layout, request.bootstrap, request.seed)
    result = DecayResult(
        provenance=_provenance(request, command, loaded, probed, source),
        layout=layout,
        layers=tuple(layers),
        scopes=scopes,
        resamples=request.bootstrap,
        notes=(*_notes(layout, layers, draw, len(probed.names), config), *shown.notes()),
        measurements=measurements,
        curves=curves,
        sums=probed.sums,
    )
    return result, probed.heatmaps


def _load(request: Request) -> Loaded:
    given = {name: value for name, value in request.overrides if value is not None}
    try:
        return read_checkpoint(request.checkpoint, **given)
    except ValueError as error:
        others = {name: value for name, value in given.items() if name not in CLIP_SHAPE}
        if others != given and _is_language(request.checkpoint, others):
            raise _no_clips(request) from error
        raise RequestError(str(error)) from error


def _is_language(checkpoint: Path, overrides: dict[str, Any]) -> bool:
    try:
        return read_checkpoint(checkpoint, **overrides).config.kind == "language"
    except ValueError:
        return False


def _no_clips(request: Request) -> RequestError:
    given = {name for name, value in request.overrides if value is not None}
    flags = {
        "--video": bool(request.video),
        "--data": request.data is not None,
        **{flag: name in given for name, flag in CLIP_SHAPE.items()},
    }
    drop = " and ".join(flag for flag, used in flags.items() if used)
    return RequestError(f"{request.checkpoint}: is a language model, which takes no clips; drop {drop}")


def _clips_depend_on(request: Request, loaded: Loaded) -> dict[str, Any]:
    """All that changes a clip's sums."""
    asked = {name: value for name, value in vars(request).items() if name not in ("checkpoint", "bootstrap")}
    files = [path.stat() for path in request.video if path.exists()]
    return {
        "toolkit": version("vmp-toolkit"),
        "torch": torch.__version__,
        "weights": loaded.weights_sha256,
        "config": loaded.config.to_dict(),
        "files": [(file.st_size, file.st_mtime_ns) for file in files],
        **asked,
    }


def write(
    result: DecayResult,
    heatmaps: Sequence[Heatmap],
    directory: Path,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Write JSON, CSV, heatmaps and figures to a folder, which appears whole or not at all.

    Raises ResultError where the folder cannot be written or holds files of others.
    """
    with replacing(directory, WRITTEN) as new:
        save(result, new / "result.json")
        scalars = [c for c in result.curves if c.quantity != "lag_profile"]
        write_csv(new / "decay.csv", result.measurements, scalars)
        profiles = [c for c in result.curves if c.quantity == "lag_profile"]
        write_csv(new / "lag_profiles.csv", (), profiles)
        save_heatmaps(heatmaps, new / "heatmaps.npz")
        write_figures(result, heatmaps, new / "figures", progress)


def check_output(directory: Path) -> None:
    """Raise ResultError now where `write` would later."""
    check_replaceable(directory, WRITTEN)


def parse_scopes(names: Sequence[str]) -> tuple[Scope, ...]:
    """Scopes in their own order, each once. Raises RequestError for an unknown one."""
    for name in names:
        if name not in (*SCOPES, "all"):
            raise RequestError(f"--scope {name!r}: there are {', '.join(SCOPES)} and all")
    return tuple(scope for scope in SCOPES if scope in names or "all" in names)


def parse_device(name: str) -> torch.device:
    """A device that can be used here. Raises RequestError otherwise."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        raise RequestError(f"--device {name!r} cannot be used: {reason}") from error
    return device


def parse_layers(text: str, depth: int) -> list[int]:
    """Layers from "all", or numbers and ranges such as "0,3,-1" and "0-5", as sorted indices from 0.

    Raises RequestError, naming the part that is wrong, for one out of range or not understood.
    """
    if text.strip() == "all":
        return list(range(depth))
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d+)(?:-(\d+))?\s*", part)
        if match is None or (match[2] is not None and match[1].startswith("-")):
            raise RequestError(f"--layers {text!r}: {part!r} is no layer; write such as 0,3,-1 or 0-5 or all")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        for layer in (first, last):
            if not -depth <= layer < depth:
                raise RequestError(f"--layers {text!r}: {layer} is out of range; there are 0 to {depth - 1}")
        if last < first:
            raise RequestError(f"--layers {text!r}: the range {part.strip()} ends before it begins")
        chosen.update(layer % depth for layer in range(first, last + 1))
    return sorted(chosen)


def layers_to_draw(layers: Sequence[int]) -> list[int]:
    """All layers where they are few, else `MOST_DRAWN` from the first to the last."""
    if len(layers) <= MOST_DRAWN:
        return list(layers)
    last = len(layers) - 1
    return [layers[round(i * last / (MOST_DRAWN - 1))] for i in range(MOST_DRAWN)]


def _samples(request: Request, config: ModelConfig) -> tuple[str, int, Iterator[Sample]]:
    """The name of the source, how many samples, and the samples."""
    if request.video and request.data is not None:
        raise RequestError("--video and --data were both given; one of them says what the model is shown")
    if config.kind == "language":
        shaped = any(name in CLIP_SHAPE and value is not None for name, value in request.overrides)
        if request.video or request.data is not None or shaped:
            raise _no_clips(request)
        count = request.clips or DEFAULT_CLIPS
        tokens = random_tokens(
            vocabulary=config.vocab_size,
            length=request.length or DEFAULT_LENGTH,
            count=count,
            seed=request.seed,
        )
        return "random tokens", count, tokens
    if request.length is not None:
        raise RequestError(
            f"--length {request.length}: only language models take it; see --frames and --size"
        )
    if config.channels != 3:
        raise RequestError(f"{request.checkpoint}: takes {config.channels} channels; clips have 3")
    count = request.clips or (len(request.video) or DEFAULT_CLIPS)
    if request.video and count > len(request.video):
        raise RequestError(f"--clips {count}: each video is one clip, and {len(request.video)} were given")
    source = VIDEO_SOURCE if request.video else request.data or DEFAULT_SOURCE
    samples = clips(
        source,
        num_frames=config.num_frames,
        image_size=config.image_size,
        count=count,
        seed=request.seed,
        paths=request.video[:count],
    )
    return source, count, samples


def _provenance(request: Request, command: str, loaded: Loaded, probed: Probed, source: str) -> Provenance:
    config = loaded.config
    language = config.kind == "language"
    with request.checkpoint.open("rb") as file:
        file_hash = hashlib.file_digest(file, "sha256").hexdigest()
    return Provenance(
        toolkit=version("vmp-toolkit"),
        torch=torch.__version__,
        python=platform.python_version(),
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        checkpoint=CheckpointInfo(
            path=str(request.checkpoint),
            file_sha256=file_hash,
            weights_sha256=loaded.weights_sha256,
            recognised=loaded.recognised,
            config=config.to_dict(),
        ),
        input=InputInfo(
            source=source,
            names=probed.names,
            labels=probed.labels,
            seed=request.seed,
            count=len(probed.names),
            frames=None if language else config.num_frames,
            size=None if language else config.image_size,
            length=probed.layout.length,
        ),
        backend=probed.backend,
        dtype=probed.dtype,
        device=request.device,
    )


def _notes(
    layout: Layout, layers: Sequence[int], draw: Sequence[int], count: int, config: ModelConfig
) -> tuple[str, ...]:
    notes = []
    if layout.frames == 0:
        notes.append(
            "The model was shown token ids drawn uniformly at random, which are no text. A plain sequence has "
            "no frames and no class token, so quantities of those are gaps."
        )
    elif layout.frames == 1:
        notes.append("The model sees one frame: frame lags, frame matrix and class row by frame are gaps.")
    if layout.frames and config.tubelet_size > 1:
        notes.append(
            f"Frames are counted as the model sees them: a token spans {config.tubelet_size} frames of the clip."
        )
    if layout.frames and not layout.class_positions:
        notes.append("The model has no class token: its row is a gap.")
    if len(layout.class_positions) > 1:
        notes.append("The class row is the mean over the class tokens.")
    if count == 1:
        notes.append("One clip was shown: there are no intervals over clips.")
    if config.residual == "elemental":
        notes.append(
            "The residual \"elemental\" is this toolkit's reading of the paper's text, not a released form."
        )
    if len(draw) < len(layers):
        notes.append(f"Heatmaps were drawn for layers {', '.join(map(str, draw))}; --layers chooses others.")
    return tuple(notes)
