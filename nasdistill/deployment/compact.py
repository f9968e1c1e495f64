"""ONNX graphs with fewer bytes beside their weights, and the same answers."""

from __future__ import annotations

from typing import Any


def compact(model: Any) -> bytes:
    """Takes what runs without out of an ONNX model, and serialises it.

    Of a net of some ten thousand weights that is a third of a quantised file: names of tensors and
    nodes, zero points that are 0 (the operator's default), and values that are stored twice.

    Args:
        model: A `ModelProto`; changed in place. Names of inputs and outputs stay.

    Returns:
        The ONNX file.
    """
    graph = model.graph
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    graph.ClearField("value_info")
    graph.ClearField("metadata_props")
    for node in graph.node:
        node.ClearField("name")
    _drop_zero_points(graph)
    _share_equal_values(graph)
    drop_unused(graph)
    _shorten_names(graph)
    content: bytes = model.SerializeToString()
    return content


_DEFAULTS = {"group": 1, "dilations": 1, "strides": 1, "pads": 0, "auto_pad": b"NOTSET"}
"""Of convolutions and pools in ONNX; lists hold the same number throughout."""


def drop_default_attributes(graph: Any) -> None:
    """Leaves out attributes of convolutions that say what holds without them."""
    from onnx import helper

    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        for attribute in list(node.attribute):
            value, default = helper.get_attribute_value(attribute), _DEFAULTS.get(attribute.name)
            values = value if isinstance(value, list) else [value]
            if default is not None and all(each == default for each in values):
                node.attribute.remove(attribute)


def _drop_zero_points(graph: Any) -> None:
    """Leaves out zero points of weights that are 0, which they are without (ONNX, opset 10)."""
    from onnx import numpy_helper

    stored = {value.name: value for value in graph.initializer}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) < 3:
            continue
        weights, zero_point = stored.get(node.input[0]), stored.get(node.input[2])
        if weights is None or zero_point is None:
            continue
        if not numpy_helper.to_array(zero_point).any():
            del node.input[2]


def _share_equal_values(graph: Any) -> None:
    """Has nodes read one copy of what is stored several times."""
    first: dict[tuple[Any, ...], str] = {}
    same: dict[str, str] = {}
    for value in graph.initializer:
        content = value.SerializeToString().replace(value.name.encode(), b"", 1)
        key = (value.data_type, tuple(value.dims), content)
        same[value.name] = first.setdefault(key, value.name)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)


def drop_unused(graph: Any) -> None:
    """Leaves out stored values that no operator reads."""
    used_names = {name for node in graph.node for name in node.input}
    used_names |= {value.name for value in graph.output}
    kept = [value for value in graph.initializer if value.name in used_names]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _shorten_names(graph: Any) -> None:
    """Numbers tensors in base 36, but for the graph's inputs and outputs; subgraphs are left."""
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return
    names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}
    for node in graph.node:
        for part in (node.input, node.output):
            for index, name in enumerate(part):
                names.setdefault(name, _base_36(len(names)))
                part[index] = names[name]
    for value in graph.initializer:
        value.name = names[value.name]


def _base_36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = ""
    while number or not text:
        number, digit = divmod(number, 36)
        text = digits[digit] + text
    return text
