"""Every claim put to random scans, both ways, and to the scans that a checkpoint runs."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from analysis._theory.captured import nonfinite, reading
from analysis._theory.case import SHORTEST, Case
from analysis._theory.consequences import ClassRows, spectra
from analysis._theory.result import Finding, TheoryResult
from analysis.capture import Capture, record
from analysis.inputs import Sample
from analysis.request import Request, RequestError, provenance
from analysis.results import Curve, Provenance
from analysis.subject import subject_of
from analysis.theory import BROKEN, CLAIMS, check
from vmp.layout import TokenLayout

STEPS, CHANNELS = 64, 8
"""How much of each captured scan is read: its first steps, and channels evenly spaced."""

LONGEST = 40
"""Tokens of the longest random scan."""


def random_cases(seed: int, count: int) -> Iterator[Case]:
    """Scans of all sizes and options, each from its own seed."""
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


def on_random(seed: int, count: int) -> Iterator[Finding]:
    """Each claim with its assumptions met, and with each of them dropped."""
    for claim in CLAIMS.values():
        cases = list(random_cases(seed, count))
        deviation = max(check(claim, case).deviation for case in cases)
        single = max(check(claim, case.to(torch.float32)).deviation for case in cases)
        yield _finding(claim.id, deviation, single, count)
        for dropped in claim.assumptions:
            pairs = [Case.random(seed + index, reverse=bool(index % 2)) for index in range(count)]
            least = min(check(claim, case, dropped).deviation for case in pairs)
            least_single = min(check(claim, case.to(torch.float32), dropped).deviation for case in pairs)
            yield replace(_finding(claim.id, least, least_single, count, "fails"), dropped=dropped)


def _finding(claim: str, deviation: float, in_float32: float, scans: int, needed: str = "holds") -> Finding:
    tolerance = CLAIMS[claim].tolerance
    verdict = "holds" if deviation <= tolerance else "fails" if deviation > BROKEN * tolerance else "unclear"
    return Finding(
        claim=claim, dropped="", layer=None, direction="", form="as stated", deviation=deviation,
        in_float32=in_float32, tolerance=tolerance, needed=needed, verdict=verdict, scans=scans,
    )  # fmt: skip


@dataclass
class _Scans:
    """What a checkpoint's scans gave so far, by claim, layer, direction and form."""

    steps: int
    channels: int
    found: defaultdict[tuple[str, int, str, str], list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    reasons: dict[tuple[str, int, str], tuple[str, int]] = field(default_factory=dict)
    rows: ClassRows = field(default_factory=ClassRows)
    latest: Capture | None = None
    layout: TokenLayout | None = None

    def take(self, capture: Capture) -> None:
        case = Case.captured(capture, self.steps, self.channels)
        self.layout = capture.layout
        where = (capture.layer, capture.direction)
        broken = nonfinite(case)
        if broken is not None:
            raise RequestError(
                f"layer {where[0]} {where[1]}: {broken} is not finite, so no claim can be checked"
            )
        if case.length < SHORTEST:
            raise RequestError(f"{case.length} tokens; at least {SHORTEST} are needed to check relations on")
        for claim in CLAIMS:
            read_as = reading(claim, case, capture.layout)
            if isinstance(read_as, str):
                _, before = self.reasons.get((claim, *where), ("", 0))
                self.reasons[claim, *where] = (read_as, before + 1)
                continue
            pair = read_as.deviation(case), read_as.deviation(case.to(torch.float32))
            self.found[claim, *where, read_as.form].append(pair)
        self.rows.take(capture)
        if capture.direction == "forward":
            self.latest = capture

    def findings(self) -> Iterator[Finding]:
        """By claim, then as the layers ran."""
        for claim in CLAIMS:
            for (name, layer, direction, form), pairs in self.found.items():
                if name == claim:
                    double, single = (max(column) for column in zip(*pairs, strict=True))
                    finding = _finding(claim, double, single, len(pairs))
                    yield replace(finding, layer=layer, direction=direction, form=form)
            for (name, layer, direction), (why, scans) in self.reasons.items():
                if name == claim:
                    yield Finding(
                        claim=claim, dropped="", layer=layer, direction=direction, form="", deviation=None,
                        in_float32=None, tolerance=CLAIMS[claim].tolerance, needed="holds",
                        verdict="not applicable", scans=scans, note=why,
                    )  # fmt: skip


def on_checkpoint(
    request: Request, command: str, steps: int, channels: int, step: Callable[[str, int], None]
) -> tuple[tuple[Finding, ...], tuple[Curve, ...], Provenance]:
    """Each claim on every layer and direction, the model run in float64.

    Raises RequestError for what cannot be checked.
    """
    subject = subject_of(request)
    layers, config = subject.layers, subject.config
    if config.mixer == "attention":
        raise RequestError(f"{request.checkpoint}: its mixers are self-attention; the claims are about scans")
    source, count, samples = subject.samples()
    model = subject.model.double()
    scans = _Scans(steps, channels)
    shown: list[Sample] = []
    total = count * len(layers) * (2 if config.directions == "both" else 1)

    def take(capture: object) -> None:
        if not isinstance(capture, Capture):
            raise RequestError(f"{request.checkpoint}: a mixer that is no scan; the claims are about scans")
        scans.take(capture)
        step(f"layer {capture.layer} {capture.direction}", total)

    with torch.no_grad(), record(model, layers=layers, sink=take):
        for sample in samples:
            shown.append(sample)
            tokens = sample.tokens[None].to(request.device)
            model(tokens.double() if tokens.is_floating_point() else tokens)
    assert scans.latest is not None  # Every model has a forward direction, and there is a sample.
    assert scans.layout is not None
    origin = provenance(
        request, command, subject.loaded, source,
        names=[sample.name for sample in shown], labels=[sample.label for sample in shown],
        length=scans.layout.length, dtype="float64", backend="spec",
    )  # fmt: skip
    last = Case.captured(scans.latest, steps, scans.latest.terms.u.shape[1])
    curves = (*spectra(last, scans.latest.layer), *scans.rows.curves(request.bootstrap, request.seed))
    return tuple(scans.findings()), curves, origin


def run(
    request: Request | None,
    command: str,
    *,
    seed: int,
    cases: int,
    steps: int = STEPS,
    channels: int = CHANNELS,
    step: Callable[[str, int], None] = lambda done, total: None,
) -> TheoryResult:
    """Check the whole table; ``request`` names the checkpoint, or is None for random scans alone."""
    findings = tuple(on_random(seed, cases))
    if request is None:
        curves = tuple(spectra(Case.random(seed, batch=1, channels=32, states=16, length=steps), 0))
        origin = None
    else:
        more, curves, origin = on_checkpoint(request, command, steps, channels, step)
        findings = (*findings, *more)
    return TheoryResult(
        toolkit=version("vmp-toolkit"),
        torch=torch.__version__,
        python=platform.python_version(),
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=seed,
        cases=cases,
        provenance=origin,
        steps=steps,
        channels=channels,
        findings=findings,
        curves=curves,
    )


def default_clips(request: Request, clips: int) -> Request:
    """The request with ``clips`` clips where it leaves their number open."""
    return replace(request, clips=request.clips or len(request.video) or clips)


NO_CHECKPOINT = Request(checkpoint=Path())
"""What a command line without a checkpoint asks for, apart from its seed."""
