"""The duration of a training that several processes may have worked on."""

import time
from collections.abc import Callable
from typing import Any

from igpt_keras.training.callbacks.callback import Callback


class Stopwatch(Callback):
    """Measures the time from its creation, and that of earlier processes before it.

    A process that was killed counts up to its last checkpoint, as its steps do; the time between
    two processes does not count.

    Args:
        clock: Returns the time in seconds.

    Example:
        ```python
        from igpt_keras.training.callbacks.stopwatch import Stopwatch

        stopwatch = Stopwatch()
        model.fit(tokens, batch_size=16, callbacks=[stopwatch])
        print(stopwatch.seconds)
        ```
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self._clock = clock
        self._start = clock()
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """The time measured so far."""
        return self._before + self._clock() - self._start

    def get_state(self) -> dict[str, Any]:
        """Returns what `set_state` needs to go on."""
        return {"seconds": self.seconds}

    def set_state(self, state: dict[str, Any]) -> None:
        """Adds the time of the processes before this one."""
        self._before = float(state["seconds"])
