"""ONNX graphs written as arithmetic: `Value`s are added, compared and given to operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Operand: TypeAlias = "Value | float | NDArray[Any]"
_TRUTH = ("Equal", "Less", "Greater", "GreaterOrEqual", "And", "Not")


@dataclass
class Graph:
    """Nodes and constants of a graph, or of a branch of one, as they are made.

    Attributes:
        prefix: Before the names of its values, so that they differ from those of another graph.
        nodes: `NodeProto`s, in order.
        constants: `TensorProto`s.
    """

    prefix: str
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def input(self, name: str, kind: type[np.generic]) -> Value:
        """A value that comes from outside."""
        return Value(self, name, np.dtype(kind))

    def constant(self, array: NDArray[Any]) -> Value:
        """A stored value."""
        from onnx import numpy_helper

        name = f"{self.prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return Value(self, name, array.dtype)

    def apply(self, operator: str, kind: np.dtype[Any], *inputs: Value, **attributes: Any) -> Value:
        """The result, of a kind, of an operator."""
        from onnx import helper

        name = f"{self.prefix}{operator}_{len(self.nodes)}"
        names = [value.name for value in inputs]
        self.nodes.append(helper.make_node(operator, names, [name], name=name, **attributes))
        return Value(self, name, kind)

    def choose(
        self, condition: Value, then: Callable[[Graph], Value], otherwise: Callable[[Graph], Value]
    ) -> Value:
        """The result of one of two branches, of which the other is not run.

        Args:
            condition: Of one truth value.
            then: Makes the value where it holds; both branches may read all that was made before.
            otherwise: Makes the value where it does not.
        """
        from onnx import TensorProto, helper

        branches, kinds = {}, []
        for key, make in (("then_branch", then), ("else_branch", otherwise)):
            inner = Graph(f"{self.prefix}{key}_{len(self.nodes)}/")
            result = inner.apply("Identity", (made := make(inner)).kind, made)
            kinds.append(result.kind)
            value_info = helper.make_tensor_value_info(result.name, TensorProto.INT32, None)
            value_info.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(result.kind)
            branches[key] = helper.make_graph(inner.nodes, key, [], [value_info], inner.constants)
        return self.apply("If", kinds[0], condition, **branches)


@dataclass(frozen=True)
class Value:
    """A tensor of a graph; numbers beside it are taken as constants of its kind.

    Attributes:
        graph: Where what is made of it goes.
        name: Its name there.
        kind: Of its elements.
    """

    graph: Graph
    name: str
    kind: np.dtype[Any]

    def within(self, graph: Graph) -> Value:
        """The same tensor, read in a branch."""
        return Value(graph, self.name, self.kind)

    def apply(self, operator: str, *others: Operand, **attributes: Any) -> Value:
        """The result of an operator on this and others: of this kind, or of truth values."""
        inputs = [self, *map(self._value, others)]
        kind = np.dtype(np.bool_) if operator in _TRUTH else self.kind
        return self.graph.apply(operator, kind, *inputs, **attributes)

    def cast(self, kind: type[np.generic]) -> Value:
        """The same numbers, of another kind."""
        from onnx import helper

        dtype = np.dtype(kind)
        to = helper.np_dtype_to_tensor_dtype(dtype)
        return self.graph.apply("Cast", dtype, self, to=to)

    def shape(self) -> Value:
        """The lengths of its axes, int64."""
        return self.graph.apply("Shape", np.dtype(np.int64), self)

    def where(self, yes: Value | NDArray[Any], no: Operand) -> Value:
        """Elements of one value where these truth values hold, of another where not."""
        first = yes if isinstance(yes, Value) else self.graph.constant(yes)
        return self.graph.apply("Where", first.kind, self, first, first._value(no))

    def part(self, begin: Operand, end: Operand, axis: int) -> Value:
        """Elements from one place to before another along an axis."""
        return self.apply("Slice", *(self._place(each) for each in (begin, end, axis)))

    def _place(self, value: Operand) -> Value:
        """A number as int64 `[1]`, as operators take places and axes."""
        if isinstance(value, Value):
            return value.cast(np.int64).apply("Reshape", np.array([1]))
        return self.graph.constant(np.array([value], np.int64))

    def _value(self, other: Operand) -> Value:
        if isinstance(other, Value):
            return other
        array = other if isinstance(other, np.ndarray) else np.array(other, self.kind)
        return self.graph.constant(array)

    def __add__(self, other: Operand) -> Value:
        return self.apply("Add", other)

    def __sub__(self, other: Operand) -> Value:
        return self.apply("Sub", other)

    def __rsub__(self, other: Operand) -> Value:
        return self._value(other).apply("Sub", self)

    def __mul__(self, other: Operand) -> Value:
        return self.apply("Mul", other)

    def __truediv__(self, other: Operand) -> Value:
        return self.apply("Div", other)
