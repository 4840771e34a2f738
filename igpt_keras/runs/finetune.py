"""Fine-tuning: from a pre-trained model to a classifier (paper, section 2.3).

Metrics of the result; losses in nats, generative ones per token:

| key | value |
| --- | --- |
| `history` | Keras' metrics after every epoch, by name |
| `best_epoch` | the epoch, from 1, whose weights the classifier has |
| `validation_accuracy` | None if the validation split was trained on |
| `test_accuracy`, `test_top_5_accuracy`, `single_mask_accuracy` | as of `ClassifierMetrics` |
| `test_confusion` | as of `igpt_keras.runs.confusions` |
| `test_generative_loss`, `test_classification_loss` | likewise |
| `votes` | number of masks that vote, for BERT; else None |
| `trainable_parameters` | how many parameters trained |
| `total_parameters` | how many the classifier had then, adapters included |
"""

import dataclasses
from functools import partial
from typing import Any

import keras

from igpt_keras import paper
from igpt_keras.data.data_set import WeightedSource
from igpt_keras.data.splits import ArraySplit
from igpt_keras.data.stream import TrainingStream
from igpt_keras.errors import InputError
from igpt_keras.evaluation.features import digest_of_weights
from igpt_keras.evaluation.metrics import ClassifierMetrics, classifier_metrics
from igpt_keras.evaluation.voting import VOTES
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.models.masking import masked_inputs
from igpt_keras.models.partial_training import check_frozen_blocks, count_parameters
from igpt_keras.network.config import ImageGPTConfig, integer_of_at_least
from igpt_keras.runs.callbacks import Callbacks
from igpt_keras.runs.confusions import describe_confusions, draw_confusions
from igpt_keras.runs.model_training import ModelTraining
from igpt_keras.runs.options import ModelOptions, ModelTrainingOptions
from igpt_keras.runs.result import Result, describe_model
from igpt_keras.runs.tokenizers import load_with_tokenizer
from igpt_keras.saving import MODEL_FOLDER
from igpt_keras.stages import stage
from igpt_keras.tokenizers import ImageTokenizer
from igpt_keras.tokenizers.base import tokenizer_of
from igpt_keras.training.memory import trained_parameters
from igpt_keras.training.recipes import FineTuningHistory, finetune
from igpt_keras.training.strategies import distribute
from igpt_keras.wording import plural

ADAPTERS_FOLDER = "adapters"


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Settings(ModelOptions, ModelTrainingOptions):
    """Settings of a fine-tuning.

    Attributes:
        model: Path of the pre-trained model.
        from_scratch: Whether to take only the sizes and the tokenizer of the model.
        generative_weight: Factor of L_GEN in the loss L_GEN + L_CLF.
        layer: Layer whose features the class head reads; None for the last.
        lora_rank: Rank of the adapters that train in the place of the pre-trained weights; None
            trains the weights themselves.
        freeze_blocks: Number of first blocks that do not train, nor do then the embeddings.
        epochs: Passes over the images, at most.
        patience: Epochs without a better validation accuracy after which training stops.
        batch_size: Images in a step, of all devices together.
        learning_rate: The constant rate.
        labels_per_class: Number of random training images of each class; None for all.
        seed: Seed of new weights, the subset, the order, the augmentation and the masks.
    """

    from_scratch: bool = False
    generative_weight: float = paper.GENERATIVE_WEIGHT
    layer: int | None = None
    lora_rank: int | None = None
    freeze_blocks: int = 0
    epochs: int = 30
    patience: int = 5
    batch_size: int = paper.BATCH_SIZE
    learning_rate: float = paper.FINETUNING_LEARNING_RATE
    labels_per_class: int | None = None
    seed: int = 0


class Finetune(ModelTraining[Settings]):
    """Trains a pre-trained model to classify, and measures it on the test images.

    Writes checkpoints and `history.jsonl` while it trains, and at the end the classifier of the
    best epoch, whose adapters are merged and stored apart as well, and `result.json`.

    Attributes:
        start: The pre-trained model, or a new one of its sizes.
        held_out: Tokens of the "test" split, and of "validation" unless it is trained on.
        num_images: Number of images to train on.
    """

    kind = "finetune"
    Settings = Settings

    def _load(self) -> None:
        settings = self.settings
        self.start = load_start(settings)
        if settings.layer is not None:
            self.start.check_layer(settings.layer)
        _check_what_trains(settings, self.start.config)
        self.class_names = self.data.labeled_data_set().class_names
        if settings.labels_per_class is not None and self.data.augmentation != "none":
            raise InputError(
                "labels_per_class trains without augmentation (paper, section 4.7), "
                f"got augmentation={self.data.augmentation}"
            )

    def fingerprints(self) -> dict[str, Any]:
        return {"model": digest_of_weights(self.start), "images": self.data.fingerprints()}

    def _global_batch_size(self) -> int:
        settings = self.settings
        if settings.labels_per_class is None:
            return settings.batch_size
        num_images = settings.labels_per_class * len(self.class_names)
        replicas = self.strategy.num_replicas_in_sync
        if settings.batch_size > num_images and num_images % replicas:
            raise InputError(
                f"batch_size={settings.batch_size} is more than the {num_images} images of "
                f"labels_per_class={settings.labels_per_class}, which {replicas} replicas cannot "
                f"share evenly; give a multiple of {replicas} below {num_images}"
            )
        return min(settings.batch_size, num_images)

    def _config(self) -> ImageGPTConfig:
        return self.start.config

    def _trained_parameters(self) -> int | None:
        settings = self.settings
        return trained_parameters(
            self.start.config, settings.lora_rank, settings.freeze_blocks, len(self.class_names)
        )

    def _find_tokenizer(self) -> ImageTokenizer:
        return tokenizer_of(self.start)

    def _prepare_images(self) -> None:
        self.held_out = self.data.tokenize_held_out(self.start)
        self.stream = self._make_stream()
        self.num_images = self.stream.sources[0].split.num_examples
        self.steps_per_epoch = self.stream.steps_per_epoch
        self.total_steps = self.settings.epochs * self.steps_per_epoch

    def _make_stream(self) -> TrainingStream:
        """Returns batches of all training images, or of some of every class."""
        settings, start = self.settings, self.start
        stream = self.data.stream(
            self.tokenizer,
            batch_size=self.batch_size,
            seed=settings.seed,
            labels=True,
            mask_probability=start.mask_probability if start.objective == "bert" else None,
        )
        if settings.labels_per_class is None:
            return stream
        train = self.data.data_set.train
        subset = self.data.tokenize(train, start).per_class(
            settings.labels_per_class, settings.seed
        )
        split = ArraySplit(train.name, subset.tokens, subset.labels)
        return dataclasses.replace(stream, sources=[WeightedSource(split, 1.0, "none")], cache=None)

    def _build(self) -> ImageGPTClassifier:
        settings = self.settings
        model = ImageGPTClassifier.from_preset(
            self.start,
            len(self.class_names),
            layer=settings.layer,
            generative_weight=settings.generative_weight,
            class_names=self.class_names,
            dtype=settings.precision,
        )
        model.freeze_blocks(settings.freeze_blocks)
        if settings.lora_rank is not None:
            model.enable_lora(settings.lora_rank)
        return model

    def _train(self, model: ImageGPTClassifier, callbacks: Callbacks) -> Result:
        trained = self._fit(model, callbacks)
        trainable, total = count_parameters(model)
        if model.lora_rank is not None:
            if self.is_chief:
                folder, base = self.output / ADAPTERS_FOLDER, str(self.settings.model)
                model.save_adapters(folder, base=base, overwrite=True)
            model.merge_lora()
        measured = {name: self._measure(model, name) for name in self.held_out}
        if self.is_chief:
            self._save(model, trained, measured.get("validation"))
            tokens, tokenizer = self.held_out["test"].tokens, tokenizer_of(self.start)
            draw_confusions(
                self.output,
                measured["test"].predictions,
                self.class_names,
                lambda rows: tokenizer.detokenize(tokens[rows]),
            )
        return Result(
            kind=self.kind,
            command=self.command,
            model=self._describe_start(),
            data={**self.data.data_set.describe(), "train": self.num_images},
            settings=self._describe_settings(model),
            metrics={
                **_metrics(model, trained, measured),
                "trainable_parameters": trainable,
                "total_parameters": total,
                "test_confusion": describe_confusions(
                    measured["test"].predictions, self.class_names
                ),
            },
        )

    def _measure(self, model: ImageGPTClassifier, name: str) -> ClassifierMetrics:
        split = self.held_out[name]
        with stage(f"measuring the classifier on {plural(len(split), f'{name} image')}"):
            return classifier_metrics(
                model,
                split.tokens,
                split.labels,
                batch_size=self.evaluation_batch_size,
                seed=self.settings.seed,
            )

    def _fit(self, model: ImageGPTClassifier, callbacks: Callbacks) -> FineTuningHistory:
        settings = self.settings
        validation = self.held_out.get("validation")
        if validation is not None:
            # The same masks in every epoch, so that only better weights are better.
            inputs = masked_inputs(model, validation.tokens, settings.seed)
            validation = (inputs, validation.labels)
        checkpoints = self._checkpoints(callbacks)
        with self._fitting(checkpoints):
            return finetune(
                model,
                lambda step: distribute(partial(self.stream.dataset, step), self.strategy),
                validation,
                epochs=settings.epochs,
                patience=settings.patience,
                batch_size=settings.batch_size,
                steps_per_epoch=self.steps_per_epoch,
                **self._recipe(checkpoints, callbacks),
            )

    def _save(
        self,
        model: ImageGPTClassifier,
        trained: FineTuningHistory,
        validation: ClassifierMetrics | None,
    ) -> None:
        about = {
            "name": self.output.name,
            "data": self.data.data_set.describe()["name"],
            "step": trained.best_epoch * self.steps_per_epoch,
            "validation_loss": validation and validation.generative_loss,
            "model": self.settings.model,
            **self._describe_settings(model),
        }
        # A process that was killed before it wrote the result may have written the model.
        model.save_to_preset(self.output / MODEL_FOLDER, training=about, overwrite=True)

    def _describe_start(self) -> dict[str, Any]:
        described = describe_model(self.start, self.settings.model)
        if self.settings.from_scratch:
            # A new model learned nothing of what the pre-trained one did.
            described |= {"data": None, "step": None, "validation_loss": None}
        return described

    def _describe_settings(self, model: ImageGPTClassifier) -> dict[str, Any]:
        described = dataclasses.asdict(self.settings)
        del described["model"], described["from_scratch"]
        return {
            "start": "scratch" if self.settings.from_scratch else "pretrained",
            **described,
            "layer": model.layer,
            "augmentation": self.data.augmentation,
            "train_on_validation": self.data.train_on_validation,
            "split_seed": self.data.split_seed,
        }


def load_start(settings: Settings) -> ImageGPT:
    """Loads the pre-trained model, or makes a new one of its sizes and tokenizer.

    Raises:
        InputError: It is a classifier, or has no tokenizer.
    """
    pretrained = load_with_tokenizer(settings.model)
    if not isinstance(pretrained, ImageGPT):
        raise InputError(
            f"{settings.model} is a classifier; expected a generative model to start from"
        )
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


def _check_what_trains(settings: Settings, config: ImageGPTConfig) -> None:
    """Raises `InputError` for a `lora_rank` or `freeze_blocks` that cannot be used."""
    frozen = check_frozen_blocks(config, "freeze_blocks", settings.freeze_blocks)
    if settings.lora_rank is None:
        return
    integer_of_at_least(1, "lora_rank", settings.lora_rank)
    if settings.from_scratch:
        raise InputError(
            f"lora_rank={settings.lora_rank} keeps pre-trained weights as they are, and "
            "from_scratch=True has none; give one of the two"
        )
    used = config.num_layers
    if settings.generative_weight == 0 and settings.layer is not None:
        used = settings.layer
    if frozen >= used:
        raise InputError(
            f"lora_rank={settings.lora_rank} needs a block that trains, and of the {used} blocks "
            f"that are used, freeze_blocks={frozen} leaves none"
        )


def _metrics(
    model: ImageGPTClassifier, trained: FineTuningHistory, measured: dict[str, ClassifierMetrics]
) -> dict[str, Any]:
    validation, test = measured.get("validation"), measured["test"]
    return {
        "history": trained.history,
        "best_epoch": trained.best_epoch,
        "validation_accuracy": validation.accuracy if validation else None,
        "test_accuracy": test.accuracy,
        "test_top_5_accuracy": test.top_5_accuracy,
        "test_generative_loss": test.generative_loss,
        "test_classification_loss": test.classification_loss,
        "single_mask_accuracy": test.single_mask_accuracy,
        "votes": VOTES if model.objective == "bert" else None,
    }
