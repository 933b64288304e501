"""A layer as an ONNX model of one operation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..task import Task

# Old enough for DeepSparse.
OPSET, IR_VERSION = 13, 8


def layer_model(task: Task, weight: Tensor) -> Any:
    """onnx.ModelProto with input `x` and output `y`, and this weight as a constant."""
    from onnx import TensorProto, helper, numpy_helper

    if task.conv is None:
        node = helper.make_node("Gemm", ["x", "weight"], ["y"], transB=1)
    else:
        options = task.conv_options()
        node = helper.make_node(
            "Conv",
            ["x", "weight"],
            ["y"],
            kernel_shape=[task.conv.kernel] * 2,
            strides=[options["stride"]] * 2,
            pads=[options["padding"]] * 4,
            dilations=[options["dilation"]] * 2,
            group=options["groups"],
        )
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(task.images.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(task.grad.shape))],
        [numpy_helper.from_array(weight.contiguous().numpy(), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    return model
