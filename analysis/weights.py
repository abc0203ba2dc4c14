"""Scopes: which matrix a figure or a number is about, and the one rule that turns it into weights.

``ssm``           alpha, what the scan applies to its input; units: scan output per unit of scan input
``mixer``         H = diag(silu z) (alpha + D I) diag(sigmoid v) K, with v = K x + b; units: mixer output before its
                  last projection, per unit of x
``contribution``  the vector H_ij x_j over channels; units: mixer output before its last projection

K is the causal depthwise convolution as a band matrix. ``silu v = sigmoid(v) v`` makes the factor ``sigmoid v`` exact
for the given clip, as in Zimerman, Ali and Wolf (arXiv 2405.16504). The norms of ``contribution`` are those that
Kobayashi et al. (arXiv 2004.10102) use for self-attention.

Self-attention has the counterparts that `analysis.softmax` defines: the softmax matrix of each head for ``ssm``, the
same with values and output projection for ``mixer``, and the vectors P^h_ij v^h_j over heads for ``contribution``.

Weights are W_ij = mean over channels of abs(M_ij) for ``ssm`` and ``mixer``, and the Euclidean norm over channels
for ``contribution``. P is W with each row divided by its sum; a row whose sum is 0 has no P.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, final, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.capture import AttentionCapture, Capture
from analysis.implicit import SCRATCH, AttentionMatrix, Folds, ImplicitAttention, Rectangle
from analysis.softmax import AttentionContribution, ProjectedAttention

Scope = Literal["ssm", "mixer", "contribution"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


def scoped(capture: Capture | AttentionCapture, scope: str, *, project: bool = False) -> AttentionMatrix:
    """The matrix of one captured direction, or self-attention, in one scope.

    ``project`` measures ``contribution`` after the output projection, in the units of the residual stream; it costs
    D M operations a pair, or H M for self-attention, so it is for small models. Raises ValueError for an unknown
    scope, or for ``project`` in another one.
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
    return Contribution(capture, project=project)


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

    In the order of the scan's steps the convolution's taps reach back, ``ahead = -1``, where it runs with the scan,
    or forward, ``ahead = 1``, where one forward convolution serves a backward scan (VMP's shared projections).
    """

    def __init__(self, capture: Capture):
        self._capture = capture
        self._scan: ImplicitAttention = capture.operator()
        scan = self._scan
        self.batch, self.channels, self.length = scan.batch, scan.channels, scan.length
        self.reverse, self.dtype, self.device = scan.reverse, scan.dtype, scan.device
        self._ahead = -1 if capture.terms.conv_reversed == capture.terms.reverse else 1

        def ordered(x: Tensor) -> Tensor:
            return x.flip(-1) if self.reverse else x

        self._gate = ordered(capture.terms.gate())
        self._skip = (
            torch.zeros_like(self._gate[0, :, 0])
            if capture.terms.D is None
            else capture.terms.D.to(self.dtype)
        )
        taps = capture.terms.conv_taps()
        self._taps = torch.ones_like(self._skip)[:, None] if taps is None else taps.to(self.dtype)
        self._slope = ordered(capture.terms.conv_slope())

    @property
    def reach(self) -> int:
        return self._taps.shape[1] - 1 if self._ahead == 1 else 0

    def bias_term(self) -> Float[Tensor, "B D L"]:
        """What the convolution's bias adds to the mixer's output: diag(silu z) (alpha + D I) diag(sigmoid v) b."""
        capture = self._capture
        if capture.terms.scan_input == "projected" or capture.terms.conv_bias is None:
            return torch.zeros_like(self._gate)
        source = capture.terms.conv_slope() * capture.terms.conv_bias.to(self.dtype)[:, None]
        return capture.terms.gate() * self._scan.apply(source)

    def allowed(self) -> tuple[Int[Tensor, " L"], Int[Tensor, " L"]]:
        """As the scan's, and further by the taps that look ahead; the skip term gives the diagonal back."""
        position = torch.arange(self.length)
        first, last = self._scan.allowed()
        if self._capture.terms.D is not None:
            empty = first > last
            first = torch.where(empty, position, torch.minimum(first, position))
            last = torch.where(empty, position, torch.maximum(last, position))
        seen, back = first <= last, self._taps.shape[1] - 1
        if self._capture.terms.conv_reversed:
            last = torch.where(seen, (last + back).clamp(max=self.length - 1), last)
        else:
            first = torch.where(seen, (first - back).clamp(min=0), first)
        return first, last

    def folded(self) -> tuple[ImplicitAttention, Folds] | None:
        ones = torch.ones_like(self._gate)
        folds = Folds(self._gate, self._skip, self._slope, self._taps, self._ahead, ones, squares=False)
        return self._scan, folds

    def _scale(self, columns: slice) -> Float[Tensor, "B D c"] | None:
        """A factor for each column, or None for 1."""
        return None

    def _pieces(self, within: Rectangle) -> Iterator[Rectangle]:
        top, bottom, left, right = within
        right = min(right, bottom + self.reach)
        if top >= bottom or left >= right:
            return
        # A column joins the thin factors where all its taps come before the rows.
        far = min(right, max(left, top - (self._taps.shape[1] - 1 if self._ahead == -1 else 0)))
        if left < far:
            yield Rectangle(top, bottom, left, far)
        if far < right:
            yield Rectangle(top, bottom, far, right)

    def _fill(self, piece: Rectangle, channels: slice) -> Float[Tensor, "B d r c"]:
        source = self._sources(piece)
        columns = slice(piece.left, piece.right)
        gate = self._gate[:, channels, piece.top : piece.bottom, None]
        scale = self._scale(columns)
        if source.right <= source.top:
            read, write = self._scan.factors(source, channels)
            write = self._convolve(write, source, piece, channels)
            if scale is not None:
                write = write * scale[:, channels, None]
            return (gate * read) @ write
        near = self._scan_with_skip(source, channels)
        near = self._convolve(near, source, piece, channels).mul_(gate)
        return near if scale is None else near.mul_(scale[:, channels, None])

    def _sources(self, piece: Rectangle) -> Rectangle:
        """The scan's columns whose taps end in the columns of ``piece``."""
        back = self._taps.shape[1] - 1
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
        for piece in self._scan._pieces(source):
            out[
                ...,
                piece.top - source.top : piece.bottom - source.top,
                piece.left - source.left : piece.right - source.left,
            ] = self._scan._fill(piece, channels)
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
    """Scope ``mixer``: H of one captured direction, gate, skip and convolution included.

    H x + `bias_term` is that direction's share of the mixer's output before its last projection.
    """


@final
class Contribution(_GatedMatrix):
    """Scope ``contribution``: `tile` gives H_ij x_j, and the weight of a pair is its norm over channels.

    With ``project`` the norm is taken over the M outputs of the projection that ends the mixer.
    """

    def __init__(self, capture: Capture, *, project: bool = False):
        super().__init__(capture)
        self._x = capture.terms.x.flip(-1) if self.reverse else capture.terms.x
        self._projection = capture.out_weight.to(self.dtype) if project else None

    def _scale(self, columns: slice) -> Float[Tensor, "B D c"]:
        return self._x[..., columns]

    def _magnitude(self, entries: Float[Tensor, "B d r c"]) -> Float[Tensor, "B r c"]:
        if self._projection is None:
            return entries.square_().sum(1)
        return torch.einsum("md,bdrc->bmrc", self._projection, entries).square_().sum(1)

    def finish(self, total: Float[Tensor, "B r c"]) -> Float[Tensor, "B r c"]:
        return total.sqrt()

    def folded(self) -> tuple[ImplicitAttention, Folds] | None:
        folded = super().folded()
        if folded is None or self._projection is not None:
            return None
        scan, folds = folded
        return scan, replace(folds, scale=self._x, squares=True)

    def _pieces(self, within: Rectangle) -> Iterator[Rectangle]:
        if self._projection is None:
            yield from super()._pieces(within)
            return
        # The projection mixes channels, so all of them are filled at once: fewer rows keep the scratch in bounds.
        width = max(1, within.right - within.left)
        step = max(1, SCRATCH * 8 // (self.batch * self.channels * width))
        for top in range(within.top, within.bottom, step):
            yield from super()._pieces(within._replace(top=top, bottom=min(top + step, within.bottom)))

    def _scratch_channels(self, piece: Rectangle) -> int:
        return self.channels if self._projection is not None else super()._scratch_channels(piece)
