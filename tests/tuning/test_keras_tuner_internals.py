"""The attributes of keras-tuner that are not public, each by its name."""

import inspect

import keras_tuner

ORACLE = inspect.getsource(keras_tuner.Oracle)


def test_oracle_has_a_project_dir():
    assert isinstance(inspect.getattr_static(keras_tuner.Oracle, "_project_dir"), property)


def test_oracle_saves_trials_by_save_trial():
    assert list(inspect.signature(keras_tuner.Oracle._save_trial).parameters) == ["self", "trial"]
    # When a trial begins, when its metrics change, and when it ends.
    assert ORACLE.count("self._save_trial(trial)") == 3


def test_oracle_saves_itself_by_save():
    assert "self.save()" in ORACLE


def test_tuner_reloads_from_the_file_of_its_id():
    assert "self.tuner_id" in inspect.getsource(keras_tuner.Tuner._get_tuner_fname)
