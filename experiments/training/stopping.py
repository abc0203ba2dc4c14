"""A request to stop: the step in hand is finished, and the state is saved."""

import signal
import types
from typing import Any, Self, final


@final
class StopSignal:
    """While entered, an interrupt or a request to terminate is noted in `number` rather than obeyed.

    A second one ends the process as usual. Where signals cannot be caught, outside of the main thread, so does the
    first.
    """

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        except ValueError:
            self._previous.clear()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.number = number
        for noted, handler in self._previous.items():
            signal.signal(noted, handler)
