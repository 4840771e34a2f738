"""The layout of a model on several devices, for `keras.distribution.ModelParallel` (JAX).

Each block is split as in Megatron-LM (Shoeybi et al., 2019): a device has some of the heads
and some of the MLP's hidden units, for its share of the images.
"""

import keras

from igpt_keras.errors import InputError
from igpt_keras.network.config import ImageGPTConfig

BATCH_AXIS, MODEL_AXIS = "batch", "model"

# Regular expressions for whole variable paths, and the mesh axis that each axis of these
# variables is split over. The first projection of a pair is split by its outputs, the second by
# its inputs; the products of the second are then summed over the devices.
LAYOUTS = {
    r".*/attention/qkv/kernel": (None, MODEL_AXIS),
    r".*/attention/qkv/bias": (MODEL_AXIS,),
    r".*/attention/output_proj/kernel": (MODEL_AXIS, None),
    r".*/mlp/up_proj/kernel": (None, MODEL_AXIS),
    r".*/mlp/up_proj/bias": (MODEL_AXIS,),
    r".*/mlp/down_proj/kernel": (MODEL_AXIS, None),
    # Split by token. If this or the position embedding is split by hidden_dim, XLA also splits
    # the states between the blocks, and gathers them in every block.
    r".*/embedding/token_embedding": (MODEL_AXIS, None),
    r".*/token_head/kernel": (None, MODEL_AXIS),
}


def layout_map(
    config: ImageGPTConfig, device_mesh: keras.distribution.DeviceMesh
) -> keras.distribution.LayoutMap:
    """Returns how `ImageGPT` and `ImageGPTClassifier` lie on the devices of a mesh.

    Pass it to `keras.distribution.ModelParallel` with `batch_dim_name="batch"` before making
    the model; the optimizer's state is then split in the same way. The mesh axis "model" splits
    the matrices of the blocks, the token embedding, the token head, and the biases of
    projections that are split by their outputs. Every device has a copy of the rest: norms,
    start vectors, biases added after a sum over devices, position embedding (0.2% of XL's
    parameters at 64²) and class head, whose number of classes m need not divide.

    Communication in a block, for the states [B, n, d] of a device's images: the attention and
    the MLP end with one sum each over the devices of "model", and their gradients with two
    more. Queries, keys and values [B, n, 3 d] are gathered once, and their gradients once,
    because the kernel's order, that of the published weights (query, key, value; head; unit),
    puts columns on a device that are not those of its heads.

    Args:
        config: The sizes of the model.
        device_mesh: A mesh with the axes "batch" and "model", in either order. Of b · m
            devices, m share the model, and b such groups share each batch, whose number of
            images b must divide.

    Raises:
        InputError: The mesh has other axes, or m does not divide `num_heads` and
            `vocabulary_size`.

    Example:
        ```python
        mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(
                layout_map=layout_map(config, mesh), batch_dim_name="batch"
            )
        )
        model = igpt_keras.ImageGPT(config)
        ```
    """
    if sorted(device_mesh.axis_names) != [BATCH_AXIS, MODEL_AXIS]:
        raise InputError(
            f'device_mesh must have the axes "{BATCH_AXIS}" and "{MODEL_AXIS}", '
            f"got {', '.join(map(repr, device_mesh.axis_names))}"
        )
    parts = device_mesh.shape[device_mesh.axis_names.index(MODEL_AXIS)]
    for name in ("num_heads", "vocabulary_size"):
        if getattr(config, name) % parts:
            raise InputError(
                f'the size of device_mesh\'s axis "{MODEL_AXIS}" must divide '
                f"{name}={getattr(config, name)}, got {parts}"
            )
    layouts = keras.distribution.LayoutMap(device_mesh)
    for path, axes in LAYOUTS.items():
        layouts[path] = axes
    return layouts
