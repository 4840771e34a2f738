"""Progress of the stages of a run outside `fit`."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from igpt_keras.runs import RunCallback

SECONDS_BETWEEN_LINES = 10


class StageBars(RunCallback):
    """Shows how far each stage is: bars at a terminal, now and then a line elsewhere.

    A context manager.

    Args:
        console: Where to show them; stderr by default.
        clock: Returns the time in seconds.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self._clock = clock
        self._last_line = clock()
        console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks = {}

    @property
    def is_shown(self) -> bool:
        """Whether there is a terminal to show bars at."""
        return not self._progress.disable

    def __enter__(self) -> "StageBars":
        self._progress.start()
        return self

    def __exit__(self, *exception) -> None:
        self._progress.stop()

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Shows how far a stage is."""
        if not self.is_shown:
            now = self._clock()
            if now - self._last_line >= SECONDS_BETWEEN_LINES:
                self._last_line = now
                line = f"igpt: {stage}: {done:,} of {total:,}"
                print(line, file=self._progress.console.file, flush=True)
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done)
