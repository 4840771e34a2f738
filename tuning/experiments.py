"""What a trial trains: the same code as `igpt pretrain`, `igpt finetune` and `igpt probe`."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import keras
import keras_tuner
import tensorflow as tf

import igpt_keras
from igpt_keras import paper
from igpt_keras.data.data_set import DataSet
from igpt_keras.errors import InputError
from igpt_keras.evaluation.probes import load_probe
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.runs import finetune as finetuning
from igpt_keras.runs import pretrain as pretraining
from igpt_keras.runs import probe as probing
from igpt_keras.runs.folder import CHECKPOINTS, RUN_FILE, remove_checkpoints
from igpt_keras.runs.options import LAYOUT, DataOptions, TrainingOptions
from igpt_keras.runs.result import RESULT_FILE, read_result
from igpt_keras.runs.tokenizers import load_with_palette
from igpt_keras.saving import read_training
from igpt_keras.training.callbacks.history_logger import HISTORY_FILE, read_history
from igpt_keras.training.strategies import check_batch_size, is_chief, make_strategy
from tuning.rates import RATE, Rates, shifted

Settings = TypeVar("Settings")


class Experiment(Generic[Settings]):
    """A kind of training whose learning rate is searched.

    Args:
        data: what is learned from: a source in the notation of `open_data`, or more of it.
        settings: of every trial; or a function from keras-tuner's `HyperParameters` to them, for
            other hyperparameters to ride along. The learning rate is the trial's in any case.
        command: what `result.json` names as the command that made it.

    Attributes:
        objective: the final figure that trials are compared by.
        training: how training runs.
        strategy: that the models are made under.

    Raises:
        InputError: data that leave nothing to validate on.
    """

    objective: keras_tuner.Objective
    training: TrainingOptions

    def __init__(
        self,
        data: str | DataOptions,
        settings: Settings | Callable[[keras_tuner.HyperParameters], Settings],
        command: str = "tuning.LearningRateSearch",
    ):
        self.data = DataOptions((data,)) if isinstance(data, str) else data
        if self.data.train_on_validation:
            raise InputError(
                "train_on_validation leaves nothing to choose a rate by; search without it, and "
                "train with it at the rate that was found"
            )
        self._settings = settings
        self.command = command

    @functools.cached_property
    def strategy(self) -> tf.distribute.Strategy:
        return make_strategy(self.training.strategy)

    @functools.cached_property
    def images(self) -> pretraining.Images:
        """What is learned from and validated on."""
        return pretraining.Images.open(self.data)

    def settings(self, hp: keras_tuner.HyperParameters) -> Settings:
        """The settings of a trial."""
        settings = self._settings(hp) if callable(self._settings) else self._settings
        return dataclasses.replace(settings, **{RATE: hp.get(RATE)})

    def check(self, hp: keras_tuner.HyperParameters) -> None:
        """Raises, before there is a folder, for what no trial could train with."""
        self.check_data(self.images.data_set, self.settings(hp))

    def check_data(self, data_set: DataSet, settings: Settings) -> None:
        """Raises `InputError` for images that a trial cannot use."""

    def described(self, hp: keras_tuner.HyperParameters) -> dict[str, Any]:
        """What must not change while a search goes on, JSON values."""
        options = {
            **self.data.described(),
            **dataclasses.asdict(self.training),
            **dataclasses.asdict(self.settings(hp)),
        }
        return {name: value for name, value in options.items() if name not in {*LAYOUT, RATE}}

    def rates(self) -> Rates:
        """Those that are tried unless others are given."""
        raise NotImplementedError

    def run(
        self,
        settings: Settings,
        output: pathlib.Path,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> float:
        """Trains and writes a run's folder; gives the final value of the objective.

        What another process began in `output` is gone on with, as far as the experiment can;
        what it finished is read.

        Raises:
            Diverged: the training did.
        """
        raise NotImplementedError

    def remove_checkpoints(self, output: pathlib.Path) -> None:
        """Removes what a trial would go on from: to be called when it has ended."""
        remove_checkpoints(output)

    def curve(self, output: pathlib.Path) -> list[tuple[int, float]]:
        """The training loss in nats after so many steps; empty where none was written."""
        if not (output / HISTORY_FILE).exists():
            return []
        records = read_history(output)
        return [(r["step"], r["loss"]) for r in records if r.get("loss") is not None]

    def load(self, output: pathlib.Path) -> Any:
        """What `run` trained."""
        return igpt_keras.load(output)


class ModelExperiment(Experiment[Settings]):
    """An experiment on a model that is there.

    Args:
        model: its path.
        others: as `Experiment`.
    """

    def __init__(self, model: str | os.PathLike, data, settings, **others):
        super().__init__(data, settings, **others)
        self.model = str(model)

    def check(self, hp):
        super().check(hp)
        self.check_model(load_with_palette(self.model), self.settings(hp))

    def check_model(self, model: GenerativeModel, settings: Settings) -> None:
        """Raises `InputError` for settings that do not fit the model."""
        raise NotImplementedError

    def described(self, hp):
        return {"model": self.model, **super().described(hp)}


class PretrainExperiment(Experiment[pretraining.Settings]):
    """`igpt pretrain`, by the validation loss after the last step, in nats per pixel.

    An unfinished trial goes on from its last state.

    Args:
        training: how it runs.
        others: as `Experiment`.
    """

    objective = keras_tuner.Objective("val_loss", "min")

    def __init__(self, data, settings, training: TrainingOptions | None = None, **others):
        super().__init__(data, settings, **others)
        self.training = training or TrainingOptions(progress="quiet")
        self._palettes = {}

    def rates(self) -> Rates:
        """0.01, 0.003, 0.001, …, as in the paper."""
        return Rates(paper.SEARCH_LEARNING_RATES[0])

    def run(self, settings, output, callbacks=()):
        if (output / RESULT_FILE).exists():
            return read_result(output).metrics["validation_loss"]
        check_batch_size(self.strategy, settings.batch_size)
        if (output / RUN_FILE).exists():
            run = pretraining.Run.resume(self.images, settings, self.training, output)
        else:
            palette = self._palette(settings)
            run = pretraining.Run(
                self.command, self.images, settings, self.training, output, palette
            )
            if is_chief(self.strategy):
                run.create()
        return run.finish(self.strategy, callbacks)

    def _palette(self, settings):
        """Fitted once for all trials that would fit the same."""
        key = (settings.palette, settings.num_colors, settings.sizes()["image_size"], settings.seed)
        if key not in self._palettes:
            self._palettes[key] = pretraining.find_palette(self.images, settings)
        return self._palettes[key]


class FinetuneExperiment(ModelExperiment[finetuning.Settings]):
    """`igpt finetune`, by the validation accuracy of its best epoch, whose weights it keeps.

    An unfinished trial goes on from its last state.

    Args:
        model: path of the pre-trained model.
        training: how it runs.
        others: as `Experiment`.
    """

    objective = keras_tuner.Objective("val_accuracy", "max")

    def __init__(
        self,
        model: str | os.PathLike,
        data,
        settings,
        training: TrainingOptions | None = None,
        **others,
    ):
        super().__init__(model, data, settings, **others)
        self.training = training or TrainingOptions(progress="quiet")

    def check_data(self, data_set, settings):
        finetuning.check_data(data_set, self.data, settings)

    def check_model(self, model, settings):
        if settings.layer is not None:
            model.check_layer(settings.layer)

    def rates(self) -> Rates:
        """From a tenth of the rate of the pre-training on (paper, section 4.5).

        Raises:
            InputError: the model's `training.json` does not tell that.
        """
        rate = read_training(self.model).get(RATE)
        if rate is None:
            # Where there is no model at all, that is what to say.
            load_with_palette(self.model)
            raise InputError(
                f"{self.model} does not tell the learning rate it was pre-trained at, a tenth of "
                "which is the first to be tried; give the rate to start from"
            )
        return Rates(shifted(rate, -1))

    def run(self, settings, output, callbacks=()):
        if (output / RESULT_FILE).exists():
            return read_result(output).metrics["validation_accuracy"]
        material = finetuning.Material.open(self.model, self.data, settings, self.strategy)
        if (output / RUN_FILE).exists():
            run = finetuning.Run.resume(material, settings, self.training, output)
        else:
            run = finetuning.Run(self.command, material, settings, self.training, output)
            if is_chief(self.strategy):
                run.create()
        return run.finish(self.strategy, callbacks)["validation_accuracy"]


class ProbeExperiment(ModelExperiment[probing.Settings]):
    """`igpt probe --method sgd`, by the validation accuracy of the best of the layers.

    An unfinished trial goes on from its last state; the features are extracted once for all. What
    is loaded is the linear classifier, from features of the best layer to class logits.

    Args:
        model: path of the model.
        features: folder where the features are kept.
        others: as `Experiment`.
    """

    objective = keras_tuner.Objective("val_accuracy", "max")
    training = TrainingOptions(strategy="none", progress="quiet")

    def __init__(
        self, model: str | os.PathLike, data, settings, *, features: str | os.PathLike, **others
    ):
        super().__init__(model, data, settings, **others)
        self.features = pathlib.Path(features)

    def settings(self, hp):
        return dataclasses.replace(super().settings(hp), method="sgd")

    def check_data(self, data_set, settings):
        probing.check_data(data_set)

    def check_model(self, model, settings):
        probing.check_settings(model, settings)

    def rates(self) -> Rates:
        """30, 10, 3, …, as in the paper."""
        return Rates(paper.PROBE_LEARNING_RATES[0])

    def run(self, settings, output, callbacks=()):
        states = output.parent / CHECKPOINTS
        if not (output / RESULT_FILE).exists():
            places = {"output": output, "feature_cache": self.features, "states": states}
            run = probing.Run(self.command, self.model, self.data, settings, quiet=True, **places)
            run.finish()
        self.remove_checkpoints(output)
        return read_result(output).metrics["validation_accuracy"]

    def remove_checkpoints(self, output):
        # The run's folder appears with its result: its states lie beside it.
        remove_checkpoints(output.parent)

    def load(self, output):
        return load_probe(output / probing.PROBE_FILE).as_model()
