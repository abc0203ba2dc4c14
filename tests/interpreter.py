"""Triton's interpreter without what it repeats: no number changes, and a launch takes less time.

At a launch it puts its own functions in the place of triton.language's, and again at each of the hundreds of calls
within the launch. Here it does so once a launch.
"""

from types import FunctionType
from typing import Any


def hasten() -> None:
    """Spare the interpreter its repetitions; where Triton is missing, or has other names for them, do nothing."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    if not hasattr(interpreter, "_patch_lang"):
        return
    patch, in_force = interpreter._patch_lang, set()

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
