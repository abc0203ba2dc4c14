"""Vector registers as values in numba functions: 64 bytes, which are 16 float32 or 8 float64, on any machine.

numba compiles loops over scalars and leaves it to LLVM whether, and how widely, they become vector instructions. A
kernel that is to use whole registers says so with the functions of this module. A `Vector` is LLVM's own vector type,
which becomes one zmm register with AVX-512 and two ymm registers with AVX2. Every sum has one order, so the width of
the machine's registers changes no bit of a result. `load`, `store` and `transpose` take arrays of one axis without
gaps, and do not check bounds.

numba's cache on disk checks the file of a kernel but not this one. After a change here, remove the __pycache__ folders.
"""

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types
from numba.extending import models, overload, register_model

# Its stub takes a function's first argument, the typing context, for one that callers give.
intrinsic: Any = extending.intrinsic

BYTES = 64
LOG2_E = 1.4426950408889634
_FLUSH_TO_ZERO, _DENORMALS_ARE_ZERO = 1 << 15, 1 << 6
I32 = ir.IntType(32)


def lanes(dtype: Any) -> int:
    """Return how many numbers of a dtype, 4 or 8 bytes wide, a vector holds."""
    return BYTES // np.dtype(dtype).itemsize


class Vector(types.Type):
    """The numba type of a vector of floating point numbers of one type."""

    def __init__(self, scalar: types.Float) -> None:
        self.scalar = scalar
        self.lanes = BYTES * 8 // scalar.bitwidth
        super().__init__(name=f"Vector({scalar}, {self.lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        element = ir.FloatType() if vector.scalar == types.float32 else ir.DoubleType()
        super().__init__(manager, vector, ir.VectorType(element, vector.lanes))


def _row(array: Any) -> bool:
    return isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"


def _read(context, builder, array, value, index):
    """Load the vector of `array` that begins at `index`; data are aligned to numbers, not to vectors."""
    pointer = _pointer(context, builder, array, value, index)
    return builder.load(pointer, align=array.dtype.bitwidth // 8)


def _write(context, builder, array, value, index, vector):
    pointer = _pointer(context, builder, array, value, index)
    builder.store(vector, pointer, align=array.dtype.bitwidth // 8)


def _pointer(context, builder, array, value, index):
    data = context.make_array(array)(context, builder, value).data
    vector = context.get_value_type(Vector(array.dtype))
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


@intrinsic
def load(context, array, index):
    """Load the vector of array[index], array[index + 1], ..."""
    if not _row(array):
        return None

    def codegen(context, builder, signature, arguments):
        return _read(context, builder, signature.args[0], *arguments)

    return Vector(array.dtype)(array, types.intp), codegen


@intrinsic
def store(context, array, index, vector):
    """Write a vector to array[index], array[index + 1], ..."""
    if not _row(array):
        return None

    def codegen(context, builder, signature, arguments):
        _write(context, builder, signature.args[0], *arguments)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@intrinsic
def prefetch(context, array, index):
    """Prefetch the cache line of array[index], which may lie beyond the array."""
    if not _row(array):
        return None

    def codegen(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        address = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        function = ir.FunctionType(ir.VoidType(), [address.type, I32, I32, I32])
        read, near, data = (ir.Constant(I32, number) for number in (0, 3, 1))
        builder.call(
            builder.module.declare_intrinsic("llvm.prefetch.p0", (), function), [address, read, near, data]
        )
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def take(context, counters, index):
    """Return counters[index] (int64) and add one to it atomically, for whichever thread comes next."""
    if not (_row(counters) and counters.dtype == types.int64):
        return None

    def codegen(context, builder, signature, arguments):
        values, at = arguments
        data = context.make_array(signature.args[0])(context, builder, values).data
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", builder.gep(data, [at]), one, "acq_rel")

    return types.int64(counters, types.intp), codegen


@intrinsic
def pointer(context, address):
    """Return an address, an int64, as a pointer that `numba.carray` takes."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), codegen


@intrinsic
def splat(context, number):
    """Return a vector with the number in every lane."""
    vector = Vector(number)

    def codegen(context, builder, signature, arguments):
        undefined = ir.Constant(context.get_value_type(vector), ir.Undefined)
        first = builder.insert_element(undefined, arguments[0], ir.Constant(I32, 0))
        return _shuffle(builder, first, first, [0] * vector.lanes)

    return vector(number), codegen


@intrinsic
def multiply(context, a, b):
    """Return a b, lane by lane."""
    return a(a, b), lambda context, builder, signature, arguments: builder.fmul(*arguments)


@intrinsic
def add(context, a, b):
    """Return a + b, lane by lane."""
    return a(a, b), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def subtract(context, a, b):
    """Return a - b, lane by lane."""
    return a(a, b), lambda context, builder, signature, arguments: builder.fsub(*arguments)


@intrinsic
def divide(context, a, b):
    """Return a / b, lane by lane."""
    return a(a, b), lambda context, builder, signature, arguments: builder.fdiv(*arguments)


@intrinsic
def fma(context, a, b, c):
    """Return a b + c, rounded once, lane by lane."""
    return a(a, b, c), lambda context, builder, signature, arguments: _llvm(builder, "llvm.fma", arguments)


@intrinsic
def maximum(context, a, b):
    """Return the larger of a and b, lane by lane, and b where either is NaN."""

    def codegen(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return a(a, b), codegen


@intrinsic
def minimum(context, a, b):
    """Return the smaller of a and b, lane by lane, and b where either is NaN."""

    def codegen(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered("<", *arguments), *arguments)

    return a(a, b), codegen


@intrinsic
def where_positive(context, a, b, c):
    """Return b where a > 0 and c elsewhere, lane by lane."""

    def codegen(context, builder, signature, arguments):
        zero = ir.Constant(arguments[0].type, [0.0] * signature.args[0].lanes)
        return builder.select(builder.fcmp_ordered(">", arguments[0], zero), *arguments[1:])

    return a(a, b, c), codegen


@intrinsic
def magnitude(context, a):
    """Return abs(a), lane by lane."""
    return a(a), lambda context, builder, signature, arguments: _llvm(builder, "llvm.fabs", arguments)


@intrinsic
def totals(context, array, index):
    """Return, in one vector, the sum over the lanes of each of as many consecutive vectors as there are lanes."""
    if not _row(array):
        return None
    vector = Vector(array.dtype)

    def codegen(context, builder, signature, arguments):
        values, begin = arguments
        width = vector.lanes
        rows = [
            _read(context, builder, array, values, builder.add(begin, ir.Constant(begin.type, k * width)))
            for k in range(width)
        ]
        # Each row holds parts of as many sums as rows were joined in it; joining two adds the halves of each part.
        while width > 1:
            width //= 2
            lanes = range(vector.lanes)
            low = [lane // width * 2 * width + lane % width for lane in lanes]
            high = [lane + width for lane in low]
            rows = [
                builder.fadd(_shuffle(builder, a, b, low), _shuffle(builder, a, b, high))
                for a, b in zip(rows[::2], rows[1::2], strict=True)
            ]
        return rows[0]

    return vector(array, types.intp), codegen


@intrinsic
def times_power_of_two(context, mantissa, shifted):
    """Return mantissa 2^k, lane by lane, by adding k, the lowest bits of `shifted`, to the exponent's bits."""

    def codegen(context, builder, signature, arguments):
        vector = signature.args[0]
        bits = ir.VectorType(ir.IntType(vector.scalar.bitwidth), vector.lanes)
        position = 23 if vector.scalar == types.float32 else 52
        value, power = (builder.bitcast(argument, bits) for argument in arguments)
        raised = builder.add(value, builder.shl(power, ir.Constant(bits, [position] * vector.lanes)))
        return builder.bitcast(raised, arguments[0].type)

    return mantissa(mantissa, shifted), codegen


@intrinsic
def transpose(context, source, begin, step, target, place, stride):
    """Transpose a square of numbers, from rows source[begin + k step] to rows target[place + k stride]."""
    if not (_row(source) and source == target):
        return None

    def codegen(context, builder, signature, arguments):
        array = signature.args[0]
        source, begin, step, target, place, stride = arguments
        count = BYTES * 8 // array.dtype.bitwidth

        def at(start, by, k):
            return builder.add(start, builder.mul(by, ir.Constant(by.type, k)))

        rows = [_read(context, builder, array, source, at(begin, step, k)) for k in range(count)]
        # Interleaving row k with row k + count / 2 turns the bits of an index in a circle; once for each bit of a
        # lane's index it exchanges rows and lanes.
        half = count // 2
        for _ in range(half.bit_length()):
            mixed = []
            for k in range(half):
                for offset in (0, half):
                    mask = [lane for j in range(half) for lane in (offset + j, count + offset + j)]
                    mixed.append(_shuffle(builder, rows[k], rows[k + half], mask))
            rows = mixed
        for k, row in enumerate(rows):
            _write(context, builder, array, target, at(place, stride, k), row)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), codegen


@intrinsic
def flush_denormals(context):
    """Make this thread take denormal numbers for 0 and produce none; return the argument for `restore`.

    One denormal operand costs a core more than a hundred cycles. This has no effect where the machine is not x86.
    """

    def codegen(context, builder, signature, arguments):
        state = builder.alloca(I32)
        builder.store(ir.Constant(I32, 0), state)
        _control(builder, "llvm.x86.sse.stmxcsr", state)
        before = builder.load(state)
        builder.store(builder.or_(before, ir.Constant(I32, _FLUSH_TO_ZERO | _DENORMALS_ARE_ZERO)), state)
        _control(builder, "llvm.x86.sse.ldmxcsr", state)
        return before

    return types.int32(), codegen


@intrinsic
def restore(context, before):
    """Treat denormal numbers as before `flush_denormals` again."""

    def codegen(context, builder, signature, arguments):
        state = builder.alloca(I32)
        builder.store(arguments[0], state)
        _control(builder, "llvm.x86.sse.ldmxcsr", state)
        return context.get_dummy_value()

    return types.void(types.int32), codegen


def _control(builder, name, state):
    """Exchange the control register of x86's vector unit with memory; do nothing on another machine."""
    if not builder.module.triple.startswith("x86_64"):
        return
    pointer = builder.bitcast(state, ir.IntType(8).as_pointer())
    signature = ir.FunctionType(ir.VoidType(), [pointer.type])
    builder.call(builder.module.declare_intrinsic(name, (), signature), [pointer])


def _llvm(builder, name, arguments):
    """Call LLVM's own function of that name on vectors of one type."""
    vector = arguments[0].type
    signature = ir.FunctionType(vector, [vector] * len(arguments))
    suffix = f".v{vector.count}f{32 if vector.element == ir.FloatType() else 64}"
    return builder.call(builder.module.declare_intrinsic(name + suffix, (), signature), arguments)


def _shuffle(builder, a, b, mask):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(mask)), mask))


@overload(operator.add)
def _(a, b):
    return (lambda a, b: add(a, b)) if isinstance(a, Vector) else None


@overload(operator.sub)
def _(a, b):
    return (lambda a, b: subtract(a, b)) if isinstance(a, Vector) else None


@overload(operator.mul)
def _(a, b):
    return (lambda a, b: multiply(a, b)) if isinstance(a, Vector) else None


@overload(operator.truediv)
def _(a, b):
    return (lambda a, b: divide(a, b)) if isinstance(a, Vector) else None


def exp2(x):
    """Return 2^x, lane by lane, for x < 128 (1024 in float64).

    x = k + f with k an integer and |f| <= 1/2; 2^f = 1 + f q(f), q fitted by Remez exchange. 2^0 is exactly 1. Where
    2^x is a normal number the error is under 1 ulp in float32 (the fit's 2e-9, degree 6, and rounding) and in float64
    (4e-18, degree 11). Below the normal numbers the result is less than the smallest of them, and 0 from 2^-127
    (2^-1023) down and wherever denormals are flushed. NaN gives NaN where the low bits of its payload are 0, as in
    numpy.nan; callers see to that. Source: ours.
    """
    raise NotImplementedError("exp2 is for numba functions")


@overload(exp2)
def _(x):
    return _exp2_float32 if x.scalar == types.float32 else _exp2_float64


def _exp2_float32(x):
    x = maximum(splat(np.float32(-127)), x)
    shifted = x + splat(np.float32(1.5 * 2**23))
    f = x - (shifted - splat(np.float32(1.5 * 2**23)))
    p = splat(np.float32(1.5353362e-04))
    p = fma(p, f, splat(np.float32(1.3398874e-03)))
    p = fma(p, f, splat(np.float32(9.618437e-03)))
    p = fma(p, f, splat(np.float32(5.5503324e-02)))
    p = fma(p, f, splat(np.float32(2.4022648e-01)))
    p = fma(p, f, splat(np.float32(6.931472e-01)))
    p = fma(p, f, splat(np.float32(1.0)))
    return times_power_of_two(p, shifted)


def _exp2_float64(x):
    x = maximum(splat(-1023.0), x)
    shifted = x + splat(1.5 * 2**52)
    f = x - (shifted - splat(1.5 * 2**52))
    p = splat(4.4347689286262757e-10)
    p = fma(p, f, splat(7.073783184458317e-09))
    p = fma(p, f, splat(1.0178199586447909e-07))
    p = fma(p, f, splat(1.3215435282680663e-06))
    p = fma(p, f, splat(1.525273349309594e-05))
    p = fma(p, f, splat(1.5403530457111362e-04))
    p = fma(p, f, splat(1.3333558146774649e-03))
    p = fma(p, f, splat(9.61812910759412e-03))
    p = fma(p, f, splat(5.5504108664820084e-02))
    p = fma(p, f, splat(2.402265069591013e-01))
    p = fma(p, f, splat(6.931471805599453e-01))
    p = fma(p, f, splat(1.0))
    return times_power_of_two(p, shifted)


def aligned(size, dtype):
    """Return zeros that begin at a multiple of `BYTES`, so that no vector of them lies across two cache lines."""
    raise NotImplementedError("aligned is for numba functions")


@overload(aligned)
def _(size, dtype):
    width = dtype.dtype.bitwidth // 8

    def zeros(size, dtype):
        spare = BYTES // width
        room = np.zeros(size + spare, dtype)
        begin = (-room.ctypes.data // width) % spare
        return room[begin : begin + size]

    return zeros
