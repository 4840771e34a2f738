"""Protocol buffer classes from declarations in Python.

TensorFlow Serving's own classes come with the package `tensorflow-serving-api`, whose import
loads all of TensorFlow. Declaring the fields that are used here costs nothing. A field travels
under its number and type, never under a name, so both sets of classes read and write the same
bytes. Each set of declarations has a descriptor pool of its own: the default pool takes one
definition per name, and TensorFlow's may be there already or come later.
"""

import re
import types
from collections.abc import Mapping, Sequence

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = re.compile(r"^(repeated )?(\w+) (\w+) = (\d+)$")
_Field = descriptor_pb2.FieldDescriptorProto


def message_classes(declarations: Mapping[str, Sequence[str]]) -> types.SimpleNamespace:
    """Makes a class for each declared message.

    ```python
    messages = message_classes({"Shape": ["repeated Size dim = 2"], "Size": ["int64 size = 1"]})
    messages.Shape(dim=[messages.Size(size=3)]).SerializeToString()
    ```

    Args:
        declarations: The fields of each message as in a `.proto` file, "type name = number",
            where a type is that of a scalar or another declared message. A map is declared as
            what it is on the wire: repeated entries with the fields `key = 1` and `value = 2`.

    Returns:
        The classes by name.
    """
    file = descriptor_pb2.FileDescriptorProto(name="declared.proto", syntax="proto3")
    for name, fields in declarations.items():
        message = file.message_type.add(name=name)
        for declaration in fields:
            ((repeated, kind, field_name, number),) = _FIELD.findall(declaration)
            field = message.field.add(name=field_name, number=int(number))
            field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if kind in declarations:
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{kind}"
            else:
                field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    found = {name: pool.FindMessageTypeByName(name) for name in declarations}
    return types.SimpleNamespace(
        **{name: message_factory.GetMessageClass(found[name]) for name in declarations}
    )
