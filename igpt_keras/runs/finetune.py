"""Fine-tuning: a pre-trained model in, the folder of a run out, which can be gone on with."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from igpt_keras import paper
from igpt_keras.data.data_set import DataSet, WeightedSource
from igpt_keras.data.labeled import LabeledTokens
from igpt_keras.data.splits import ArraySplit
from igpt_keras.data.stream import TrainingStream
from igpt_keras.errors import InputError
from igpt_keras.evaluation.features import digest_of_weights
from igpt_keras.evaluation.metrics import ClassifierMetrics, classifier_metrics
from igpt_keras.evaluation.voting import VOTES
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.models.masking import masked_inputs
from igpt_keras.runs.folder import create_run, only_writer, read_run, remove_checkpoints
from igpt_keras.runs.options import DataOptions, TrainingOptions
from igpt_keras.runs.recording import RecordingSettings, recording, stopping
from igpt_keras.runs.result import Result, describe_model, write_result
from igpt_keras.runs.tokenizers import load_with_palette
from igpt_keras.saving import MODEL_FOLDER
from igpt_keras.training.callbacks.progress_bar import ProgressBar
from igpt_keras.training.recipes import FineTuningHistory, finetune
from igpt_keras.training.strategies import check_batch_size, distribute, is_chief

KIND = "finetune"


@dataclasses.dataclass(frozen=True)
class Settings(RecordingSettings):
    """The training; see `igpt finetune --help`."""

    from_scratch: bool = False
    generative_weight: float = paper.GENERATIVE_WEIGHT
    layer: int | None = None
    epochs: int = 30
    patience: int = 5
    batch_size: int = paper.BATCH_SIZE
    learning_rate: float = paper.FINETUNING_LEARNING_RATE
    labels_per_class: int | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Material:
    """What a fine-tuning begins with.

    Attributes:
        path: of the pre-trained model.
        start: that model, or a new one of its sizes and palette.
        options: what the user said of the data.
        data_set: the images.
        splits: the "test" split, and "validation" unless it is folded into the training images.
        stream: the batches to train on.
    """

    path: str
    start: ImageGPT
    options: DataOptions
    data_set: DataSet
    splits: dict[str, LabeledTokens]
    stream: TrainingStream

    @classmethod
    def open(
        cls,
        path: str,
        options: DataOptions,
        settings: Settings,
        strategy: tf.distribute.Strategy,
    ) -> "Material":
        """Loads the model, and the images in its palette.

        Raises:
            InputError: a model, settings or data that do not fit.
        """
        start = load_start(path, settings)
        if settings.layer is not None:
            start.check_layer(settings.layer)
        data_set = options.open()
        check_data(data_set, options, settings)
        batch_size = global_batch_size(data_set, settings, strategy)
        splits = tokenize_splits(start, data_set, options)
        stream = training_stream(start, data_set, options, settings, batch_size)
        return cls(path, start, options, data_set, splits, stream)

    @property
    def count(self) -> int:
        """How many images there are to train on."""
        return self.stream.sources[0].split.num_examples

    def fingerprints(self) -> dict[str, Any]:
        """What changes when the model or the images change."""
        held_out = (self.data_set.validation, self.data_set.test)
        splits = [source.split for source in self.data_set.sources]
        splits += [split for split in held_out if split is not None]
        return {
            "model": digest_of_weights(self.start),
            "images": [split.fingerprint() for split in splits],
        }


@dataclasses.dataclass(frozen=True)
class Run:
    """One fine-tuning and its folder.

    Attributes:
        command: that began it.
        material: the model, and what it learns from and is measured on.
        settings: of the training.
        training: how it runs.
        output: the folder.
    """

    command: str
    material: Material
    settings: Settings
    training: TrainingOptions
    output: pathlib.Path

    @classmethod
    def resume(
        cls,
        material: Material,
        settings: Settings,
        training: TrainingOptions,
        output: pathlib.Path,
    ) -> "Run":
        """The run in `output`, to go on from its last state.

        Raises:
            InputError: `output` is no such run, or one of another model or other images.
        """
        begun = read_run(output, KIND)
        for name, value in material.fingerprints().items():
            if begun[name] != value:
                given = material.path if name == "model" else " ".join(material.options.data)
                raise InputError(f"{name} {given} changed since {output} began")
        return cls(begun["command"], material, settings, training, output)

    def create(self, overwrite: bool = False) -> None:
        """Begins the folder of a new run.

        Raises:
            FileExistsError: the folder exists and must not be replaced.
        """
        options = {
            "model": self.material.path,
            **self.material.options.described(),
            **dataclasses.asdict(self.training),
            **dataclasses.asdict(self.settings),
        }
        about = {"command": self.command, "options": options, **self.material.fingerprints()}
        create_run(self.output, KIND, about, self.material.start.tokenizer, overwrite)

    def finish(
        self,
        strategy: tf.distribute.Strategy,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> dict[str, Any]:
        """Trains from the last state on, or from the beginning, measures and writes the result.

        Args:
            strategy: that the classifier is made under.
            callbacks: of Keras, besides those that write the run.

        Returns: the metrics of the result.

        Raises:
            InputError: another process trains in the folder.
            Interrupted: a signal told it to stop; its state is written.
            Diverged: as `DivergenceDetector`.
        """
        material, settings = self.material, self.settings
        writes = is_chief(strategy)
        with only_writer(self.output) if writes else contextlib.nullcontext():
            with strategy.scope():
                classifier = ImageGPTClassifier.from_preset(
                    material.start,
                    len(material.data_set.class_names),
                    layer=settings.layer,
                    generative_weight=settings.generative_weight,
                    class_names=material.data_set.class_names,
                    dtype=self.training.precision,
                )
            trained = _train(classifier, self, callbacks)
            measured = {
                name: classifier_metrics(classifier, split.tokens, split.labels, seed=settings.seed)
                for name, split in material.splits.items()
            }
            metrics = metrics_of(classifier, trained, measured)
            if writes:
                _write(classifier, self, metrics, measured.get("validation"))
        return metrics


def _write(
    classifier: ImageGPTClassifier,
    run: Run,
    metrics: dict[str, Any],
    validation: ClassifierMetrics | None,
) -> None:
    """Writes what a finished run has: the classifier, and the result in the end."""
    material = run.material
    data = material.data_set.describe()
    settings = describe_settings(classifier, material.options, run.settings, run.training)
    about = {
        "name": run.output.name,
        "data": data["name"],
        "step": metrics["best_epoch"] * material.stream.steps_per_epoch,
        "validation_loss": validation and validation.generative_loss,
        "model": material.path,
        **settings,
    }
    # A process that was killed before the result was written may have written this.
    classifier.save_to_preset(run.output / MODEL_FOLDER, training=about, overwrite=True)
    result = Result(
        kind=KIND,
        command=run.command,
        model=describe_start(material.start, material.path, run.settings),
        data={**data, "train": material.count},
        settings=settings,
        metrics=metrics,
    )
    write_result(result, run.output)
    remove_checkpoints(run.output)


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
        tokenizer=pretrained.tokenizer,
        dtype=pretrained.dtype_policy,
    )


def check_data(data_set: DataSet, data: DataOptions, settings: Settings) -> None:
    """Raises `InputError` for data that a classifier cannot be trained and measured on."""
    data_set.labeled_train()
    if data_set.test is None:
        raise InputError(
            f"data={data_set.specs[0]} has no test split to measure the accuracy on; "
            "a folder has its own in test/<class>/"
        )
    if settings.labels_per_class is not None and data.augmentation != "none":
        raise InputError(
            "labels_per_class trains without augmentation (paper, section 4.7), "
            f"got augmentation={data.augmentation}"
        )


def tokenize_splits(
    start: ImageGPT, data_set: DataSet, data: DataOptions
) -> dict[str, LabeledTokens]:
    """The "test" split, and "validation" unless it is folded into the training images."""
    splits = {"validation": data_set.validation, "test": data_set.test}
    return {
        name: data.tokenize(split, start.tokenizer)
        for name, split in splits.items()
        if split is not None
    }


def global_batch_size(
    data_set: DataSet, settings: Settings, strategy: tf.distribute.Strategy
) -> int:
    """Images in a step: no more than there are, where they are few of every class.

    Raises:
        InputError: it cannot be shared out evenly.
    """
    if settings.labels_per_class is None:
        check_batch_size(strategy, settings.batch_size)
        return settings.batch_size
    count = settings.labels_per_class * len(data_set.class_names)
    replicas = strategy.num_replicas_in_sync
    if settings.batch_size > count and count % replicas:
        raise InputError(
            f"batch_size={settings.batch_size} is more than the {count} images of "
            f"labels_per_class={settings.labels_per_class}, which {replicas} replicas cannot share "
            f"evenly; give a multiple of {replicas} below {count}"
        )
    check_batch_size(strategy, min(settings.batch_size, count))
    return min(settings.batch_size, count)


def training_stream(
    start: ImageGPT,
    data_set: DataSet,
    data: DataOptions,
    settings: Settings,
    batch_size: int,
) -> TrainingStream:
    """Batches of all training images, or of some of every class."""
    stream = data.stream(
        data_set,
        start.tokenizer,
        batch_size,
        settings.seed,
        labels=True,
        mask_probability=start.mask_probability if start.objective == "bert" else None,
    )
    if settings.labels_per_class is None:
        return stream
    tokenized = data.tokenize(data_set.train, start.tokenizer)
    subset = tokenized.per_class(settings.labels_per_class, settings.seed)
    split = ArraySplit(data_set.train.name, subset.tokens, subset.labels)
    return dataclasses.replace(stream, sources=[WeightedSource(split, 1.0, "none")], cache=None)


def _announce(run: Run) -> None:
    """Says how many images there are, and how long the training takes."""
    material, settings, say = run.material, run.settings, run.training.say
    say(f"{material.count} images to train, {len(material.splits['test'])} to test")
    if "validation" in material.splits:
        say(
            f"{len(material.splits['validation'])} to validate: at most {settings.epochs} epochs, "
            f"ended by {settings.patience} without a better validation accuracy"
        )
    else:
        say(
            f"validation images are trained on: no early stopping, exactly {settings.epochs} epochs"
        )


def _train(
    classifier: ImageGPTClassifier, run: Run, others: Sequence[keras.callbacks.Callback]
) -> FineTuningHistory:
    """Fine-tunes `classifier`, from the last state on if there is one, under a progress bar."""
    material, settings, training = run.material, run.settings, run.training
    strategy, stream = classifier.distribute_strategy, material.stream
    validation = None
    if "validation" in material.splits:
        split = material.splits["validation"]
        # The same masks in every epoch, so that only the weights make one better.
        validation = (masked_inputs(classifier, split.tokens, settings.seed), split.labels)
    bar = ProgressBar(
        "fine-tuning",
        ("loss", "val_accuracy"),
        settings.epochs * stream.steps_per_epoch,
        training.progress,
    )
    states = recording(
        run.output,
        settings,
        training,
        strategy,
        batch_size=stream.batch_size,
        total_steps=settings.epochs * stream.steps_per_epoch,
        listener=bar.show,
    )
    callbacks = [*states.callbacks.values(), bar, *others]
    _announce(run)
    with (
        bar,
        material.options.decoder.restore_errors(),
        stopping(states, strategy),
    ):
        return finetune(
            classifier,
            lambda step: distribute(partial(stream.dataset, step), strategy),
            validation,
            epochs=settings.epochs,
            patience=settings.patience,
            batch_size=settings.batch_size,
            steps_per_epoch=stream.steps_per_epoch,
            learning_rate=settings.learning_rate,
            clip_norm=training.clip_norm,
            remat=training.remat,
            micro_batches=training.micro_batches,
            seed=settings.seed,
            checkpoints=states,
            callbacks=callbacks,
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
        "train_on_validation": data.train_on_validation,
        "split_seed": data.split_seed,
    }


def metrics_of(
    classifier: ImageGPTClassifier,
    training: FineTuningHistory,
    measured: dict[str, ClassifierMetrics],
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
