"""Progress bars of the stages of a run outside `fit`."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from igpt_keras.runs import RunCallback


class StageBars(RunCallback):
    """Shows a bar for each stage, at a terminal. A context manager.

    Args:
        console: Where to show them; stderr by default.
    """

    def __init__(self, console: Console | None = None):
        super().__init__()
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
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done)
