"""Triton's interpreter without what it repeats: no number changes, and a launch takes a third of the time.

At a launch it puts its own functions in the place of triton.language's, and again at each of the hundreds of calls
within the launch. Here it does so once a launch, and beside them it puts functions that know what they found before:
almost all of its time goes into the types and shapes of values, which are the same few at every step. The functions are
in place within a launch alone, so nothing that is compiled passes through them.
"""

from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

Method = Callable[..., Any]


def hasten() -> None:
    """Spare the interpreter its repetitions; where Triton is missing, or has other names for them, do nothing."""
    try:
        from triton.language import core
        from triton.language.semantic import TritonSemantic
        from triton.runtime import interpreter
    except ImportError:
        return
    if not hasattr(interpreter, "_patch_lang"):
        return
    patch, in_force = interpreter._patch_lang, set()
    quicker = [
        (place, name, make(getattr(place, name), core))
        for place, name, make in (
            (core.block_type, "__init__", _known_blocks),
            (core.tensor, "__init__", _known_shapes),
            (interpreter, "_get_np_dtype", _known_dtypes),
            (TritonSemantic, "binary_op_type_checking_impl", _same_dtypes),
            (TritonSemantic, "binary_op_sanitize_overflow_impl", _heeded_checks),
        )
        if hasattr(place, name)
    ]

    def patched(fn: FunctionType) -> Any:
        if fn.__module__ in in_force:
            return None
        scope = patch(fn)
        if not in_force:
            # Only a launch restores, and its scope is the first; what its calls add goes with it.
            restore = scope.restore
            scope.restore = lambda: (in_force.clear(), restore())
            for place, name, method in quicker:
                scope.set_attr(place, name, method)
        in_force.add(fn.__module__)
        return scope

    interpreter._patch_lang = patched


def _known_blocks(initialise: Method, core: ModuleType) -> Method:
    """A type of blocks checks its shape and spells its name once for each dtype and shape; neither ever changes."""
    known: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    def quick(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *(shape.values if type(shape) is core.tuple else shape))
        if (found := known.get(key)) is not None:
            self.element_ty = element_ty
            self.shape, self.numel, self.name = found
            return
        initialise(self, element_ty, shape)
        if vars(self).keys() == {"element_ty", "shape", "numel", "name"}:
            known[key] = (self.shape, self.numel, self.name)

    return quick


def _known_shapes(initialise: Method, core: ModuleType) -> Method:
    """A tensor wraps each size of its shape into a `constexpr` once for each type, whose name tells its shape."""
    known: dict[str, tuple[Any, ...]] = {}

    def quick(self: Any, handle: Any, type: Any) -> None:
        if (found := known.get(type.name)) is not None:
            self.handle, self.type, self.dtype = handle, type, type.scalar
            self.shape, self.numel = found
            return
        initialise(self, handle, type)
        if vars(self).keys() == {"handle", "type", "dtype", "shape", "numel"}:
            known[type.name] = (self.shape, self.numel)

    return quick


def _known_dtypes(find: Method, core: ModuleType) -> Method:
    """The numpy dtype of a type is looked up by name, in place of a table that is made anew for each look-up."""
    known: dict[str, Any] = {}

    def quick(tt_dtype: Any) -> Any:
        if tt_dtype.name not in known:
            known[tt_dtype.name] = find(tt_dtype)
        return known[tt_dtype.name]

    return quick


def _same_dtypes(prepare: Method, core: ModuleType) -> Method:
    """Operands of one dtype are at most broadcast; only a division, called with more rules, may cast them."""

    def quick(self: Any, lhs: Any, rhs: Any, *rules: bool, **more: bool) -> tuple[Any, Any]:
        known = type(lhs) is core.tensor and type(rhs) is core.tensor and lhs.dtype is rhs.dtype
        if not known or len(rules) > 2 or more or lhs.dtype.is_ptr():
            return prepare(self, lhs, rhs, *rules, **more)
        if lhs.type.name == rhs.type.name:
            return lhs, rhs
        return self.broadcast_impl_value(lhs, rhs)

    return quick


def _heeded_checks(check: Method, core: ModuleType) -> Method:
    """Whether integers overflow is worked out only where it is heeded, as Triton asserts in `debug` alone."""
    return lambda self, *operation: check(self, *operation) if self.builder.options.debug else None
