"""`from_preset` and `load`: everything that a model can be read from."""

import shutil
import sys

import keras
import numpy as np
import pytest
from keras import ops

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTClassifier, ImageGPTConfig, InputError, saving
from igpt_keras.convert import hub
from igpt_keras.network import presets
from tests.conftest import FIXTURES
from tests.convert.hub_server import COMMIT, HubServer
from tests.interpreter import Interpreter
from tests.training.replicas import free_ports

CAUSAL = FIXTURES / "hf" / "causal"
CLASSIFICATION = FIXTURES / "hf" / "classification"
ORIGINAL = FIXTURES / "openai_ar" / "model.ckpt-1000000"


def logits(model):
    tokens = np.arange(model.config.sequence_length, dtype=np.int32)[None]
    return ops.convert_to_numpy(model(tokens % model.config.vocabulary_size))


@pytest.fixture
def model(config, palette, randomized):
    return randomized(ImageGPT(config, tokenizer=palette))


class TestFolders:
    def test_a_model_comes_back(self, model, tmp_path):
        path = model.save_to_preset(tmp_path / "model")
        for again in (ImageGPT.from_preset(path), ImageGPT.from_preset(str(path))):
            np.testing.assert_array_equal(logits(again), logits(model))

    def test_the_folder_of_a_run(self, model, tmp_path):
        model.save_to_preset(tmp_path / "run" / "model", training={"step": 3})
        np.testing.assert_array_equal(logits(ImageGPT.from_preset(tmp_path / "run")), logits(model))
        assert saving.read_training(tmp_path / "run") == {"step": 3}

    def test_arguments_can_be_changed(self, model, tmp_path):
        path = model.save_to_preset(tmp_path / "model")
        half = ImageGPT.from_preset(path, dtype="mixed_bfloat16", mask_probability=0.5)
        assert (half.compute_dtype, half.mask_probability) == ("bfloat16", 0.5)
        np.testing.assert_allclose(logits(half), logits(model), atol=0.1)
        random = ImageGPT.from_preset(path, load_weights=False)
        assert random.config == model.config
        assert np.abs(logits(random)).max() == 0  # The token head starts at zero.

    def test_home_is_expanded(self, model, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert model.save_to_preset("~/model") == tmp_path / "model"
        np.testing.assert_array_equal(logits(igpt_keras.load("~/model")), logits(model))

    def test_wrong_sizes_take_no_memory(self, model, tmp_path):
        path = model.save_to_preset(tmp_path / "model")
        description = (path / "igpt.json").read_text()
        (path / "igpt.json").write_text(description.replace('layers": 2', 'layers": 900000000'))
        with pytest.raises(InputError, match="has [0-9,]+ numbers for the [0-9,]+ parameters"):
            ImageGPT.from_preset(path)


class TestClasses:
    def test_another_class_is_named(self, model, tmp_path):
        path = ImageGPTClassifier.from_preset(model, 3).save_to_preset(tmp_path / "classifier")
        message = "holds an ImageGPTClassifier, not an ImageGPT; .*ImageGPTClassifier.from_preset"
        with pytest.raises(InputError, match=message):
            ImageGPT.from_preset(path)
        assert type(igpt_keras.load(path)) is ImageGPTClassifier

    def test_a_classifier_starts_from_a_generative_preset(self, model, tmp_path):
        path = model.save_to_preset(tmp_path / "model")
        classifier = ImageGPTClassifier.from_preset(path, num_classes=10, layer=1)
        assert (classifier.num_classes, classifier.layer) == (10, 1)
        for ours, theirs in zip(
            classifier.backbone.get_weights(), model.backbone.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
        assert classifier.tokenizer.fingerprint() == model.tokenizer.fingerprint()
        with pytest.raises(InputError, match="num_classes is missing: a generative model has no"):
            ImageGPTClassifier.from_preset(path)
        with pytest.raises(InputError, match="num_classes is missing: a generative model has no"):
            ImageGPTClassifier.from_preset(model)

    def test_a_classifier_comes_back(self, model, randomized, tmp_path):
        classifier = randomized(ImageGPTClassifier.from_preset(model, 3), seed=4)
        path = classifier.save_to_preset(tmp_path / "classifier")
        for again in (
            ImageGPTClassifier.from_preset(path),
            ImageGPTClassifier.from_preset(path, num_classes=3),
        ):
            np.testing.assert_array_equal(logits(again), logits(classifier))
        with pytest.raises(InputError, match="classifier of 3 classes, got num_classes=4"):
            ImageGPTClassifier.from_preset(path, num_classes=4)

    def test_classifiers_of_other_programs(self):
        assert ImageGPTClassifier.from_preset(CLASSIFICATION).num_classes == 10
        assert ImageGPTClassifier.from_preset(CAUSAL, num_classes=3).num_classes == 3
        with pytest.raises(InputError, match="holds an ImageGPTClassifier"):
            ImageGPT.from_preset(CLASSIFICATION)

    def test_the_generative_part_of_an_original_checkpoint(self):
        """The original code has a class projection even where it was not trained."""
        pytest.importorskip("tensorflow")
        classifier = ImageGPTClassifier.from_preset(ORIGINAL)
        for path in (ORIGINAL, ORIGINAL.parent):
            model = ImageGPT.from_preset(path)
            assert type(model) is ImageGPT
            np.testing.assert_array_equal(
                ops.convert_to_numpy(model.token_head.kernel),
                ops.convert_to_numpy(classifier.token_head.kernel),
            )


class TestKerasFiles:
    def test_they_come_back_with_their_optimizer(self, model, tmp_path):
        model.compile("sgd")
        model.save(tmp_path / "model.keras")
        again = ImageGPT.from_preset(tmp_path / "model.keras")
        assert isinstance(again.optimizer, keras.optimizers.SGD)
        np.testing.assert_array_equal(logits(again), logits(model))
        with pytest.raises(InputError, match="loaded as it is, got dtype"):
            ImageGPT.from_preset(tmp_path / "model.keras", dtype="float32")
        with pytest.raises(InputError, match="holds an ImageGPT, not an ImageGPTClassifier"):
            saving.load_preset(tmp_path / "model.keras", ImageGPTClassifier)
        classifier = ImageGPTClassifier.from_preset(tmp_path / "model.keras", num_classes=3)
        assert classifier.num_classes == 3


class TestNames:
    def test_the_sizes_of_the_paper(self, monkeypatch):
        monkeypatch.setitem(
            presets.PRESETS,
            "image_gpt_small",
            {"num_layers": 1, "hidden_dim": 8, "num_heads": 2, "image_size": 4}
            | {"vocabulary_size": 512},
        )
        model = ImageGPT.from_preset("image_gpt_small", load_weights=False, objective="bert")
        assert model.config == ImageGPTConfig(4, 512, 8, 1, 2)
        assert model.objective == "bert"
        classifier = ImageGPTClassifier.from_preset("image_gpt_small", 3, load_weights=False)
        assert classifier.num_classes == 3

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("image_gpt_small", 'at "hf://openai/imagegpt-small", .*load_weights=False'),
            ("image_gpt_xlarge", "its weights were not published; load_weights=False"),
        ],
    )
    def test_weights_do_not_ship(self, name, message):
        with pytest.raises(
            InputError, match=f"preset {name} has sizes and no weights: .*{message}"
        ):
            ImageGPT.from_preset(name)

    def test_a_shipped_model(self, model, tmp_path, monkeypatch):
        monkeypatch.setattr(saving, "SHIPPED", tmp_path)
        model.save_to_preset(tmp_path / "image_gpt_tiny")
        assert saving.preset_names() == list(presets.PRESETS)
        model.save_to_preset(tmp_path / "image_gpt_cats")
        assert saving.preset_names() == [*presets.PRESETS, "image_gpt_cats"]
        np.testing.assert_array_equal(logits(igpt_keras.load("image_gpt_tiny")), logits(model))

    def test_an_unknown_name(self):
        with pytest.raises(FileNotFoundError, match="tiny does not exist; .*image_gpt_small, "):
            ImageGPT.from_preset("tiny")


@pytest.fixture(scope="module")
def server():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def interpreter(server, tmp_path_factory):
    pytest.importorskip("huggingface_hub")
    cache = tmp_path_factory.mktemp("cache")
    with Interpreter(HF_ENDPOINT=server.endpoint, HF_HOME=str(cache)) as interpreter:
        interpreter.cache = cache
        yield interpreter


class TestHub:
    """huggingface_hub itself downloads, in another process: it reads HF_ENDPOINT on import."""

    LOAD = """
import sys, igpt_keras
try:
    model = igpt_keras.ImageGPT.from_preset(sys.argv[1])
    print(float(abs(model.backbone.get_weights()[0]).sum()), model.tokenizer.image_size)
except igpt_keras.InputError as error:
    print("error:", error)
"""

    @pytest.fixture
    def load(self, interpreter):
        return lambda uri: interpreter.run(self.LOAD, uri).strip()

    def test_a_model_is_downloaded_once(self, server, interpreter, load):
        reference = igpt_keras.load(CAUSAL)
        expected = f"{float(abs(reference.backbone.get_weights()[0]).sum())} 8"
        server.serve("openai/imagegpt-small", CAUSAL)
        uri = "hf://openai/imagegpt-small"
        assert load(uri) == expected
        assert any("model.safetensors" in path for _, path in server.requests)
        server.requests.clear()
        assert load(f"{uri}@main") == expected
        assert not any("/resolve/" in path for _, path in server.requests)
        server.requests.clear()
        with Interpreter(HF_HOME=str(interpreter.cache), HF_HUB_OFFLINE="1") as offline:
            assert offline.run(self.LOAD, f"{uri}@{COMMIT}").strip() == expected
        assert not server.requests

    def test_only_the_files_of_a_model_are_downloaded(self, server, load, tmp_path):
        shutil.copytree(CAUSAL, tmp_path / "repo")
        (tmp_path / "repo" / "README.md").write_text("about")
        (tmp_path / "repo" / "pytorch_model.bin").write_bytes(b"pickled")
        server.serve("me/mine", tmp_path / "repo")
        assert load("hf://me/mine").endswith(" 8")
        downloaded = {path.rpartition("/")[2] for _, path in server.requests if "resolve" in path}
        assert "config.json" in downloaded
        assert not {"README.md", "pytorch_model.bin"} & downloaded

    def test_pytorch_weights_where_there_are_no_others(self, server, load, tmp_path):
        (tmp_path / "repo").mkdir()
        shutil.copy(CAUSAL / "config.json", tmp_path / "repo")
        (tmp_path / "repo" / "pytorch_model.bin").write_bytes(b"pickled")
        server.serve("me/old", tmp_path / "repo")
        assert "pytorch_model.bin" in load("hf://me/old")

    def test_what_is_not_there_is_named(self, server, load):
        server.serve("openai/imagegpt-medium", CAUSAL)
        assert load("hf://openai/none") == (
            "error: hf://openai/none: there is no repository openai/none, or it is private"
        )
        answer = load("hf://openai/imagegpt-medium@v9")
        assert answer.endswith("openai/imagegpt-medium has no revision v9")

    @pytest.mark.slow
    def test_a_server_that_cannot_be_reached_is_one_line(self, tmp_path):
        pytest.importorskip("huggingface_hub")
        (port,) = free_ports(1)
        nowhere = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path)}
        with Interpreter(**nowhere) as interpreter:
            answer = interpreter.run(self.LOAD, "hf://openai/imagegpt-small").strip()
        assert "cannot be downloaded" in answer
        assert "\n" not in answer

    @pytest.mark.parametrize("uri", ["hf://", "hf://name", "hf://a/b/c", "hf://a/b@", "hf://a/ b"])
    def test_unusable_addresses(self, uri):
        with pytest.raises(InputError, match="must be hf://<owner>/<name>"):
            igpt_keras.load(uri)

    def test_without_huggingface_hub(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(InputError, match=r"pip install -e '\.\[hf\]'"):
            hub.download("hf://openai/imagegpt-small")
