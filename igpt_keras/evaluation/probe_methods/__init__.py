"""Methods of training a probe, one module each, and the choice of the setting.

To add one, put a module of its name into this folder, or list one under the entry-point group
`igpt_keras.plugins`. It registers a class:

```python
from igpt_keras.evaluation.probe_methods import METHODS, ProbeMethod

@METHODS.register("mine")
class Mine(ProbeMethod): ...
```
"""

import abc
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from igpt_keras.errors import InputError
from igpt_keras.evaluation.probes import PATIENCE, Probe, ProbeSplits
from igpt_keras.registry import Registry
from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager

if TYPE_CHECKING:
    from typing_extensions import Self


class FitCheckpoints:
    """Checkpoints of fits that come in the same order in every process.

    Args:
        folder: Folder of all of them, in which the last checkpoint of each stays.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        self.count = 0

    def of_next_fit(self) -> CheckpointManager:
        """Returns the checkpoints of the next fit."""
        self.count += 1
        return CheckpointManager(self.folder / f"fit-{self.count:05d}", max_to_keep=1)


class ProbeMethod(abc.ABC):
    """A way to train probes with several settings, from which the best is chosen.

    Attributes:
        reads_states: Whether it reads `LayerStates`, the states at every position, instead of
            features, their mean.
    """

    reads_states: ClassVar[bool] = False

    @classmethod
    def from_options(
        cls,
        *,
        learning_rate: float | None = None,
        num_neighbors: int | None = None,
        temperature: float | None = None,
        num_heads: int | None = None,
        epochs: int = 20,
        seed: int = 0,
        checkpoints: FitCheckpoints | None = None,
    ) -> "Self":
        """Makes the method from the options of an experiment; it may ignore some of them.

        Args:
            learning_rate: The only learning rate; None for the best of several.
            num_neighbors: Number of nearest neighbors; None for the method's own.
            temperature: Temperature of their weights; None for the method's own.
            num_heads: Number of attention heads; None for the method's own.
            epochs: Passes over the images.
            seed: Seed of every random choice.
            checkpoints: Checkpoints that fits resume from and write.

        Raises:
            InputError: The method has no learning rate, neighbors, temperature or heads.
        """
        del epochs, seed, checkpoints
        for method, name, value in (
            ("sgd or attentive", "learning_rate", learning_rate),
            ("knn", "num_neighbors", num_neighbors),
            ("knn", "temperature", temperature),
            ("attentive", "num_heads", num_heads),
        ):
            if value is not None:
                raise InputError(f"{name}={value} is for method={method}")
        return cls()

    def check_width(self, width: int) -> None:
        """Raises `InputError` if the method cannot read `width` features."""
        del width  # Most methods read any number of them.

    @abc.abstractmethod
    def fits(self, train: Any, num_classes: int) -> Iterator[Probe]:
        """Yields a trained probe for every setting.

        Args:
            train: `LayerFeatures`, or `LayerStates` for a method that reads states.
            num_classes: C.
        """

    @abc.abstractmethod
    def with_setting(self, setting: dict[str, Any]) -> "Self":
        """Returns the method with only this setting, a `Probe.setting`."""


METHODS: Registry[type[ProbeMethod]] = Registry("method", __name__)


def fit_probe(method: ProbeMethod, splits: ProbeSplits, fold: bool = False) -> Probe:
    """Returns the best of a method's probes on validation; of equal ones, the first.

    They are trained in turn until `PATIENCE` of them fell short of the best so far; a single one
    may by chance.

    Args:
        method: The method, with the settings to choose from.
        splits: Features; `test` is not looked at.
        fold: Whether to train again, with the chosen setting, on the training and the validation
            split (paper, appendix).

    Example:
        ```python
        from igpt_keras.evaluation.probe_methods.lbfgs import LBFGS

        probe = fit_probe(LBFGS(), splits.select([6]))
        print(probe.setting, probe.accuracy(splits.test.select([6])))
        ```
    """
    best, falls = None, 0
    for probe in method.fits(splits.train, splits.num_classes):
        accuracy = probe.accuracy(splits.validation)
        if best is None or accuracy > best.validation_accuracy:
            best, falls = dataclasses.replace(probe, validation_accuracy=accuracy), 0
        elif accuracy < best.validation_accuracy:
            falls += 1
        if falls == PATIENCE:
            break
    assert best is not None, "a method trains one probe at least"
    if not fold:
        return best
    both = splits.train.join(splits.validation)
    (folded,) = method.with_setting(best.setting).fits(both, splits.num_classes)
    return dataclasses.replace(folded, validation_accuracy=best.validation_accuracy)
