"""A Triton model repository: one folder a model, its configuration and its graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rankdistill.export.runtime.scorer import INPUTS

MOST_BATCH = 32  # Triton's limit for one call; the preferred size is measured
MODEL = """\
name: "{name}"
backend: "onnxruntime"
max_batch_size: {batch}
input [
{inputs}
]
output [
  {{ name: "logits", data_type: TYPE_FP32, dims: [ 1 ] }}
]
instance_group [
  {{ kind: KIND_CPU, count: {instances} }}
]
parameters {{ key: "intra_op_thread_count", value: {{ string_value: "1" }} }}
parameters {{ key: "inter_op_thread_count", value: {{ string_value: "1" }} }}
"""
BATCHING = """\
dynamic_batching {{
  preferred_batch_size: [ {preferred} ]
  max_queue_delay_microseconds: {delay}
}}
"""


def model_config(name: str, precision: str, measured: Mapping[str, Any], threads: int) -> str:
    """Return a model's config.pbtxt.

    An fp32 or weight8 model gathers requests of equal length: its scores do not depend on them. An int8 model takes one
    pair a call, in as many instances as there were threads in the measurement: its scores change with their batch.

    Args:
        name: of the model, which is its folder's too.
        precision: "fp32", "int8" or "weight8".
        measured: of the graph, as `rankdistill.export.measure.batch_size` found it.
        threads: that scored at once when it was measured.
    """
    inputs = ",\n".join(f'  {{ name: "{each}", data_type: TYPE_INT64, dims: [ -1 ] }}' for each in INPUTS)
    gathers = precision != "int8" and bool(measured.get("batch_invariant"))
    text = MODEL.format(name=name, batch=MOST_BATCH if gathers else 1, inputs=inputs, instances=threads)
    if gathers:
        speeds = {int(batch): speed for batch, speed in measured["pairs_per_s"].items()}
        preferred = max((batch for batch in speeds if batch > 1), key=lambda batch: speeds[batch])
        # waits for company no longer than a pair takes to score
        text += BATCHING.format(preferred=preferred, delay=round(1e6 * threads / speeds[1]))
    return text
