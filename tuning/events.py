"""Trials as sessions of TensorBoard's HParams page."""

# Protocol buffer classes are made at run time.
# pyright: reportAttributeAccessIssue=false

import pathlib

import tensorflow as tf
from keras_tuner.engine.trial import Trial, TrialStatus

from igpt_keras.training.callbacks.events import can_write_events


def write_session(folder: pathlib.Path, trial: Trial, objective: str) -> None:
    """Writes a completed or failed trial as a session: hyperparameters, objective and status.

    Does nothing where TensorBoard is not installed (the extra `tune`).

    Args:
        folder: Folder of the trial's event files, which has none yet.
        trial: The trial.
        objective: Name of its score.
    """
    if not can_write_events():
        return
    from tensorboard.plugins.hparams import api, api_pb2, summary

    completed = trial.status == TrialStatus.COMPLETED
    status = api_pb2.STATUS_SUCCESS if completed else api_pb2.STATUS_FAILURE
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step=0):
        api.hparams(trial.hyperparameters.values)
        if completed:
            tf.summary.scalar(objective, trial.score, step=1)
        end = summary.session_end_pb(status)
        tf.summary.experimental.write_raw_pb(end.SerializeToString())
    writer.close()
