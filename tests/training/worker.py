"""One of several workers that train together: `python -m tests.training.worker FOLDER`.

Writes the weights, the losses and the predictions that each kind of training ends with;
`TF_CONFIG` says which worker it is.
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf

from tests.training.replicas import KINDS, train


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    for kind, settings in KINDS.items():
        np.savez(folder / kind, **train(strategy, **settings))


if __name__ == "__main__":
    main()
