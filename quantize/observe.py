"""A graph that also tells what its layers with weights are given and give: how INT8 ranges are found.

The tensors themselves never leave the graph: of each come its smallest and largest value and an evenly
spread sample, so that watching hundreds of layers at full size costs a few megabytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import TensorData, TensorsData

from .graphs import initializers, load_graph, weight_name
from .histogram import BINS, CHOOSERS, Histogram

SAMPLE = 8192  # values of a tensor counted in every run
SUFFIX = "/seen"  # of the added outputs' names
_FILE = "observed.onnx"


def observed_tensors(model: ModelProto) -> list[str]:
    """Activations that enter a layer with weights, and results of Conv: all that may be rounded."""
    weights = initializers(model)
    names: dict[str, None] = {}
    for node in model.graph.node:
        if weight_name(node, weights):
            names[node.input[0]] = None
            if node.op_type == "Conv":
                names[node.output[0]] = None
    return [name for name in names if name not in weights]


def observed_graph(graph: Path) -> Path:
    """Write, beside a graph, the one that tells; it reads the same weights.

    Its outputs are the graph's own, then one `<tensor>/seen` for each of `observed_tensors`: (n,) float32, a
    sample of 8192 to 16384 values (all of a smaller tensor), then the smallest and the largest.
    """
    model = load_graph(graph, weights=False)
    names = observed_tensors(model)
    constants = {
        "observe/flat": np.array([-1], np.int64),
        "observe/zero": np.array([0], np.int64),
        "observe/end": np.array([np.iinfo(np.int64).max], np.int64),
        "observe/share": np.array(2 * SAMPLE, np.int64),
        "observe/two": np.array(2, np.int64),
        "observe/one": np.array(1, np.int64),
    }
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    for name in names:
        model.graph.node.extend(_telling(name))
        seen = helper.make_tensor_value_info(name + SUFFIX, TensorProto.FLOAT, [None])
        model.graph.output.append(seen)
    path = graph.with_name(_FILE)
    path.write_bytes(model.SerializeToString())
    return path


def _telling(name: str) -> Iterator[NodeProto]:
    """Every k-th value, k odd so that it does not fall in step with rows and channels."""

    def node(op: str, inputs: Sequence[str], out: str, **attributes: int) -> NodeProto:
        return helper.make_node(op, list(inputs), [f"{name}/{out}"], f"observe/{name}/{out}", **attributes)

    yield node("Size", [name], "size")
    yield node("Div", [f"{name}/size", "observe/share"], "half_stride")
    yield node("Mul", [f"{name}/half_stride", "observe/two"], "even_stride")
    yield node("Add", [f"{name}/even_stride", "observe/one"], "stride")
    yield node("Reshape", [f"{name}/stride", "observe/flat"], "strides")
    yield node("Reshape", [name, "observe/flat"], "values")
    slicing = ("values", "observe/zero", "observe/end", "observe/zero", "strides")
    yield node("Slice", [part if "/" in part else f"{name}/{part}" for part in slicing], "sample")
    for op, out in (("ReduceMin", "low"), ("ReduceMax", "high")):
        yield node(op, [name], f"{out}_scalar", keepdims=0)
        yield node("Reshape", [f"{name}/{out}_scalar", "observe/flat"], out)
    yield node("Concat", [f"{name}/{part}" for part in ("sample", "low", "high")], SUFFIX[1:], axis=0)


class Observations:
    """What a graph's tensors were seen to hold, tensor by tensor."""

    def __init__(self) -> None:
        self.histograms: dict[str, Histogram] = {}

    def add(self, outputs: dict[str, np.ndarray]) -> None:
        """Take in one run of an `observed_graph`: all its outputs by name."""
        for name, seen in outputs.items():
            if name.endswith(SUFFIX):
                histogram = self.histograms.setdefault(name[: -len(SUFFIX)], Histogram.empty())
                histogram.add(seen[:-2], float(seen[-2]), float(seen[-1]))

    def ranges(self, method: str) -> TensorsData:
        """Tensor name -> the range 8 bits should cover, by one of `histogram.CHOOSERS`."""
        found = {name: CHOOSERS[method](h) for name, h in self.histograms.items()}
        data = {
            name: TensorData(lowest=np.float32(a), highest=np.float32(b)) for name, (a, b) in found.items()
        }
        return TensorsData(CalibrationMethod.MinMax, data)

    def save(self, path: Path) -> None:
        """Write a .npz that `load` reads."""
        rows = list(self.histograms.values())
        np.savez(
            path,
            names=np.array(json.dumps(list(self.histograms))),
            counts=np.array([h.counts for h in rows], np.int64).reshape(-1, BINS),
            bounds=np.array([(h.reach, h.low, h.high) for h in rows], np.float64).reshape(-1, 3),
        )

    @classmethod
    def load(cls, path: Path) -> Observations:
        """Read what `save` wrote."""
        found = cls()
        with np.load(path, allow_pickle=False) as data:
            rows = zip(json.loads(str(data["names"])), data["counts"], data["bounds"], strict=True)
            for name, counts, bounds in rows:
                found.histograms[name] = Histogram(counts.copy(), *(float(b) for b in bounds))
        return found
