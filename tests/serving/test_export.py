import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from igpt_keras.data.image_decoding import read_image
from igpt_keras.evaluation.metrics import generative_loss
from igpt_keras.evaluation.voting import VOTES
from igpt_keras.models.masking import draw_mask
from igpt_keras.sampling.in_graph import sample_tokens
from igpt_keras.sampling.requests import completion_seeds
from igpt_keras.sampling.samplers import Categorical
from serving.exporting import MAX_PIXELS, export

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
    # Servers prepare its graph once.
    assert tf1_model.signatures["serving_default"] == tf1_model.signatures["complete"]
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


def test_a_model_without_classes_has_the_signatures_that_it_always_had(tf1_model):
    settings = ["temperature float32", "top_k int32", "top_p float32", "seed int64"]
    pictures = [
        *("png_bytes string", "pixels uint8 [4, 4, 3]", "tokens int32 [16]"),
        "log_likelihood float32",
    ]
    complete = {*settings, "image_bytes string", "keep_rows int32"}, set(pictures)
    expected = {
        "complete": complete,
        "serving_default": complete,
        "sample": (set(settings), set(pictures)),
        "score": ({"image_bytes string"}, {"log_likelihood float32", "bits_per_pixel float32"}),
        "features": ({"image_bytes string"}, {"features float32 [16]"}),
    }
    for name, (inputs, outputs) in expected.items():
        signature = tf1_model.signatures[name]
        assert set(map(in_words, signature.inputs, signature.inputs.values())) == inputs
        assert set(map(in_words, signature.outputs, signature.outputs.values())) == outputs


def in_words(name, info):
    """Name, dtype and the shape of an example."""
    sizes = [dimension.size for dimension in info.tensor_shape.dim[1:]]
    dtype = tf.dtypes.as_dtype(info.dtype).name
    return f"{name} {dtype} {sizes}" if sizes else f"{name} {dtype}"


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


def test_a_bomb_is_refused(tf1_model):
    content = bytearray(encode(random_images(1)[0]))
    content[16:24] = (50_000).to_bytes(4, "big") * 2
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"1…{MAX_PIXELS} pixels"):
        tf1_model.run("score", image_bytes=[bytes(content)])
