"""Probes: what classifiers read off each layer of a model (paper, section 2.4).

Metrics of the result; accuracies are shares of the images:

| key | value |
| --- | --- |
| `method`, `num_classes` | as they say |
| `layers` | each layer's `layer`, accuracies as below, and chosen setting |
| `best_layer` | the layer of the highest validation accuracy; None for a baseline |
| `validation_accuracy`, `test_accuracy`, `test_top_5_accuracy` | those of the best layer |
| `test_confusion` | of the best layer, as of `igpt_keras.runs.confusions`; for BERT with one mask |
| `concatenated` | likewise for several `layers` side by side, or None |
| `low_data` | accuracies with few labels, as of `low_data_runs` |
| `voting` | BERT's `test_accuracy` by the vote, and `single_mask_accuracy`; else None |
"""

import contextlib
import dataclasses
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from igpt_keras import paper
from igpt_keras.data.labeled import LabeledTokens
from igpt_keras.data.splits import Split
from igpt_keras.errors import InputError
from igpt_keras.evaluation.baselines import PROBE_BASELINES
from igpt_keras.evaluation.features import FeatureExtractor
from igpt_keras.evaluation.layer_states import FrozenModel, LayerStates
from igpt_keras.evaluation.low_data import low_data_runs
from igpt_keras.evaluation.predictions import Predictions
from igpt_keras.evaluation.probe_features import Features, LayerFeatures
from igpt_keras.evaluation.probe_methods import METHODS, FitCheckpoints, ProbeMethod, fit_probe
from igpt_keras.evaluation.probes import Probe as TrainedProbe
from igpt_keras.evaluation.probes import ProbeSplits, StoredProbe, best_layer, layers_around
from igpt_keras.evaluation.voting import VOTES, modal_vote
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.runs.callbacks import Callbacks, report_progress
from igpt_keras.runs.confusions import describe_confusions, draw_confusions
from igpt_keras.runs.folder import CHECKPOINTS, PROBE_FILE
from igpt_keras.runs.options import DataOptions, ModelOptions
from igpt_keras.runs.result import Result, describe_model
from igpt_keras.runs.run import Measurement
from igpt_keras.runs.tokenizers import load_with_tokenizer
from igpt_keras.tokenizers.base import tokenizer_of


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Settings(ModelOptions):
    """Settings of the probes of a model.

    Attributes:
        model: Path of the model.
        method: Name of one of `METHODS`, such as "lbfgs", "sgd", "ridge", "knn" or "attentive".
        layers: Layers to probe; None for all.
        concatenate: Number of layers around the best one to probe side by side, or None.
        labels_per_class: Numbers of labels of each class to probe the best layer with as well.
        baseline: Name of one of `PROBE_BASELINES`, "pixels" or "tokens", to probe instead of the
            model's layers; or None.
        epochs: Passes over the images, of SGD and attentive probes.
        learning_rate: The only rate of these; None for the best of several.
        num_neighbors: Nearest neighbors of an image; None for the method's own.
        temperature: Temperature of the neighbors' weights; None for the method's own.
        num_heads: Attention heads of attentive probes; None for the method's own.
        batch_size: Images in a forward pass of the model, and in a step of attentive probes.
        seed: Seed of subsets, the order of images, BERT's masks and ties.
        feature_cache: Folder that keeps features for later runs, or None.
    """

    method: str = "lbfgs"
    layers: list[int] | None = None
    concatenate: int | None = None
    labels_per_class: list[int] | None = None
    baseline: str | None = None
    epochs: int = 20
    learning_rate: float | None = None
    num_neighbors: int | None = None
    temperature: float | None = None
    num_heads: int | None = None
    batch_size: int = paper.BATCH_SIZE
    seed: int = 0
    feature_cache: pathlib.Path | None = None


# Metrics, the probe, and its predictions of the test images.
Measured = tuple[dict[str, Any], TrainedProbe, Predictions]


class Probe(Measurement[Settings]):
    """Trains probes on the features of a model, and measures them on the test images.

    Writes `result.json`; `probe.npz`, the probe of the best layer, unless its method is `knn`; and
    `confusions.png`, images of its errors, unless it is of a baseline. With `resume`, SGD and
    attentive probes write checkpoints next to the run's folder, which a later process resumes from.
    """

    kind = "probe"
    Settings = Settings

    def _begin(self, resume: bool, overwrite: bool) -> None:
        self._resume = resume
        super()._begin(resume, overwrite)

    @property
    def _checkpoints(self) -> pathlib.Path:
        return self.output.with_name(f"{self.output.name}-{CHECKPOINTS}")

    def _load(self) -> None:
        self.model = load_with_tokenizer(self.settings.model)
        _check(self.settings, self.model.config)
        # With train_on_validation, settings are chosen on the validation images first.
        options = dataclasses.replace(self.data, train_on_validation=False)
        self.data_set = options.labeled_data_set()

    def remove_checkpoints(self) -> None:
        if self._checkpoints.exists():
            shutil.rmtree(self._checkpoints)

    def _measure(self, folder: pathlib.Path, callbacks: Callbacks) -> Result:
        with _feature_folder(self.settings.feature_cache, folder) as features:
            metrics, probe, predictions = self._probe(features, callbacks)
        names = self.data_set.class_names
        metrics["test_confusion"] = describe_confusions(predictions, names)
        if self.settings.baseline is None:
            draw_confusions(folder, predictions, names, self._test_images)
        if isinstance(probe, StoredProbe):
            probe.save(folder / PROBE_FILE)
        return Result(
            kind=self.kind,
            command=self.command,
            model=describe_model(self.model, self.settings.model),
            data=self.data_set.describe(),
            settings=_describe(self.settings, self.data),
            metrics=metrics,
        )

    def _probe(self, folder: pathlib.Path, callbacks: Callbacks) -> Measured:
        """Returns what the best layer's probe measured; `folder` is for the features."""
        num_classes = len(self.data_set.class_names)
        splits = (self.data_set.train, self.data_set.validation, self.data_set.test)
        baseline = self.settings.baseline
        if baseline is not None:
            features = [self._baseline_features(split, baseline) for split in splits]
            return self._probe_baseline(
                ProbeSplits(features[0], features[1], features[2], num_classes), baseline
            )
        tokens = [self.data.tokenize(split, self.model) for split in splits]
        self._test_tokens = tokens[2].tokens
        train, validation, *votes = self._features(tokens, folder, callbacks)
        return self._probe_layers(
            ProbeSplits(train, validation, votes[0], num_classes), votes, callbacks
        )

    def _baseline_features(self, split: Split, name: str) -> LayerFeatures:
        baseline = PROBE_BASELINES.get(name)()
        if baseline.reads == "images":
            read = self.data.read_images(split, self.model.config.image_size)
        else:
            read = self.data.tokenize(split, self.model)
        return LayerFeatures([baseline.features(read, self.model.tokenizer)], read.labels)

    def _test_images(self, rows: np.ndarray) -> np.ndarray:
        """Returns test images as the model sees them."""
        return tokenizer_of(self.model).detokenize(self._test_tokens[rows])

    def _features(
        self, tokens: list[LabeledTokens], folder: pathlib.Path, callbacks: Callbacks
    ) -> Sequence[Features]:
        """Returns features of train, validation and test; for BERT of test under every mask."""
        train, validation, test = tokens
        votes = VOTES if self.model.objective == "bert" else 1
        passes = [(train, 0), (validation, 0), *((test, vote) for vote in range(votes))]
        if not METHODS.get(self.settings.method).reads_states:
            return self._extract(passes, folder, callbacks)
        frozen, seed = FrozenModel(self.model, self.settings.batch_size), self.settings.seed
        return [
            LayerStates.of(frozen, split.tokens, split.labels, seed=seed, vote=vote)
            for split, vote in passes
        ]

    def _extract(
        self,
        passes: list[tuple[LabeledTokens, int]],
        folder: pathlib.Path,
        callbacks: Callbacks,
    ) -> list[LayerFeatures]:
        """Returns features of splits, each under the mask of a vote."""
        total, done = sum(len(split) for split, _ in passes), 0

        def on_batch(count):
            nonlocal done
            done += count
            report_progress(callbacks, "features", done, total)

        extractor = FeatureExtractor(
            self.model,
            folder,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            on_batch=on_batch,
        )
        features = [
            LayerFeatures(list(extractor.features(split.tokens, vote)), split.labels)
            for split, vote in passes
        ]
        # Features that the cache holds ran no batch.
        report_progress(callbacks, "features", total, total)
        return features

    def _probe_baseline(self, splits: ProbeSplits, baseline: str) -> Measured:
        """Returns the metrics without layers, the probe and its predictions."""
        method = self._make_method()
        probe = fit_probe(method, splits, self.data.train_on_validation)
        predictions = probe.predictions(splits.test)
        of_probe = _probe_metrics(probe, predictions)
        metrics = {
            "method": self.settings.method,
            "num_classes": splits.num_classes,
            "layers": [{"layer": None, **of_probe}],
            "best_layer": None,
            "validation_accuracy": of_probe["validation_accuracy"],
            "test_accuracy": of_probe["test_accuracy"],
            "test_top_5_accuracy": of_probe["test_top_5_accuracy"],
            "concatenated": None,
            "low_data": self._low_data(splits, method, baseline),
            "voting": None,
        }
        return metrics, probe, predictions

    def _probe_layers(
        self, splits: ProbeSplits, votes: Sequence[Features], callbacks: Callbacks
    ) -> Measured:
        """Returns the metrics of every layer, the probe of the best one and its predictions.

        Args:
            splits: Features of all layers.
            votes: The test split under every mask.
            callbacks: Those that hear of the progress.
        """
        settings, fold = self.settings, self.data.train_on_validation
        method = self._make_method()
        last = self.model.config.num_layers
        layers = settings.layers or range(last + 1)
        probes = {}
        for done, layer in enumerate(layers, start=1):
            probes[layer] = fit_probe(method, splits.select([layer]), fold)
            report_progress(callbacks, "probes", done, len(layers))
        predictions = {
            layer: probe.predictions(splits.test.select([layer])) for layer, probe in probes.items()
        }
        of_layers = {
            layer: _probe_metrics(probe, predictions[layer]) for layer, probe in probes.items()
        }
        best = best_layer(probes)
        concatenated = None
        if settings.concatenate is not None:
            around = layers_around(best, settings.concatenate, last)
            chosen = splits.select(around)
            probe = fit_probe(method, chosen, fold)
            of_probe = _probe_metrics(probe, probe.predictions(chosen.test))
            concatenated = {"layers": around, **of_probe}
        metrics = {
            "method": settings.method,
            "num_classes": splits.num_classes,
            "layers": [{"layer": layer, **each} for layer, each in of_layers.items()],
            "best_layer": best,
            "validation_accuracy": of_layers[best]["validation_accuracy"],
            "test_accuracy": of_layers[best]["test_accuracy"],
            "test_top_5_accuracy": of_layers[best]["test_top_5_accuracy"],
            "concatenated": concatenated,
            "low_data": self._low_data(splits.select([best]), method, f"best layer {best}"),
            "voting": _voting_metrics(
                probes[best], [v.select([best]) for v in votes], splits.num_classes, settings.seed
            ),
        }
        return metrics, probes[best], predictions[best]

    def _make_method(self) -> ProbeMethod:
        settings = self.settings
        checkpoints = FitCheckpoints(self._checkpoints) if self._resume else None
        return _make_method(settings, checkpoints)

    def _low_data(
        self, splits: ProbeSplits, method: ProbeMethod, features: str
    ) -> list[dict[str, Any]]:
        """Returns what `low_data_runs` does, with the name of the features."""
        counts, seed = self.settings.labels_per_class or [], self.settings.seed
        runs = low_data_runs(method, splits, counts, seed=seed)
        return [{"features": features, **run} for run in runs]


def _check(settings: Settings, config: ImageGPTConfig) -> None:
    """Raises `InputError` for settings that do not fit each other or the model."""
    num_layers, method = config.num_layers, _make_method(settings)
    method.check_width(config.hidden_dim)
    if settings.baseline is not None:
        PROBE_BASELINES.get(settings.baseline)
    if settings.baseline is not None and (settings.layers or settings.concatenate):
        raise InputError(f"baseline={settings.baseline} has no layers to choose or concatenate")
    if method.reads_states and settings.baseline is not None:
        raise InputError(
            f"baseline={settings.baseline} has no states for method={settings.method} to attend to"
        )
    if method.reads_states and settings.feature_cache is not None:
        raise InputError(
            f"feature_cache={settings.feature_cache} keeps features, which "
            f"method={settings.method} does not read"
        )
    if settings.layers is not None and max(settings.layers) > num_layers:
        raise InputError(f"layers must lie in 0…{num_layers}, got {max(settings.layers)}")
    if settings.concatenate is not None and settings.concatenate > num_layers + 1:
        raise InputError(f"concatenate must lie in 2…{num_layers + 1}, got {settings.concatenate}")


def _make_method(settings: Settings, checkpoints: FitCheckpoints | None = None) -> ProbeMethod:
    return METHODS.get(settings.method).from_options(
        learning_rate=settings.learning_rate,
        num_neighbors=settings.num_neighbors,
        temperature=settings.temperature,
        num_heads=settings.num_heads,
        epochs=settings.epochs,
        seed=settings.seed,
        checkpoints=checkpoints,
    )


@contextlib.contextmanager
def _feature_folder(cache: pathlib.Path | None, run: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives the cache, or a temporary folder inside the run's."""
    if cache is not None:
        yield cache
        return
    with tempfile.TemporaryDirectory(dir=run) as folder:
        yield pathlib.Path(folder)


def _probe_metrics(probe: TrainedProbe, predictions: Predictions) -> dict[str, Any]:
    return {
        "validation_accuracy": probe.validation_accuracy,
        "test_accuracy": predictions.accuracy,
        "test_top_5_accuracy": predictions.top_5_accuracy,
        **probe.setting,
    }


def _voting_metrics(
    probe: TrainedProbe, votes: Sequence[Features], num_classes: int, seed: int
) -> dict[str, float] | None:
    """Returns the accuracies of the vote and of its first voter; None if there is only one."""
    if len(votes) == 1:
        return None
    predictions = np.stack([probe.predict(vote) for vote in votes])
    elected = modal_vote(predictions, num_classes, seed)
    return {
        "test_accuracy": float((elected == votes[0].labels).mean()),
        "single_mask_accuracy": probe.accuracy(votes[0]),
    }


def _describe(settings: Settings, data: DataOptions) -> dict[str, Any]:
    """Returns the settings for a result."""
    described = dataclasses.asdict(settings)
    del described["model"], described["feature_cache"]
    return {
        "features": described.pop("baseline") or "model",
        **described,
        "epochs": getattr(_make_method(settings), "epochs", None),
        "augmentation": data.augmentation,
        "train_on_validation": data.train_on_validation,
        "split_seed": data.split_seed,
    }
