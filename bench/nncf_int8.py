"""Run by a Python that has nncf and onnxruntime: nncf_int8.py GRAPH RECORDS_FOLDER OUT plain|transformer.

Stock post-training quantization by its ONNX backend. NNCF is Apache-2.0 and stays outside the quantizer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nncf
import numpy as np
import onnx
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters


def main() -> None:
    graph, records, out, kind = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    feeds = []
    for path in sorted(records.glob("0*.npz")):
        with np.load(path) as data:
            feeds.append({name: data[name] for name in data.files if not name.startswith("reference:")})
    options = AdvancedQuantizationParameters(disable_bias_correction=True)
    quantized = nncf.quantize(
        onnx.load(graph),
        nncf.Dataset(feeds),
        subset_size=len(feeds),
        model_type=nncf.ModelType.TRANSFORMER if kind == "transformer" else None,
        advanced_parameters=options,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(quantized, out)


if __name__ == "__main__":
    main()
