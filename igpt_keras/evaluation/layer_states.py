"""States of layers at every position, which probes with attention read in place of features."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from igpt_keras.evaluation.method_model import MethodModel
from igpt_keras.evaluation.probe_features import IMAGES_PER_READ, Features, JoinedRows
from igpt_keras.models.generative_model import GenerativeModel
from igpt_keras.models.masking import draw_mask
from igpt_keras.tensors import Tensor

# 64 MiB of float32.
NUMBERS_PER_READ = 2**24


class MaskRows:
    """Masks bool [N, n] of a set of images, of which only the indexed rows are drawn.

    Args:
        shape: Number of images and of positions, (N, n).
        probability: As for `draw_mask`, as are `seed` and `vote`.
        seed: Seed of all votes.
        vote: Which of the independent masks.
    """

    dtype = np.dtype(bool)

    def __init__(self, shape: tuple[int, int], probability: float, seed: int, vote: int):
        self.shape = shape
        self.mask = (probability, seed, vote)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        count, positions = self.shape
        chosen = np.arange(count)[rows]
        drawn = [draw_mask((1, positions), *self.mask, start=int(row)) for row in chosen]
        return np.concatenate([np.empty((0, positions), bool), *drawn])


Rows = np.ndarray | JoinedRows | MaskRows


class FrozenModel:
    """Computes states of a model whose weights do not change.

    Args:
        model: The model.
        batch_size: Images in a forward pass.
    """

    def __init__(self, model: GenerativeModel, batch_size: int):
        self.model = model
        self.batch_size = batch_size
        self._compiled: dict[tuple[int, ...], MethodModel] = {}

    def states(self, inputs: dict[str, Tensor], layers: tuple[int, ...]) -> Tensor:
        """Returns states in a graph, layers side by side: float32 [B, n, k · d]."""
        return self.model.layer_states(inputs, layers)

    def predict(self, inputs: dict[str, np.ndarray], layers: tuple[int, ...]) -> np.ndarray:
        """Returns states of any number of images, layers side by side: float32 [m, n, k · d]."""
        if layers not in self._compiled:
            self._compiled[layers] = MethodModel(self.model, "layer_states", layers=layers)
        states = []
        for start in range(0, len(inputs["tokens"]), self.batch_size):
            end = start + self.batch_size
            batch = {name: x[start:end] for name, x in inputs.items()}
            some = len(batch["tokens"])
            # A short batch is padded: another shape would be compiled again.
            padded = {
                name: np.pad(x, ((0, self.batch_size - some), (0, 0)), mode="edge")
                for name, x in batch.items()
            }
            states.append(self._compiled[layers].predict_on_batch(padded)[:some])
        return np.concatenate(states)


@dataclasses.dataclass(frozen=True)
class LayerStates(Features):
    """States n^l of images at every position, computed anew whenever they are read.

    A data set of states is n times as large as its features: 50,000 images with 256 positions
    and 256 features are 13 GB. They are therefore never kept.

    Attributes:
        frozen: Computes the states.
        layers: The layers, side by side.
        inputs: "tokens", int [N, n], and for BERT "masked", bool [N, n].
        labels: int [N].
    """

    frozen: FrozenModel
    layers: tuple[int, ...]
    inputs: Mapping[str, Rows]
    labels: np.ndarray

    @classmethod
    def of(
        cls,
        frozen: FrozenModel,
        tokens: np.ndarray,
        labels: np.ndarray,
        *,
        seed: int = 0,
        vote: int = 0,
    ) -> "LayerStates":
        """Returns the states of all layers.

        Args:
            frozen: Computes the states.
            tokens: int [N, n].
            labels: int [N].
            seed: Seed of the masks, for BERT.
            vote: Number of the mask that a BERT model sees; see `draw_mask`.
        """
        model = frozen.model
        model.check_inputs(tokens)
        inputs: dict[str, Rows] = {"tokens": tokens}
        if model.objective == "bert":
            inputs["masked"] = MaskRows(tokens.shape, model.mask_probability, seed, vote)
        return cls(frozen, tuple(range(model.config.num_layers + 1)), inputs, labels)

    @property
    def width(self) -> int:
        return len(self.layers) * self.frozen.model.config.hidden_dim

    @property
    def images_per_read(self) -> int:
        numbers = self.inputs["tokens"].shape[1] * self.width
        return min(max(NUMBERS_PER_READ // numbers, 1), IMAGES_PER_READ)

    def select(self, layers: Iterable[int]) -> "LayerStates":
        chosen = tuple(self.layers[layer] for layer in layers)
        return dataclasses.replace(self, layers=chosen)

    def take(self, indices: np.ndarray) -> "LayerStates":
        return dataclasses.replace(
            self, inputs=self.inputs_of(indices), labels=self.labels[indices]
        )

    def join(self, other: "LayerStates") -> "LayerStates":
        inputs = {name: JoinedRows(x, other.inputs[name]) for name, x in self.inputs.items()}
        labels = np.concatenate([self.labels, other.labels])
        return dataclasses.replace(self, inputs=inputs, labels=labels)

    def inputs_of(self, rows: slice | np.ndarray) -> dict[str, np.ndarray]:
        """Returns what the model reads of some images."""
        dtypes = {"tokens": np.int32, "masked": bool}
        return {name: np.asarray(x[rows], dtypes[name]) for name, x in self.inputs.items()}

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.frozen.predict(self.inputs_of(rows), self.layers)
