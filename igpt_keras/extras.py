"""Optional dependencies, which the extras of the package bring."""

import importlib
import types

from igpt_keras.errors import InputError


def require(module: str, extra: str) -> types.ModuleType:
    """Imports a module that only an extra of the package brings.

    ```python
    pyplot = require("matplotlib.pyplot", "report")
    ```

    Args:
        module: The module's full name.
        extra: The extra in `setup.cfg` that installs it.

    Returns:
        The module.

    Raises:
        InputError: The module is not installed. The message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that is installed but lacks one of its own is not what the extra mends.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise InputError(
            f"{error.name} is not installed: python -m pip install -e '.[{extra}]' in the clone of "
            "igpt-keras installs it"
        ) from None
