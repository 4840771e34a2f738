"""Trainings of models on tokens, which fit into memory."""

import abc
import dataclasses
from typing import Any

from igpt_keras.errors import InputError
from igpt_keras.network.config import ImageGPTConfig
from igpt_keras.runs.callbacks import Callbacks
from igpt_keras.runs.memory import MemoryPlan, out_of_memory_named, plan_memory
from igpt_keras.runs.result import Result
from igpt_keras.runs.run import SettingsT
from igpt_keras.runs.training import Training
from igpt_keras.tokenizers import ImageTokenizer, load_tokenizer
from igpt_keras.training.callbacks.checkpoint_manager import CheckpointManager


class ModelTraining(Training[SettingsT]):
    """A training of an Image GPT.

    Attributes:
        tokenizer: The tokenizer of the images.
        memory: What training needs of the memory.
    """

    tokenizer: ImageTokenizer
    memory: MemoryPlan

    @property
    def extent(self) -> str:
        """How much is trained, and the memory that it takes, in words."""
        return f"{super().extent}, {self.memory}"

    @property
    def evaluation_batch_size(self) -> int:
        """Images in a batch of an evaluation, which fits into memory if training does."""
        return max(self.batch_size // self.settings.micro_batches, 1)

    def _prepare(self, content: dict[str, Any] | None) -> None:
        if content is None:
            self.tokenizer = self._find_tokenizer()
        else:
            tokenizer = load_tokenizer(self.output)
            if tokenizer is None:
                raise InputError(f"{self.output} is damaged: its tokenizer is missing")
            self.tokenizer = tokenizer
        self._prepare_images()
        self._choose_micro_batches(content)

    def _choose_micro_batches(self, content: dict[str, Any] | None) -> None:
        """Decides on `micro_batches`, which "auto" leaves to the memory or to the resumed run."""
        before = None if content is None else content["options"]["micro_batches"]
        self.memory = plan_memory(
            self._config(),
            self.settings,
            self.batch_size,
            self.strategy,
            before,
            self._trained_parameters(),
        )
        chosen = self.memory.layout.micro_batches
        self.settings = dataclasses.replace(self.settings, micro_batches=chosen)

    def _run(self, callbacks: Callbacks) -> Result:
        with out_of_memory_named(self.memory):
            return super()._run(callbacks)

    @abc.abstractmethod
    def _config(self) -> ImageGPTConfig:
        """Returns the sizes of the model."""

    def _trained_parameters(self) -> int | None:
        """Returns how many parameters train; None for all."""
        return None

    @abc.abstractmethod
    def _find_tokenizer(self) -> ImageTokenizer:
        """Returns the tokenizer of a new run."""

    @abc.abstractmethod
    def _prepare_images(self) -> None:
        """Prepares the images; sets `total_steps`."""

    def _recipe(
        self, checkpoints: CheckpointManager, callbacks: Callbacks, first: Callbacks = ()
    ) -> dict[str, Any]:
        """Returns the arguments that both recipes of `igpt_keras.training` take.

        Args:
            checkpoints: The checkpoints of the run, with its own callbacks.
            callbacks: Callbacks of the user.
            first: Callbacks that precede all others: what they add to the logs is in the history.
        """
        names = ("learning_rate", "clip_norm", "remat", "micro_batches", "seed")
        return {
            **{name: getattr(self.settings, name) for name in names},
            "checkpoints": checkpoints,
            "callbacks": [*first, *checkpoints.callbacks.values(), *callbacks],
            "verbose": 0,
        }
