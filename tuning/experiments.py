"""What a trial trains: the runs of `igpt_keras.runs`, compared by one of their metrics."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast

import keras
import keras_tuner
import tensorflow as tf

from igpt_keras.errors import Diverged, InputError
from igpt_keras.evaluation.probes import load_probe
from igpt_keras.models import load
from igpt_keras.runs import DataOptions, Finetune, Pretrain, Probe
from igpt_keras.runs.folder import PROBE_FILE
from igpt_keras.runs.options import LAYOUT
from igpt_keras.runs.run import Run
from igpt_keras.runs.tokenizers import load_with_tokenizer
from igpt_keras.runs.training import cached_strategy
from igpt_keras.saving import read_training
from igpt_keras.training.callbacks.history_logger import HISTORY_FILE, read_history
from tuning.rates import RATE, Rates, shifted

Settings = TypeVar("Settings")


class Experiment(Generic[Settings]):
    """A kind of run whose learning rate is searched.

    An unfinished trial resumes from its last checkpoint.

    Args:
        data: Images to train and validate on: a source in the notation of `open_data`, or
            `DataOptions`.
        settings: Settings of every trial; or a function from keras-tuner's `HyperParameters` to
            settings, to search over other hyperparameters as well. The trial sets the learning
            rate in any case.
        command: The command that makes the runs, for their results.

    Attributes:
        run_class: The class of the runs.
        objective: The objective as keras-tuner names it.
        metric: Its name among the metrics of a result.

    Raises:
        InputError: `data` leaves nothing to validate on.
    """

    run_class: ClassVar[type[Run]]
    objective: ClassVar[keras_tuner.Objective]
    metric: ClassVar[str]

    def __init__(
        self,
        data: str | DataOptions,
        settings: Settings | Callable[[keras_tuner.HyperParameters], Settings],
        command: str = "tuning.LearningRateSearch",
    ):
        self.data = DataOptions.of(data)
        if self.data.train_on_validation:
            raise InputError(
                "train_on_validation leaves nothing to choose a rate by; search without it, and "
                "train with it at the rate that was found"
            )
        self._settings = settings
        self.command = command

    @functools.cached_property
    def first_settings(self) -> Settings:
        """The settings with the default of every hyperparameter."""
        hp = keras_tuner.HyperParameters()
        settings: Any = self._settings(hp) if callable(self._settings) else self._settings
        return settings

    @functools.cached_property
    def strategy(self) -> tf.distribute.Strategy:
        """The strategy that trials train under."""
        return cached_strategy(getattr(self.first_settings, "strategy", "none"))

    def settings(self, hp: keras_tuner.HyperParameters) -> Settings:
        """Returns the settings of a trial."""
        settings: Any = self._settings(hp) if callable(self._settings) else self._settings
        return dataclasses.replace(settings, **{RATE: hp.get(RATE)})

    def check(self, hp: keras_tuner.HyperParameters) -> None:
        """Checks, before there is a folder, that a trial can train.

        Raises:
            InputError: Settings, model and data do not fit.
        """
        self.run_class.check(self.settings(hp), self.data)

    def describe(self, hp: keras_tuner.HyperParameters) -> dict[str, Any]:
        """Returns, as JSON values, what must not change when a search is resumed."""
        settings: Any = self.settings(hp)
        options = {**self.data.to_json(), **dataclasses.asdict(settings)}
        return {name: value for name, value in options.items() if name not in {*LAYOUT, RATE}}

    def rates(self) -> Rates:
        """Returns the rates to try by default."""
        raise NotImplementedError

    def run(
        self,
        settings: Settings,
        output: pathlib.Path,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> float:
        """Trains in a run's folder, or resumes it, and returns the value of the objective.

        Raises:
            Diverged: Training diverged; its checkpoints are removed.
        """
        run = self.run_class.open(settings, self.data, output, resume=True, command=self.command)
        try:
            return run.run(callbacks).metrics[self.metric]
        except Diverged:
            run.remove_checkpoints()
            raise

    def curve(self, output: pathlib.Path) -> list[tuple[int, float]]:
        """Returns steps and training losses of a run, in nats; empty if it has no history."""
        if not (output / HISTORY_FILE).exists():
            return []
        records = cast(list[dict[str, Any]], read_history(output))
        return [(r["step"], r["loss"]) for r in records if r.get("loss") is not None]

    def load(self, output: pathlib.Path) -> Any:
        """Returns the model that `run` trained."""
        return load(output)


class PretrainExperiment(Experiment[Pretrain.Settings]):
    """Pre-training, by the validation loss after the last step in nats per token."""

    run_class = Pretrain
    objective = keras_tuner.Objective("val_loss", "min")
    metric = "validation_loss"

    def rates(self) -> Rates:
        """Returns 0.01, 0.003, 0.001, …, as in the paper."""
        return Rates(0.01)


class FinetuneExperiment(Experiment[Finetune.Settings]):
    """Fine-tuning, by the validation accuracy of the best epoch, whose weights are kept."""

    run_class = Finetune
    objective = keras_tuner.Objective("val_accuracy", "max")
    metric = "validation_accuracy"

    def rates(self) -> Rates:
        """Returns rates from a tenth of the pre-training's on (paper, section 4.5).

        Raises:
            InputError: The model's `training.json` does not say the rate.
        """
        model = self.first_settings.model
        rate = read_training(model).get(RATE)
        if rate is None:
            # A model that does not exist at all is the better error.
            load_with_tokenizer(model)
            raise InputError(
                f"{model} does not tell the learning rate it was pre-trained at, a tenth of which "
                "is the first to be tried; give the rate to start from"
            )
        return Rates(shifted(rate, -1))


class ProbeExperiment(Experiment[Probe.Settings]):
    """Linear probes by SGD, by the validation accuracy of the best of the layers.

    The features are extracted once for all trials. `load` returns the linear classifier, from
    features of the best layer to class logits.

    Args:
        data: As of `Experiment`.
        settings: As of `Experiment`.
        features: Folder that keeps the features.
        **others: As of `Experiment`.
    """

    run_class = Probe
    objective = keras_tuner.Objective("val_accuracy", "max")
    metric = "validation_accuracy"

    def __init__(
        self,
        data: str | DataOptions,
        settings: Any,
        *,
        features: str | os.PathLike,
        **others: Any,
    ):
        super().__init__(data, settings, **others)
        self.features = pathlib.Path(features)

    def settings(self, hp: keras_tuner.HyperParameters) -> Any:
        return dataclasses.replace(super().settings(hp), method="sgd")

    def rates(self) -> Rates:
        """Returns 30, 10, 3, …, as in the paper."""
        return Rates(30.0)

    def run(
        self,
        settings: Any,
        output: pathlib.Path,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> float:
        settings = dataclasses.replace(settings, feature_cache=self.features)
        return super().run(settings, output, callbacks)

    def load(self, output: pathlib.Path) -> Any:
        return load_probe(output / PROBE_FILE).as_model()
