"""Training a part of a classifier's weights: frozen blocks and low-rank adapters (LoRA)."""

import math
import os
import pathlib
from typing import Any, cast

import keras
from keras import ops

from igpt_keras.checksums import digest_of_arrays
from igpt_keras.errors import InputError
from igpt_keras.models import adapter_files
from igpt_keras.models.keras_internals import remove_variable
from igpt_keras.network.backbone import ImageGPTBackbone
from igpt_keras.network.config import ImageGPTConfig, integer_of_at_least
from igpt_keras.network.quantization import check_not_quantized
from igpt_keras.sampling.graphs import forget_graphs


class PartialTraining(keras.Model):
    """Methods of a classifier that decide on what `fit` trains.

    Only weights that train get a state in the optimizer. Call the methods before `compile`: they
    undo an earlier one.
    """

    config: ImageGPTConfig
    backbone: ImageGPTBackbone
    class_head: keras.layers.Dense

    def freeze_blocks(self, num_blocks: int) -> None:
        """Keeps the embeddings and the first blocks as they are; the rest trains.

        Args:
            num_blocks: Number of blocks, 0…L; with 0 the embeddings train as well.

        Raises:
            InputError: `num_blocks` is outside 0…L.

        Example:
            >>> classifier.freeze_blocks(12)
            >>> classifier.compile()
        """
        if check_frozen_blocks(self.config, "num_blocks", num_blocks) == 0:
            return
        self.backbone.embedding.trainable = False
        for block in self.backbone.blocks[:num_blocks]:
            block.trainable = False
        self._forget_compiled()

    @property
    def lora_rank(self) -> int | None:
        """The rank of the adapters; None without adapters."""
        return next((each.lora_rank for each in self._adapted().values()), None)

    def enable_lora(self, rank: int) -> None:
        """Freezes the pre-trained weights and gives projections adapters that train instead.

        LoRA (Hu et al., 2021) by Keras' `Dense.enable_lora`: x W, with a kernel W [k, m], becomes
        x W + (x A) B, with A [k, rank] and B [rank, m], which starts at zero. Every projection of
        every block that trains gets adapters, 16 d · `rank` weights a block. They and the class
        head train. Files and exports have the merged weights.

        Args:
            rank: Rank of A B, at least 1.

        Raises:
            InputError: `rank` is less than 1, the model has adapters or is quantized, or no
                projection trains.

        Example:
            >>> classifier = igpt_keras.ImageGPTClassifier.from_preset(model, num_classes=10)
            >>> classifier.enable_lora(rank=4)
            >>> classifier.compile()
        """
        rank = integer_of_at_least(1, "rank", rank)
        projections = [each for each in self.backbone.projections().values() if each.trainable]
        if not projections:
            raise InputError(f"{rank=} needs a block that trains; all are frozen")
        self._enable_lora(projections, rank)

    def merge_lora(self) -> None:
        """Adds the adapters to the kernels and removes them; calls return what they did.

        What `enable_lora` froze trains again after the next `compile`.

        Raises:
            InputError: The classifier has no adapters.

        Example:
            >>> classifier.merge_lora()
            >>> classifier.export("saved-model")
        """
        self._check_has_adapters()
        for layer in self._adapted().values():
            # Keras' own way to save a merged kernel rounds it to the compute dtype.
            product = ops.matmul(layer.lora_kernel_a, layer.lora_kernel_b)
            delta = (layer.lora_alpha / layer.lora_rank) * product
            layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
            layer.kernel.assign_add(ops.cast(delta, layer.kernel.dtype))
            remove_variable(layer, "lora_kernel_a")
            remove_variable(layer, "lora_kernel_b")
        for layer in self._pretrained_layers():
            # `enable_lora` froze variables only; setting what is set already does nothing.
            if layer.trainable:
                layer.trainable = False
                layer.trainable = True
        self._forget_compiled()

    def save_adapters(
        self, path: str | os.PathLike, *, base: str | None = None, overwrite: bool = False
    ) -> pathlib.Path:
        """Writes the adapters and the class head, without the pre-trained weights.

        Args:
            path: The folder. It names the fingerprint of the pre-trained network.
            base: Where the pre-trained model is, for those who read the folder.
            overwrite: Whether to replace an existing folder of adapters.

        Returns:
            The folder's path.

        Raises:
            FileExistsError: `path` exists and `overwrite` is false, or is another folder.
            InputError: The classifier has no adapters.

        Example:
            >>> classifier.save_adapters("adapters")
        """
        self._check_has_adapters()
        about = {
            "rank": self.lora_rank,
            "base": {"path": base, "fingerprint": self._fingerprint()},
            "reads": self._reads(),
            "class_names": self.get_config()["class_names"],
        }
        return adapter_files.write(path, about, self._adapter_weights(self._adapted()), overwrite)

    def load_adapters(self, path: str | os.PathLike) -> None:
        """Gives a classifier without adapters those of a folder, its class head and class names.

        Args:
            path: What `save_adapters` wrote.

        Raises:
            InputError: They are of another pre-trained network or classifier, the folder is
                damaged, or the classifier has adapters.

        Example:
            >>> classifier = igpt_keras.ImageGPTClassifier.from_preset("my-model", num_classes=10)
            >>> classifier.load_adapters("adapters")
        """
        stored = adapter_files.read(path)
        fingerprint, origin = self._fingerprint(), stored.base.get("path")
        if stored.base.get("fingerprint") != fingerprint:
            of = f" ({origin})" if origin else ""
            raise InputError(
                f"{path} holds adapters of the network {stored.base.get('fingerprint')}{of}, "
                f"got one with the fingerprint {fingerprint}"
            )
        if stored.reads != self._reads():
            raise InputError(
                f"{path} holds adapters of a classifier with {stored.reads}, got {self._reads()}"
            )
        projections = {
            name: layer
            for name, layer in self.backbone.projections().items()
            if f"{name}.lora_kernel_a" in stored.arrays
        }
        adapter_files.check(stored, self._shapes(projections, stored.rank))
        self._enable_lora(list(projections.values()), stored.rank)
        for name, variable in self._adapter_weights(projections).items():
            variable.assign(stored.arrays[name])
        self.class_names = stored.class_names

    def _enable_lora(self, projections: list[Any], rank: int) -> None:
        check_not_quantized(cast(Any, self), "a classifier with adapters")
        if self.lora_rank is not None:
            raise InputError(
                f"the classifier has adapters of rank {self.lora_rank}; merge them before it "
                "gets others"
            )
        frozen = [v for layer in self._pretrained_layers() for v in layer.trainable_variables]
        model: Any = self
        with model.distribute_scope():
            for layer in projections:
                layer.enable_lora(rank)
        for variable in frozen:
            variable.trainable = False
        self._forget_compiled()

    def _adapted(self) -> dict[str, Any]:
        projections = self.backbone.projections().items()
        return {name: each for name, each in projections if each.lora_enabled}

    def _pretrained_layers(self) -> list[Any]:
        """Returns the layers with pre-trained weights of their own."""
        blocks, token_head = self.backbone.blocks, getattr(self, "token_head", None)
        norms = [norm for block in blocks for norm in (block.attention_norm, block.mlp_norm)]
        ends = [self.backbone.embedding, self.backbone.final_norm]
        heads = [] if token_head is None else [token_head]
        return [*ends, *norms, *self.backbone.projections().values(), *heads]

    def _adapter_weights(self, projections: dict[str, Any]) -> dict[str, Any]:
        """Returns the class head and the adapters of `projections`, by name."""
        weights = {"class_head.kernel": self.class_head.kernel}
        for name, layer in projections.items():
            weights[f"{name}.lora_kernel_a"] = layer.lora_kernel_a
            weights[f"{name}.lora_kernel_b"] = layer.lora_kernel_b
        return weights

    def _shapes(self, projections: dict[str, Any], rank: int) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of `_adapter_weights`, before there are adapters."""
        shapes = {"class_head.kernel": tuple(self.class_head.kernel.shape)}
        for name, layer in projections.items():
            inputs, outputs = layer.kernel.shape
            shapes[f"{name}.lora_kernel_a"] = (inputs, rank)
            shapes[f"{name}.lora_kernel_b"] = (rank, outputs)
        return shapes

    def _reads(self) -> dict[str, Any]:
        """Returns the settings that decide on what the class head is given."""
        config = self.get_config()
        return {name: config[name] for name in ("layer", "shift_right")}

    def _fingerprint(self) -> str:
        adapters = {id(weight) for weight in self._adapter_weights(self._adapted()).values()}
        pretrained = [weight for weight in self.backbone.weights if id(weight) not in adapters]
        arrays: Any = map(ops.convert_to_numpy, pretrained)
        return digest_of_arrays(arrays)

    def _check_has_adapters(self) -> None:
        if self.lora_rank is None:
            raise InputError("the classifier has no adapters; enable_lora gives it some")

    def _forget_compiled(self) -> None:
        """Undoes `compile` and drops all graphs: they hold variables that are there no more."""
        model: Any = self
        model.optimizer, model.compiled = None, False
        model.train_function = model.test_function = model.predict_function = None
        forget_graphs(self)


def check_frozen_blocks(config: ImageGPTConfig, name: str, value: int) -> int:
    """Returns the argument `name`, a number of frozen blocks; raises `InputError` for another."""
    value = integer_of_at_least(0, name, value)
    if value > config.num_layers:
        raise InputError(f"{name} must be at most the {config.num_layers} blocks, got {value}")
    return value


def count_parameters(model: keras.Model) -> tuple[int, int]:
    """Returns how many parameters of a model train, and how many it has."""
    return sum(
        math.prod(variable.shape) for variable in model.trainable_variables
    ), model.count_params()
