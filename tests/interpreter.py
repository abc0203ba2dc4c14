"""Triton's interpreter without what it repeats: no number changes, and a launch takes less than half the time.

At a launch it puts its own functions in the place of triton.language's, and again at each of the hundreds of calls
within the launch; and it computes every sum and product of integers a second time, in 64 bits, to see that none
overflows, which sizes such as the tests' cannot.
"""

from dataclasses import replace
from types import FunctionType
from typing import Any


def hasten() -> None:
    """Spare the interpreter its repetitions; where Triton is missing, or has other names for them, do nothing."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    if not hasattr(interpreter, "_patch_lang") or not hasattr(interpreter, "interpreter_builder"):
        return
    builder, patch, in_force = interpreter.interpreter_builder, interpreter._patch_lang, set()
    builder.options = replace(builder.options, sanitize_overflow=False)

    def patched(fn: FunctionType) -> Any:
        if fn.__module__ in in_force:
            return None
        scope = patch(fn)
        if not in_force:
            # Only a launch restores, and its scope is the first; what its calls add goes with it.
            restore = scope.restore
            scope.restore = lambda: (in_force.clear(), restore())
        in_force.add(fn.__module__)
        return scope

    interpreter._patch_lang = patched
