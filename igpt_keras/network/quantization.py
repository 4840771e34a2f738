"""Models whose projections and heads `keras.Model.quantize` has quantized, as part of settings.

The setting `dtype` of such a model is a `keras.dtype_policies.DTypePolicyMap` with the policy of
each quantized layer, by its path in the model. `quantization_config` is Keras' configuration of
them, unless it is the default.
"""

import json
from collections.abc import Mapping
from typing import Any

import keras

from igpt_keras.errors import InputError
from igpt_keras.network.protocols import TokenModel

HEADS = ("token_head", "class_head")
# What a folder of a model may describe; nothing else is deserialized.
POLICIES = ("DTypePolicy", "QuantizedDTypePolicy", "Int4DTypePolicy", "DTypePolicyMap")
CONFIGS = ("Int8QuantizationConfig", "Int4QuantizationConfig", "AbsMaxQuantizer")
MODES = ("int8", "int4")


def quantizable_layers(model: TokenModel) -> dict[str, Any]:
    """Returns the layers that Keras quantizes, by their paths in the model."""
    projections = model.backbone.projections().items()
    layers = {f"backbone/{name.replace('.', '/')}": layer for name, layer in projections}
    heads = {name: getattr(model, name, None) for name in HEADS}
    return layers | {name: head for name, head in heads.items() if head is not None}


def is_quantized(model: TokenModel) -> bool:
    """Returns whether a layer is quantized."""
    return any(each.quantization_mode is not None for each in quantizable_layers(model).values())


def check_not_quantized(model: TokenModel, purpose: str) -> None:
    """Raises `InputError` for a quantized model.

    Args:
        model: Any model.
        purpose: What needs weights that are not quantized, a noun phrase.
    """
    if is_quantized(model):
        raise InputError(
            f"{purpose} needs floating-point weights, got a quantized model; start from the "
            "model that was quantized"
        )


def quantized_settings(model: TokenModel, dtype: Any) -> dict[str, Any]:
    """Returns settings from which a model is built with the same layers quantized.

    Args:
        model: Any model.
        dtype: Its dtype policy, serialized or not.

    Returns:
        JSON-serializable `dtype` and perhaps `quantization_config`; empty if no layer is
        quantized.

    Raises:
        InputError: A mode of Keras is none of `MODES`, or layers have different configurations.
    """
    layers = {
        path: layer
        for path, layer in quantizable_layers(model).items()
        if layer.quantization_mode is not None
    }
    if not layers:
        return {}
    policies = keras.dtype_policies.DTypePolicyMap(keras.dtype_policies.get(dtype).name)
    configs = {}
    for path, layer in layers.items():
        policy = layer.dtype_policy
        if policy.quantization_mode not in MODES:
            raise InputError(
                f"a model is stored with layers in {' or '.join(MODES)}, "
                f"got {path} in {policy.quantization_mode}"
            )
        policies[path] = policy
        default = _default_config(policy)
        given, default = map(_serialized, (layer.quantization_config or default, default))
        configs[json.dumps(given)] = None if given == default else given
    if len(configs) > 1:
        raise InputError(
            "a model is stored with one quantization config for all layers, got layers with "
            f"{len(configs)} of them"
        )
    settings = {"dtype": _serialized(policies)}
    (config,) = configs.values()
    return settings if config is None else {**settings, "quantization_config": config}


def split_policies(dtype: Any) -> tuple[Any, Mapping[str, Any]]:
    """Returns the dtype policy of a model, and those of its quantized layers by path.

    Args:
        dtype: Argument of a model: a `DTypePolicyMap`, serialized or not, or any other policy.
    """
    is_map = isinstance(dtype, dict) and dtype.get("class_name") == "DTypePolicyMap"
    policies = keras.dtype_policies.get(dtype) if is_map else dtype
    if isinstance(policies, keras.dtype_policies.DTypePolicyMap):
        return policies.default_policy, {path: policies[path] for path in policies}
    return dtype, {}


def quantize_layers(model: TokenModel, policies: Mapping[str, Any], config: Any = None) -> None:
    """Quantizes layers of a model that was just built, before it gets quantized weights.

    Args:
        model: Any model.
        policies: The policies of the layers, by their paths.
        config: Keras' `QuantizationConfig`, serialized or not; None for the default.

    Raises:
        InputError: The model has no layer of a path.
    """
    layers = quantizable_layers(model)
    if isinstance(config, dict):
        config = keras.saving.deserialize_keras_object(config)
    for path, policy in policies.items():
        if path not in layers:
            raise InputError(f"dtype has a policy for {path}, which is no layer of the model")
        mode = policy.quantization_mode
        layers[path].quantize(mode, config=config or _default_config(policy))


def most_weights_in_a_number(dtype: Any) -> int:
    """Returns how many weights of a model with this `dtype` a stored number has at most."""
    _, policies = split_policies(dtype)
    return 2 if any(policy.quantization_mode == "int4" for policy in policies.values()) else 1


def check_of_keras(value: Any, names: tuple[str, ...]) -> None:
    """Checks what Keras is to deserialize.

    Args:
        value: Of a file, in which a dictionary with the key "class_name" stands for an object.
        names: The classes of Keras that may occur.

    Raises:
        InputError: An object is of another class, or of a class outside Keras.
    """
    if isinstance(value, dict):
        found = value.get("class_name")
        if found is not None and (
            found not in names
            or str(value.get("module")).partition(".")[0] != "keras"
            or value.get("registered_name") is not None
        ):
            raise InputError(f"it may have objects of {', '.join(names)}, got {value!r:.200}")
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            check_of_keras(each, names)


def _default_config(policy: Any) -> Any:
    if policy.quantization_mode == "int8":
        return keras.quantizers.Int8QuantizationConfig()
    return keras.quantizers.Int4QuantizationConfig(block_size=policy.block_size)


def _serialized(value: Any) -> Any:
    """Serializes an object of Keras, which marks one that a `.keras` file holds several times."""

    def unmarked(value):
        if isinstance(value, dict):
            return {k: unmarked(v) for k, v in value.items() if k != "shared_object_id"}
        return value

    return unmarked(keras.saving.serialize_keras_object(value))
