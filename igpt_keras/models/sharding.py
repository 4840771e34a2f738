"""A model over several devices, for `keras.distribution.ModelParallel` (JAX backend).

Each block is split as in Megatron-LM (Shoeybi et al., 2019): a device has some of the heads and
some of the MLP's hidden units, for its share of the images.
"""

import keras

from igpt_keras.errors import InputError
from igpt_keras.network.config import ImageGPTConfig

BATCH_AXIS, MODEL_AXIS = "batch", "model"

# By a variable's path (a regular expression for all of it), the mesh axis that each of its axes
# is split over. Both linear maps of a half block are split along what lies between them: the
# first by its outputs, the second by its inputs, whose products are then summed.
LAYOUTS = {
    r".*/attention/qkv/kernel": (None, MODEL_AXIS),
    r".*/attention/qkv/bias": (MODEL_AXIS,),
    r".*/attention/output_proj/kernel": (MODEL_AXIS, None),
    r".*/mlp/up_proj/kernel": (None, MODEL_AXIS),
    r".*/mlp/up_proj/bias": (MODEL_AXIS,),
    r".*/mlp/down_proj/kernel": (MODEL_AXIS, None),
    # By color: where these, or the positions, are split by hidden_dim, XLA splits the states
    # between the blocks as well, and gathers them anew in every block.
    r".*/embedding/token_embedding": (MODEL_AXIS, None),
    r".*/token_head/kernel": (None, MODEL_AXIS),
}


def layout_map(
    config: ImageGPTConfig, device_mesh: keras.distribution.DeviceMesh
) -> keras.distribution.LayoutMap:
    """How `ImageGPT` and `ImageGPTClassifier` lie on the devices of `device_mesh`.

    For `keras.distribution.ModelParallel` with `batch_dim_name="batch"`, set before the model
    is made; its optimizer's state is then split in the same way. Split over the mesh axis
    "model" are the matrices of the blocks, the token embedding and the token logits, and the
    biases of what is split by its outputs. The rest has a copy on every device: norms, start
    vector, biases that are added after a sum over devices, positions (0.2% of XL's parameters
    at 64²) and class logits, whose number m need not divide.

    Communication per block, for states [B, n, d] of a device's images: a sum over the devices
    of "model" after the attention and one after the MLP, and two more in the gradient. Beyond
    these, queries, keys and values [B, n, 3 d] are gathered once, and their gradient once: in
    the kernel's order (query, key, value; head; unit), that of the published weights, the
    columns of a device are not those of its heads.

    Args:
        config: the sizes of the model.
        device_mesh: of the axes "batch" and "model", in either order. Of b · m devices, m
            share the model, and b such groups every batch, the number of whose images must
            be a multiple of b.

    Raises:
        InputError: a mesh of other axes, or one whose m does not divide `num_heads` and
            `vocabulary_size`.
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
