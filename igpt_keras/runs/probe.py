"""Probes: a model in, what linear classifiers read off its layers out.

The folder of a run holds `result.json`, and `probe.npz`, the probe of the best layer.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from igpt_keras import paper
from igpt_keras.atomic import atomic_path
from igpt_keras.data.data_set import DataSet
from igpt_keras.data.labeled import LabeledImages, LabeledTokens
from igpt_keras.data.splits import Split
from igpt_keras.data.tokenization import read_images
from igpt_keras.errors import InputError
from igpt_keras.evaluation.baselines import pixel_features, token_features
from igpt_keras.evaluation.features import FeatureExtractor
from igpt_keras.evaluation.probes import (
    LBFGS,
    SGD,
    FitCheckpoints,
    LayerFeatures,
    Probe,
    ProbeSplits,
    best_layer,
    fit_probe,
    layers_around,
    low_data_runs,
)
from igpt_keras.evaluation.voting import VOTES, modal_vote
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.runs.options import DataOptions
from igpt_keras.runs.result import RESULT_FILE, Result, describe_model, write_result
from igpt_keras.runs.tokenizers import load_with_palette

PROBE_FILE = "probe.npz"

console = Console()


@dataclasses.dataclass(frozen=True)
class Settings:
    """The probes; see `igpt probe --help`."""

    method: str = "lbfgs"
    layers: list[int] | None = None
    concatenate: int | None = None
    labels_per_class: list[int] | None = None
    baseline: str | None = None
    epochs: int = 20
    learning_rate: float | None = None
    batch_size: int = paper.BATCH_SIZE
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Run:
    """The probes of one model, and the folder of their result.

    Attributes:
        command: that began it.
        model: path of the model.
        data: what the probes learn from, and are measured on.
        settings: of the probes.
        output: the folder.
        feature_cache: folder where features are kept, or None.
        states: folder where SGD keeps what it goes on from, for whoever calls to remove; or None.
        quiet: whether no progress is shown.
    """

    command: str
    model: str
    data: DataOptions
    settings: Settings
    output: pathlib.Path
    feature_cache: pathlib.Path | None = None
    states: pathlib.Path | None = None
    quiet: bool = False

    def finish(self, overwrite: bool = False) -> dict[str, Any]:
        """Trains the probes, from their last states on, measures and writes the result.

        Args:
            overwrite: whether an earlier run is replaced.

        Returns: the metrics of the result.

        Raises:
            FileExistsError: the folder exists and must not be replaced.
            InputError: a model, settings or data that do not fit.
            Interrupted: a signal told SGD to stop; its state is written.
            Diverged: the weights that SGD ends with are not finite.
        """
        with atomic_path(self.output, overwrite, marker=RESULT_FILE) as partial:
            loaded = load_with_palette(self.model)
            check_settings(loaded, self.settings)
            # What is folded is folded after the choice.
            data_set = dataclasses.replace(self.data, train_on_validation=False).open()
            check_data(data_set)
            partial.mkdir()
            with feature_folder(self.feature_cache, partial) as folder:
                metrics, probe = self._measure(loaded, data_set, folder)
            probe.save(partial / PROBE_FILE)
            result = Result(
                kind="probe",
                command=self.command,
                model=describe_model(loaded, self.model),
                data=data_set.describe(),
                settings=describe_settings(self.data, self.settings),
                metrics=metrics,
            )
            write_result(result, partial)
        return metrics

    def _measure(
        self, model: GenerativeModel, data_set: DataSet, folder: pathlib.Path
    ) -> tuple[dict[str, Any], Probe]:
        """The metrics of a result, and the best layer's probe; `folder` is for the features."""
        data, settings = self.data, self.settings
        method = make_method(settings, self.states)
        num_classes = len(data_set.class_names)
        sources = (data_set.train, data_set.validation, data_set.test)
        if settings.baseline == "pixels":
            images = [read_pixels(split, model, data) for split in sources]
            splits = ProbeSplits(*map(pixel_features, images), num_classes)
            return baseline_metrics(splits, method, data, settings)
        tokens = [data.tokenize(split, model.tokenizer) for split in sources]
        if settings.baseline == "tokens":
            features = [token_features(split, model.tokenizer) for split in tokens]
            return baseline_metrics(ProbeSplits(*features, num_classes), method, data, settings)
        train, validation, *votes = extract(model, tokens, settings, folder, self.quiet)
        splits = ProbeSplits(train, validation, votes[0], num_classes)
        return model_metrics(splits, votes, method, data, settings, self.quiet)


def check_settings(model: GenerativeModel, settings: Settings) -> None:
    """Raises `InputError` for layers that are not there, or a rate that nothing learns at."""
    last = model.config.num_layers
    if settings.learning_rate is not None and settings.method != "sgd":
        raise InputError(
            f"learning_rate={settings.learning_rate} is for method=sgd, got {settings.method}"
        )
    if settings.baseline is not None and (settings.layers or settings.concatenate):
        raise InputError(f"baseline={settings.baseline} has no layers to choose or concatenate")
    if settings.layers is not None and max(settings.layers) > last:
        raise InputError(f"layers must lie in 0…{last}, got {max(settings.layers)}")
    if settings.concatenate is not None and settings.concatenate > last + 1:
        raise InputError(f"concatenate must lie in 2…{last + 1}, got {settings.concatenate}")


def check_data(data_set: DataSet) -> None:
    """Raises `InputError` for data that probes cannot be trained and measured on."""
    data_set.labeled_train()
    if data_set.test is None or not data_set.test.labeled:
        raise InputError(
            f"data={data_set.specs[0]} has no labeled test split to measure the accuracy on; "
            "a folder has its own in test/<class>/"
        )


@contextlib.contextmanager
def feature_folder(cache: pathlib.Path | None, run: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where features go: to `cache`, or beside the result of `run` for as long as needed."""
    if cache is not None:
        yield cache
        return
    with tempfile.TemporaryDirectory(dir=run) as folder:
        yield pathlib.Path(folder)


def read_pixels(split: Split, model: GenerativeModel, data: DataOptions) -> LabeledImages:
    """The images of `split` at the size of `model`, before the palette."""
    return read_images(
        split,
        model.config.image_size,
        augmentation=data.augmentation,
        decoder=data.decoder,
    )


def extract(
    model: GenerativeModel,
    tokens: list[LabeledTokens],
    settings: Settings,
    folder: pathlib.Path,
    quiet: bool,
) -> list[LayerFeatures]:
    """Features of train, validation and test split; for BERT of test under every mask."""
    train, validation, test = tokens
    votes = VOTES if model.objective == "bert" else 1
    passes = [(train, 0), (validation, 0), *((test, vote) for vote in range(votes))]
    total = sum(len(split) for split, _ in passes)
    with Progress(console=console, disable=quiet) as progress:
        task = progress.add_task("features", total=total)
        extractor = FeatureExtractor(
            model,
            folder,
            batch_size=settings.batch_size,
            seed=settings.seed,
            on_batch=lambda count: progress.advance(task, count),
        )
        features = [
            LayerFeatures(extractor.features(split.tokens, vote), split.labels)
            for split, vote in passes
        ]
        # Those found in the cache ran no batch.
        progress.update(task, completed=total)
    return features


def baseline_metrics(
    splits: ProbeSplits, method: LBFGS | SGD, data: DataOptions, settings: Settings
) -> tuple[dict[str, Any], Probe]:
    """The metrics of a result without a model's layers, and the probe."""
    probe = fit_probe(method, splits, data.train_on_validation)
    of_probe = probe_metrics(probe, splits)
    metrics = {
        "method": settings.method,
        "num_classes": splits.num_classes,
        "layers": [{"layer": None, **of_probe}],
        "best_layer": None,
        "validation_accuracy": of_probe["validation_accuracy"],
        "test_accuracy": of_probe["test_accuracy"],
        "concatenated": None,
        "low_data": low_data(splits, method, settings, settings.baseline),
        "voting": None,
    }
    return metrics, probe


def model_metrics(
    splits: ProbeSplits,
    votes: list[LayerFeatures],
    method: LBFGS | SGD,
    data: DataOptions,
    settings: Settings,
    quiet: bool,
) -> tuple[dict[str, Any], Probe]:
    """The metrics of a result of every layer, and the probe of the best.

    `votes` is the test split under every mask.
    """
    last = len(splits.train.layers) - 1
    curve = {}
    with Progress(console=console, disable=quiet) as progress:
        for layer in progress.track(settings.layers or range(last + 1), description="probes"):
            curve[layer] = fit_probe(method, splits.select([layer]), data.train_on_validation)
    of_layers = {
        layer: probe_metrics(probe, splits.select([layer])) for layer, probe in curve.items()
    }
    best = best_layer(curve)
    concatenated = None
    if settings.concatenate is not None:
        around = layers_around(best, settings.concatenate, last)
        chosen = splits.select(around)
        probe = fit_probe(method, chosen, data.train_on_validation)
        concatenated = {"layers": around, **probe_metrics(probe, chosen)}
    metrics = {
        "method": settings.method,
        "num_classes": splits.num_classes,
        "layers": [{"layer": layer, **each} for layer, each in of_layers.items()],
        "best_layer": best,
        "validation_accuracy": of_layers[best]["validation_accuracy"],
        "test_accuracy": of_layers[best]["test_accuracy"],
        "concatenated": concatenated,
        "low_data": low_data(splits.select([best]), method, settings, f"best layer {best}"),
        "voting": voting_metrics(
            curve[best], [vote.select([best]) for vote in votes], splits.num_classes, settings.seed
        ),
    }
    return metrics, curve[best]


def make_method(settings: Settings, states: pathlib.Path | None) -> LBFGS | SGD:
    if settings.method == "sgd":
        rate = settings.learning_rate
        rates = paper.PROBE_LEARNING_RATES if rate is None else (rate,)
        kept = None if states is None else FitCheckpoints(states)
        return SGD(rates, epochs=settings.epochs, seed=settings.seed, states=kept)
    return LBFGS()


def probe_metrics(probe: Probe, splits: ProbeSplits) -> dict[str, Any]:
    return {
        "validation_accuracy": probe.validation_accuracy,
        "test_accuracy": probe.accuracy(splits.test),
        **probe.setting,
    }


def low_data(
    splits: ProbeSplits, method: LBFGS | SGD, settings: Settings, features: str
) -> list[dict[str, Any]]:
    """As `low_data_runs`; `features` says what they are of."""
    counts = settings.labels_per_class or []
    runs = low_data_runs(method, splits, counts, seed=settings.seed)
    return [{"features": features, **run} for run in runs]


def voting_metrics(
    probe: Probe, votes: list[LayerFeatures], num_classes: int, seed: int
) -> dict[str, float] | None:
    """Accuracy of the vote and of its first voter; None where there is one alone."""
    if len(votes) == 1:
        return None
    predictions = np.stack([probe.predict(vote) for vote in votes])
    elected = modal_vote(predictions, num_classes, seed)
    return {
        "test_accuracy": float((elected == votes[0].labels).mean()),
        "single_mask_accuracy": probe.accuracy(votes[0]),
    }


def describe_settings(data: DataOptions, settings: Settings) -> dict[str, Any]:
    """What a result says of the settings."""
    described = dataclasses.asdict(settings)
    return {
        "features": described.pop("baseline") or "model",
        **described,
        "epochs": settings.epochs if settings.method == "sgd" else None,
        "augmentation": data.augmentation,
        "train_on_validation": data.train_on_validation,
        "split_seed": data.split_seed,
    }
