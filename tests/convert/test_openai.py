"""Against models that the original TensorFlow 1 code made: tests/fixtures/openai_*."""

import pathlib
import shutil

import numpy as np
import pytest
from keras import ops

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTClassifier, ImageGPTConfig, InputError

tf = pytest.importorskip("tensorflow")

from igpt_keras.convert.openai import latest_prefix, read_openai  # noqa: E402

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"
CHECKPOINT = "model.ckpt-1000000"
DATA = f"{CHECKPOINT}.data-00000-of-00001"
TOLERANCE = 1e-4


def load_openai(prefix):
    stored = read_openai(prefix)
    return stored.build(getattr(igpt_keras, stored.class_name))


class Case:
    """One fixture: its model, and the inputs and answers of the reference."""

    def __init__(self, objective):
        folder = FIXTURES / f"openai_{objective}"
        self.objective = objective
        self.model = load_openai(folder / CHECKPOINT)
        with np.load(folder / "reference.npz") as file:
            self.reference = dict(file)
        self.inputs = {"tokens": self.reference["tokens"]}
        if objective == "bert":
            self.inputs["masked"] = ~self.reference["keep_mask"]


@pytest.fixture(scope="module", params=["ar", "bert"])
def case(request):
    return Case(request.param)


@pytest.fixture
def folder(tmp_path):
    copy = shutil.copytree(FIXTURES / "openai_ar", tmp_path / "checkpoint")
    return pathlib.Path(copy)


def deviation(x, reference):
    x = ops.convert_to_numpy(x)
    assert x.shape == reference.shape
    return np.abs(x - reference).max()


def read_variables(objective="ar"):
    reader = tf.train.load_checkpoint(str(FIXTURES / f"openai_{objective}" / CHECKPOINT))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def write_checkpoint(tmp_path, changes=None, drop=(), objective="ar"):
    """The fixture with other variables; returns its prefix."""
    variables = {**read_variables(objective), **(changes or {})}
    names = [name for name in variables if name not in drop]
    prefix = str(tmp_path / "changed.ckpt-1")
    tensors = [tf.constant(variables[name]) for name in names]
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors
    )
    return prefix


class TestLoad:
    def test_kind_and_sizes(self, case):
        assert type(case.model) is ImageGPTClassifier
        assert case.model.objective == case.objective
        assert case.model.num_classes == 10
        assert case.model.generative_weight == 1
        assert case.model.tokenizer is None
        assert case.model.config == ImageGPTConfig(8, 32, 48, 3, 4, use_bias=False)

    def test_token_logits(self, case):
        logits = case.model.token_head(case.model.backbone(case.inputs))
        assert deviation(logits, case.reference["gen_logits"]) < TOLERANCE

    def test_class_logits(self, case):
        assert deviation(case.model(case.inputs), case.reference["clf_logits"]) < TOLERANCE

    def test_losses_and_accuracy(self, case):
        case.model.compile()
        answers = case.model.evaluate(
            case.inputs, case.reference["labels"], verbose=0, return_dict=True
        )
        generative, classes = case.reference["gen_loss"], case.reference["clf_loss"]
        assert answers["loss"] == pytest.approx(generative + classes, abs=TOLERANCE)
        assert answers["bits_per_pixel"] == pytest.approx(generative / np.log(2), abs=TOLERANCE)
        # The original code's accuracy is in percent.
        assert 100 * answers["accuracy"] == pytest.approx(case.reference["accuracy"])

    def test_without_class_projection(self, case, tmp_path):
        prefix = write_checkpoint(tmp_path, drop=["model/clf/wclf"], objective=case.objective)
        model = load_openai(prefix)
        assert type(model) is ImageGPT
        assert model.objective == case.objective
        assert deviation(model(case.inputs), case.reference["gen_logits"]) < TOLERANCE

    def test_optimizer_is_ignored(self, tmp_path):
        changes = {"global_step": np.int64(1), "beta1_power": np.float32(0.9)}
        for name, value in read_variables().items():
            changes[f"{name}/Adam"] = changes[f"{name}/Adam_1"] = np.ones_like(value)
        model = load_openai(write_checkpoint(tmp_path, changes))
        assert model.config.num_layers == 3
        tokens = ops.convert_to_numpy(model.backbone.embedding.token_embedding)
        assert np.array_equal(tokens, read_variables()["model/wte"])


class TestPalette:
    def test_beside_the_checkpoint(self, folder):
        colors = np.random.default_rng(0).uniform(-1, 1, (32, 3)).astype(np.float32)
        np.save(folder / "kmeans_centers.npy", colors)
        assert np.array_equal(load_openai(folder / CHECKPOINT).tokenizer.colors, colors)

    def test_of_another_model(self, folder):
        np.save(folder / "kmeans_centers.npy", np.zeros((512, 3), np.float32))
        assert load_openai(folder / CHECKPOINT).tokenizer is None

    def test_damaged(self, folder):
        (folder / "kmeans_centers.npy").write_bytes(b"no array")
        with pytest.raises(InputError, match="kmeans_centers.npy"):
            load_openai(folder / CHECKPOINT)


class TestErrors:
    @pytest.mark.parametrize("suffix", [".index", ".meta", ".data-00000-of-00001"])
    def test_file_instead_of_prefix(self, folder, suffix):
        with pytest.raises(InputError, match=f"give its prefix, {folder / CHECKPOINT}$"):
            load_openai(f"{folder / CHECKPOINT}{suffix}")

    def test_no_checkpoint(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="none.index does not exist"):
            load_openai(tmp_path / "none")

    def test_missing_data(self, folder):
        (folder / DATA).unlink()
        with pytest.raises(InputError, match=rf"{CHECKPOINT}.data-\* hold 0"):
            load_openai(folder / CHECKPOINT)

    @pytest.mark.parametrize("size", [0, 1000, 100_000])
    def test_truncated_data(self, folder, size):
        (folder / DATA).write_bytes((folder / DATA).read_bytes()[:size])
        with pytest.raises(InputError, match=rf"{CHECKPOINT}.data-\* hold {size:,}"):
            load_openai(folder / CHECKPOINT)

    def test_flipped_bits(self, folder):
        data = bytearray((folder / DATA).read_bytes())
        data[5000] ^= 1
        (folder / DATA).write_bytes(data)
        with pytest.raises(InputError, match="cannot be read.*[Cc]hecksum"):
            load_openai(folder / CHECKPOINT)

    @pytest.mark.parametrize("size", [0, 300])
    def test_truncated_index(self, folder, size):
        index = folder / f"{CHECKPOINT}.index"
        index.write_bytes(index.read_bytes()[:size])
        with pytest.raises(InputError, match=f"{CHECKPOINT} cannot be read"):
            load_openai(folder / CHECKPOINT)

    @pytest.mark.parametrize(
        "name",
        [
            "model/wte",
            "model/wpe",
            "model/wtet",
            "model/ln_f/g",
            "model/h0/attn/q_proj",
            "model/h1/attn/v_proj",
            "model/h2/mlp/c_fc/w",
        ],
    )
    def test_missing_variable(self, tmp_path, name):
        prefix = write_checkpoint(tmp_path, drop=[name])
        with pytest.raises(InputError, match=f"{prefix} lacks the tensor {name}( |$)"):
            load_openai(prefix)

    @pytest.mark.parametrize(
        "name, shape, message",
        [
            ("model/wpe", (60, 48), "number of rows of model/wpe must be the square.*got 60"),
            ("model/wpe", (64, 40), r"model/wpe has shape \[64, 40\], expected \[64, 48\]"),
            ("model/wtet", (33, 48), r"model/wtet has shape \[33, 48\], expected \[32, 48\]"),
            ("model/wte", (32,), r"model/wte must have 2 dimensions, got \[32\]"),
            ("model/sos", (1, 48), r"model/sos has shape \[1, 48\], expected \[48\]"),
            ("model/h0/attn/q_proj", (5, 12, 48), "num_heads=5"),
            ("model/h0/attn/q_proj", (3, 16, 48), r"k_proj has shape \[4, 12, 48\], expected"),
            ("model/h1/attn/c_proj", (4, 48, 12), r"c_proj has shape \[4, 48, 12\], expected"),
            ("model/clf/wclf", (1, 48), "num_classes must be at least 2, got 1"),
            ("model/clf/wclf", (), r"model/clf/wclf has shape \[\], expected"),
        ],
    )
    def test_inconsistent_shape(self, tmp_path, name, shape, message):
        prefix = write_checkpoint(tmp_path, {name: np.zeros(shape, np.float32)})
        with pytest.raises(InputError, match=f"{prefix}.*{message}"):
            load_openai(prefix)

    def test_biases_have_no_place(self, tmp_path):
        prefix = write_checkpoint(tmp_path, {"model/h0/mlp/c_fc/b": np.ones(192, np.float32)})
        with pytest.raises(InputError, match="holds the unexpected tensor model/h0/mlp/c_fc/b"):
            load_openai(prefix)


class TestLatestPrefix:
    def test_named(self, folder):
        assert latest_prefix(folder) == str(folder / CHECKPOINT)

    def test_gone(self, folder):
        (folder / f"{CHECKPOINT}.index").unlink()
        with pytest.raises(InputError, match="checkpoint names no checkpoint"):
            latest_prefix(folder)
