"""Changes to ONNX models that leave them models: other nodes, names, shapes, types, attributes and numbers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import onnx
from onnx import GraphProto, ModelProto, NodeProto
from weight_mutations import FLOATS, SIZES, WEIGHT_CHANGES, some_tensor

Change = Callable[[ModelProto, Random], None]

_OPERATORS = (
    *("Relu", "Add", "Mul", "Conv", "Gemm", "MatMul", "Transpose", "Reshape", "Concat", "Softmax", "Identity", "Clip"),
    *(
        "Gather",
        "Slice",
        "Squeeze",
        "Unsqueeze",
        "ReduceMean",
        "Flatten",
        "Cast",
        "Expand",
        "Tile",
        "Pad",
        "Shape",
        "LSTM",
    ),
    *(
        "BatchNormalization",
        "QuantizeLinear",
        "DequantizeLinear",
        "ConstantOfShape",
        "Range",
        "If",
        "Loop",
        "",
        "Nothing",
    ),
)
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "mine")
_NAMES = ("", "x", "y", "w", "\x1b[31m", "a\nb", "ä", "0", "a/b", "n" * 5000, "ptq.manifest", "c0")


def mutated(data: bytes, random: Random) -> bytes:
    """A model with one or a few changes; a change that there is nothing for is none."""
    model = ModelProto.FromString(data)
    for _ in range(random.choice((1, 1, 1, 1, 1, 2, 2, 4))):
        random.choice(_CHANGES)(model, random)
    return model.SerializeToString()


def _graph(model: ModelProto, random: Random) -> GraphProto:
    """The graph, or one inside of a node."""
    graph = model.graph
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return random.choice(inner) if inner and random.random() < 0.3 else graph


def _node(model: ModelProto, random: Random) -> NodeProto:
    found = list(_graph(model, random).node)
    found += [node for function in model.functions for node in function.node]
    return random.choice(found) if found else NodeProto()


def _some_name(model: ModelProto, random: Random) -> str:
    graph = model.graph
    known = [each.name for each in (*graph.input, *graph.output, *graph.initializer)]
    known += [name for node in graph.node for name in node.output]
    return random.choice(known if known and random.random() < 0.8 else _NAMES)


def _drop_node(model: ModelProto, random: Random) -> None:
    nodes = _graph(model, random).node
    if nodes:
        del nodes[random.randrange(len(nodes))]


def _repeat_node(model: ModelProto, random: Random) -> None:
    nodes = _graph(model, random).node
    if nodes:
        nodes.append(random.choice(nodes))


def _reorder(model: ModelProto, random: Random) -> None:
    graph = _graph(model, random)
    nodes = list(graph.node)
    random.shuffle(nodes)
    del graph.node[:]
    graph.node.extend(nodes)


def _retype_node(model: ModelProto, random: Random) -> None:
    node = _node(model, random)
    node.op_type = random.choice(_OPERATORS)
    if random.random() < 0.2:
        node.domain = random.choice(_DOMAINS)


def _rename(model: ModelProto, random: Random) -> None:
    graph, name = model.graph, _some_name(model, random)
    kind = random.randrange(4)
    if kind == 0:
        _node(model, random).name = name
    elif kind == 1 and graph.initializer:
        random.choice(graph.initializer).name = name
    elif kind == 2 and graph.input:
        random.choice(graph.input).name = name
    elif graph.output:
        random.choice(graph.output).name = name


def _rename_everywhere(model: ModelProto, random: Random) -> None:
    """A name that is odd, and consistent."""
    old, new = _some_name(model, random), random.choice(_NAMES)
    for each in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        each.name = new if each.name == old else each.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


def _rewire(model: ModelProto, random: Random) -> None:
    node = _node(model, random)
    names = random.choice((node.input, node.input, node.output))
    if names:
        names[random.randrange(len(names))] = _some_name(model, random)


def _swap_inputs(model: ModelProto, random: Random) -> None:
    names = _node(model, random).input
    shuffled = list(names)
    random.shuffle(shuffled)
    names[:] = shuffled


def _change_arity(model: ModelProto, random: Random) -> None:
    node = _node(model, random)
    names = random.choice((node.input, node.output))
    if names and random.random() < 0.5:
        del names[random.randrange(len(names))]
    else:
        names.append(_some_name(model, random))


def _change_attribute(model: ModelProto, random: Random) -> None:
    attributes = _node(model, random).attribute
    if not attributes:
        return
    at = random.randrange(len(attributes))
    kind, attribute = random.randrange(5), attributes[at]
    if kind == 0:
        del attributes[at]
    elif kind == 1:
        attributes.append(attribute)
    elif kind == 2:
        attribute.type = random.randrange(15)
    elif attribute.ints:
        attribute.ints[random.randrange(len(attribute.ints))] = random.choice(SIZES)
    elif attribute.floats or attribute.HasField("f"):
        attribute.f = random.choice(FLOATS)
    else:
        attribute.i = random.choice(SIZES)


def _new_attribute(model: ModelProto, random: Random) -> None:
    name = random.choice(
        ("axis", "axes", "perm", "group", "pads", "strides", "alpha", "to", "value", "auto_pad", "odd")
    )
    value = random.choice((*SIZES, *FLOATS, "SAME_UPPER", [0, 1], [-3, 9, 1], [0.5]))
    _node(model, random).attribute.append(onnx.helper.make_attribute(name, value))


def _change_type(model: ModelProto, random: Random) -> None:
    kind = random.choice((*range(27), 99, -1))
    graph = model.graph
    if random.random() < 0.5:
        some_tensor(model, random).data_type = kind
    else:
        values = [*graph.input, *graph.output, *graph.value_info]
        if values:
            random.choice(values).type.tensor_type.elem_type = kind


def _change_shape(model: ModelProto, random: Random) -> None:
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    shape = random.choice(values).type.tensor_type.shape if values else None
    kind = random.randrange(4)
    if shape is None or not shape.dim or kind == 0:
        if shape is not None:
            shape.dim.add(dim_value=random.choice(SIZES))
    elif kind == 1:
        del shape.dim[random.randrange(len(shape.dim))]
    elif kind == 2:
        random.choice(shape.dim).dim_param = random.choice(_NAMES)
    else:
        random.choice(shape.dim).dim_value = random.choice(SIZES)


def _drop_type(model: ModelProto, random: Random) -> None:
    values = [*model.graph.input, *model.graph.output]
    if values:
        value = random.choice(values)
        if random.random() < 0.5:
            value.type.tensor_type.ClearField("shape")
        else:
            value.ClearField("type")


def _change_ends(model: ModelProto, random: Random) -> None:
    """More or fewer inputs and outputs."""
    graph = model.graph
    values = random.choice((graph.input, graph.output))
    kind = random.randrange(3)
    if kind == 0 and values:
        del values[random.randrange(len(values))]
    elif kind == 1 and values:
        values.append(random.choice(values))
    else:
        values.append(
            onnx.helper.make_tensor_value_info(_some_name(model, random), 1, random.choice((None, [], [2, 3])))
        )


def _claim_value(model: ModelProto, random: Random) -> None:
    """A type for a value inside, right or wrong."""
    shape = random.choice((None, [], [1], ["n", 4], [9, 9]))
    name, kind = _some_name(model, random), random.choice((1, 1, 1, 7, 10))
    model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, kind, shape))


def _change_versions(model: ModelProto, random: Random) -> None:
    if random.random() < 0.4 or not model.opset_import:
        model.ir_version = random.choice((-1, 0, 3, 7, 8, 13, 14, 99))
    else:
        imported = random.choice(model.opset_import)
        imported.version = random.choice((-1, 0, 1, 6, 7, 9, 11, 13, 17, 18, 21, 23, 25, 26, 27, 99))
        if random.random() < 0.2:
            imported.domain = random.choice(_DOMAINS)


_CHANGES: tuple[Change, ...] = (
    *(_drop_node, _repeat_node, _reorder, _retype_node, _retype_node, _rename, _rename_everywhere, _rewire, _rewire),
    *(_swap_inputs, _change_arity, _change_attribute, _change_attribute, _change_attribute, _new_attribute),
    *(_change_type, _change_shape, _change_shape, _drop_type, _change_ends, _claim_value),
    *(_change_versions, _change_versions, *WEIGHT_CHANGES),
)
