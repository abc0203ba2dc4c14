"""Interventions: a model run with one direction's matrix edited, so that what a probe finds can be tested.

with analysis.patched(model, 3, "backward", "no_decay"):
    logits = model(clip)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from analysis.capture import AttentionCapture, Captured, CaptureError, Family, captures_of, family_of
from analysis.capture.recorder import layer_indices

Edit = Callable[[Captured], Captured | Tensor]
"""From what a direction computes with to what it shall compute with, or to its output before the last projection,
(B, D, L) with the gate applied, (B, H d, L) for self-attention."""


def zeroed(capture: Captured) -> Tensor:
    """The direction gives nothing: its matrix H, skip and gate included, is zero."""
    return torch.zeros_like(capture.output())


def no_scan(capture: Captured) -> Tensor:
    """alpha is zero, and convolution, skip D and gate stay: the direction gives silu(z) D u.

    Raises:
        CaptureError: for self-attention, which has no scan.
    """
    terms = _scan_terms(capture, "no_scan")
    skip = torch.zeros_like(terms.u) if terms.D is None else terms.D[:, None] * terms.u
    return terms.gate() * skip


def no_decay(capture: Captured) -> Captured:
    """Every exponent A (S_i - S_j) is 0, so that nothing fades: alpha_ij = sum_n C_i[n] delta_j B_j[n].

    A residual form then carries its token unchanged.

    Raises:
        CaptureError: for self-attention, which has no decay.
    """
    terms = _scan_terms(capture, "no_decay")
    return replace(capture, terms=replace(terms, A=torch.zeros_like(terms.A)))


def tile_from(source: Captured, rows: slice, columns: slice) -> Edit:
    """An edit that puts M[rows, columns] of another clip in the place of the direction's own, scope `ssm`.

    Args:
        source: the same direction of the same layer, captured on the other clip.
        rows, columns: positions in the sequence, with step 1.

    Returns:
        The edit. It raises ValueError where the two captures have other sizes.
    """

    def edit(capture: Captured) -> Tensor:
        if (source.layer, source.direction) != (capture.layer, capture.direction):
            raise ValueError(
                f"tile_from: the source is layer {source.layer} {source.direction}, and layer {capture.layer} "
                f"{capture.direction} is edited"
            )
        matrix, other = capture.operator(), source.operator()
        here, there = ((m.channels, m.length) for m in (matrix, other))
        if here != there:
            raise ValueError(
                f"tile_from: the source has (channels, tokens) {there} and this direction {here}"
            )
        change = other.tile(rows, columns) - matrix.tile(rows, columns)
        output = capture.output().clone()
        if isinstance(capture, AttentionCapture):
            added = change @ capture.v[:, :, columns]
            output[..., rows] += added.transpose(-1, -2).flatten(1, 2)
        else:
            terms = capture.terms
            added = torch.einsum("bdrc,bdc->bdr", change, terms.u[..., columns].to(change.dtype))
            output[..., rows] += (terms.gate()[..., rows] * added).to(output.dtype)
        return output

    return edit


EDITS: Mapping[str, Edit] = {"zeroed": zeroed, "no_scan": no_scan, "no_decay": no_decay}
"""Edits by name."""


@contextmanager
def patched(
    model: nn.Module,
    layer: int,
    direction: str,
    edit: Edit | str,
    *,
    family: Family | str | None = None,
) -> Iterator[nn.Module]:
    """Have the model run with one direction of one layer edited, within the block.

    The layer's own output is kept, and what the edit changes is added to it. So an edit that changes nothing leaves the
    model's output as it is, to the last bit.

    Args:
        model: of a known family, in evaluation mode. No gradient passes through what the edit adds.
        layer: from 0, negative from the end. direction: such as "forward", "backward" or "both".
        edit: "zeroed", "no_scan", "no_decay", or a function such as `tile_from(...)` gives.
        family: how the mixers are found, where the model's class is not known.

    Yields:
        The model.

    Raises:
        IndexError: a layer out of range.
        ValueError: an unknown edit, or a direction that is being edited already.
        CaptureError: from the model's run, where the layer has no such direction, the edit is not for it, or the
            layer's tokens are not in the order of the sequence (attention divided in time and space).
    """
    if isinstance(edit, str) and edit not in EDITS:
        raise ValueError(f"edit: {edit!r} is none of {', '.join(EDITS)}; or give a function")
    change = EDITS[edit] if isinstance(edit, str) else edit
    found = family_of(model, family)
    (index,) = layer_indices([layer], len(found.mixers(model)))
    sites = [site for site in found.sites(model, index) if site.direction in (None, direction)]
    if not sites:
        known = ", ".join(str(site.direction) for site in found.sites(model, index))
        raise CaptureError(f"layer {index}: no direction {direction!r}; there are {known}")
    site = sites[0]

    @torch.no_grad()
    def hook(_: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], out: Any) -> Any:
        hidden = site.hidden(arguments, keywords)
        captures = captures_of(model, index, hidden, site.direction, family=found)
        capture = next((c for c in captures if c.direction == direction), None)
        if capture is None:
            known = ", ".join(c.direction for c in captures)
            raise CaptureError(f"layer {index}: no direction {direction!r}; there are {known}")
        given = arguments[0] if arguments else next(iter(keywords.values()))
        whole = out[0] if isinstance(out, tuple) else out
        if given.shape != hidden.shape or whole.shape != hidden.shape or not torch.equal(given, hidden):
            raise CaptureError(
                f"layer {index}: tokens are not in the order of the sequence, as in divided attention; patched serves "
                "scans and self-attention over whole sequences"
            )
        edited = whole + _added(capture, change(capture)).to(whole.dtype)
        return (edited, *out[1:]) if isinstance(out, tuple) else edited

    if any(
        getattr(other, "edits", None) == (index, direction) for other in site.module._forward_hooks.values()
    ):
        raise ValueError(f"layer {index} {direction} is being edited already; one edit may do both changes")
    hook.edits = (index, direction)  # type: ignore[attr-defined]
    handle = site.module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield model
    finally:
        handle.remove()


def _added(capture: Captured, edited: Captured | Tensor) -> Float[Tensor, "B L M"]:
    """What the edit changes in the mixer's output, after the last projection."""
    before = capture.output()
    after = edited if isinstance(edited, Tensor) else edited.output()
    if after.shape != before.shape:
        raise ValueError(
            f"edit: gives shape {tuple(after.shape)}; the direction's output has {tuple(before.shape)}"
        )
    return F.linear((after - before).transpose(1, 2), capture.out_weight.to(before.dtype))


def _scan_terms(capture: Captured, edit: str) -> Any:
    if isinstance(capture, AttentionCapture):
        raise CaptureError(f"layer {capture.layer}: {edit} is for scans, and this layer is self-attention")
    return capture.terms
