"""Experiments from images to the folder of a run, without the command line.

| class | from | to |
| --- | --- | --- |
| `Pretrain` | images | a generative model |
| `Finetune` | a model and labeled images | a classifier |
| `Probe` | a model and labeled images | the accuracy of linear classifiers of its layers |
| `Evaluate` | a model and images | losses and accuracy |
| `Complete` | a model and image files | completions |
| `Sample` | a model | new images |
| `FitVQVAE` | images | a learned tokenizer |

Each has `Settings`, a frozen dataclass, and the same two steps: `open(settings, data, output)`
checks everything, and `run()` returns a `Result`, which stands in the folder too.
"""

from igpt_keras.runs.callbacks import RunCallback
from igpt_keras.runs.complete import Complete, Sample
from igpt_keras.runs.evaluate import Evaluate
from igpt_keras.runs.finetune import Finetune
from igpt_keras.runs.fit_vqvae import FitVQVAE
from igpt_keras.runs.options import DataOptions
from igpt_keras.runs.pretrain import Pretrain
from igpt_keras.runs.probe import Probe
from igpt_keras.runs.result import Result, read_result

__all__ = [
    "Complete",
    "DataOptions",
    "Evaluate",
    "Finetune",
    "FitVQVAE",
    "Pretrain",
    "Probe",
    "Result",
    "RunCallback",
    "Sample",
    "read_result",
]
