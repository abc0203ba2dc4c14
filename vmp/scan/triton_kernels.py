"""The kernels of `triton_gpu`, whose docstring says how they divide the work; the equations are in `numba_kernels`.

Shapes are tiles of N states (padded to a power of two), W channels and T = 4 steps. Steps are counted in the order in
which they are taken, from s = 0, and tokens as they lie in memory, from 0. With REVERSE, step s is thus token
length - 1 - s, and a tile of T ascending tokens is gone through from its end. A pointer may be None, which is
compiled in. What lies outside of the sequence is loaded as 0, with a step size of 0, so it leaves states and
adjoints as they are; rows of B and C are padded with zeros for that.
"""

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def _sigmoid(x):
    e = tl.exp2(-tl.abs(x) * LOG2_E)
    return tl.where(x >= 0, 1.0, e) / (1 + e)


@triton.jit
def _softplus(x):
    """Softplus as torch has it, linear above 20; log1p(e) = 2 artanh(e / (2 + e)) by series, as 1 + e would lose e."""
    TERMS: tl.constexpr = 17 if x.dtype == tl.float64 else 7
    e = tl.exp2(-tl.abs(x) * LOG2_E)
    s = e / (2 + e)
    square = s * s
    p = tl.zeros_like(x) + 1.0 / (2 * TERMS + 1)
    for k in tl.static_range(TERMS):
        p = p * square + 1.0 / (2 * (TERMS - 1 - k) + 1)
    return tl.where(x > 20, x, tl.maximum(x, 0.0) + 2 * s * p)


@triton.jit
def _place(channels, groups, W: tl.constexpr):
    """Return the channels of this program, all of one group, which of them exist, and the first."""
    width = channels // groups
    blocks = tl.cdiv(width, W)
    block = tl.program_id(0)
    first = block // blocks * width + block % blocks * W
    d = first + tl.arange(0, W)
    return d, d < (block // blocks + 1) * width, first


@triton.jit
def _states_at(ptr, d, STATES: tl.constexpr, N: tl.constexpr, stride=1):
    """Return where the states (D, N) of these channels are, [N, W]; `stride` is 1, known to the compiler or not."""
    return ptr + d[None, :] * STATES + tl.arange(0, N)[:, None] * stride


@triton.jit
def _states_mask(ok, STATES: tl.constexpr, N: tl.constexpr):
    return ok[None, :] & (tl.arange(0, N) < STATES)[:, None]


@triton.jit
def _rates(A_ptr, d, ok, one, STATES: tl.constexpr, N: tl.constexpr, VECTOR: tl.constexpr):
    """Return A log2(e), [N, W]."""
    at = _states_at(A_ptr, d, STATES, N, 1 if VECTOR else one)
    return tl.load(at, mask=_states_mask(ok, STATES, N), other=0.0) * LOG2_E


@triton.jit
def _mask(ok, token, length, T: tl.constexpr, REVERSE: tl.constexpr):
    """Return which elements of a tile exist; a tile reaches beyond the sequence only where the steps end."""
    tokens = token + tl.arange(0, T)
    return ok[:, None] & (tokens >= 0 if REVERSE else tokens < length)[None, :]


@triton.jit
def _is_first(token, length, T: tl.constexpr, REVERSE: tl.constexpr):
    """Return which column of a tile is the first step taken, [1, T]."""
    return (token + tl.arange(0, T) == (length - 1 if REVERSE else 0))[None, :]


@triton.jit
def _tile_at(ptr, d, token, stride_d, stride_l, T: tl.constexpr):
    return ptr + d[:, None] * stride_d + (token + tl.arange(0, T))[None, :] * stride_l


@triton.jit
def _tile(ptr, d, ok, token, length, stride_d, stride_l, T: tl.constexpr, REVERSE: tl.constexpr):
    """Load T tokens of these channels, [W, T], zero outside of the sequence."""
    mask = _mask(ok, token, length, T, REVERSE)
    return tl.load(_tile_at(ptr, d, token, stride_d, stride_l, T), mask=mask, other=0.0)


@triton.jit
def _settled(x):
    """Return `x`, by a sum over an axis of one element, which costs nothing.

    The compiler moves a change of layout up to the loads unless it meets such a sum. Without it, every lane that uses a
    step size would compute it from delta anew (Triton 3.6; 3.9 does not).
    """
    return tl.reshape(tl.cumsum(x[:, :, None], 2), x.shape)


@triton.jit
def _steps(raw, bias, mask, SOFTPLUS: tl.constexpr):
    """Return step sizes from delta as given; they are 0 outside of the sequence, which leaves a state as it is."""
    if bias is not None:
        raw += bias[:, None]
    if SOFTPLUS:
        raw = _softplus(raw)
    return _settled(tl.where(mask, raw, 0.0))


@triton.jit
def _columns(x):
    """Return the columns of a tile [W, 4], each [W]; where its layout allows, this only renames registers."""
    lower, upper = tl.split(tl.permute(tl.reshape(x, (x.shape[0], 2, 2)), (0, 2, 1)))
    x0, x1 = tl.split(lower)
    x2, x3 = tl.split(upper)
    return x0, x1, x2, x3


@triton.jit
def _joined(x):
    """Return the tile of four columns: the inverse of `_columns`."""
    joined = tl.permute(tl.join(tl.join(x[0], x[1]), tl.join(x[2], x[3])), (0, 2, 1))
    return tl.reshape(joined, (joined.shape[0], 4))


@triton.jit
def _rows(
    ptr, b, d, ok, first, batches, groups, channels, length,
    ROWS: tl.constexpr, STATES: tl.constexpr, N: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Return pointers [N] to this program's row of B or C at token 0; where constant in time, its values [N, W]."""
    width = channels // groups
    if ROWS:
        # T rows of zeros lie before the first and behind the last.
        ptr += ((b % batches) * groups + first // width) * (length + 2 * T) * STATES
        return ptr + T * STATES + tl.arange(0, N)
    else:
        ptr += (b % batches) * groups * STATES
        return tl.load(_states_at(ptr, d // width, STATES, N), mask=_states_mask(ok, STATES, N), other=0.0)


@triton.jit
def _row(rows, token, i: tl.constexpr, ROWS: tl.constexpr, STATES: tl.constexpr, N: tl.constexpr):
    """Load B or C at token + i, [N, 1] or [N, W]; i stands apart so that the loads of a group share an address."""
    if ROWS:
        at = rows + token * STATES + i * STATES
        if STATES == N:
            return tl.load(at)[:, None]
        else:
            return tl.load(at, mask=tl.arange(0, N) < STATES, other=0.0)[:, None]
    else:
        return rows


@triton.jit
def _initial(u_ptr, h0_ptr, b, d, ok, length, u_d, u_l, channels,
             STATES: tl.constexpr, N: tl.constexpr, REVERSE: tl.constexpr, dtype: tl.constexpr):  # fmt: skip
    """Return the state before the first step: h0, the first token's u (`u_ptr` is then not None), or zero."""
    h = tl.zeros((N, d.shape[0]), dtype)
    if h0_ptr is not None:
        at = _states_at(h0_ptr + b * channels * STATES, d, STATES, N)
        h += tl.load(at, mask=_states_mask(ok, STATES, N), other=0.0)
    if u_ptr is not None:
        token = length - 1 if REVERSE else 0
        h += tl.load(u_ptr + d * u_d + token * u_l, mask=ok, other=0.0).to(dtype)[None, :]
    return h


@triton.jit
def _next(h, Abar, u, driven, B, ELEMENTAL: tl.constexpr):
    """Return the state after a step; `driven` is delta u."""
    if ELEMENTAL:
        h += u[None, :]
    return Abar * h + driven[None, :] * B


@triton.jit(do_not_specialize=["one"])
def chunk_states(
    x_ptr, delta_ptr, z_ptr, A_ptr, R_ptr, bias_ptr, carried_ptr, sums_ptr,
    x_b, x_d, x_l, delta_b, delta_d, delta_l, z_b, z_d, z_l, R_batches, R_groups,
    channels, length, chunk, groups, one,
    ROWS: tl.constexpr, ADJOINT: tl.constexpr, STATES: tl.constexpr, N: tl.constexpr, W: tl.constexpr,
    T: tl.constexpr, SOFTPLUS: tl.constexpr, ELEMENTAL: tl.constexpr, REVERSE: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Store what a chunk that begins from a zero state hands to the next, and the sum of its step sizes.

    The adjoint, G_{t-1} = Abar_t (G_t + C_t dy_t), starts at the last step and leaves out the first chunk.
    """
    dtype: tl.constexpr = A_ptr.dtype.element_ty
    FLIP: tl.constexpr = REVERSE != ADJOINT
    d, ok, first = _place(channels, groups, W)
    c, chunks, b = tl.program_id(1), tl.num_programs(1) + 1, tl.program_id(2).to(tl.int64)
    source = c + 1 if ADJOINT else c
    target = c if ADJOINT else c + 1
    A = _rates(A_ptr, d, ok, one, STATES, N, VECTOR)
    rows = _rows(R_ptr, b, d, ok, first, R_batches, R_groups, channels, length, ROWS, STATES, N, T)
    bias = None if bias_ptr is None else tl.load(bias_ptr + d, mask=ok, other=0.0)
    x_ptr += b * x_b
    delta_ptr += b * delta_b
    if z_ptr is not None:
        z_ptr += b * z_b
    begin = source * chunk
    count = tl.cdiv(tl.minimum(chunk, length - begin), T)
    h = tl.zeros((N, W), dtype)
    total = tl.zeros((W,), dtype)
    for j in range(count):
        s = begin + (count - 1 - j if ADJOINT else j) * T
        token = length - T - s if REVERSE else s
        x = _tile(x_ptr, d, ok, token, length, x_d, x_l, T, REVERSE).to(dtype)
        delta = _tile(delta_ptr, d, ok, token, length, delta_d, delta_l, T, REVERSE).to(dtype)
        delta = _steps(delta, bias, _mask(ok, token, length, T, REVERSE), SOFTPLUS)
        if z_ptr is not None:
            z = _tile(z_ptr, d, ok, token, length, z_d, z_l, T, REVERSE).to(dtype)
            x = _settled(x * z * _sigmoid(z))
        total += tl.sum(delta, 1)
        deltas, xs = _columns(delta), _columns(x)
        driven = _columns(x * delta)
        for i in tl.static_range(T - 1 if FLIP else 0, -1 if FLIP else T, -1 if FLIP else 1):
            Abar = tl.exp2(deltas[i][None, :] * A)
            row = _row(rows, token, i, ROWS, STATES, N)
            if ADJOINT:
                h = Abar * (h + xs[i][None, :] * row)
            else:
                h = _next(h, Abar, xs[i], driven[i], row, ELEMENTAL)
    carried_ptr += (b * chunks + target) * channels * STATES
    tl.store(_states_at(carried_ptr, d, STATES, N), h, mask=_states_mask(ok, STATES, N))
    tl.store(sums_ptr + (b * chunks + source) * channels + d, total, mask=ok)


@triton.jit
def carry(
    A_ptr, u_ptr, first_ptr, carried_ptr, sums_ptr, u_b, u_d, u_l, channels, length, chunks,
    ADJOINT: tl.constexpr, STATES: tl.constexpr, N: tl.constexpr, W: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Replace what each chunk hands on by the state that enters the next, in place."""
    dtype: tl.constexpr = A_ptr.dtype.element_ty
    d = tl.program_id(0) * W + tl.arange(0, W)
    ok = d < channels
    b = tl.program_id(1).to(tl.int64)
    mask = _states_mask(ok, STATES, N)
    A = _rates(A_ptr, d, ok, 1, STATES, N, True)
    if u_ptr is not None:
        u_ptr += b * u_b
    h = _initial(u_ptr, first_ptr, b, d, ok, length, u_d, u_l, channels, STATES, N, REVERSE, dtype)
    carried_ptr += b * chunks * channels * STATES
    sums_ptr += b * chunks * channels
    c = chunks - 1 if ADJOINT else 0
    tl.store(_states_at(carried_ptr + c * channels * STATES, d, STATES, N), h, mask=mask)
    for j in range(1, chunks):
        left = chunks - j if ADJOINT else j - 1
        at = _states_at(carried_ptr + (left - 1 if ADJOINT else left + 1) * channels * STATES, d, STATES, N)
        total = tl.load(sums_ptr + left * channels + d, mask=ok, other=0.0)
        h = tl.exp2(A * total[None, :]) * h + tl.load(at, mask=mask, other=0.0)
        tl.store(at, h, mask=mask)


@triton.jit(do_not_specialize=["one"])
def forward(
    u_ptr, delta_ptr, z_ptr, A_ptr, B_ptr, C_ptr, D_ptr, bias_ptr, h0_ptr, carried_ptr, out_ptr, last_ptr, kept_ptr,
    u_b, u_d, u_l, delta_b, delta_d, delta_l, z_b, z_d, z_l, out_b, out_d, out_l,
    B_batches, B_groups, C_batches, C_groups, channels, length, chunk, groups, one,
    B_ROWS: tl.constexpr, C_ROWS: tl.constexpr, INITIAL: tl.constexpr, MASK: tl.constexpr, SILENT: tl.constexpr,
    STATES: tl.constexpr, N: tl.constexpr, W: tl.constexpr, T: tl.constexpr, K: tl.constexpr, SOFTPLUS: tl.constexpr,
    ELEMENTAL: tl.constexpr, REVERSE: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Store a chunk's outputs, from the state that enters it; every K-th state to keep; and the last state."""
    dtype: tl.constexpr = A_ptr.dtype.element_ty
    d, ok, first = _place(channels, groups, W)
    c, chunks, b = tl.program_id(1), tl.num_programs(1), tl.program_id(2).to(tl.int64)
    inside = _states_mask(ok, STATES, N)
    A = _rates(A_ptr, d, ok, one, STATES, N, VECTOR)
    B_rows = _rows(B_ptr, b, d, ok, first, B_batches, B_groups, channels, length, B_ROWS, STATES, N, T)
    C_rows = _rows(C_ptr, b, d, ok, first, C_batches, C_groups, channels, length, C_ROWS, STATES, N, T)
    bias = None if bias_ptr is None else tl.load(bias_ptr + d, mask=ok, other=0.0)
    u_ptr += b * u_b
    delta_ptr += b * delta_b
    out_ptr += b * out_b
    if z_ptr is not None:
        z_ptr += b * z_b
    if carried_ptr is not None:
        carried_ptr += (b * chunks + c) * channels * STATES
        h = tl.load(_states_at(carried_ptr, d, STATES, N, 1 if VECTOR else one), mask=inside, other=0.0)
    else:
        u_0 = u_ptr if INITIAL else None
        h = _initial(u_0, h0_ptr, b, d, ok, length, u_d, u_l, channels, STATES, N, REVERSE, dtype)
    begin = c * chunk
    end = tl.minimum(begin + chunk, length)
    token = length - T - begin if REVERSE else begin
    u_next = _tile(u_ptr, d, ok, token, length, u_d, u_l, T, REVERSE)
    delta_next = _tile(delta_ptr, d, ok, token, length, delta_d, delta_l, T, REVERSE)
    z_next = u_next if z_ptr is None else _tile(z_ptr, d, ok, token, length, z_d, z_l, T, REVERSE)
    for s in range(begin, end, T):
        token = length - T - s if REVERSE else s
        following = token - T if REVERSE else token + T
        u, delta, z = u_next.to(dtype), delta_next.to(dtype), z_next.to(dtype)
        u_next = _tile(u_ptr, d, ok, following, length, u_d, u_l, T, REVERSE)
        delta_next = _tile(delta_ptr, d, ok, following, length, delta_d, delta_l, T, REVERSE)
        z_next = u_next if z_ptr is None else _tile(z_ptr, d, ok, following, length, z_d, z_l, T, REVERSE)
        mask = _mask(ok, token, length, T, REVERSE)
        delta = _steps(delta, bias, mask, SOFTPLUS)
        if kept_ptr is not None:
            if s % K == 0:
                kept = kept_ptr + (b * tl.cdiv(length, K) + s // K) * channels * STATES
                tl.store(_states_at(kept, d, STATES, N), h, mask=inside)
        us, deltas = _columns(u), _columns(delta)
        ys = ()
        for i in tl.static_range(T - 1 if REVERSE else 0, -1 if REVERSE else T, -1 if REVERSE else 1):
            Abar = tl.exp2(deltas[i][None, :] * A)
            B = _row(B_rows, token, i, B_ROWS, STATES, N)
            C = _row(C_rows, token, i, C_ROWS, STATES, N)
            driven = us[i] * deltas[i]
            if MASK:
                decayed = Abar * h
                y = tl.sum(C * decayed, 0)
                # Left to itself the compiler fuses Abar * h into the sum, and multiplies it out a second time for y.
                h = tl.fma(driven[None, :], B, decayed)
                if ELEMENTAL:
                    h += Abar * us[i][None, :]
            else:
                h = _next(h, Abar, us[i], driven, B, ELEMENTAL)
                y = tl.sum(C * h, 0)
            ys = (y,) + ys if REVERSE else ys + (y,)
        y = _joined(ys)
        if SILENT:
            y = tl.where(_is_first(token, length, T, REVERSE), 0.0, y)
        if D_ptr is not None:
            y += tl.load(D_ptr + d, mask=ok, other=0.0)[:, None] * u
        if z_ptr is not None:
            y *= z * _sigmoid(z)
        tl.store(_tile_at(out_ptr, d, token, out_d, out_l, T), y, mask=mask)
    if c == chunks - 1:
        tl.store(_states_at(last_ptr + b * channels * STATES, d, STATES, N), h, mask=inside)


@triton.jit(do_not_specialize=["one"])
def backward(
    u_ptr, delta_ptr, z_ptr, A_ptr, B_ptr, C_ptr, D_ptr, bias_ptr, dlast_ptr, carried_ptr, kept_ptr, scratch_ptr,
    dout_ptr, du_ptr, ddelta_ptr, dz_ptr, dA_ptr, dB_ptr, dC_ptr, dD_ptr, dbias_ptr, dh0_ptr,
    u_b, u_d, u_l, delta_b, delta_d, delta_l, z_b, z_d, z_l, dout_b, dout_d, dout_l,
    du_b, du_d, du_l, ddelta_b, ddelta_d, ddelta_l, dz_b, dz_d, dz_l,
    B_batches, B_groups, C_batches, C_groups, channels, length, chunk, groups, one,
    B_ROWS: tl.constexpr, C_ROWS: tl.constexpr, INITIAL: tl.constexpr, MASK: tl.constexpr, SILENT: tl.constexpr,
    STATES: tl.constexpr, N: tl.constexpr, W: tl.constexpr, T: tl.constexpr, K: tl.constexpr, SOFTPLUS: tl.constexpr,
    ELEMENTAL: tl.constexpr, REVERSE: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Store a chunk's gradients, from the adjoint that enters it at its end, K steps at a time."""
    dtype: tl.constexpr = A_ptr.dtype.element_ty
    d, ok, first = _place(channels, groups, W)
    block, blocks = tl.program_id(0), tl.num_programs(0)
    c, chunks, b = tl.program_id(1), tl.num_programs(1), tl.program_id(2).to(tl.int64)
    part = b * chunks + c
    n = tl.arange(0, N)
    inside = _states_mask(ok, STATES, N)
    A = _rates(A_ptr, d, ok, one, STATES, N, VECTOR)
    B_rows = _rows(B_ptr, b, d, ok, first, B_batches, B_groups, channels, length, B_ROWS, STATES, N, T)
    C_rows = _rows(C_ptr, b, d, ok, first, C_batches, C_groups, channels, length, C_ROWS, STATES, N, T)
    bias = None if bias_ptr is None else tl.load(bias_ptr + d, mask=ok, other=0.0)
    u_ptr += b * u_b
    delta_ptr += b * delta_b
    dout_ptr += b * dout_b
    du_ptr += b * du_b
    ddelta_ptr += b * ddelta_b
    if z_ptr is not None:
        z_ptr += b * z_b
        dz_ptr += b * dz_b
    # Within the block of programs, rows of this program; each program writes all of its own.
    scratch = scratch_ptr + ((part * blocks + block) * (K // T) * W) * STATES
    slot = tl.arange(0, W)
    G = tl.zeros((N, W), dtype)
    if carried_ptr is not None:
        G += tl.load(_states_at(carried_ptr + part * channels * STATES, d, STATES, N), mask=inside, other=0.0)
    elif dlast_ptr is not None:
        G += tl.load(_states_at(dlast_ptr + b * channels * STATES, d, STATES, N), mask=inside, other=0.0)
    dA, dB_all, dC_all = tl.zeros((N, W), dtype), tl.zeros((N, W), dtype), tl.zeros((N, W), dtype)
    dD, dbias = tl.zeros((W,), dtype), tl.zeros((W,), dtype)

    begin = c * chunk
    kept_count = tl.cdiv(length, K)
    intervals = tl.cdiv(tl.minimum(chunk, length - begin), K)
    for interval in range(intervals):
        start = begin + (intervals - 1 - interval) * K
        kept = kept_ptr + (b * kept_count + start // K) * channels * STATES
        h = tl.load(_states_at(kept, d, STATES, N), mask=inside, other=0.0)
        # The last interval may end early, and rows of B and C reach T beyond the sequence, no further.
        groups_here = tl.cdiv(tl.minimum(K, length - start), T)
        # Forward once, to the state before each group of T steps.
        for g in range(groups_here):
            s = start + g * T
            token = length - T - s if REVERSE else s
            tl.store(_states_at(scratch + g * W * STATES, slot, STATES, N), h, mask=inside)
            u = _tile(u_ptr, d, ok, token, length, u_d, u_l, T, REVERSE).to(dtype)
            delta = _tile(delta_ptr, d, ok, token, length, delta_d, delta_l, T, REVERSE).to(dtype)
            delta = _steps(delta, bias, _mask(ok, token, length, T, REVERSE), SOFTPLUS)
            us, deltas, driven = _columns(u), _columns(delta), _columns(u * delta)
            for i in tl.static_range(T - 1 if REVERSE else 0, -1 if REVERSE else T, -1 if REVERSE else 1):
                row = _row(B_rows, token, i, B_ROWS, STATES, N)
                h = _next(h, tl.exp2(deltas[i][None, :] * A), us[i], driven[i], row, ELEMENTAL)
        tl.debug_barrier()
        # Then a group at a time from the end: to the state before each step, and back through these.
        for back in range(groups_here):
            g = groups_here - 1 - back
            s = start + g * T
            token = length - T - s if REVERSE else s
            mask = _mask(ok, token, length, T, REVERSE)
            u = _tile(u_ptr, d, ok, token, length, u_d, u_l, T, REVERSE).to(dtype)
            raw = _tile(delta_ptr, d, ok, token, length, delta_d, delta_l, T, REVERSE).to(dtype)
            dy = _tile(dout_ptr, d, ok, token, length, dout_d, dout_l, T, REVERSE).to(dtype)
            if bias is not None:
                raw += bias[:, None]
            delta = _steps(raw, None, mask, SOFTPLUS)
            dout = dy
            if z_ptr is not None:
                z = _tile(z_ptr, d, ok, token, length, z_d, z_l, T, REVERSE).to(dtype)
                gate = _settled(_sigmoid(z))
                dy = _settled(dout * z * gate)
            dread = dy
            if SILENT:
                dread = tl.where(_is_first(token, length, T, REVERSE), 0.0, dy)
            us, deltas, driven, dreads = _columns(u), _columns(delta), _columns(u * delta), _columns(dread)
            h = tl.load(_states_at(scratch + g * W * STATES, slot, STATES, N), mask=inside, other=0.0)
            before = (h,)
            for i in tl.static_range(T - 1 if REVERSE else 0, -1 if REVERSE else T, -1 if REVERSE else 1):
                row = _row(B_rows, token, i, B_ROWS, STATES, N)
                h = _next(h, tl.exp2(deltas[i][None, :] * A), us[i], driven[i], row, ELEMENTAL)
                before = (h,) + before if REVERSE else before + (h,)
            dxs, exponents, directs, ys = (), (), (), ()
            for i in tl.static_range(0 if REVERSE else T - 1, T if REVERSE else -1, 1 if REVERSE else -1):
                B = _row(B_rows, token, i, B_ROWS, STATES, N)
                C = _row(C_rows, token, i, C_ROWS, STATES, N)
                Abar = tl.exp2(deltas[i][None, :] * A)
                decayed = Abar * before[i + 1 if REVERSE else i]
                thru = G + C * dreads[i][None, :]
                own = G if MASK else thru
                seen = decayed if MASK else before[i if REVERSE else i + 1]
                e = thru * decayed
                G = Abar * thru
                if ELEMENTAL:
                    direct = own * Abar
                    e += direct * us[i][None, :]
                    direct = (tl.sum(direct, 0),)
                    directs = directs + direct if REVERSE else direct + directs
                dA += e * deltas[i][None, :]
                row = ((b * blocks + block) * length + token + i) * STATES
                here = n < tl.where((token + i >= 0) & (token + i < length), STATES, 0)
                if B_ROWS:
                    tl.store(dB_ptr + row + n, tl.sum(own * driven[i][None, :], 1), mask=here)
                else:
                    dB_all += own * driven[i][None, :]
                if C_ROWS:
                    tl.store(dC_ptr + row + n, tl.sum(seen * dreads[i][None, :], 1), mask=here)
                else:
                    dC_all += seen * dreads[i][None, :]
                dx = (tl.sum(own * B, 0),)
                exponent = (tl.sum(e * A, 0),)
                dxs = dxs + dx if REVERSE else dx + dxs
                exponents = exponents + exponent if REVERSE else exponent + exponents
                if z_ptr is not None:
                    y = (tl.sum(C * seen, 0),)
                    ys = ys + y if REVERSE else y + ys
            dx = _joined(dxs)
            du = dx * delta
            if ELEMENTAL:
                du += _joined(directs)
            if D_ptr is not None:
                D = tl.load(D_ptr + d, mask=ok, other=0.0)[:, None]
                du += D * dy
                dD += tl.sum(dy * u, 1)
            if z_ptr is not None:
                y = _joined(ys)
                if SILENT:
                    y = tl.where(_is_first(token, length, T, REVERSE), 0.0, y)
                if D_ptr is not None:
                    y += D * u
                dz = dout * y * gate * (1 + z * (1 - gate))
                tl.store(_tile_at(dz_ptr, d, token, dz_d, dz_l, T), dz, mask=mask)
            if INITIAL:
                if s == 0:
                    du += tl.where(_is_first(token, length, T, REVERSE), tl.sum(G, 0)[:, None], 0.0)
            ddelta = dx * u + _joined(exponents) * LN_2
            if SOFTPLUS:
                ddelta *= _settled(tl.where(raw > 20, 1.0, _sigmoid(raw)))
            if dbias_ptr is not None:
                dbias += tl.sum(tl.where(mask, ddelta, 0.0), 1)
            tl.store(_tile_at(du_ptr, d, token, du_d, du_l, T), du, mask=mask)
            tl.store(_tile_at(ddelta_ptr, d, token, ddelta_d, ddelta_l, T), ddelta, mask=mask)
        tl.debug_barrier()

    at_part = _states_at(part * channels * STATES, d, STATES, N)
    tl.store(dA_ptr + at_part, dA, mask=inside)
    if not B_ROWS:
        tl.store(dB_ptr + at_part, dB_all, mask=inside)
    if not C_ROWS:
        tl.store(dC_ptr + at_part, dC_all, mask=inside)
    if dD_ptr is not None:
        tl.store(dD_ptr + part * channels + d, dD, mask=ok)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + part * channels + d, dbias, mask=ok)
    if dh0_ptr is not None:
        if c == 0:
            tl.store(_states_at(dh0_ptr + b * channels * STATES, d, STATES, N), G, mask=inside)
