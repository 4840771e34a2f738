"""A check that a SavedModel holds only operations that exports of this package have.

A SavedModel is a program. The check reads its graphs and runs nothing.
"""

# Protocol buffer classes are made at run time.
# pyright: reportAttributeAccessIssue=false

import os
import pathlib
import re
from collections.abc import Iterator

import tensorflow as tf
from google.protobuf.message import DecodeError

from igpt_keras.errors import InputError
from serving.server.tensorflow_internals import SavedModelProto
from serving.versions import version_folders

# Operations of exports of every kind. They compute on their inputs, on constants and on the
# model's own variables.
OPERATIONS = frozenset(
    """
    AddV2 All Any ArgMax ArgMin Assert AssignVariableOp BatchMatMulV2 BatchMatMulV3 BiasAdd
    Bitcast BitwiseAnd BitwiseOr BroadcastTo Case Cast ConcatV2 Const Conv2D Conv2DBackpropInput
    Cumprod Cumsum DecodeBmp DecodeGif DecodeJpeg DecodePng DecodeRaw DisableCopyOnRead EncodePng
    EnsureShape Equal Exp ExpandDims ExtractJpegShape Fill FloorDiv FloorMod GatherV2 Greater
    GreaterEqual Identity IdentityN If LeftShift Less LessEqual Log Log1p LogSoftmax LogicalAnd
    LogicalNot LogicalOr MatMul Max Maximum Mean Minimum Mul Neg NoOp NotEqual Pack Pad
    ParseExampleV2 PartitionedCall Placeholder Pow Prod Range ReadVariableOp RealDiv Relu Reshape
    ResizeArea ReverseV2 Round Rsqrt Select SelectV2 Shape ShardedFilename Sigmoid Size Softmax
    Square Squeeze StatefulPartitionedCall StatelessIf StatelessRandomUniformFullIntV2
    StatelessWhile StaticRegexFullMatch StaticRegexReplace StridedSlice StringJoin StringLength
    StringToNumber Sub Substr Sum TensorListFromTensor TensorListGetItem TensorListReserve
    TensorListSetItem TensorListStack TensorScatterUpdate TensorStridedSliceUpdate Tile TopKV2
    Transpose Unpack VarHandleOp VarIsInitializedOp Where While
    """.split()
)
# They read and write files. TensorFlow puts them into two functions of every SavedModel, one that
# saves its variables and one that restores them.
RESTORING = frozenset({"RestoreV2"})
SAVING = frozenset({"MergeV2Checkpoints", "SaveV2"})
# Operations that an error names; a hostile file may hold any number.
MAX_NAMES = 8


def check_operations(directory: str | os.PathLike) -> list[int]:
    """Checks every version in a directory.

    Args:
        directory: A directory with one folder per version, named by its number.

    Returns:
        The versions, oldest first.

    Raises:
        FileNotFoundError: The directory does not exist.
        InputError: It holds no version, or one that cannot be read, or one with an operation that
            no export has.

    Example:
        ```python
        from serving.server.operations import check_operations

        check_operations("served")  # [1, 2]
        ```
    """
    folders = version_folders(directory)
    if not folders:
        raise InputError(f"directory {directory} holds no version: a folder named by a number")
    for path in pathlib.Path(directory).iterdir():
        # TensorFlow Serving takes " 1" and "01" for version 1 as well.
        if re.fullmatch(r"\s*[+-]?\d+\s*", path.name) and path.name not in map(str, folders):
            raise InputError(f"a version's folder must be named by a plain number, got {path}")
    for number, folder in folders.items():
        _check_version(number, folder)
    return list(folders)


def _check_version(number: int, folder: pathlib.Path) -> None:
    path = folder / tf.saved_model.SAVED_MODEL_FILENAME_PB
    # TensorFlow reads graphs in other formats, too; an export has none.
    others = sorted(other.name for other in folder.glob("saved_model.*") if other != path)
    if others:
        raise InputError(f"version {number} must hold no graph but {path}, got {others}")
    try:
        saved_model = SavedModelProto.FromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise InputError(f"version {number} cannot be checked: {path}: {error}") from None
    names = {name for meta_graph in saved_model.meta_graphs for name in _foreign(meta_graph)}
    if names:
        raise InputError(
            f"version {number} must hold no operations but those of exports, "
            f"got {_listed(names)} in {path}"
        )


def _listed(names: set[str]) -> str:
    """Returns names, which anybody may have chosen, as text that is safe to print."""
    texts = [name if re.fullmatch(r"\w{1,80}", name, re.A) else ascii(name[:80]) for name in names]
    rest = len(texts) - MAX_NAMES
    return ", ".join(sorted(texts)[:MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _foreign(meta_graph: tf.compat.v1.MetaGraphDef) -> Iterator[str]:
    """Yields the operations that no export has, or that none has in that place."""
    yield from {node.op for node in meta_graph.graph_def.node} - OPERATIONS
    save = _source(meta_graph.saver_def.save_tensor_name)
    restore = _source(meta_graph.saver_def.restore_op_name)
    for function in meta_graph.graph_def.library.function:
        operations = {node.op for node in function.node_def}
        yield from operations - OPERATIONS - RESTORING - SAVING
        if operations & SAVING:
            allowed = save != restore and _only_saver_calls(function, save, meta_graph)
        elif operations & RESTORING:
            allowed = _only_saver_calls(function, restore, meta_graph)
            allowed = allowed and _restores_variables(function, restore, meta_graph)
        else:
            continue
        if not allowed:
            yield from operations & (RESTORING | SAVING)


def _only_saver_calls(function, node_name: str, meta_graph) -> bool:
    """Returns whether one node of the graph calls a function, and nothing runs that node.

    Names are looked for in the bytes of all that could refer to them, so none is overlooked.
    """
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    if node_name not in nodes or nodes[node_name].op != "StatefulPartitionedCall":
        return False
    name = function.signature.name.encode()
    places = (meta_graph, function, nodes[node_name])
    everywhere, inside, in_node = (each.SerializeToString().count(name) for each in places)
    # Signatures, what runs when the model is loaded, and Python objects with functions.
    rest = type(meta_graph)()
    rest.CopyFrom(meta_graph)
    rest.ClearField("graph_def")
    rest.ClearField("saver_def")
    return (
        everywhere == inside + in_node
        and node_name.encode() not in rest.SerializeToString()
        and all(_source(name) != node_name for node in nodes.values() for name in node.input)
    )


def _restores_variables(function, node_name: str, meta_graph) -> bool:
    """Returns whether a function reads no file but the one that whoever loads the model names."""
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    file_name = _source(meta_graph.saver_def.filename_tensor_name)
    prefix = [argument.name for argument in function.signature.input_arg][:1]
    return (
        file_name in nodes
        and nodes[file_name].op == "Placeholder"
        and [_source(name) for name in nodes[node_name].input][:1] == [file_name]
        and all(
            list(node.input[:1]) == prefix for node in function.node_def if node.op in RESTORING
        )
    )


def _source(name: str) -> str:
    """Returns the node that an input or a tensor comes from."""
    return name.removeprefix("^").partition(":")[0]
