"""Text encoders' graphs changed as they load: vectors in place of tokens, and the end at an earlier layer.

Neither costs a graph that is not asked for it anything. Layers are found by what a text encoder of CLIP type
is: two LayerNormalizations a layer, and one at the end; the first one's input is tokens plus positions.
Numbers of fields: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import EngineError
from .protobuf import Field, message, messages_of, read_message, text, texts_of, whole, write_message

VECTORS, MASK = "inversion_vectors", "inversion_mask"
"""Inputs of a graph that takes vectors: (b, tokens, width) float32; (b, tokens, 1) bool, where they count."""
STOPPED = "stopped_states"
"""Output of a graph that ends earlier and does not normalize: (b, tokens, width)."""
ROWS = "last_hidden_state", "hidden_states"
_GRAPH, _FLOAT, _BOOL = 7, 1, 9
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _VALUE_INFO = 1, 5, 11, 12, 13
_NODE_INPUT, _NODE_OUTPUT, _OP_TYPE = 1, 2, 4
_NORM = "LayerNormalization"


@dataclass(frozen=True)
class TextEdit:
    """What to change in a text encoder's graph.

    Attributes:
        vectors: it takes vectors in place of tokens, see `VECTORS`.
        hidden: it ends with the state before this layer, 0 being the tokens' own; None: where it ends anyway.
    """

    vectors: bool = False
    hidden: int | None = None

    def __bool__(self) -> bool:
        return self.vectors or self.hidden is not None


@dataclass(frozen=True)
class _Node:
    fields: tuple[Field, ...]
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def read(cls, data: bytes) -> _Node:
        fields = tuple(read_message(data))
        kind = next(iter(texts_of(fields, _OP_TYPE)), "")
        return cls(fields, kind, tuple(texts_of(fields, _NODE_INPUT)), tuple(texts_of(fields, _NODE_OUTPUT)))

    @classmethod
    def make(cls, kind: str, inputs: Sequence[str], output: str) -> _Node:
        fields = (
            *(text(_NODE_INPUT, name) for name in inputs),
            text(_NODE_OUTPUT, output),
            text(_OP_TYPE, kind),
        )
        return cls(fields, kind, tuple(inputs), (output,))

    def reading(self, old: str, new: str) -> _Node:
        """The same node with another tensor as its input."""
        inputs = tuple(new if name == old else name for name in self.inputs)
        rest = tuple(field for field in self.fields if field.number != _NODE_INPUT)
        return replace(self, inputs=inputs, fields=(*(text(_NODE_INPUT, name) for name in inputs), *rest))


class TextGraph:
    """A text encoder's graph, read from its file.

    Attributes:
        layers: how many it holds. normalizes: whether a normalization follows the last one.
        width: of a token's vector.
    Raises:
        EngineError: it is no ONNX, or has no layers that can be told apart.
    """

    def __init__(self, data: bytes, name: str):
        self.name = name
        try:
            self._model = read_message(data)
            self._graph = read_message(messages_of(self._model, _GRAPH)[0])
            self._nodes = [_Node.read(node) for node in messages_of(self._graph, _NODE)]
        except (ValueError, IndexError) as err:
            raise EngineError(f"graph {name} cannot be read: {err or 'it holds nothing'}") from err
        self._makers = {output: node for node in self._nodes for output in node.outputs}
        self._norms = [node for node in self._nodes if node.kind == _NORM]
        if len(self._norms) < 2:
            raise EngineError(f"graph {name} shows no layers: it has {len(self._norms)} nodes {_NORM}")
        self.layers, odd = divmod(len(self._norms), 2)
        self.normalizes = bool(odd)
        self.width = self._vector_width()

    @classmethod
    def read(cls, path: Path, name: str) -> TextGraph:
        """Raises EngineError as the class, and when the file cannot be read."""
        try:
            return cls(path.read_bytes(), name)
        except OSError as err:
            raise EngineError(f"graph {name} cannot be read: {err.strerror}") from err

    def edited(self, edit: TextEdit) -> bytes:
        """The file's bytes with the change. Raises EngineError: the graph is built in another way."""
        inputs: list[Field] = []
        nodes, outputs = list(self._nodes), messages_of(self._graph, _OUTPUT)
        if edit.hidden is not None:
            nodes, outputs = self._stopped(nodes, outputs, edit.hidden)
        if edit.vectors:
            nodes = self._with_vectors(nodes)
            inputs = [
                message(_INPUT, _value(VECTORS, _FLOAT, ("batch", "sequence", self.width))),
                message(_INPUT, _value(MASK, _BOOL, ("batch", "sequence", 1))),
            ]
        kept = [field for field in self._graph if field.number not in (_NODE, _OUTPUT)]
        graph = [message(_NODE, node.fields) for node in nodes]
        graph += [*kept, *inputs, *(Field(_OUTPUT, output) for output in outputs)]
        return write_message([f for f in self._model if f.number != _GRAPH] + [message(_GRAPH, graph)])

    def _stopped(
        self, nodes: list[_Node], outputs: list[bytes], hidden: int
    ) -> tuple[list[_Node], list[bytes]]:
        """The state before a layer, normalized where the graph's own rows are; what nobody reads any more
        ONNX Runtime leaves out."""
        state = self._norms[2 * hidden].inputs[0]
        names = [_name(output) for output in outputs]
        if ROWS[0] in names:
            last = self._norms[-1]
            return [node.reading(node.inputs[0], state) if node is last else node for node in nodes], outputs
        kept = [o for o, name in zip(outputs, names, strict=True) if not name.startswith(ROWS[1])]
        stopped = write_message(_value(STOPPED, _FLOAT, ("batch", "sequence", self.width)))
        return [*nodes, _Node.make("Identity", [state], STOPPED)], [*kept, stopped]

    def _with_vectors(self, nodes: list[_Node]) -> list[_Node]:
        tokens = self._token_rows()
        like, mixed = f"{VECTORS}_like", f"{VECTORS}_mixed"
        found: list[_Node] = []
        for node in nodes:
            found.append(node.reading(tokens, mixed))
            if tokens in node.outputs:
                found.append(_Node.make("CastLike", [VECTORS, tokens], like))
                found.append(_Node.make("Where", [MASK, like, tokens], mixed))
        return found

    def _token_rows(self) -> str:
        """The tensor of the tokens' own vectors: what is added to the positions."""
        add = self._makers.get(self._norms[0].inputs[0])
        found = [name for name in add.inputs if self._tells_tokens(name)] if add else []
        if add is None or add.kind != "Add" or len(found) != 1 or found[0] not in self._makers:
            raise EngineError(f"graph {self.name} takes no embeddings: tokens and positions are not added up")
        return found[0]

    def _tells_tokens(self, name: str) -> bool:
        """Whether a tensor depends on which tokens there are, not only on how many."""
        waiting, seen = [name], set()
        while waiting:
            if (tensor := waiting.pop()) == "input_ids":
                return True
            maker = self._makers.get(tensor)
            if maker is not None and maker.kind != "Shape" and tensor not in seen:
                waiting += maker.inputs
            seen.add(tensor)
        return False

    def _vector_width(self) -> int:
        """As the first normalization's scale has it, through a Cast where it is kept small."""
        scale = self._norms[0].inputs[1]
        maker = self._makers.get(scale)
        scale = maker.inputs[0] if maker is not None and maker.kind == "Cast" else scale
        for data in messages_of(self._graph, _INITIALIZER):
            fields = read_message(data)
            if texts_of(fields, 8) == [scale]:
                return _dims(fields)[-1]
        raise EngineError(f"graph {self.name} does not tell how wide its vectors are")


def _dims(tensor: Sequence[Field]) -> list[int]:
    """Sides of a TensorProto, packed or not."""
    found: list[int] = []
    for field in tensor:
        if field.number == 1 and isinstance(field.value, int):
            found.append(field.value)
        elif field.number == 1 and isinstance(field.value, bytes):
            found += [f.value for f in read_message(_unpacked(field.value)) if isinstance(f.value, int)]
    return found or [0]


def _unpacked(data: bytes) -> bytes:
    """Packed whole numbers as fields of number 1."""
    parts, starts = bytearray(), True
    for byte in data:
        if starts:
            parts.append(1 << 3)
        parts.append(byte)
        starts = byte < 0x80
    return bytes(parts)


def _name(value_info: bytes) -> str:
    return next(iter(texts_of(read_message(value_info), 1)), "")


def _value(name: str, kind: int, sides: Sequence[str | int]) -> list[Field]:
    """A ValueInfoProto of a tensor."""
    dims = [message(1, [whole(1, side) if isinstance(side, int) else text(2, side)]) for side in sides]
    tensor = message(1, [whole(1, kind), message(2, dims)])
    return [text(1, name), message(2, [tensor])]
