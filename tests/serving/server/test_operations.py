"""A SavedModel is a program: those that do what no export does are refused unread."""

import dataclasses
import re

import pytest
import tensorflow as tf

from igpt_keras import InputError
from igpt_keras.models.classifier import ImageGPTClassifier
from igpt_keras.models.image_gpt import ImageGPT
from igpt_keras.network.config import ImageGPTConfig
from serving import export
from serving.server.operations import OPERATIONS, RESTORING, SAVING, check_operations
from serving.server.tensorflow_internals import SavedModelProto
from tests.serving.conftest import build_vqvae_model, random_palette


def save(directory, function, version=1):
    """Saves a model with a variable and a signature x [n] → `function(x)`."""
    module = tf.Module()
    module.variable = tf.Variable([1.0])
    signature = tf.function(
        lambda x: {"y": function(x + module.variable)},
        input_signature=[tf.TensorSpec([None], tf.float32, "x")],
    )
    tf.saved_model.save(module, str(directory / str(version)), {"serving_default": signature})
    return directory


@pytest.fixture
def harmless(tmp_path):
    return save(tmp_path / "served", lambda x: x)


def operations(directory):
    """Every operation of version 1."""
    content = (directory / "1" / "saved_model.pb").read_bytes()
    graph = SavedModelProto.FromString(content).meta_graphs[0].graph_def
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    return {node.op for nodes in bodies for node in nodes}


def test_a_model_that_computes_is_accepted(harmless):
    save(harmless, tf.nn.softmax, version=12)
    assert check_operations(harmless) == [1, 12]


def writes(x):
    with tf.control_dependencies([tf.io.write_file("written", "by a model")]):
        return tf.identity(x)


def reads(x):
    return x + tf.strings.to_number(tf.io.read_file("secret"))


def in_a_branch(x):
    return tf.cond(tf.size(x) > 100, lambda: reads(x), lambda: x)


def in_python(x):
    return tf.py_function(lambda value: value, [x], tf.float32)


def saves(x):
    """Writes a file with the operation that TensorFlow puts into every SavedModel."""
    with tf.control_dependencies(
        [
            tf.raw_ops.SaveV2(
                prefix="written", tensor_names=["x"], shape_and_slices=[""], tensors=[x]
            )
        ]
    ):
        return tf.identity(x)


def restores(x):
    """Reads the variables of another model."""
    return (
        x
        + tf.raw_ops.RestoreV2(
            prefix="other/variables", tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32]
        )[0]
    )


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (writes, "WriteFile"),
        (reads, "ReadFile"),
        (in_a_branch, "ReadFile"),
        (in_python, "EagerPyFunc"),
        (saves, "SaveV2"),
        (restores, "RestoreV2"),
    ],
)
def test_operations_that_no_export_has_are_refused(harmless, monkeypatch, function, name):
    monkeypatch.chdir(harmless)
    save(harmless, function, version=2)
    with pytest.raises(InputError) as caught:
        check_operations(harmless)
    (line,) = str(caught.value).splitlines()
    assert re.search(rf"version 2 .* got {name} in .*/2/saved_model\.pb$", line), line
    if function in (writes, saves):
        assert not list(harmless.glob("written*"))
        # The model is what it is said to be.
        tf.saved_model.load(str(harmless / "2")).signatures["serving_default"](tf.ones(1))
        assert list(harmless.glob("written*"))


def named(nodes, name):
    (node,) = (node for node in nodes if node.name == name)
    return node


def saver_nodes(meta_graph):
    saver = meta_graph.saver_def
    names = (saver.save_tensor_name.partition(":")[0], saver.restore_op_name)
    return [named(meta_graph.graph_def.node, name) for name in names]


def run_saving_when_loaded(meta_graph):
    saving, restoring = saver_nodes(meta_graph)
    functions = meta_graph.graph_def.library.function
    name = restoring.attr["f"].func.name
    functions.remove(next(each for each in functions if each.signature.name == name))
    meta_graph.graph_def.node.remove(restoring)
    meta_graph.saver_def.restore_op_name = saving.name


def run_saving_as_initializer(meta_graph):
    key = "saved_model_main_op"
    meta_graph.collection_def[key].node_list.value[:] = [saver_nodes(meta_graph)[0].name]


def run_saving_before_the_initializer(meta_graph):
    node = named(meta_graph.graph_def.node, "NoOp")
    node.input.append("^" + saver_nodes(meta_graph)[0].name)


def return_what_saving_returns(meta_graph):
    output = meta_graph.signature_def["serving_default"].outputs["y"]
    output.name = meta_graph.saver_def.save_tensor_name


def call_saving_from_the_signature(meta_graph):
    saving, _ = saver_nodes(meta_graph)
    called = meta_graph.signature_def["serving_default"].outputs["y"].name.partition(":")[0]
    node = named(meta_graph.graph_def.node, called)
    node.attr["f"].func.name = saving.attr["f"].func.name


def give_python_the_saving_function(meta_graph):
    saving, _ = saver_nodes(meta_graph)
    node = meta_graph.object_graph_def.nodes.add()
    node.bare_concrete_function.concrete_function_name = saving.attr["f"].func.name


def restore_a_constant_path(meta_graph):
    placeholder = named(meta_graph.graph_def.node, "saver_filename")
    placeholder.op = "Const"


def restore_another_path(meta_graph):
    _, restoring = saver_nodes(meta_graph)
    restoring.input[0] = "serving_default_x"


def restore_a_path_in_the_function(meta_graph):
    _, restoring = saver_nodes(meta_graph)
    (function,) = (
        function
        for function in meta_graph.graph_def.library.function
        if function.signature.name == restoring.attr["f"].func.name
    )
    named(function.node_def, "RestoreV2").input[0] = "RestoreV2/tensor_names:output:0"


def shift_the_arguments(meta_graph):
    """The first input of If is the condition, so the function's first argument is the second."""
    saver_nodes(meta_graph)[1].op = "If"


@pytest.mark.parametrize(
    "change",
    [
        run_saving_when_loaded,
        run_saving_as_initializer,
        run_saving_before_the_initializer,
        return_what_saving_returns,
        call_saving_from_the_signature,
        give_python_the_saving_function,
        restore_a_constant_path,
        restore_another_path,
        restore_a_path_in_the_function,
        shift_the_arguments,
    ],
)
def test_the_functions_that_save_and_restore_are_for_nothing_else(harmless, change):
    path = harmless / "1" / "saved_model.pb"
    model = SavedModelProto.FromString(path.read_bytes())
    change(model.meta_graphs[0])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="got (MergeV2Checkpoints|RestoreV2|SaveV2)"):
        check_operations(harmless)


def test_names_from_a_file_are_printed_on_one_line(harmless):
    path = harmless / "1" / "saved_model.pb"
    model = SavedModelProto.FromString(path.read_bytes())
    for name in ("\x1b[2Jfine\nserved", "é" * 500, *(f"Custom{i}" for i in range(100))):
        model.meta_graphs[0].graph_def.node.add(op=name)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError) as caught:
        check_operations(harmless)
    message = str(caught.value)
    assert message.isprintable() and message.isascii() and len(message) < 1000, message
    assert "and 94 more" in message


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: (folder / "saved_model.pb").unlink(), "1 cannot be checked"),
        (lambda folder: (folder / "saved_model.pb").write_bytes(b"\xff"), "1 cannot be checked"),
        (lambda folder: (folder / "saved_model.pbtxt").touch(), "got .'saved_model.pbtxt'"),
        (lambda folder: (folder.parent / "01").mkdir(), "plain number, got .*01"),
        (lambda folder: folder.rename(folder.parent / "one"), "holds no version"),
    ],
)
def test_a_graph_that_might_be_loaded_and_was_not_checked_is_refused(harmless, prepare, message):
    prepare(harmless / "1")
    with pytest.raises(InputError, match=message):
        check_operations(harmless)


@pytest.mark.slow
def test_exports_of_every_kind_are_accepted_and_have_all_operations(tmp_path):
    sizes = {"image_size": 4, "vocabulary_size": 8, "hidden_dim": 16, "num_layers": 2}
    config = ImageGPTConfig(**sizes, num_heads=2)
    conditional = dataclasses.replace(config, num_classes=3)
    biased = ImageGPTConfig(**sizes, num_heads=1, use_bias=True)
    tokenizer = random_palette(8, seed=1)
    head = {"num_classes": 3, "tokenizer": tokenizer}
    models = {
        "ar": ImageGPT(config, tokenizer=tokenizer),
        "mixed": ImageGPT(config, tokenizer=tokenizer, dtype="mixed_bfloat16"),
        "float16": ImageGPT(config, tokenizer=tokenizer, dtype="float16"),
        "bert": ImageGPT(config, tokenizer=tokenizer, objective="bert"),
        "classifier": ImageGPTClassifier(config, **head),
        "bert classifier": ImageGPTClassifier(config, **head, objective="bert"),
        "from Hugging Face": ImageGPTClassifier(
            biased, **head, shift_right=False, generative_weight=0
        ),
        "class-conditional": ImageGPT(conditional, tokenizer=tokenizer),
        "learned tokens": build_vqvae_model(),
    }
    found = set()
    for name, model in models.items():
        export(model, tmp_path / name)
        assert check_operations(tmp_path / name) == [1]
        found |= operations(tmp_path / name)
    assert found == OPERATIONS | RESTORING | SAVING
