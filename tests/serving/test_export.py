import io
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from igpt_keras import InputError, complete
from igpt_keras.data.images import read_image
from igpt_keras.sampling import completion_seeds
from serving.export import export
from serving.export.checks import check_servable

SIZE = 4


class TF1Model:
    """A SavedModel run as TensorFlow Serving runs it: in a TensorFlow 1 session."""

    def __init__(self, folder):
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(self.session, ["serve"], str(folder))
        self.signatures = meta_graph.signature_def

    def run(self, signature_name, **inputs):
        signature = self.signatures[signature_name]
        fetches = {name: info.name for name, info in signature.outputs.items()}
        feeds = {signature.inputs[name].name: values for name, values in inputs.items()}
        return self.session.run(fetches, feeds)


@pytest.fixture(scope="module")
def tf1_model(exported):
    return TF1Model(exported / "1")


def encode(pixels, file_format="PNG") -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def random_images(count, height=SIZE, width=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def completion_inputs(images, **settings):
    """Inputs of `complete`, one per image; every row is kept unless told otherwise."""
    defaults = {"keep_rows": SIZE, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0}
    columns = {
        name: np.broadcast_to(settings.get(name, value), [len(images)])
        for name, value in defaults.items()
    }
    return {"image_bytes": [encode(image) for image in images], **columns}


def single_seed(image_seed):
    """The seed of the first completion of an image."""
    return completion_seeds(image_seed, 1, 1)[0, 0]


def test_completions_equal_those_in_process(tf1_model, model):
    images = random_images(3)
    settings = {"temperature": 0.8, "top_k": 6, "top_p": 0.9}
    seeds = [single_seed(image_seed) for image_seed in (5, 6, 7)]
    outputs = tf1_model.run(
        "complete", **completion_inputs(images, keep_rows=2, seed=seeds, **settings)
    )
    expected = complete(model, None, images, keep_rows=2, seed=5, **settings)
    np.testing.assert_array_equal(outputs["tokens"], expected.tokens[:, 0])
    np.testing.assert_array_equal(outputs["pixels"], expected.images[:, 0])
    np.testing.assert_allclose(
        outputs["log_likelihood"], expected.log_likelihood[:, 0], rtol=1e-5, atol=1e-5
    )
    assert len(np.unique(expected.tokens)) > 2, "the model should not be constant"
    decoded = [np.asarray(PIL.Image.open(io.BytesIO(png))) for png in outputs["png_bytes"]]
    np.testing.assert_array_equal(decoded, outputs["pixels"])


def test_every_example_has_its_own_settings(tf1_model, model):
    images = random_images(5, seed=1)
    columns = {
        "keep_rows": [0, 1, 2, 3, 4],
        "temperature": [1.0, 0.0, 0.5, 2.0, 1.0],
        "top_k": [0, 0, 3, 0, 1],
        "top_p": [1.0, 1.0, 1.0, 0.6, 1.0],
    }
    seeds = [single_seed(image_seed) for image_seed in range(5)]
    outputs = tf1_model.run("complete", **completion_inputs(images, seed=seeds, **columns))
    for index, image in enumerate(images):
        settings = {name: values[index] for name, values in columns.items()}
        expected = complete(model, None, image[None], seed=index, **settings)
        np.testing.assert_array_equal(outputs["tokens"][index], expected.tokens[0, 0])


def test_serving_default_is_complete(tf1_model):
    inputs = completion_inputs(random_images(2), keep_rows=1, seed=[3, 4])
    named, default = (tf1_model.run(name, **inputs) for name in ("complete", "serving_default"))
    np.testing.assert_array_equal(named["tokens"], default["tokens"])


def test_classes_equal_those_in_process(tf1_model, classifier):
    images = random_images(4, 6, 6)
    outputs = tf1_model.run("classify_images", image_bytes=[encode(image) for image in images])
    tokens = classifier.palette.quantize(images).reshape(4, -1)
    expected = classifier.predict(tokens, verbose=0)
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-5, atol=1e-6)
    odds = np.exp(outputs["logits"])
    np.testing.assert_allclose(outputs["scores"], odds / odds.sum(axis=1, keepdims=True), rtol=1e-5)
    names = [[name.decode() for name in row] for row in outputs["classes"]]
    assert names == [classifier.class_names] * 4


def test_colours_are_quantized_as_in_python(tf1_model, model):
    images = random_images(400, seed=2)
    outputs = tf1_model.run("complete", **completion_inputs(images))
    expected = model.palette.quantize(images).reshape(400, -1)
    np.testing.assert_array_equal(outputs["tokens"], expected)
    np.testing.assert_array_equal(
        outputs["pixels"], model.palette.dequantize(expected).reshape(images.shape)
    )


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP"])
def test_image_files_are_read_as_in_python(tf1_model, model, tmp_path, file_format):
    path = tmp_path / "image"
    path.write_bytes(encode(random_images(1, 37, 23)[0], file_format))
    inputs = completion_inputs(random_images(1))
    outputs = tf1_model.run("complete", **{**inputs, "image_bytes": [path.read_bytes()]})
    expected = model.palette.quantize(read_image(path, SIZE)).reshape(1, -1)
    np.testing.assert_array_equal(outputs["tokens"], expected)


@pytest.mark.parametrize(
    "name, value",
    [
        ("keep_rows", -1),
        ("keep_rows", SIZE + 1),
        ("temperature", -0.5),
        ("temperature", np.nan),
        ("temperature", np.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", np.nan),
    ],
)
def test_the_graph_refuses_bad_settings(tf1_model, name, value):
    good = completion_inputs(random_images(2))
    tf1_model.run("complete", **good)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name} must "):
        tf1_model.run("complete", **{**good, name: [good[name][0], value]})


@pytest.mark.parametrize("output", ["png_bytes", "pixels", "tokens", "log_likelihood"])
def test_every_output_alone_is_checked(tf1_model, output):
    signature = tf1_model.signatures["complete"]
    inputs = completion_inputs(random_images(1), keep_rows=SIZE + 1)
    feeds = {signature.inputs[name].name: values for name, values in inputs.items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match="keep_rows must lie in 0…4"):
        tf1_model.session.run(signature.outputs[output].name, feeds)


@pytest.mark.parametrize("keep_rows", [[1], [1, 1, 1]])
def test_the_graph_refuses_inputs_of_different_batch_sizes(tf1_model, keep_rows):
    inputs = completion_inputs(random_images(2))
    with pytest.raises(tf.errors.InvalidArgumentError, match="one batch size"):
        tf1_model.run("complete", **{**inputs, "keep_rows": keep_rows})


def test_the_batch_comes_first_everywhere(tf1_model):
    for name in ("complete", "serving_default", "classify_images"):
        signature = tf1_model.signatures[name]
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            assert info.tensor_shape.dim[0].size == -1


def test_an_empty_batch_gives_empty_outputs(tf1_model):
    outputs = tf1_model.run("complete", **completion_inputs(random_images(0)))
    assert outputs["pixels"].shape == (0, SIZE, SIZE, 3)
    assert tf1_model.run("classify_images", image_bytes=[])["scores"].shape == (0, 3)


def test_an_existing_version_is_kept(model, exported, tmp_path):
    path = shutil.copytree(exported / "1", tmp_path / "1")
    before = (path / "saved_model.pb").read_bytes()
    with pytest.raises(FileExistsError, match=str(path)):
        export(model, tmp_path, version=1)
    assert (path / "saved_model.pb").read_bytes() == before


def test_version_zero_is_refused(model, tmp_path):
    with pytest.raises(InputError, match="version must be at least 1, got 0"):
        export(model, tmp_path, version=0)


def test_a_palette_is_needed(make_model, tmp_path):
    with pytest.raises(InputError, match="palette"):
        export(make_model(palette=None), tmp_path / "served")
    assert not (tmp_path / "served").exists()


@pytest.mark.parametrize("count", [0, 2])
def test_models_are_one_of_each_kind(model, tmp_path, count):
    with pytest.raises(InputError, match="one of each"):
        export([model] * count, tmp_path)


def test_other_models_are_refused(model, tmp_path):
    with pytest.raises(InputError, match="ImageGPT"):
        export(model.backbone, tmp_path)


def graph_of(function) -> tf.compat.v1.GraphDef:
    return tf.function(function).get_concrete_function(tf.TensorSpec([2])).graph.as_graph_def()


def inside_a_function(function):
    inner = tf.function(function)
    return lambda x: tf.identity(inner(x))


def with_python(x):
    return tf.py_function(lambda y: y + 1, [x], tf.float32)


def with_numpy(x):
    return tf.numpy_function(lambda y: y + 1, [x], tf.float32)


@pytest.mark.parametrize("function", [with_python, with_numpy])
@pytest.mark.parametrize("wrap", [lambda f: f, inside_a_function])
def test_python_in_the_graph_is_refused(function, wrap):
    with pytest.raises(InputError, match="PyFunc"):
        check_servable(graph_of(wrap(function)))


def test_must_compile_functions_are_refused():
    compiled = tf.function(lambda x: x + 1, jit_compile=True)
    with pytest.raises(InputError, match="compiled by XLA"):
        check_servable(graph_of(lambda x: compiled(x) * 2))


@pytest.mark.parametrize("attributes_of", [lambda f: f, lambda f: f.node_def.add(name="call")])
def test_must_compile_is_refused_on_functions_and_on_calls(attributes_of):
    graph = tf.compat.v1.GraphDef()
    attributes_of(graph.library.function.add()).attr["_XlaMustCompile"].b = True
    with pytest.raises(InputError, match="compiled by XLA"):
        check_servable(graph)


def test_xla_operations_are_refused():
    graph = tf.compat.v1.GraphDef()
    graph.library.function.add().node_def.add(name="dot", op="XlaDotV2")
    with pytest.raises(InputError, match="XlaDotV2"):
        check_servable(graph)


def test_a_plain_graph_is_accepted():
    check_servable(graph_of(inside_a_function(lambda x: x + 1)))


def test_an_unservable_model_leaves_nothing_behind(make_model, tmp_path):
    model = make_model()

    def python_head(states, head=model.token_logits):
        return tf.ensure_shape(with_python(head(states)), [None, 1, 8])

    object.__setattr__(model, "token_logits", python_head)
    with pytest.raises(InputError, match="EagerPyFunc"):
        export(model, tmp_path)
    assert not list(tmp_path.iterdir())
