import gc
import shutil
import socket

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from igpt_keras import InputError
from serving.server import Server, tensorflow_internals
from serving.server.saved_model import SavedModel
from tests.serving.server.conftest import count_request, counted, refused, save_counting_model

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
PNG = tf.io.encode_png(PIXELS).numpy()
OTHER_PNG = tf.io.encode_png(PIXELS[::-1, :5] // 2).numpy()
INPUTS = {
    "image_bytes": tf.constant([PNG, PNG]),
    "keep_rows": tf.constant([1, 2]),
    "temperature": tf.constant([1.0, 1.0]),
    "top_k": tf.constant([0, 0]),
    "top_p": tf.constant([1.0, 1.0]),
    "seed": tf.constant([1, 2], tf.int64),
}
COMPLETION_OUTPUTS = {"png_bytes", "pixels", "tokens", "log_likelihood"}


@pytest.fixture(scope="module")
def server(exported):
    with Server(exported) as server:
        yield server


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def model_stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield model_service_pb2_grpc.ModelServiceStub(channel)


def predict_request(inputs=INPUTS, signature_name="", name="igpt", version=None, **fields):
    request = predict_pb2.PredictRequest(**fields)
    request.model_spec.name = name
    request.model_spec.signature_name = signature_name
    if version is not None:
        request.model_spec.version.value = version
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


def test_predict_answers_with_all_outputs(stub):
    response = stub.Predict(predict_request(), timeout=30)
    assert set(response.outputs) == COMPLETION_OUTPUTS
    outputs = {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}
    assert outputs["pixels"].dtype == np.uint8 and outputs["pixels"].shape == (2, 4, 4, 3)
    assert outputs["tokens"].dtype == np.int32 and outputs["tokens"].shape == (2, 16)
    assert outputs["log_likelihood"].dtype == np.float32
    decoded = [tf.io.decode_png(png) for png in outputs["png_bytes"]]
    np.testing.assert_array_equal(decoded, outputs["pixels"])


def test_predict_says_what_answered(stub):
    spec = stub.Predict(predict_request(), timeout=30).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("igpt", 1, "serving_default")
    inputs = {"image_bytes": INPUTS["image_bytes"]}
    response = stub.Predict(predict_request(inputs, "classify_images"), timeout=30)
    assert response.model_spec.signature_name == "classify_images"
    assert set(response.outputs) == {"classes", "scores", "logits"}


def test_the_version_can_be_asked_for(stub):
    assert stub.Predict(predict_request(version=1), timeout=30).model_spec.version.value == 1


def test_the_output_filter_is_honoured(stub):
    response = stub.Predict(predict_request(output_filter=["tokens"]), timeout=30)
    assert set(response.outputs) == {"tokens"}


def test_metadata_holds_the_signatures(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "igpt"
    response = stub.GetModelMetadata(request, timeout=30)
    assert (response.model_spec.name, response.model_spec.version.value) == ("igpt", 1)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert {"complete", "classify_images", "serving_default"} <= set(signatures.signature_def)
    complete = signatures.signature_def["complete"]
    assert set(complete.inputs) == set(INPUTS)
    assert set(complete.outputs) == COMPLETION_OUTPUTS
    assert [dim.size for dim in complete.outputs["pixels"].tensor_shape.dim] == [-1, 4, 4, 3]


def without(name):
    return {key: value for key, value in INPUTS.items() if key != name}


REFUSED_REQUESTS = {
    "unknown model": (
        predict_request(name="gpt"),
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(gpt)",
    ),
    "unknown version": (
        predict_request(version=7),
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Specific(igpt, 7)",
    ),
    "no model": (
        predict_pb2.PredictRequest(),
        grpc.StatusCode.INVALID_ARGUMENT,
        "Missing ModelSpec",
    ),
    "no model name": (
        predict_request(name=""),
        grpc.StatusCode.INVALID_ARGUMENT,
        "ModelSpec has no name specified.",
    ),
    "version label": (
        predict_pb2.PredictRequest(model_spec={"name": "igpt", "version_label": "stable"}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "Unrecognized servable version label: stable",
    ),
    "unknown signature": (
        predict_request(signature_name="colorize"),
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "colorize" not found.',
    ),
    "missing input": (
        predict_request(without("seed")),
        grpc.StatusCode.INVALID_ARGUMENT,
        "Missing but required: {seed}.",
    ),
    "extra input": (
        predict_request({**INPUTS, "bias": tf.constant([0.0])}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "input size does not match signature: 7!=6",
    ),
    "misnamed input": (
        predict_request({**without("seed"), "seeds": INPUTS["seed"]}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "not found in request and no default value provided. Inputs expected to be in the "
        "request {image_bytes,keep_rows,seeds,temperature,top_k,top_p}",
    ),
    "wrong dtype": (
        predict_request({**INPUTS, "keep_rows": tf.constant([1.0, 2.0])}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "keep_rows to be int32 but float32 is provided",
    ),
    "wrong rank": (
        predict_request({**INPUTS, "keep_rows": tf.constant(1)}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "keep_rows to have shape (None,) but got []",
    ),
    "batch sizes that differ": (
        predict_request({**INPUTS, "keep_rows": tf.constant([1])}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "Batching Run() input tensors must have equal 0th-dimension size",
    ),
    "setting out of range": (
        predict_request({**INPUTS, "top_p": tf.constant([0.5, 1.5])}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "top_p must be above 0 and at most 1, got] [0.5 1.5]",
    ),
    "not an image": (
        predict_request({**INPUTS, "image_bytes": tf.constant([PNG, b"no image"])}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "Unknown image file format",
    ),
    "half an image": (
        predict_request({**INPUTS, "image_bytes": tf.constant([PNG, PNG[:60]])}),
        grpc.StatusCode.INVALID_ARGUMENT,
        "Invalid PNG data",
    ),
    "unknown output": (
        predict_request(output_filter=["logits"]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "output tensor alias not found in signature: logits",
    ),
    "output asked for twice": (
        predict_request(output_filter=["tokens", "tokens"]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "duplicate output tensor alias: tokens",
    ),
}


@pytest.mark.parametrize(
    "request_, code, message", REFUSED_REQUESTS.values(), ids=REFUSED_REQUESTS.keys()
)
def test_predict_refuses(stub, request_, code, message):
    got_code, got_message = refused(stub.Predict, request_)
    assert got_code == code
    assert message in got_message


def set_content(proto):
    proto.tensor_content = b"123"


def set_negative_size(proto):
    proto.tensor_shape.dim[0].size = -2


def set_unknown_rank(proto):
    proto.tensor_shape.unknown_rank = True


def set_fewer_values_than_content(proto):
    proto.tensor_shape.dim[0].size = 3


@pytest.mark.parametrize(
    "spoil", [set_content, set_negative_size, set_unknown_rank, set_fewer_values_than_content]
)
def test_a_malformed_tensor_is_refused(stub, spoil):
    request = predict_request()
    spoil(request.inputs["seed"])
    code, message = refused(stub.Predict, request)
    assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error: seed")


def test_a_tensor_without_a_dtype_is_refused(stub):
    request = predict_request()
    request.inputs["seed"].Clear()
    assert refused(stub.Predict, request)[0] == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "fields, message",
    [([], "must specify at least one"), (["weights"], "weights is not supported")],
)
def test_metadata_fields_are_checked(stub, fields, message):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = "igpt"
    code, got_message = refused(stub.GetModelMetadata, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message in got_message


def test_a_few_bytes_do_not_stand_for_many_examples(stub):
    request = predict_request()
    request.inputs["seed"].CopyFrom(tf.make_tensor_proto([1], tf.int64))
    request.inputs["seed"].tensor_shape.dim[0].size = 10**15
    code, message = refused(stub.Predict, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("Task size 1000000000000000 is larger than maximum")


def test_values_left_out_repeat_the_last_as_in_tensorflow(stub):
    request = predict_request()
    seeds = tf.make_tensor_proto([7], tf.int64)
    request.inputs["seed"].Clear()
    request.inputs["seed"].dtype = seeds.dtype
    request.inputs["seed"].int64_val.append(7)
    request.inputs["seed"].tensor_shape.dim.add(size=2)
    whole = predict_request({**INPUTS, "seed": tf.constant([7, 7], tf.int64)})
    tokens, expected = (
        tf.make_ndarray(stub.Predict(asked, timeout=30).outputs["tokens"])
        for asked in (request, whole)
    )
    np.testing.assert_array_equal(tokens, expected)


def test_metadata_of_an_unknown_model(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "gpt"
    assert refused(stub.GetModelMetadata, request)[0] == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "method, request_",
    [
        ("Regress", regression_pb2.RegressionRequest()),
        ("MultiInference", inference_pb2.MultiInferenceRequest()),
    ],
)
def test_other_calls_are_unimplemented(stub, method, request_):
    assert refused(getattr(stub, method), request_)[0] == grpc.StatusCode.UNIMPLEMENTED


def classify_request(*contents, signature_name="classify", name="igpt", context=None):
    examples = [example(content) for content in contents]
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature_name
    if context is None:
        request.input.example_list.examples.extend(examples)
    else:
        request.input.example_list_with_context.examples.extend(examples)
        request.input.example_list_with_context.context.CopyFrom(context)
    return request


def example(content=None):
    features = {}
    if content is not None:
        bytes_list = tf.train.BytesList(value=[content])
        features["image/encoded"] = tf.train.Feature(bytes_list=bytes_list)
    return tf.train.Example(features=tf.train.Features(feature=features))


@pytest.mark.parametrize("with_context", [False, True])
def test_classify_gives_the_classes_that_predict_gives(stub, with_context):
    inputs = {"image_bytes": tf.constant([PNG, OTHER_PNG])}
    outputs = stub.Predict(predict_request(inputs, "classify_images"), timeout=30).outputs
    request = classify_request(PNG, OTHER_PNG)
    if with_context:
        request = classify_request(None, None, context=example(PNG))
        outputs = stub.Predict(
            predict_request({"image_bytes": tf.constant([PNG, PNG])}, "classify_images"),
            timeout=30,
        ).outputs
    response = stub.Classify(request, timeout=30)
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("igpt", 1, "classify")
    rows = response.result.classifications
    labels = [[label.label for label in row.classes] for row in rows]
    assert labels == [["chat", "chien", "écureuil"]] * 2
    np.testing.assert_array_equal(
        np.float32([[label.score for label in row.classes] for row in rows]),
        tf.make_ndarray(outputs["scores"]),
    )


@pytest.mark.parametrize(
    "request_, code, message",
    [
        (
            classification_pb2.ClassificationRequest(),
            grpc.StatusCode.INVALID_ARGUMENT,
            "Missing ModelSpec",
        ),
        (classify_request(PNG, name="gpt"), grpc.StatusCode.NOT_FOUND, "Latest(gpt)"),
        (classify_request(), grpc.StatusCode.INVALID_ARGUMENT, "Input is empty."),
        (
            classify_request(PNG, signature_name="classes"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "No signature was found with the name: classes",
        ),
        (
            classify_request(PNG, signature_name="classify_images"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "Expected classification signature method_name to be tensorflow/serving/classify. "
            "Was: tensorflow/serving/predict",
        ),
        (
            classify_request(None),
            grpc.StatusCode.INVALID_ARGUMENT,
            "Feature: image/encoded (data type: string) is required but could not be found",
        ),
        (classify_request(b"no image"), grpc.StatusCode.INVALID_ARGUMENT, "image"),
    ],
    ids=["no model", "model", "empty", "signature", "method", "feature", "image"],
)
def test_classify_refuses(stub, request_, code, message):
    got_code, got_message = refused(stub.Classify, request_)
    assert got_code == code
    assert message in got_message


def test_predict_takes_classification_signatures_too(stub):
    inputs = {"inputs": tf.constant([example(PNG).SerializeToString()])}
    response = stub.Predict(predict_request(inputs, "classify"), timeout=30)
    assert set(response.outputs) == {"classes", "scores"}


def status_request(name="igpt", version=None, label=None):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    return request


@pytest.mark.parametrize("version", [None, 1])
def test_the_status_of_a_model(model_stub, version):
    response = model_stub.GetModelStatus(status_request(version=version), timeout=30)
    (status,) = response.model_version_status
    assert status.version == 1
    assert status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert (status.status.error_code, status.status.error_message) == (0, "")


@pytest.mark.parametrize(
    "request_, code, message",
    [
        (
            get_model_status_pb2.GetModelStatusRequest(),
            grpc.StatusCode.INVALID_ARGUMENT,
            "Missing ModelSpec",
        ),
        (
            status_request("gpt"),
            grpc.StatusCode.NOT_FOUND,
            "Could not find any versions of model gpt",
        ),
        (
            status_request(version=7),
            grpc.StatusCode.NOT_FOUND,
            "Could not find version 7 of model igpt",
        ),
        (
            status_request(label="stable"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "Unrecognized servable version label: stable",
        ),
    ],
    ids=["no model", "model", "version", "label"],
)
def test_status_refuses(model_stub, request_, code, message):
    assert refused(model_stub.GetModelStatus, request_) == (code, message)


def test_reloading_the_configuration_is_unimplemented(model_stub):
    request = model_management_pb2.ReloadConfigRequest()
    code, _ = refused(model_stub.HandleReloadConfigRequest, request)
    assert code == grpc.StatusCode.UNIMPLEMENTED


def test_reflection_lists_and_describes_the_services(server):
    with grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(
                file_containing_symbol="tensorflow.serving.PredictionService"
            ),
        ]
        listed, described = stub.ServerReflectionInfo(iter(requests), timeout=30)
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
    }
    file = descriptor_pb2.FileDescriptorProto.FromString(
        described.file_descriptor_response.file_descriptor_proto[0]
    )
    methods = {method.name for service in file.service for method in service.method}
    assert {"Predict", "Classify", "GetModelMetadata"} <= methods


def test_requests_beyond_grpcs_own_limit_are_answered(server):
    # Noise does not compress: this PNG is above gRPC's own 4 MiB.
    image = tf.io.encode_png(np.random.default_rng(0).integers(0, 256, (1300, 1300, 3), np.uint8))
    request = predict_request({"image_bytes": image[None]}, "classify_images")
    assert request.ByteSize() > 4 * 1024 * 1024
    with grpc.insecure_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert len(stub.Predict(request, timeout=30).outputs) == 3


def test_what_a_completion_runs_with_does_not_matter(stub):
    """Each alone, and all at the same time: `keep_rows`, settings and images differ."""
    requests = [
        predict_request(
            {
                "image_bytes": tf.constant([png]),
                "keep_rows": tf.constant([number % 5]),
                "temperature": tf.constant([0.5 + number / 4]),
                "top_k": tf.constant([number % 3 * 3]),
                "top_p": tf.constant([1.0 - number / 20]),
                "seed": tf.constant([number // 2], tf.int64),
            },
            "complete",
        )
        for number, png in enumerate([PNG, OTHER_PNG] * 6)
    ]
    alone = [stub.Predict(request, timeout=60).outputs for request in requests]
    calls = [stub.Predict.future(request, timeout=60) for request in requests]
    together = [call.result().outputs for call in calls]
    for first, second in zip(alone, together, strict=True):
        for name in ("tokens", "pixels", "png_bytes"):
            np.testing.assert_array_equal(*(tf.make_ndarray(x[name]) for x in (first, second)))
        np.testing.assert_allclose(
            *(tf.make_ndarray(x["log_likelihood"]) for x in (first, second)), rtol=1e-5, atol=1e-5
        )
    assert len({tf.make_ndarray(x["tokens"]).tobytes() for x in alone}) > 6


def test_a_model_that_was_dropped_leaves_no_function_behind(exported):
    """Else a server whose versions change grows without end."""
    gc.collect()
    before = tensorflow_internals.function_names()
    model = SavedModel(exported / "1")
    assert len(tensorflow_internals.function_names()) > len(before)
    del model
    gc.collect()
    assert tensorflow_internals.function_names() == before


def test_the_newest_version_is_served_under_the_given_name(counting, tmp_path, connect):
    shutil.copytree(counting / "1", tmp_path / "9")
    save_counting_model(tmp_path, 10)
    with Server(tmp_path, model_name="mine") as server:
        assert server.versions == {"mine": [10]}
        response = connect(server).Predict(count_request(0, name="mine"), timeout=30)
    assert response.model_spec.version.value == 10
    assert counted(response) == [10]


def test_a_stopped_server_is_gone_and_its_port_free(counting):
    with Server(counting) as server:
        host, port = server.address.split(":")
        assert host == "127.0.0.1"
        socket.create_connection((host, int(port)), timeout=30).close()
    server.wait()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=30)
    with Server(counting, port=int(port)) as again:
        assert again.address == server.address


def test_a_port_in_use_is_an_error(counting):
    with Server(counting) as server:
        port = int(server.address.split(":")[1])
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            Server(counting, port=port).start()


def test_a_port_in_use_by_anything_is_an_error(counting):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: .*in use"):
            Server(counting, port=port).start()


def test_an_unknown_host_is_an_error(counting):
    with pytest.raises(OSError, match="cannot listen on no.such.host.invalid:0"):
        Server(counting, host="no.such.host.invalid").start()


@pytest.mark.parametrize("port", [-1, 65_536])
def test_an_impossible_port_is_an_error(counting, port):
    with pytest.raises(InputError, match=f"port must lie in 0…65535 .*, got {port}"):
        Server(counting, port=port)


def test_a_fault_of_the_server_is_internal_and_told_without_details(
    counting, connect, monkeypatch, caplog
):
    def fail(*arguments):
        raise RuntimeError("a secret")

    with Server(counting) as server:
        monkeypatch.setattr(SavedModel, "run", fail)
        code, message = refused(connect(server).Predict, count_request(0))
    assert code == grpc.StatusCode.INTERNAL
    assert message.startswith("internal error")
    assert "a secret" in caplog.text


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Server(tmp_path / "nowhere")


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a directory"):
        Server(tmp_path / "file")


def test_an_empty_directory_is_an_error(tmp_path):
    (tmp_path / "latest").mkdir()
    with pytest.raises(InputError, match=f"{tmp_path} holds no version"):
        Server(tmp_path)


def test_a_version_without_a_model_is_an_error(tmp_path):
    (tmp_path / "3").mkdir()
    with pytest.raises(InputError, match=f"{tmp_path / '3'} is not a SavedModel"):
        Server(tmp_path)


@pytest.mark.parametrize(
    "damaged", ["saved_model.pb", "variables/variables.index", "variables/variables.data-*"]
)
def test_a_damaged_version_is_an_error(counting, tmp_path, damaged):
    shutil.copytree(counting / "1", tmp_path / "1")
    (path,) = (tmp_path / "1").glob(damaged)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=f"{tmp_path / '1'} is not a SavedModel"):
        Server(tmp_path)
