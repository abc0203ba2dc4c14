"""Scopes: which matrix a figure or a number is about, and the one rule that turns it into weights.

`ssm`           alpha, what the scan applies to its input; units: scan output per unit of scan input
`mixer`         H = diag(silu z) (alpha + D I) diag(sigmoid v) K, with v = K x + b; units: mixer output before its
                last projection, per unit of x
`contribution`  the vector H_ij x_j over channels; units: mixer output before its last projection

K is the causal depthwise convolution as a band matrix. `silu v = sigmoid(v) v` makes the factor `sigmoid v` exact for
the given clip, as in Zimerman, Ali and Wolf (arXiv 2405.16504). The norms of `contribution` are those that Kobayashi et
al. (arXiv 2004.10102) use for self-attention.

Self-attention has the counterparts that `analysis.matrix.softmax` defines: the softmax matrix of each head for `ssm`,
the same with values and output projection for `mixer`, and the vectors P^h_ij v^h_j over heads for `contribution`.

Weights are W_ij = mean over channels of abs(M_ij) for `ssm` and `mixer`, and the Euclidean norm over channels for
`contribution`. P is W with each row divided by its sum; a row whose sum is 0 has no P.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, final, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.capture import AttentionCapture, Capture
from analysis.matrix.base import SCRATCH, AttentionMatrix, Entries, Factors, Rectangle
from analysis.matrix.implicit import TERMS
from analysis.matrix.softmax import AttentionContribution, ProjectedAttention

Scope = Literal["ssm", "mixer", "contribution"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


def scoped(capture: Capture | AttentionCapture, scope: str, *, project: bool = False) -> AttentionMatrix:
    """The matrix of one captured direction, or self-attention, in one scope.

    Args:
        capture: One direction of a scan, or one self-attention.
        scope: One of `SCOPES`.
        project: Whether `contribution` is taken after the output projection, in the units of the residual stream. It
            costs D M operations a pair, or H M for self-attention, so it is for small models.

    Raises:
        ValueError: The scope is unknown, or `project` is asked for in another one than `contribution`.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope: {scope!r} is none of {', '.join(SCOPES)}")
    if project and scope != "contribution":
        raise ValueError(f"project=True measures contributions after the projection; scope is {scope!r}")
    if scope == "ssm":
        return capture.operator()
    if isinstance(capture, AttentionCapture):
        if scope == "contribution" and not project:
            return AttentionContribution(capture.operator(), capture.v)
        return ProjectedAttention(capture.operator(), capture.v, capture.out_weight, norms=project)
    if scope == "mixer":
        return MixerMatrix(capture)
    contribution = Contribution(capture)
    return ProjectedContribution(contribution, capture.out_weight) if project else contribution


def normalise(
    weight: Float[Tensor, "*batch r L"],
) -> tuple[Float[Tensor, "*batch r L"], Bool[Tensor, "*batch r"]]:
    """P, float64, and which rows have one: W divided by its row sums; the rows of sum 0 stay 0 and are marked.

    A row whose sum is NaN has no P either.
    """
    weight = weight.double()
    total = weight.sum(-1)
    valid = total > 0
    return weight / torch.where(valid, total, 1.0)[..., None], valid


class _GatedMatrix(AttentionMatrix):
    """H of one direction: the scan's matrix between the gate and the convolution.

    In the order of the scan's steps the convolution's taps reach back, `ahead = -1`, where it runs with the scan, or
    forward, `ahead = 1`, where one forward convolution serves a backward scan (VMP's shared projections).
    """

    def __init__(self, capture: Capture):
        terms = capture.terms
        self._terms, self._scan = terms, capture.operator()
        scan = self._scan
        self.batch, self.channels, self.length = scan.batch, scan.channels, scan.length
        self.reverse, self.dtype, self.device = scan.reverse, scan.dtype, scan.device
        self._ahead = -1 if terms.conv_reversed == terms.reverse else 1
        self._gate = self._ordered(terms.gate())
        self._skip = torch.zeros_like(self._gate[0, :, 0]) if terms.D is None else terms.D.to(self.dtype)
        taps = terms.conv_taps()
        self._taps = torch.ones_like(self._skip)[:, None] if taps is None else taps.to(self.dtype)
        self._slope = self._ordered(terms.conv_slope())

    @property
    def _back(self) -> int:
        """How many columns of the scan a column gathers beside its own."""
        return self._taps.shape[1] - 1

    def bias_term(self) -> Float[Tensor, "B D L"]:
        """What the convolution's bias adds to the mixer's output: diag(silu z) (alpha + D I) diag(sigmoid v) b."""
        bias = self._terms.conv_bias
        if self._terms.scan_input == "projected" or bias is None:
            return torch.zeros_like(self._gate)
        source = self._terms.conv_slope() * bias.to(self.dtype)[:, None]
        return self._terms.gate() * self._scan.apply(source)

    def apply(self, u: Float[Tensor, "B D L"]) -> Float[Tensor, "B D L"]:
        """sum_j M_ij u_j in O(L D N): the convolution, one scan and the gate."""
        u = self._ordered(u.to(self.dtype))
        scale = self._scale(slice(0, self.length))
        return self._through(self._gathered(u if scale is None else u * scale, -self._ahead) * self._slope)

    def column(self, j: int) -> Float[Tensor, "B D L"]:
        """M[:, j], what token j gives to every output, by one scan of what its taps put into it."""
        unit = torch.zeros_like(self._gate)
        unit[..., self._position(j, "column")] = 1
        return self.apply(unit)

    def row(self, i: int) -> Float[Tensor, "B D L"]:
        """M[i, :], what output i reads of every token, by one adjoint scan of which each column gathers its taps."""
        position = self._position(i, "row")
        row = self._ordered(self._scan.row(i))
        at = self.length - 1 - position if self.reverse else position
        row[..., at] += self._skip
        row = self._gathered(row * self._slope, self._ahead) * self._gate[..., at, None]
        scale = self._scale(slice(0, self.length))
        return self._ordered(row if scale is None else row * scale)

    def allowed(self) -> tuple[Int[Tensor, " L"], Int[Tensor, " L"]]:
        """As the scan's, and further by the taps that look ahead; the skip term gives the diagonal back."""
        position = torch.arange(self.length)
        first, last = self._scan.allowed()
        if self._terms.D is not None:
            empty = first > last
            first = torch.where(empty, position, torch.minimum(first, position))
            last = torch.where(empty, position, torch.maximum(last, position))
        seen = first <= last
        if self._terms.conv_reversed:
            last = torch.where(seen, (last + self._back).clamp(max=self.length - 1), last)
        else:
            first = torch.where(seen, (first - self._back).clamp(min=0), first)
        return first, last

    def factors(self) -> Factors:
        ones = torch.ones_like(self._gate)
        return replace(
            self._scan.factors(),
            gate=self._gate,
            skip=self._skip,
            slope=self._slope,
            taps=self._taps,
            ahead=self._ahead,
            scale=ones,
        )

    def border(self, m: int) -> tuple[Float[Tensor, "B D r q"], Float[Tensor, "B D q m"]]:
        """Sources before m reach the rows through the N states; those after it, each through a column of its own.

        The latter are those that the taps of a column before m reach ahead to.
        """
        L, scan = self.length, self._scan
        near = range(m, min(m + self._back, L) if self._ahead == -1 else m)
        read, write = scan.border(m)
        direct = torch.zeros((*self.shape[:2], L - m, len(near)), dtype=torch.float64, device=self.device)
        for piece in scan.pieces(Rectangle(m, L, m, near.stop)):
            direct[..., piece.top - m : piece.bottom - m, piece.left - m : piece.right - m] = scan.fill(
                piece, slice(None)
            ).double()
        direct.diagonal(dim1=-2, dim2=-1).add_(self._skip.double()[:, None])
        left = self._gate.double()[..., m:, None] * torch.cat([read, direct], -1)
        states = write.shape[-2]
        sources = write.new_zeros((*self.shape[:2], states + len(near), near.stop))
        sources[..., :states, :m] = write
        for place, source in enumerate(near):
            sources[..., states + place, source] = 1
        sources *= self._slope.double()[:, :, None, : near.stop]
        right = sources.new_zeros((*self.shape[:2], states + len(near), m))
        for tap in range(self._taps.shape[1]):
            at = torch.arange(m, device=self.device) - self._ahead * tap
            inside = (at >= 0) & (at < near.stop)
            right[..., inside] += sources[..., at[inside]] * self._taps.double()[:, tap, None, None]
        scale = self._scale(slice(0, m))
        return left, right if scale is None else right * scale.double()[:, :, None]

    def entries(self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]) -> Entries:
        return self.entries_by_scope(rows, columns)[self.scope]

    def entries_by_scope(self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]) -> dict[str, Entries]:
        """Entries of this matrix and of the narrower scopes that are met on the way to it, by scope, (B, D, P).

        H_ij = gate_i sum over taps and their sources s of (alpha_is + D [s = i]) slope_s tap, and its vector H_ij x_j.
        """
        rows, columns = self._steps(rows, columns)
        step = max(1, TERMS // (2 * self.batch * self._taps.numel()))  # In float64.
        parts = [
            self._entries_of_steps(*at) for at in zip(rows.split(step), columns.split(step), strict=True)
        ]
        return {
            scope: Entries(
                torch.cat([part[scope].sign for part in parts], -1),
                torch.cat([part[scope].log for part in parts], -1),
            )
            for scope in parts[0]
        }

    def _entries_of_steps(self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]) -> dict[str, Entries]:
        taps = self._taps.double()
        reached = columns - self._ahead * torch.arange(taps.shape[1], device=self.device)[:, None]
        source = reached.clamp(0, self.length - 1).minimum(rows)
        of_scan = self._scan.sum_and_exponent(rows.expand_as(source).flatten(), source.flatten())
        alpha, top = (x.unflatten(-1, source.shape) for x in of_scan)  # (B, D, W, P)
        # At the row's own step the exponent is 0 and the skip joins.
        through = alpha + self._skip.double()[:, None, None] * (source == rows)
        inside = (reached >= 0) & (reached <= rows)
        through = through * self._slope[..., source].double() * taps[..., None] * inside
        highest = top.amax(2)
        total = (through * (top - highest[:, :, None]).exp()).sum(2)
        total = total * self._gate[..., rows].double()
        H, ssm = Entries(total.sign(), total.abs().log() + highest), alpha[:, :, 0] * (columns <= rows)
        found = {"ssm": Entries(ssm.sign(), ssm.abs().log() + top[:, :, 0]), "mixer": H}
        scale = self._scale(slice(0, self.length))
        if scale is not None:
            x = scale[..., columns].double()
            found["contribution"] = Entries(H.sign * x.sign(), H.log + x.abs().log())
        return found

    def _through(self, u: Float[Tensor, "B D L"]) -> Float[Tensor, "B D L"]:
        """The scan with its skip and the gate, from the order of the steps to that of the sequence."""
        scanned = self._scan.apply(self._ordered(u))
        return scanned * self._ordered(self._gate)

    def _gathered(self, x: Float[Tensor, "B D L"], ahead: int) -> Float[Tensor, "B D L"]:
        """sum over taps of taps[tap] x_{j - ahead tap}, in the order of the steps."""
        out = torch.zeros_like(x)
        for tap in range(min(self._taps.shape[1], self.length)):
            inner, outer = slice(tap, self.length), slice(0, self.length - tap)
            here, source = (inner, outer) if ahead == 1 else (outer, inner)
            out[..., here].addcmul_(x[..., source], self._taps[:, tap, None])
        return out

    def _scale(self, columns: slice) -> Float[Tensor, "B D c"] | None:
        """A factor for each column, or None for 1."""
        return None

    def pieces(self, within: Rectangle) -> Iterator[Rectangle]:
        top, bottom, left, right = within
        right = min(right, bottom + (self._back if self._ahead == 1 else 0))
        if top >= bottom or left >= right:
            return
        # A column joins the thin factors where all its taps come before the rows.
        far = min(right, max(left, top - (self._back if self._ahead == -1 else 0)))
        if left < far:
            yield Rectangle(top, bottom, left, far)
        if far < right:
            yield Rectangle(top, bottom, far, right)

    def fill(self, piece: Rectangle, channels: slice) -> Float[Tensor, "B d r c"]:
        source = self._sources(piece)
        columns = slice(piece.left, piece.right)
        gate = self._gate[:, channels, piece.top : piece.bottom, None]
        scale = self._scale(columns)
        if source.right <= source.top:
            read, write = self._scan.thin(source, channels)
            write = self._convolve(write, source, piece, channels)
            if scale is not None:
                write = write * scale[:, channels, None]
            return (gate * read) @ write
        near = self._scan_with_skip(source, channels)
        near = self._convolve(near, source, piece, channels).mul_(gate)
        return near if scale is None else near.mul_(scale[:, channels, None])

    def _sources(self, piece: Rectangle) -> Rectangle:
        """The scan's columns whose taps end in the columns of `piece`."""
        back = self._back
        if self._ahead == -1:
            return piece._replace(right=min(piece.right + back, self.length))
        return piece._replace(left=max(piece.left - back, 0))

    def _scan_with_skip(self, source: Rectangle, channels: slice) -> Float[Tensor, "B d r m"]:
        d = range(self.channels)[channels]
        out = torch.zeros(
            (self.batch, len(d), source.bottom - source.top, source.right - source.left),
            dtype=self.dtype,
            device=self.device,
        )
        for piece in self._scan.pieces(source):
            out[
                ...,
                piece.top - source.top : piece.bottom - source.top,
                piece.left - source.left : piece.right - source.left,
            ] = self._scan.fill(piece, channels)
        # Row source.top meets its own column at this offset from the block's left edge.
        diagonal = out.diagonal(source.top - source.left, dim1=-2, dim2=-1)
        diagonal += self._skip[channels, None]
        return out

    def _convolve(
        self, block: Float[Tensor, "B d *rows m"], source: Rectangle, piece: Rectangle, channels: slice
    ) -> Float[Tensor, "B d *rows c"]:
        """Columns times diag(sigmoid v) K: column j gathers the scan's columns j, j +- 1, ... with their taps."""
        block = block * self._slope[:, channels, None, source.left : source.right]
        width = piece.right - piece.left
        out = torch.zeros((*block.shape[:-1], width), dtype=block.dtype, device=block.device)
        for tap in range(self._taps.shape[1]):
            # The column of `source` that tap `tap` of column `piece.left` comes from.
            start = piece.left - source.left - self._ahead * tap
            here = slice(max(0, -start), min(width, block.shape[-1] - start))
            if here.start < here.stop:
                out[..., here].addcmul_(
                    block[..., here.start + start : here.stop + start], self._taps[channels, None, tap, None]
                )
        return out


@final
class MixerMatrix(_GatedMatrix):
    """H of one captured direction, gate, skip and convolution included (scope `mixer`).

    `apply(x)` + `bias_term()` is that direction's share of the mixer's output before its last projection.
    """

    scope = "mixer"


@final
class Contribution(_GatedMatrix):
    """The vectors H_ij x_j of one captured direction over channels; the weight of a pair is its norm (`contribution`).

    `apply` takes a weight for each token and channel. With weights of 1 it gives the mixer's output before its last
    projection, less `bias_term()`.
    """

    scope = "contribution"

    def __init__(self, capture: Capture):
        super().__init__(capture)
        self._x = self._ordered(capture.terms.x)

    def weigh_entries(self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]) -> Float[Tensor, "B P"]:
        return self.entries(rows, columns).norm()

    def finish(self, total: Float[Tensor, "B r c"]) -> Float[Tensor, "B r c"]:
        return total.sqrt()

    def factors(self) -> Factors:
        return replace(super().factors(), scale=self._x, squares=True)

    def _scale(self, columns: slice) -> Float[Tensor, "B D c"]:
        return self._x[..., columns]

    def _magnitude(self, entries: Float[Tensor, "B d r c"]) -> Float[Tensor, "B r c"]:
        return entries.square_().sum(1)


@final
class ProjectedContribution(AttentionMatrix):
    """The vectors of a contribution after the projection that ends the mixer; channels are its M outputs."""

    scope = "contribution"

    def __init__(self, contribution: Contribution, out_weight: Float[Tensor, "M D"]):
        self._inner, self._weight = contribution, out_weight.to(contribution.dtype)
        self.batch, self.channels, self.length = contribution.batch, len(out_weight), contribution.length
        self.reverse = contribution.reverse
        self.dtype, self.device = contribution.dtype, contribution.device

    def row(self, i: int) -> Float[Tensor, "B M L"]:
        return self._weight @ self._inner.row(i)

    def column(self, j: int) -> Float[Tensor, "B M L"]:
        return self._weight @ self._inner.column(j)

    def entries(self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]) -> Entries:
        found = self._inner.entries(rows, columns)
        top = found.log.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).min)
        total = self._weight.double() @ (found.sign * (found.log - top).exp())
        return Entries(total.sign(), total.abs().log() + top)

    def weigh_entries(self, rows: Int[Tensor, " P"], columns: Int[Tensor, " P"]) -> Float[Tensor, "B P"]:
        return self.entries(rows, columns).norm()

    def allowed(self) -> tuple[Int[Tensor, " L"], Int[Tensor, " L"]]:
        return self._inner.allowed()

    def finish(self, total: Float[Tensor, "B r c"]) -> Float[Tensor, "B r c"]:
        return total.sqrt()

    def pieces(self, within: Rectangle) -> Iterator[Rectangle]:
        # The projection mixes channels, so all of them are filled at once: fewer rows keep the scratch in bounds.
        width = max(1, within.right - within.left)
        step = max(1, SCRATCH * 8 // (self.batch * self._inner.channels * width))
        for top in range(within.top, within.bottom, step):
            yield from self._inner.pieces(within._replace(top=top, bottom=min(top + step, within.bottom)))

    def fill(self, piece: Rectangle, channels: slice) -> Float[Tensor, "B d r c"]:
        vectors = self._inner.fill(piece, slice(0, self._inner.channels))
        return torch.einsum("md,bdrc->bmrc", self._weight[channels], vectors)

    def _magnitude(self, entries: Float[Tensor, "B d r c"]) -> Float[Tensor, "B r c"]:
        return entries.square_().sum(1)

    def _scratch_channels(self, piece: Rectangle) -> int:
        return self.channels
