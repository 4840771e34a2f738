import io
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from igpt_keras import ColorPalette, InputError
from igpt_keras.data.image_decoding import read_image
from igpt_keras.evaluation.metrics import generative_loss
from igpt_keras.evaluation.voting import VOTES
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.models.masking import draw_mask
from igpt_keras.sampling.autoregressive import sample_tokens
from igpt_keras.sampling.requests import completion_seeds
from igpt_keras.sampling.samplers import Categorical
from serving.exporting import MAX_PIXELS, export
from serving.exporting.checks import check_runs, check_servable
from serving.exporting.signatures import default_feature_layer, signature_names

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
    expected = model.generate(images, keep_rows=2, seed=5, sampler=Categorical(**settings))
    np.testing.assert_array_equal(outputs["tokens"], expected.tokens[:, 0])
    np.testing.assert_array_equal(outputs["pixels"], expected.images[:, 0])
    np.testing.assert_allclose(
        outputs["log_likelihood"], expected.log_likelihood[:, 0], rtol=1e-5, atol=1e-5
    )
    assert len(np.unique(expected.tokens)) > 2, "the model should not be constant"
    decoded = [np.asarray(PIL.Image.open(io.BytesIO(png))) for png in outputs["png_bytes"]]
    np.testing.assert_array_equal(decoded, outputs["pixels"])


def test_the_decoder_gives_the_same_bits_in_process(tf1_model, model):
    images = random_images(3, seed=6)
    seeds = np.array([8, 9, 10])
    outputs = tf1_model.run("complete", **completion_inputs(images, keep_rows=2, seed=seeds))
    decode = tf.function(
        lambda *inputs: sample_tokens(model, *inputs, Categorical()), autograph=False
    )
    tokens, log_likelihood = decode(
        tf.constant(model.tokenizer.tokenize(images).astype(np.int32)),
        tf.constant(np.tile(np.arange(SIZE * SIZE) < 2 * SIZE, (3, 1))),
        tf.constant(seeds),
    )
    np.testing.assert_array_equal(outputs["tokens"], tokens)
    np.testing.assert_array_equal(outputs["log_likelihood"], log_likelihood)


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
        keep_rows = settings.pop("keep_rows")
        expected = model.generate(
            image[None], keep_rows=keep_rows, seed=index, sampler=Categorical(**settings)
        )
        np.testing.assert_array_equal(outputs["tokens"][index], expected.tokens[0, 0])


def test_samples_equal_those_in_process(tf1_model, model):
    settings = {"temperature": 0.9, "top_k": 7, "top_p": 0.95}
    columns = {name: np.full(3, value) for name, value in settings.items()}
    seeds = [single_seed(image_seed) for image_seed in (2, 3, 4)]
    outputs = tf1_model.run("sample", seed=seeds, **columns)
    expected = model.sample(3, seed=2, sampler=Categorical(**settings))
    np.testing.assert_array_equal(outputs["tokens"], expected.tokens[:, 0])
    np.testing.assert_array_equal(outputs["pixels"], expected.images[:, 0])
    np.testing.assert_allclose(
        outputs["log_likelihood"], expected.log_likelihood[:, 0], rtol=1e-5, atol=1e-5
    )


def test_scores_equal_those_in_process(tf1_model, model):
    images = random_images(3, seed=4)
    outputs = tf1_model.run("score", image_bytes=[encode(image) for image in images])
    np.testing.assert_allclose(outputs["log_likelihood"], model.score(images), rtol=1e-5)
    tokens = model.tokenizer.tokenize(images)
    mean = generative_loss(model, tokens) / np.log(2)
    np.testing.assert_allclose(outputs["bits_per_pixel"].mean(), mean, rtol=1e-5)


def test_features_are_those_of_the_middle_layer(tf1_model, model):
    images = random_images(3, seed=5)
    outputs = tf1_model.run("features", image_bytes=[encode(image) for image in images])
    tokens = model.tokenizer.tokenize(images)
    np.testing.assert_allclose(
        outputs["features"], model.features(tokens, layer=1), rtol=1e-5, atol=1e-6
    )


def test_serving_default_is_complete(tf1_model):
    inputs = completion_inputs(random_images(2), keep_rows=1, seed=[3, 4])
    named, default = (tf1_model.run(name, **inputs) for name in ("complete", "serving_default"))
    np.testing.assert_array_equal(named["tokens"], default["tokens"])


def test_classes_equal_those_in_process(tf1_model, classifier):
    images = random_images(4, 6, 6)
    outputs = tf1_model.run("classify_images", image_bytes=[encode(image) for image in images])
    tokens = classifier.tokenizer.tokenize(images)
    expected = classifier.predict(tokens, verbose=0)
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-5, atol=1e-6)
    odds = np.exp(outputs["logits"])
    np.testing.assert_allclose(outputs["scores"], odds / odds.sum(axis=1, keepdims=True), rtol=1e-5)
    names = [[name.decode() for name in row] for row in outputs["classes"]]
    assert names == [classifier.class_names] * 4


def test_examples_get_the_classes_of_their_images(tf1_model):
    contents = [encode(image) for image in random_images(4, 6, 6)]
    inputs = []
    for content in contents:
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
        features = tf.train.Features(feature={"image/encoded": feature})
        inputs.append(tf.train.Example(features=features).SerializeToString())
    outputs = tf1_model.run("classify", inputs=inputs)
    expected = tf1_model.run("classify_images", image_bytes=contents)
    assert outputs.keys() == {"classes", "scores"}
    np.testing.assert_array_equal(outputs["scores"], expected["scores"])
    np.testing.assert_array_equal(outputs["classes"], expected["classes"])


def test_only_classify_is_for_the_classify_call(tf1_model):
    methods = {name: signature.method_name for name, signature in tf1_model.signatures.items()}
    assert methods.pop("classify") == "tensorflow/serving/classify"
    del methods["__saved_model_init_op"]
    assert set(methods.values()) == {"tensorflow/serving/predict"}


def test_images_are_tokenized_as_in_python(tf1_model, model):
    images = random_images(400, seed=2)
    outputs = tf1_model.run("complete", **completion_inputs(images))
    expected = model.tokenizer.tokenize(images)
    np.testing.assert_array_equal(outputs["tokens"], expected)
    np.testing.assert_array_equal(outputs["pixels"], model.tokenizer.detokenize(expected))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP"])
def test_image_files_are_read_as_in_python(tf1_model, model, tmp_path, file_format):
    path = tmp_path / "image"
    path.write_bytes(encode(random_images(1, 37, 23)[0], file_format))
    inputs = completion_inputs(random_images(1))
    outputs = tf1_model.run("complete", **{**inputs, "image_bytes": [path.read_bytes()]})
    expected = model.tokenizer.tokenize(read_image(path, SIZE))
    np.testing.assert_array_equal(outputs["tokens"], expected[None])


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


@pytest.mark.parametrize("output", ["tokens", "log_likelihood"])
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
    batch = {"complete", "sample", "classify", "classify_images", "features", "score"}
    assert names_of(tf1_model) == batch | {"serving_default"}
    for name in names_of(tf1_model):
        signature = tf1_model.signatures[name]
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            assert info.tensor_shape.dim[0].size == -1


def names_of(exported):
    return {name for name in exported.signatures if not name.startswith("__")}


def test_an_empty_batch_gives_empty_outputs(tf1_model):
    outputs = tf1_model.run("complete", **completion_inputs(random_images(0)))
    assert outputs["pixels"].shape == (0, SIZE, SIZE, 3)
    assert tf1_model.run("classify_images", image_bytes=[])["scores"].shape == (0, 3)


@pytest.mark.slow
def test_a_bert_classifier_has_no_completions_and_the_same_masks_at_every_call(
    make_classifier, tmp_path
):
    classifier = make_classifier("bert", layer=0)
    exported_bert = TF1Model(export(classifier, tmp_path))
    assert names_of(exported_bert) == {
        *("classify", "classify_images", "features", "serving_default")
    }
    images = random_images(2, 6, 6)
    contents = [encode(image) for image in images]
    first, second, default = (
        exported_bert.run(name, image_bytes=contents)["logits"]
        for name in ("classify_images", "classify_images", "serving_default")
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, default)
    alone = exported_bert.run("classify_images", image_bytes=contents[1:])["logits"]
    np.testing.assert_allclose(alone, first[1:], rtol=1e-5)
    # The mean of the logits under the masks that evaluation uses.
    tokens = classifier.tokenizer.tokenize(images)
    masks = draw_mask((VOTES, 36), classifier.mask_probability, seed=0, vote=0)
    votes = [classifier({"tokens": tokens, "masked": np.tile(mask, (2, 1))}) for mask in masks]
    np.testing.assert_allclose(first, np.mean(votes, axis=0), rtol=1e-4, atol=1e-5)


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
    assert signature_names([model]) == names


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
    assert f"| parameters | {model.count_params()} |" in card
    assert f"| classes | {classifier.num_classes} |" in card
    assert r"| command | pretrain \| with a bar |" in card
    assert "| history, val_loss | 1.25 at the end of 5 |" in card
    assert "Not recorded." in card
    assert "## Limits" in card


def test_warmup_requests_of_every_signature_run(exported, tf1_model):
    file = exported / "1" / "assets.extra" / "tf_serving_warmup_requests"
    asked = set()
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = getattr(log, log.WhichOneof("log_type")).request
        name = request.model_spec.signature_name
        asked.add(name)
        if name == "classify":
            examples = request.input.example_list.examples
            inputs = {"inputs": [example.SerializeToString() for example in examples]}
        else:
            inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        assert tf1_model.run(name, **inputs)
    assert asked == names_of(tf1_model)


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


def test_the_logger_tells_what_is_going_on(model, tmp_path, caplog, capfd):
    with caplog.at_level("INFO", logger="serving.export"):
        path = export(model, tmp_path)
    stages = [record.getMessage() for record in caplog.records if record.name == "serving.export"]
    assert stages[0] == "tracing the signatures"
    assert stages[-1] == f"exported to {path}"
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


def test_a_bomb_is_refused(tf1_model):
    content = bytearray(encode(random_images(1)[0]))
    content[16:24] = (50_000).to_bytes(4, "big") * 2
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"1…{MAX_PIXELS} pixels"):
        tf1_model.run("score", image_bytes=[bytes(content)])


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


@pytest.mark.parametrize("operation", ["ReadFile", "WriteFile", "PrintV2"])
def test_operations_on_files_of_the_server_are_refused(operation):
    graph = tf.compat.v1.GraphDef()
    graph.library.function.add().node_def.add(name="file", op=operation)
    with pytest.raises(InputError, match=f"{operation} .*files of the server"):
        check_servable(graph)


def test_custom_operations_are_refused():
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="mine", op="MyOwnOperation")
    with pytest.raises(InputError, match="MyOwnOperation .* none of TensorFlow's own"):
        check_servable(graph)


def test_what_does_not_run_in_a_session_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported / "1", tmp_path / "1")
    inputs = {"features": {"image_bytes": np.array([b"no image"], object)}}
    with pytest.raises(InputError, match="does not run in a TensorFlow 1 session"):
        check_runs(folder, inputs)
    (folder / "variables" / "variables.index").unlink()
    with pytest.raises(InputError, match="does not run in a TensorFlow 1 session"):
        check_runs(folder, {})


def test_an_unservable_model_leaves_nothing_behind(make_classifier, tmp_path):
    classifier = make_classifier("bert")

    def python_head(features, head=classifier.class_head):
        return tf.ensure_shape(with_python(head(features)), [None, 3])

    object.__setattr__(classifier, "class_head", python_head)
    with pytest.raises(InputError, match="EagerPyFunc"):
        export(classifier, tmp_path)
    assert not list(tmp_path.iterdir())
