import pytest

from igpt_keras import InputError
from serving.server.configuration import (
    PROMETHEUS_PATH,
    BatchingParameters,
    configured_models,
    read_batching,
    read_models,
    read_monitoring,
    write_models,
)


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "file.config"
        path.write_text(text)
        return path

    return write


def test_batching_parameters_in_tensorflow_servings_own_words(write):
    # As in TensorFlow Serving's batching guide and the tests of its bundle factory.
    path = write(
        """
        max_batch_size { value: 128 }
        batch_timeout_micros { value: 0 }
        max_enqueued_batches { value: 1000000 }
        num_batch_threads { value: 8 }
        thread_pool_name { value: "pool" }
        allowed_batch_sizes: 2
        allowed_batch_sizes: 4
        pad_variable_length_inputs: false
        enable_large_batch_splitting { value: True }
        max_execution_batch_size { value: 4 }
        """
    )
    parameters = read_batching(path)
    assert parameters == BatchingParameters(128, 0, 1_000_000, 8, "pool", (2, 4), True, 4)
    assert (parameters.batch_size, parameters.capacity) == (4, 4_000_000)


def test_parameters_left_out_have_their_default(write):
    assert read_batching(write("max_batch_size { value: 3 }")) == BatchingParameters(3)


@pytest.mark.parametrize(
    "text, message",
    [
        ("max_batch_sizes { value: 1 }", 'no field named "max_batch_sizes"'),
        ("max_batch_size: 1", "1:17"),
        ("max_batch_size { value: 0 }", "max_batch_size must be at least 1, got 0"),
        ("num_batch_threads { value: -1 }", "num_batch_threads must be at least 1"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be at least 0"),
        ("max_execution_batch_size { value: 2 }", "needs enable_large_batch_splitting"),
        (
            "max_batch_size { value: 2 } max_execution_batch_size { value: 3 } "
            "enable_large_batch_splitting { value: true }",
            r"at most max_batch_size \(2\), got 3",
        ),
        ("max_batch_size { value: 4 } allowed_batch_sizes: 2", r"ascend up to 4, got \[2\]"),
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: [4, 2, 4]",
            r"ascend up to 4, got \[4, 2, 4\]",
        ),
        ("pad_variable_length_inputs: true", "is not supported"),
    ],
)
def test_batching_parameters_are_checked(write, text, message):
    path = write(text)
    with pytest.raises(InputError, match=message) as caught:
        read_batching(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text, path",
    [
        ("prometheus_config { enable: true, path: '/metrics' }", "/metrics"),
        ("prometheus_config { enable: true }", PROMETHEUS_PATH),
        ("prometheus_config { path: '/metrics' }", None),
        ("", None),
    ],
)
def test_monitoring(write, text, path):
    assert read_monitoring(write(text)) == path


def test_models_are_written_as_they_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_models("models.config", {"one": 'a "quoted" folder', "zwei": tmp_path / "zürich"})
    models = read_models("models.config")
    assert [(model.name, model.base_path, model.model_platform) for model in models] == [
        ("one", f'{tmp_path}/a "quoted" folder', "tensorflow"),
        ("zwei", f"{tmp_path}/zürich", "tensorflow"),
    ]


def test_models(write):
    (model,) = read_models(
        write(
            "model_config_list { config { name: 'a' base_path: '/models/a' "
            "model_platform: 'tensorflow' model_version_policy { all {} } } }"
        )
    )
    assert (model.name, model.base_path) == ("a", "/models/a")
    assert model.model_version_policy.WhichOneof("policy_choice") == "all"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "at least one config"),
        ("custom_model_config {}", "at least one config"),
        ("models {}", 'no field named "models"'),
        ("model_config_list { config { base_path: '/a' } }", r"names that differ, got \[''\]"),
        ("model_config_list { config { name: 'a' } }", "a has no base_path"),
        (
            "model_config_list { config { name: 'a' base_path: '/a' } "
            "config { name: 'a' base_path: '/b' } }",
            r"differ, got \['a', 'a'\]",
        ),
        (
            "model_config_list { config { name: 'a' base_path: '/a' model_platform: 'caffe' } }",
            "must be tensorflow, got caffe",
        ),
        (
            "model_config_list { config { name: 'a' base_path: '/a' "
            "model_version_policy { specific {} } } }",
            "names no specific versions",
        ),
    ],
)
def test_models_are_checked(write, text, message):
    with pytest.raises(InputError, match=message):
        read_models(write(text))


@pytest.mark.parametrize(
    ("base_path", "volumes", "folder"),
    [
        ("/models/a", {"/models/a": "served"}, "served"),
        ("/models/a/", {"/models/a/": "served"}, "served"),
        ("/models/a", {"/models": "all"}, "all/a"),
        ("/models/a", {"/": "root", "/models": "all", "/models/a/1": "inner"}, "all/a"),
        ("/models/ab", {"/models/a": "served"}, "/models/ab"),
        ("models/a", {"/models/a": "served"}, "models/a"),
        ("/models/a", {}, "/models/a"),
    ],
)
def test_volumes_are_the_folders_of_a_container(write, base_path, volumes, folder):
    path = write(f"model_config_list {{ config {{ name: 'a' base_path: '{base_path}' }} }}")
    (model,) = configured_models(None, "igpt", path, volumes)
    assert model.base_path == folder


@pytest.mark.parametrize(
    ("directory", "file", "volumes", "message"),
    [
        (None, None, {}, "one of directory and model_config_file must be given"),
        ("served", "file.config", {}, "one of directory and model_config_file must be given"),
        ("served", None, {"/models": "served"}, "volumes need model_config_file"),
        (None, "file.config", {"models": "served"}, r"absolute paths, got \['models'\]"),
    ],
)
def test_volumes_are_for_the_paths_of_a_file(directory, file, volumes, message):
    with pytest.raises(InputError, match=message):
        configured_models(directory, "igpt", file, volumes)


def test_a_missing_file_is_named(tmp_path):
    for read in (read_models, read_batching, read_monitoring):
        with pytest.raises(FileNotFoundError, match="nowhere.config"):
            read(tmp_path / "nowhere.config")
