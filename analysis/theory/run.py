"""The run that puts every claim to random scans and to those of a checkpoint, and the result that it saves."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from analysis.capture import Capture, record
from analysis.engine import Progress
from analysis.files import ResultError
from analysis.inputs import Sample
from analysis.provenance import Clips, Provenance, origin_of, provenance
from analysis.request import Request, RequestError, name_of, open_request
from analysis.theory.captured import reading
from analysis.theory.case import SHORTEST, Case
from analysis.theory.claims import CLAIMS, Verdict, check
from analysis.theory.consequences import RECORD, TheoryCurve, class_row, class_rows, spectra
from vmp.layout import TokenLayout

STEPS, CHANNELS = 64, 8
"""How much of each captured scan is read: its first steps, and channels that are evenly spaced."""

LONGEST = 40
"""The length of the longest random scan, in tokens."""

STATES = 16
"""The states of the scan whose spectrum is shown where no checkpoint is given."""

FIELDS = (
    *("claim", "dropped", "layer", "direction", "form", "needed", "verdict", "deviation", "in_float32"),
    *("tolerance", "margin", "scans", "note"),
)
"""The columns of `theory.csv`, which has one finding a row."""


@dataclass(frozen=True, config=RECORD)
class Finding:
    """What was found for one claim on one kind of scan.

    Attributes:
        claim: The id of the claim.
        dropped: The assumption left out on purpose, or "" where all were met.
        layer, direction: Those of a checkpoint's scan; None and "" for random ones.
        form: What was put to the scan: "as stated", or the form whose assumptions the scan meets.
        deviation: The departure from the prediction in float64: the largest over the scans, or the smallest where an
            assumption was dropped. It is None where the claim does not apply.
        in_float32: The same for the same scans in float32, so that what is called rounding has both numbers.
        tolerance: The largest deviation that counts as rounding in float64.
        needed: "holds", or "fails" where an assumption was dropped.
        verdict: "holds", "fails", "unclear" (between the tolerance and what no rounding explains), or "not
            applicable".
        scans: The number of scans.
        note: Why the claim does not apply.
    """

    claim: str
    dropped: str
    layer: int | None
    direction: str
    form: str
    deviation: float | None
    in_float32: float | None
    tolerance: float
    needed: str
    verdict: str
    scans: int
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.verdict in (self.needed, "not applicable")

    @property
    def margin(self) -> float | None:
        """How far the finding is from what is not allowed, as a factor: above 1 it is as needed."""
        if self.deviation is None:
            return None
        if self.needed == "fails":
            return self.deviation / self.tolerance
        return self.tolerance / self.deviation if self.deviation else float("inf")


@dataclass(frozen=True, config=RECORD)
class TheoryResult:
    """Every claim, on random scans and on a checkpoint's.

    Attributes:
        provenance: Versions, command, seed, and where the checkpoint's scans come from; no models without a checkpoint.
        cases: How many random scans there were for each claim and assumption.
        steps, channels: How much of each of the checkpoint's scans was read.
        findings: The findings claim by claim, random scans first.
        curves: What the figures show; `analysis.theory.consequences` says what each quantity is.
    """

    provenance: Provenance
    cases: int
    steps: int
    channels: int
    findings: tuple[Finding, ...]
    curves: tuple[TheoryCurve, ...]

    @property
    def passed(self) -> bool:
        """Whether every claim held where it should and failed where it should."""
        return all(finding.passed for finding in self.findings)

    @property
    def states(self) -> Any:
        """N of the scans whose spectrum is shown."""
        return next((model.config["d_state"] for model in self.provenance.models.values()), STATES)

    def heading(self) -> Iterator[str]:
        """Yield the lines that say what was checked."""
        yield (
            f"Random scans: {self.cases} a claim and assumption, seed {self.provenance.seed}. Deviations are "
            "relative, in float64 and beside it in float32; a claim holds at 1e-10 or less in float64."
        )
        for model in self.provenance.models.values():
            shown, length = self.provenance.clips, model.layout.length
            yield f"{model.path}: {model.recognised}"
            yield (
                f"{len(shown.names)} x {shown.source}, seed {self.provenance.seed}, {length} tokens each; float64 on "
                f"{model.device}; of each scan its first {min(self.steps, length)} steps, {self.channels} channels"
            )

    def curve(self, quantity: str, name: str, layer: int | None = None) -> TheoryCurve:
        """Return the curve of a residual or direction, of the first layer that has one where `layer` is None.

        Raises:
            KeyError: There is no such curve.
        """
        for c in self.curves:
            if (c.quantity, c.direction) == (quantity, name) and layer in (None, c.layer):
                return c
        raise KeyError(f"no {quantity} of {name}")

    def to_json(self) -> str:
        return TypeAdapter(TheoryResult).dump_json(self, indent=1).decode() + "\n"

    def save(self, folder: Path) -> None:
        """Write `result.json`, which `load` reads, and `theory.csv`, which holds the findings."""
        (folder / "result.json").write_text(self.to_json(), encoding="utf-8")
        with (folder / "theory.csv").open("w", newline="", encoding="utf-8") as file:
            rows = ([getattr(finding, column) for column in FIELDS] for finding in self.findings)
            csv.writer(file).writerows([FIELDS, *rows])

    @staticmethod
    def load(path: Path) -> "TheoryResult":
        """Read a `result.json`.

        Raises:
            ResultError: The file is missing or holds something else.
        """
        try:
            return TypeAdapter(TheoryResult).validate_json(path.read_bytes())
        except OSError as error:
            raise ResultError(f"{path}: cannot be read as a result of the claims: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the text"
            raise ResultError(
                f"{path}: cannot be read as a result of the claims, or is of another version: {where}: {first['msg']}"
            ) from error


def run(
    request: Request | None,
    command: str,
    *,
    seed: int,
    cases: int,
    steps: int = STEPS,
    channels: int = CHANNELS,
    step: Progress = lambda done, total: None,
) -> TheoryResult:
    """Check the whole table.

    Args:
        request: The checkpoint and what it is shown, or None for random scans alone.
        command: The command line, for the record.
        seed, cases: The seed of the random scans, and how many to draw for each claim and assumption.
        steps, channels: How much of each captured scan to read.
        step: A function that is told of the progress.

    Raises:
        RequestError: The checkpoint's scans cannot be checked.
    """
    findings = tuple(_on_random(seed, cases))
    if request is None:
        case = Case.random(seed, batch=1, channels=32, states=STATES, length=steps)
        curves = tuple(spectra(case, 0))
        origin = provenance(command, seed, 0, {}, Clips("random scans", (), ()), {})
    else:
        scans, origin = _on_checkpoint(request, command, steps, channels, step)
        findings = (*findings, *scans.findings())
        curves = tuple(scans.curves(request))
    return TheoryResult(origin, cases, steps, channels, findings, curves)


def random_cases(seed: int, count: int) -> Iterator[Case]:
    """Yield scans of all sizes and options, each from its own seed."""
    draw = np.random.default_rng(seed)
    for index in range(count):
        yield Case.random(
            seed + index,
            batch=int(draw.integers(1, 3)),
            channels=int(draw.integers(1, 5)),
            states=int(draw.integers(2, 7)),
            length=int(draw.integers(SHORTEST, LONGEST + 1)),
            residual=str(draw.choice(["none", "initial", "elemental"])),
            mask_diagonal=bool(draw.integers(2)),
            reverse=bool(draw.integers(2)),
            start=bool(draw.integers(2)),
        )


def _on_random(seed: int, count: int) -> Iterator[Finding]:
    """Check each claim with its assumptions met, and then with each of them dropped."""
    met = list(random_cases(seed, count))
    plain = [Case.random(seed + index, reverse=bool(index % 2)) for index in range(count)]
    for claim in CLAIMS.values():
        for dropped in (None, *claim.assumptions):
            cases, worst = (met, max) if dropped is None else (plain, min)
            pair = (
                worst(check(claim, case.to(dtype), dropped).deviation for case in cases)
                for dtype in (torch.float64, torch.float32)
            )
            yield _finding(claim.id, tuple(pair), count, dropped=dropped or "")


def _finding(
    claim: str,
    pair: Sequence[float],
    scans: int,
    *,
    dropped: str = "",
    layer: int | None = None,
    direction: str = "",
    form: str = "as stated",
    note: str = "",
) -> Finding:
    """Judge a pair of deviations, in float64 and in float32, or an empty one where the claim does not apply."""
    double, single = pair or (None, None)
    tolerance, verdict = CLAIMS[claim].tolerance, "not applicable"
    if double is not None:
        found = Verdict(claim, dropped, double, tolerance)
        verdict = "holds" if found.holds else "fails" if found.broken else "unclear"
    needed = "fails" if dropped else "holds"
    return Finding(
        claim, dropped, layer, direction, form, double, single, tolerance, needed, verdict, scans, note
    )


class _Scans:
    """What the scans of a checkpoint gave so far."""

    def __init__(self, steps: int, channels: int):
        self._size = steps, channels
        self._found: defaultdict[tuple[str, int, str, str, str], list[tuple[float, ...]]] = defaultdict(list)
        self._rows: defaultdict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
        self._latest: Capture | None = None
        self.layout: TokenLayout | None = None

    def take(self, capture: Capture) -> None:
        """Put every claim to one scan."""
        case, where = Case.captured(capture, *self._size), (capture.layer, capture.direction)
        for name in ("delta", "A", "B", "C", "D", "u"):
            if not torch.isfinite(getattr(case, name)).all():
                at = f"layer {capture.layer} {capture.direction}"
                raise RequestError(f"{at}: {name} is not finite, so no claim can be checked")
        if case.length < SHORTEST:
            raise RequestError(f"{case.length} tokens; at least {SHORTEST} are needed to check relations on")
        for claim in CLAIMS:
            read = reading(claim, case, capture.layout)
            if isinstance(read, str):
                self._found[claim, *where, "", read].append(())
            else:
                pair = read.deviation(case), read.deviation(case.to(torch.float32))
                self._found[claim, *where, read.form, ""].append(pair)
        if capture.layout.class_positions:
            self._rows[where].append(class_row(capture))
        if capture.direction == "forward":
            self._latest = capture
        self.layout = capture.layout

    def findings(self) -> Iterator[Finding]:
        """Yield the findings by claim, those that apply first, and then as the layers ran."""
        for wanted in CLAIMS:
            for applies in (True, False):
                for (claim, layer, direction, form, note), pairs in self._found.items():
                    if (claim, bool(form)) == (wanted, applies):
                        worst = [max(column) for column in zip(*pairs, strict=True)]
                        where = {"layer": layer, "direction": direction, "form": form, "note": note}
                        yield _finding(claim, worst, len(pairs), **where)  # type: ignore[arg-type]

    def curves(self, request: Request) -> Iterator[TheoryCurve]:
        """Yield the spectra of the latest forward scan, and what the class token took in all of them."""
        assert self._latest is not None  # Every model has a forward direction, and there is a sample.
        last = Case.captured(self._latest, self._size[0], self._latest.terms.u.shape[1])
        yield from spectra(last, self._latest.layer)
        yield from class_rows(self._rows, request.bootstrap, request.seed)


def _on_checkpoint(
    request: Request, command: str, steps: int, channels: int, step: Progress
) -> tuple[_Scans, Provenance]:
    """Put each claim to every layer and direction of a checkpoint, whose model runs in float64."""
    opened = open_request(request)
    layers, config = opened.layers, opened.config
    if config.mixer == "attention":
        raise RequestError(f"{request.checkpoint}: its mixers are self-attention; the claims are about scans")
    entry, model = opened.entry(name_of(request.checkpoint)), opened.model.double()
    scans = _Scans(steps, channels)
    shown: list[Sample] = []
    total = entry.count * len(layers) * (2 if config.directions == "both" else 1)

    def take(capture: object) -> None:
        if not isinstance(capture, Capture):
            raise RequestError(f"{request.checkpoint}: a mixer that is no scan; the claims are about scans")
        scans.take(capture)
        step(f"layer {capture.layer} {capture.direction}", total)

    with torch.no_grad(), record(model, layers=layers, sink=take):
        for sample in opened.samples():
            shown.append(sample)
            tokens = sample.tokens[None].to(request.device)
            model(tokens.double() if tokens.is_floating_point() else tokens)
    assert scans.layout is not None  # There is a sample.
    clips = Clips(opened.source, tuple(s.name for s in shown), tuple(s.label for s in shown))
    origin = origin_of(model, entry.origin, scans.layout, shown[0].tokens.shape, "float64", "spec")
    made = provenance(command, request.seed, request.bootstrap, {}, clips, {entry.name: origin})
    return scans, made
