"""Bring a graph into the form that the rest relies on.

After `prepare`: no local functions, constants are initializers, weights stand in initializers (not behind
Identity, Cast, Transpose, Reshape or a BatchNorm), shapes are inferred, names are unique and none that `ptq` gives
(`ptq.model.naming`), and the opset is one that has INT4.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ptq.errors import ModelError
from ptq.model import fills, idioms
from ptq.model.derived import derive
from ptq.model.inlining import inline
from ptq.model.naming import make_unique, own_tensors
from ptq.model.sites import ASIDE_KEY
from ptq.model.validity import opset_of

TARGET_OPSET = 21
"""The first opset with INT4; the files of `ptq` use a newer one only where a format needs it."""

_IR_VERSIONS = {21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13}
_FOLD_LIMIT = 1 << 31

_OWN_DOMAIN = "ai.onnx"
"""Another name of the domain that has none."""

_MARK = "ptq."
"""What the keys of our own metadata begin with."""

_MOST_FOLLOWED = 1 << 16
_FOLLOWED = frozenset({"Add", "Cast", "Gather", "Identity", "Mul", "Slice", "Squeeze", "Sub", "Unsqueeze"})
"""Beside Concat, through what ONNX's inference of shapes follows the numbers of vectors."""


def ir_version(opset: int) -> int:
    """The IR version that belongs to an opset; ONNX Runtime 1.31 refuses what is newer than 13."""
    return _IR_VERSIONS[opset]


def prepare(model: ir.Model) -> ir.Model:
    """A prepared copy of a model.

    Raises:
        ModelError: the opset is outside 7-26, or the graph is not valid ONNX.

    """
    opset = opset_of(model.opset_imports)
    prepared = model.clone()
    own_tensors(prepared)
    with _quiet():
        passes.RemoveInitializersFromInputsPass()(prepared)
        inline(prepared)
        prepared.opset_imports[""] = opset
        prepared.opset_imports.pop(_OWN_DOMAIN, None)
        if opset < TARGET_OPSET:
            prepared = _convert(prepared, opset)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(prepared)
        derive(prepared.graph)
        _fold(prepared)
        prepared = prepared.clone()  # nodes of branches that were folded away are readers still
        passes.RemoveUnusedNodesPass()(prepared)
        passes.RemoveUnusedOpsetsPass()(prepared)
        make_unique(prepared)
        _forget_marks(prepared.graph)
    prepared.opset_imports[""] = max(opset, TARGET_OPSET)
    prepared.ir_version = ir_version(max(opset, TARGET_OPSET))
    return prepared


def _reread(model: ir.Model, proto: onnx.ModelProto) -> ir.Model:
    """A model that became another as a protobuf, which does not say in which folder weights are."""
    found = ir.from_proto(proto)
    for name, value in found.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = model.graph.initializers[name].const_value
    return found


def _convert(model: ir.Model, opset: int) -> ir.Model:
    """Raise the opset to the target: onnxscript's converter knows 18 and up, ONNX's own the older ones."""
    import onnxscript.version_converter

    try:
        if opset < 18:
            model.ir_version = max(model.ir_version, 4)  # an older one promises that initializers are inputs too
            model = _reread(model, onnx.version_converter.convert_version(ir.to_proto(model), 18))
        onnxscript.version_converter.convert_version(model, TARGET_OPSET)
    except Exception as error:  # the converters', and those of what they are made of
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"opset {opset} of the model cannot be raised to {TARGET_OPSET}: {said}; export it with opset 20"
        ) from error
    return model


def _fold(model: ir.Model) -> None:
    """Fold constant subexpressions, and what convolutions can take up: BatchNorm and zero padding. Infer shapes."""
    import onnxscript.optimizer
    from onnxscript.rewriter import rewrite
    from onnxscript.rewriter.rules.common import (
        fuse_batchnorm_into_conv_rule,
        fuse_batchnorm_into_conv_transpose_rule,
        fuse_batchnorm_into_gemm_rule,
        fuse_pad_into_conv_rule,
    )

    _infer_shapes(model)
    onnxscript.optimizer.fold_constants(
        model,
        onnx_shape_inference=False,
        input_size_limit=_FOLD_LIMIT,
        output_size_limit=_FOLD_LIMIT,
        should_fold=fills.fold_rule(model),
    )
    rewrite(model, [fuse_pad_into_conv_rule])
    rewrite(
        model,
        [fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_conv_transpose_rule, fuse_batchnorm_into_gemm_rule],
    )
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _infer_shapes(model)  # which the next needs
    idioms.pool_means(model.graph)
    idioms.add_pairs(model.graph)
    idioms.absorb_scales(model.graph)
    _infer_shapes(model)


def _infer_shapes(model: ir.Model) -> None:
    passes.ShapeInferencePass(data_prop=_most_followed(model.graph) <= _MOST_FOLLOWED)(model)


def _most_followed(graph: ir.Graph) -> int:
    """The most numbers of a vector that the inference follows; there are twice as many behind Concat(x, x)."""
    counts: dict[ir.Value, int] = {}
    for node in graph.all_nodes():
        read = [counts.get(value, _length(value)) for value in node.inputs if value is not None]
        if node.op_type == "Concat":
            counts[node.outputs[0]] = sum(read)
        elif node.op_type in _FOLLOWED:
            counts[node.outputs[0]] = max(read, default=1)
    return max(counts.values(), default=0)


def _length(value: ir.Value) -> int:
    tensor = value.const_value
    return tensor.size if tensor is not None and len(tensor.shape) == 1 else 1


def _forget_marks(graph: ir.Graph) -> None:
    """Remove what lowering notes for the audit: that of another run would be taken for that of this one."""
    for node in graph.all_nodes():
        for key in [key for key in node.metadata_props if key.startswith(_MARK) and key != ASIDE_KEY]:
            del node.metadata_props[key]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log lines and warnings of the graph libraries off the user's terminal; errors still raise."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
