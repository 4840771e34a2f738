"""The attributes of keras-tuner that are not public, each by its name."""

import inspect

import keras_tuner


def test_oracle_has_a_project_dir():
    assert isinstance(inspect.getattr_static(keras_tuner.Oracle, "_project_dir"), property)


def test_oracle_saves_trials_by_save_trial():
    assert list(inspect.signature(keras_tuner.Oracle._save_trial).parameters) == ["self", "trial"]
    for method in ("create_trial", "update_trial", "end_trial"):
        function = inspect.unwrap(getattr(keras_tuner.Oracle, method))
        assert "_save_trial" in inspect.getsource(function), method


def test_oracle_saves_itself_by_save():
    source = inspect.getsource(inspect.unwrap(keras_tuner.Oracle.end_trial))
    assert "self.save()" in source


def test_tuner_reloads_from_the_file_of_its_id():
    assert "tuner_id" in inspect.getsource(keras_tuner.Tuner._get_tuner_fname)
