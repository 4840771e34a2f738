"""What a process is busy with, for those who want to show it: records of a logger.

The package prints nothing itself. A program that shows stages, as `igpt` does, adds a handler to
the logger `igpt_keras.stages`.
"""

import contextlib
import logging
from collections.abc import Iterator

LOGGER = "igpt_keras.stages"
# The attribute of a record that ends a stage.
FINISHED = "finished"

_logger = logging.getLogger(LOGGER)


@contextlib.contextmanager
def stage(description: str) -> Iterator[None]:
    """Logs at INFO that work begins that may take a while, and that it has ended.

    Args:
        description: What is done, such as "tokenizing 1,257 images of digits".

    Example:
        ```python
        with stage("fitting a palette to 100 images"):
            palette = ColorPalette.fit(images)
        ```
    """
    _logger.info("%s", description)
    try:
        yield
    finally:
        _logger.info("%s", description, extra={FINISHED: True})
