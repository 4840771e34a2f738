"""What clients ask about models and services: metadata, status, reflection."""

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    regression_pb2,
)

from tests.serving.server.conftest import (
    COMPLETION_OUTPUTS,
    INPUTS,
    refused,
)


@pytest.fixture(scope="module")
def model_stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield model_service_pb2_grpc.ModelServiceStub(channel)


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
    check_status(model_stub.GetModelStatus(status_request(version=version), timeout=30))


def test_a_label_does_not_narrow_the_status(model_stub):
    """TensorFlow Serving looks at the version's number only (get_model_status_impl.cc)."""
    check_status(model_stub.GetModelStatus(status_request(label="no such"), timeout=30))


def check_status(response):
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
    ],
    ids=["no model", "model", "version"],
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
