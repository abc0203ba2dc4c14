"""The saved result of a check of the claims."""

from pydantic.dataclasses import dataclass

from analysis.results import RECORD, Curve, Provenance


@dataclass(frozen=True, config=RECORD)
class Finding:
    """One claim on one kind of scan.

    Attributes:
        dropped: the assumption left out on purpose, or "" where all were met.
        layer, direction: of a checkpoint's scan; None and "" for random ones.
        form: what was put to the scan: "as stated", or the form whose assumptions the scan meets.
        deviation: from the prediction, in float64: the largest over the scans, or with an assumption dropped the
            smallest. None where the claim does not apply.
        in_float32: the same scans in float32, so that what is called rounding has both numbers. None likewise.
        tolerance: the most that counts as rounding in float64.
        needed: "holds", or "fails" with an assumption dropped.
        verdict: "holds", "fails", "unclear" (between the tolerance and what no rounding explains), or "not
            applicable".
        scans: how many scans.
        note: why the claim does not apply.
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
        """Above 1 the finding is as needed: tolerance / deviation, or its inverse with an assumption dropped."""
        if self.deviation is None:
            return None
        if self.needed == "fails":
            return self.deviation / self.tolerance
        return self.tolerance / self.deviation if self.deviation else float("inf")


@dataclass(frozen=True, config=RECORD)
class TheoryResult:
    """Every claim, on random scans and on a checkpoint's.

    Attributes:
        toolkit, torch, python: versions. command, date: as in `Provenance`.
        seed, cases: of the random scans.
        provenance: of the checkpoint's scans; None where no checkpoint was given.
        steps, channels: how much of each of the checkpoint's scans was read.
        findings: claim by claim, random scans first.
        curves: what the two figures show: ``spectrum``, singular values of alpha[m+1:, :m] over the largest, and
            ``residual_profile``, the lag profile, by residual in the direction's place; ``class_row``, what the class
            token takes from itself and from others, in percent of both directions.
    """

    toolkit: str
    torch: str
    python: str
    command: str
    date: str
    seed: int
    cases: int
    provenance: Provenance | None
    steps: int
    channels: int
    findings: tuple[Finding, ...]
    curves: tuple[Curve, ...]

    @property
    def passed(self) -> bool:
        """Whether every claim held where it should and failed where it should."""
        return all(finding.passed for finding in self.findings)

    def curve(self, quantity: str, name: str, layer: int | None = None) -> Curve:
        """The curve of a residual or direction. Raises KeyError where there is none."""
        for c in self.curves:
            if (c.quantity, c.direction) == (quantity, name) and layer in (None, c.layer):
                return c
        raise KeyError(f"no {quantity} of {name}")
