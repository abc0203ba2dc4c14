"""Probes of what a video model's mixers do to their tokens, seen as attention.

    import analysis

    result = analysis.probe(model, clips, [analysis.Decay()], layers=[0, -1])
    result.summary("half_life_tokens")
    result.plot("lag_profile", layer=0)
    result.save("decay-of-my-model")

Names are loaded when they are first used, so that `import analysis` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.capture import record, register_family
    from analysis.contradiction import Contradiction
    from analysis.decay import Decay
    from analysis.engine import probe
    from analysis.intervene import patched, tile_from
    from analysis.measure import Column, Measure, Quantity
    from analysis.relevance import Relevance
    from analysis.result import Result

    load = Result.load

_HOMES = {
    "Column": "measure",
    "Contradiction": "contradiction",
    "Decay": "decay",
    "Measure": "measure",
    "Quantity": "measure",
    "Relevance": "relevance",
    "Result": "result",
    "patched": "intervene",
    "probe": "engine",
    "record": "capture",
    "register_family": "capture",
    "tile_from": "intervene",
}
__all__ = [
    "Column",
    "Contradiction",
    "Decay",
    "Measure",
    "Quantity",
    "Relevance",
    "Result",
    "load",
    "patched",
    "probe",
    "record",
    "register_family",
    "tile_from",
]


def __getattr__(name: str) -> Any:
    if name == "load":
        return __getattr__("Result").load
    if name in _HOMES:
        return getattr(import_module(f"analysis.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
