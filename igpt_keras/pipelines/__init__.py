"""Data sets of any size, shard by shard, on the workers of Apache Beam (the extra `beam`).

| function | writes |
| --- | --- |
| `write_tokens` | tokens of all images, for `tokens:FOLDER` |
| `write_features` | features of every layer of a model |
| `write_scores` | log-likelihoods under a model |
"""

from igpt_keras.pipelines.beam import BeamRunner
from igpt_keras.pipelines.outputs import read_outputs, write_features, write_scores
from igpt_keras.pipelines.tokens import write_tokens

__all__ = ["BeamRunner", "read_outputs", "write_features", "write_scores", "write_tokens"]
