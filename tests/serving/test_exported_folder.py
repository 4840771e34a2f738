import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import ColorPalette, InputError
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.image_gpt import ImageGPT
from serving.exporting import export
from serving.exporting.preprocessing import preprocess
from serving.exporting.rows import make_row_functions
from serving.exporting.signatures import default_feature_layer, signature_functions
from serving.server.operations import check_operations


@pytest.mark.parametrize(
    ("objective", "weight", "names"),
    [
        ("ar", 1.0, {"complete", "sample", "score", "features", "classify", "classify_images"}),
        ("ar", 0.0, {"features", "classify", "classify_images"}),
        ("ar", None, {"complete", "sample", "score", "features"}),
        ("bert", None, {"features"}),
    ],
)
def test_a_model_gives_the_signatures_that_it_can(config, palette, objective, weight, names):
    if weight is None:
        model = ImageGPT(config, objective, tokenizer=palette)
    else:
        model = ImageGPTClassifier(
            config, 2, objective, generative_weight=weight, tokenizer=palette
        )
    (preprocessing,) = preprocess([model], max_pixels=100)
    assert signature_functions(preprocessing, None).keys() == names


def test_models_that_do_not_sample_have_no_row_functions(config, palette):
    for model in (
        ImageGPT(config, "bert", tokenizer=palette),
        ImageGPTClassifier(config, 2, generative_weight=0, tokenizer=palette),
    ):
        assert make_row_functions(preprocess([model], max_pixels=100)) is None


def test_the_layer_of_features_is_chosen_at_export(model, classifier, make_classifier):
    assert default_feature_layer(model) == 1
    assert default_feature_layer(make_classifier(layer=0)) == 0
    with pytest.raises(InputError, match=r"feature_layer must lie in 0…2 .*, got 3"):
        export([classifier, model], "nowhere", feature_layer=3)


def test_assets_are_part_of_the_saved_model(exported, model, classifier):
    folder = exported / "1" / "assets"
    labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert labels == classifier.class_names
    for name, palette in (
        ("palette", model.tokenizer),
        ("classifier_palette", classifier.tokenizer),
    ):
        loaded = ColorPalette.load(folder / f"{name}.npy")
        np.testing.assert_array_equal(loaded.colors, palette.colors)
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(exported / "1"))
    assert {asset.filename for asset in meta_graph.asset_file_def} == {
        path.name for path in folder.iterdir()
    }


def test_the_model_card_tells_sizes_training_and_limits(exported, model, classifier):
    card = (exported / "1" / "assets" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"| parameters | {model.count_params():,} |" in card
    assert f"| classes | {classifier.num_classes} |" in card
    assert r"| command | pretrain \| with a bar |" in card
    assert "| history, val_loss | 1.25 (the last of 5 values) |" in card
    assert "Not recorded." in card
    assert "## Limits" in card


def test_no_path_of_this_machine_is_in_the_graph(exported):
    content = (exported / "1" / "saved_model.pb").read_bytes()
    assert str(exported).encode() not in content
    assert b".unfinished" not in content


@pytest.mark.slow
def test_the_scan_of_saved_model_cli_passes(exported):
    module = "tensorflow.python.tools.saved_model_cli"
    answer = subprocess.run(
        [sys.executable, "-m", module, "scan", "--dir", exported / "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "does not contain the default denylisted ops" in answer.stdout


def test_the_check_of_the_server_passes(exported):
    assert check_operations(exported) == [1]


@pytest.mark.slow
def test_the_stages_of_an_export_are_told(model, tmp_path, caplog, capfd):
    with caplog.at_level("INFO", logger="igpt_keras.stages"):
        export(model, tmp_path)
    stages = [(r.getMessage(), getattr(r, "finished", False)) for r in caplog.records]
    assert stages[0] == ("tracing the signatures", False)
    # Each has ended before the next one begins.
    assert [finished for _, finished in stages] == [False, True] * 3
    assert capfd.readouterr().out == ""


def test_an_existing_version_is_kept(model, exported, tmp_path):
    path = shutil.copytree(exported / "1", tmp_path / "1")
    before = (path / "saved_model.pb").read_bytes()
    with pytest.raises(FileExistsError, match=str(path)):
        export(model, tmp_path, version=1)
    assert (path / "saved_model.pb").read_bytes() == before


def test_version_zero_is_refused(model, tmp_path):
    with pytest.raises(InputError, match="version must be at least 1 and at most 9[0-9]+, got 0"):
        export(model, tmp_path, version=0)


def test_max_pixels_is_at_least_one(model, tmp_path):
    with pytest.raises(InputError, match="max_pixels must lie in 1"):
        export(model, tmp_path / "served", max_pixels=0)


def test_a_tokenizer_is_needed(make_model, tmp_path):
    with pytest.raises(InputError, match="tokenizer is missing"):
        export(make_model(tokenizer=None), tmp_path / "served")
    assert not (tmp_path / "served").exists()


def test_training_is_told_of_each_model(model, tmp_path):
    with pytest.raises(InputError, match="training must hold one for each of 1 models"):
        export(model, tmp_path, training=[{}, {}])


@pytest.mark.parametrize("count", [0, 2])
def test_models_are_one_of_each_kind(model, tmp_path, count):
    with pytest.raises(InputError, match="one of each"):
        export([model] * count, tmp_path)


def test_other_models_are_refused(model, tmp_path):
    with pytest.raises(InputError, match="ImageGPT"):
        export(model.backbone, tmp_path)
