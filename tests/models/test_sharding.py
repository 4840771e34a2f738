"""A model split over four virtual CPU devices is that of one device."""

import keras
import numpy as np
import pytest

import igpt_keras
from igpt_keras import ImageGPT, ImageGPTClassifier, ImageGPTConfig, InputError
from igpt_keras.models.sharding import layout_map
from tests.interpreter import Interpreter

# Each device has a copy of these; all other matrices are split.
COPIED = ("embedding/position_embedding", "class_head/kernel")
MODELS = {
    "ar": {"model_class": ImageGPT, "objective": "ar"},
    "bert": {"model_class": ImageGPT, "objective": "bert"},
    "classifier": {"model_class": ImageGPTClassifier, "objective": "ar", "num_classes": 3},
}
TRAIN = """
    import pathlib, sys, jax, keras, numpy as np, igpt_keras
    from igpt_keras.models.sharding import layout_map
    from igpt_keras.training.recipes import finetune, pretrain

    assert len(jax.devices()) == 4
    folder = pathlib.Path(sys.argv[1])
    config = igpt_keras.ImageGPTConfig(4, 8, 16, 2, 4, use_bias=True)
    if {shape} is not None:
        mesh = keras.distribution.DeviceMesh({shape}, ("batch", "model"))
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(
                layout_map=layout_map(config, mesh), batch_dim_name="batch"
            )
        )
    generator = np.random.default_rng(3)
    tokens = generator.integers(0, 8, (40, 16)).astype(np.int32)
    labels = (tokens[:, 0] % 3).astype(np.int32)
    settings = dict(epochs=6, batch_size=8, learning_rate=0.001, remat={remat}, verbose=0)

    for name in {names}:
        keras.utils.set_random_seed(1)
        if name == "classifier":
            model = igpt_keras.ImageGPTClassifier(config, 3)
        else:
            model = igpt_keras.ImageGPT(config, name)
        if name == "classifier":
            train, validation = (tokens[:32], labels[:32]), (tokens[32:], labels[32:])
            history = finetune(model, train, validation, patience=6, **settings).history
        else:
            history = pretrain(model, tokens[:32], tokens[32:], **settings)
        values = [*model.variables, *model.optimizer.variables]
        parts = [v.value.addressable_shards[0].data.size / v.value.size for v in values]
        np.savez(
            folder / f"{{name}}.npz",
            weights=np.concatenate([w.ravel() for w in model.get_weights()]),
            history=np.stack([history[key] for key in sorted(history)]),
            features=np.asarray(model.features(tokens[:6], 1)) if name == "ar" else [],
            paths=[v.path.replace("_", "/") for v in values],
            axes=[len(v.shape) for v in values],
            parts=parts,
        )
        model.save_to_preset(folder / name)
"""


def train(folder, shape, names=tuple(MODELS), remat=False):
    """Trains models on JAX: what they end with, by name; their folders are in `folder`."""
    pytest.importorskip("jax")
    code = TRAIN.format(shape=shape, names=names, remat=remat)
    with Interpreter.on_jax(XLA_FLAGS="--xla_force_host_platform_device_count=4") as jax:
        jax.run(code, folder)
    return {name: np.load(folder / f"{name}.npz") for name in names}


@pytest.fixture(scope="module")
def single_device(tmp_path_factory):
    """What one device ends with, by the model's name."""
    return train(tmp_path_factory.mktemp("single_device"), shape=None)


def assert_same(folder, split, single_device):
    for name, result in split.items():
        for figure in ("weights", "history", "features"):
            np.testing.assert_allclose(
                result[figure],
                single_device[name][figure],
                rtol=0,
                atol=1e-5,
                err_msg=f"{name} {figure}",
            )
        saved = igpt_keras.load(folder / name)
        weights = np.concatenate([weight.ravel() for weight in saved.get_weights()])
        np.testing.assert_array_equal(weights, result["weights"])


def assert_matrices_are_split(result, count, parts):
    """Each of `count` matrices and of Adam's two moments of it, on each device."""
    copied = tuple(end.replace("_", "/") for end in COPIED)
    matrices = {
        path: part
        for path, axes, part in zip(result["paths"], result["axes"], result["parts"], strict=True)
        if axes > 1
    }
    assert len(matrices) == 3 * count
    for path, part in matrices.items():
        of_weights = path.removesuffix("/momentum").removesuffix("/velocity")
        assert part == (1 if of_weights.endswith(copied) else 1 / parts), path


@pytest.mark.slow
def test_two_by_two_devices_end_where_one_ends(single_device, tmp_path):
    split = train(tmp_path, (2, 2))
    assert_same(tmp_path, split, single_device)
    for name, result in split.items():
        assert_matrices_are_split(result, 12 if name == "classifier" else 11, parts=2)


@pytest.mark.slow
def test_a_model_over_four_devices_that_recomputes_ends_where_one_device_ends(
    single_device, tmp_path
):
    split = train(tmp_path, (1, 4), names=("ar",), remat=True)
    assert_same(tmp_path, split, single_device)
    assert_matrices_are_split(split["ar"], 11, parts=4)


def mesh_of(shape, axis_names=("batch", "model")):
    devices = [f"cpu:{index}" for index in range(np.prod(shape))]
    return keras.distribution.DeviceMesh(shape, axis_names, devices)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("use_bias", [False, True])
def test_every_matrix_is_split_where_a_layer_can_use_its_part(name, use_bias):
    config = ImageGPTConfig(4, 8, 16, 2, 4, use_bias=use_bias)
    settings = dict(MODELS[name])
    model = settings.pop("model_class")(config, **settings)
    layouts = layout_map(config, mesh_of((2, 4)))
    for variable in model.trainable_variables:
        layout = layouts[variable.path]
        if layout is None:
            assert len(variable.shape) == 1 or variable.path.endswith(COPIED), variable.path
            continue
        assert len(layout.axes) == len(variable.shape)
        (size,) = (s for s, axis in zip(variable.shape, layout.axes, strict=True) if axis)
        assert size % 4 == 0
    # What leaves a split matrix by its outputs enters the next one by its inputs.
    for block in model.backbone.blocks:
        for into, out_of in (
            (block.attention.qkv, block.attention.output_proj),
            (block.mlp.up_proj, block.mlp.down_proj),
        ):
            assert layouts[into.kernel.path].axes == (None, "model")
            assert layouts[out_of.kernel.path].axes == ("model", None)
            if use_bias:
                assert layouts[into.bias.path].axes == ("model",)
                assert layouts[out_of.bias.path] is None


def test_meshes_that_do_not_fit_are_refused(config):
    with pytest.raises(InputError, match='must have the axes "batch" and "model", got .*"?data'):
        layout_map(config, mesh_of((2, 2), ("data", "model")))
    with pytest.raises(InputError, match='axis "model" must divide num_heads=2, got 4'):
        layout_map(config, mesh_of((1, 4)))
    odd = ImageGPTConfig(4, 9, 16, 2, 2)
    with pytest.raises(InputError, match="must divide vocabulary_size=9, got 2"):
        layout_map(odd, mesh_of((1, 2)))
