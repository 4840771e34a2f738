"""Fine-tuning: a pre-trained model in, the folder of a classifier and its accuracy out."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import igpt_keras
from igpt_keras.atomic import atomic_path
from igpt_keras.data.open import DataSet
from igpt_keras.data.splits import LabelledTokens
from igpt_keras.errors import InputError
from igpt_keras.evaluation.accuracy import ClassifierFigures, classifier_figures, masked_inputs
from igpt_keras.evaluation.results import RESULT_FILE, Result, describe_model, write_result
from igpt_keras.evaluation.voting import VOTES
from igpt_keras.experiments.options import DataOptions, TrainingOptions
from igpt_keras.experiments.palettes import load_with_palette
from igpt_keras.folder import MODEL_FOLDER
from igpt_keras.models import ImageGPT, ImageGPTClassifier
from igpt_keras.training.finetuning import FineTuning, finetune
from igpt_keras.training.guard import SpikeGuard
from igpt_keras.training.progress import ProgressBar
from igpt_keras.training.strategies import check_batch_size, folder_of_chief, share_out


@dataclasses.dataclass(frozen=True)
class Settings:
    """The training; see `igpt finetune --help`."""

    from_scratch: bool = False
    generative_weight: float = 1.0
    layer: int | None = None
    epochs: int = 30
    patience: int = 5
    batch_size: int = 128
    learning_rate: float = 0.0003
    labels_per_class: int | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Run:
    """One fine-tuning and its folder.

    Attributes:
        command: that began it.
        model: path of the pre-trained model.
        data: what it learns from, and is measured on.
        settings: of the training.
        training: how it runs.
        output: the folder.
    """

    command: str
    model: str
    data: DataOptions
    settings: Settings
    training: TrainingOptions
    output: pathlib.Path

    def finish(
        self,
        strategy: tf.distribute.Strategy,
        overwrite: bool = False,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> dict[str, Any]:
        """Trains, measures and writes all of it; gives the figures of the result.

        Args:
            strategy: that the classifier is made under.
            overwrite: whether an earlier run is replaced.
            callbacks: of Keras.

        Raises:
            FileExistsError: the folder exists and must not be replaced.
            InputError: a model or data that do not fit.
            Diverged: as `SpikeGuard`.
        """
        model, data, settings, training = self.model, self.data, self.settings, self.training
        check_batch_size(strategy, settings.batch_size)
        with (
            folder_of_chief(strategy, self.output) as run,
            atomic_path(run, overwrite, marker=RESULT_FILE) as folder,
        ):
            start = load_start(model, settings)
            data_set = data.open()
            check_data(data_set, data, settings)
            with strategy.scope():
                classifier = ImageGPTClassifier.from_pretrained(
                    start,
                    len(data_set.class_names),
                    layer=settings.layer,
                    generative_weight=settings.generative_weight,
                    class_names=data_set.class_names,
                    dtype=training.precision,
                )
            training.prepare(classifier)
            parts = encode_parts(start, data_set, data)
            images = training_images(start, data_set, data, settings)
            announce(images, parts, settings, training)
            trained = train(classifier, images, parts, data, settings, training, callbacks)
            measured = {
                name: classifier_figures(classifier, part.tokens, part.labels, seed=settings.seed)
                for name, part in parts.items()
            }
            folder.mkdir()
            described = describe_settings(classifier, data, settings, training)
            about = {
                "name": run.name,
                "data": data_set.describe()["name"],
                "step": trained.best_epoch * images.steps_per_epoch,
                "validation_loss": measured["validation"].generative_loss
                if "validation" in measured
                else None,
                "model": model,
                **described,
            }
            igpt_keras.save(classifier, folder / MODEL_FOLDER, about)
            result = Result(
                kind="finetune",
                command=self.command,
                model=describe_start(start, model, settings),
                data={**data_set.describe(), "train": images.count},
                settings=described,
                figures=figures_of(classifier, trained, measured),
            )
            write_result(result, folder)
        return result.figures


def load_start(path: str, settings: Settings) -> ImageGPT:
    """The model at `path`, or a new one of its sizes and palette.

    Raises:
        InputError: a classifier, or a model without a palette.
    """
    pretrained = load_with_palette(path)
    if not isinstance(pretrained, ImageGPT):
        raise InputError(f"{path} is a classifier; expected a generative model to start from")
    keras.utils.set_random_seed(settings.seed)
    if not settings.from_scratch:
        return pretrained
    return ImageGPT(
        pretrained.config,
        pretrained.objective,
        mask_probability=pretrained.mask_probability,
        palette=pretrained.palette,
        dtype=pretrained.dtype_policy,
    )


def check_data(data_set: DataSet, data: DataOptions, settings: Settings) -> None:
    """Raises `InputError` for data that a classifier cannot be trained and measured on."""
    data_set.labelled_train()
    if data_set.test is None:
        raise InputError(
            f"data={data_set.specs[0]} has no test part to measure the accuracy on; "
            "a folder has its own in test/<class>/"
        )
    if settings.labels_per_class is not None and data.augmentation != "none":
        raise InputError(
            "labels_per_class trains without augmentation (paper, section 4.7), "
            f"got augmentation={data.augmentation}"
        )


def encode_parts(
    start: ImageGPT, data_set: DataSet, data: DataOptions
) -> dict[str, LabelledTokens]:
    """The "test" part, and "validation" unless it is folded into the training images."""
    parts = {"validation": data_set.validation, "test": data_set.test}
    return {
        name: data.encode(part, start.palette, start.config.image_size)
        for name, part in parts.items()
        if part is not None
    }


@dataclasses.dataclass(frozen=True)
class TrainingImages:
    """What is trained on.

    Attributes:
        batches: of a worker, as `share_out` takes them; None where there are arrays.
        arrays: tokens int32 [N, n] and labels int32 [N]; None where there are batches.
        steps_per_epoch: batches in an epoch.
        count: how many images there are.
    """

    batches: Callable[[int, int], tf.data.Dataset] | None
    arrays: tuple[np.ndarray, np.ndarray] | None
    steps_per_epoch: int
    count: int


def training_images(
    start: ImageGPT, data_set: DataSet, data: DataOptions, settings: Settings
) -> TrainingImages:
    """A stream of all training images, or some of every class as arrays."""
    encoding = (start.palette, start.config.image_size)
    if settings.labels_per_class is None:
        stream = data.stream(
            data_set,
            *encoding,
            settings.batch_size,
            settings.seed,
            labels=True,
            mask_probability=start.mask_probability if start.objective == "bert" else None,
        )
        return TrainingImages(
            partial(stream.dataset, 0), None, stream.steps_per_epoch, data_set.train.num_examples
        )
    encoded = data.encode(data_set.train, *encoding)
    subset = encoded.per_class(settings.labels_per_class, settings.seed)
    tokens = np.asarray(subset.tokens, np.int32)
    steps_per_epoch = -(-len(subset) // settings.batch_size)
    return TrainingImages(None, (tokens, subset.labels), steps_per_epoch, len(subset))


def announce(
    images: TrainingImages,
    parts: dict[str, LabelledTokens],
    settings: Settings,
    training: TrainingOptions,
) -> None:
    """Says how many images there are, and how long the training takes."""
    training.say(f"{images.count} images to train, {len(parts['test'])} to test")
    if "validation" in parts:
        training.say(
            f"{len(parts['validation'])} to validate: at most {settings.epochs} epochs, ended by "
            f"{settings.patience} without a better validation accuracy"
        )
    else:
        training.say(
            f"validation images are trained on: no early stopping, exactly {settings.epochs} epochs"
        )


def train(
    classifier: ImageGPTClassifier,
    images: TrainingImages,
    parts: dict[str, LabelledTokens],
    data: DataOptions,
    settings: Settings,
    training: TrainingOptions,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> FineTuning:
    """Fine-tunes `classifier` under a progress bar."""
    validation = None
    if "validation" in parts:
        part = parts["validation"]
        # The same masks in every epoch, so that only the weights make one better.
        validation = (masked_inputs(classifier, part.tokens, settings.seed), part.labels)
    streamed = images.batches is not None
    bar = ProgressBar("fine-tuning", ("loss", "val_accuracy"), form=training.progress)
    guards = []
    if training.guard:
        guards.append(SpikeGuard(settings.epochs * images.steps_per_epoch))
    with (
        bar,
        data.decoder.naming_errors(),
    ):
        return finetune(
            classifier,
            share_out(images.batches, classifier.distribute_strategy)
            if streamed
            else images.arrays,
            validation,
            epochs=settings.epochs,
            patience=settings.patience,
            batch_size=settings.batch_size,
            steps_per_epoch=images.steps_per_epoch if streamed else None,
            learning_rate=settings.learning_rate,
            clip_norm=training.clip_norm,
            seed=settings.seed,
            callbacks=[*guards, bar, *callbacks],
            verbose=0,
        )


def describe_start(start: ImageGPT, path: str, settings: Settings) -> dict[str, Any]:
    """`describe_model`, without what a model from scratch did not learn."""
    described = describe_model(start, path)
    if settings.from_scratch:
        described |= {"data": None, "step": None, "validation_loss": None}
    return described


def describe_settings(
    classifier: ImageGPTClassifier,
    data: DataOptions,
    settings: Settings,
    training: TrainingOptions,
) -> dict[str, Any]:
    """What a result says of the settings."""
    described = dataclasses.asdict(settings)
    del described["from_scratch"]
    return {
        "start": "scratch" if settings.from_scratch else "pretrained",
        **described,
        **dataclasses.asdict(training),
        "layer": classifier.layer,
        "augmentation": data.augmentation,
        "fold_validation": data.fold_validation,
        "split_seed": data.split_seed,
    }


def figures_of(
    classifier: ImageGPTClassifier,
    training: FineTuning,
    measured: dict[str, ClassifierFigures],
) -> dict[str, Any]:
    """What was measured: nats, nats per pixel, and shares of the images."""
    validation, test = measured.get("validation"), measured["test"]
    return {
        "history": training.history,
        "best_epoch": training.best_epoch,
        "validation_accuracy": validation.accuracy if validation else None,
        "test_accuracy": test.accuracy,
        "test_generative_loss": test.generative_loss,
        "test_classification_loss": test.classification_loss,
        "single_mask_accuracy": test.single_mask_accuracy,
        "votes": VOTES if classifier.objective == "bert" else None,
    }
