"""PyTorch to ONNX: the encoder, and the recommender (encoder and exact top-k retrieval).

The same weights give the same bytes anywhere: files hold no time, and none of the exporter's own
metadata (which holds source paths).
"""

import logging
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import onnx
import torch
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from model.config import FEARecConfig
from model.errors import ConfigError
from model.export import files
from model.export.float16 import float16_name, in_float16, to_float16
from model.export.quantize import CODES, quantize
from model.export.retrieval import TWO_PASS_FROM, add_retrieval
from model.network.fearec import FEARec
from model.reference import ReferenceFEARec
from model.training.weights import ITEM_TABLE

Form = Literal["matmul", "dft"]

OPSET = 20  # the first whose DFT takes the axis as an input, as the exporter writes it
SELF_CONTAINED_BYTES = 10**9  # protobuf's own limit is 2 GB


def export_encoder(model: FEARec, path: Path | str, *, fft: Form = "matmul") -> None:
    """Write the encoder: ``item_seq`` (B, L), ``item_seq_len`` (B,) to ``user_embedding`` (B, D).

    The file is self-contained if the item table is under 1 GB; otherwise the table is written
    beside it as ``items.bin``.

    Args:
        model: The network; it is not changed.
        path: The file to write.
        fft: ``matmul`` is fast; ``dft`` is `model.reference` by the standard DFT operator.

    Raises:
        ConfigError: a weight is NaN or infinite.
    """
    _write(trace_encoder(model, fft), model, Path(path))


def export_recommender(model: FEARec, path: Path | str, *, fft: Form = "matmul") -> None:
    """Write the encoder and exact top-k retrieval as one graph, as `export_encoder` does."""
    graph = trace_encoder(model, fft)
    add_retrieval(graph, model.config.n_items)
    _write(graph, model, Path(path))


def export_both(model: FEARec, folder: Path, *, fp16: bool = False) -> None:
    """Write the graphs of a bundle and the item table that they share.

    A large catalogue gets a second recommender, faster but for CPUs only: its first pass reads
    the items in 8 bits, from a file of their own.

    Args:
        model: The network; it is not changed.
        folder: The folder to write into.
        fp16: Whether to add a float16 recommender, for GPUs, with an item table of its own.

    Raises:
        ConfigError: a weight is NaN or infinite or, with `fp16`, beyond float16's range.
    """
    encoder = trace_encoder(model, "matmul")
    graphs = {files.ENCODER: encoder, files.RECOMMENDER: _copy(encoder)}
    n_items = model.config.n_items
    add_retrieval(graphs[files.RECOMMENDER], n_items)
    if n_items >= TWO_PASS_FROM:
        items = quantize(model.item_embedding.weight.detach().cpu().numpy())
        graphs[files.CPU_RECOMMENDER] = _copy(encoder)
        add_retrieval(graphs[files.CPU_RECOMMENDER], n_items, items)
        tensor = _initializer(graphs[files.CPU_RECOMMENDER], CODES)
        items.code.tofile(folder / files.INT8_TABLE)
        _refer(tensor, TensorProto.UINT8, items.code.shape, items.code.nbytes, files.INT8_TABLE)
    _write_table(model, folder)
    if fp16:
        graph = _copy(graphs[files.RECOMMENDER])
        to_float16(graph)
        _write_float16_table(graph, model, folder)
        _save(graph, folder / files.FLOAT16_RECOMMENDER)
    for name, graph in graphs.items():
        _refer_to_table(graph, model)
        _save(graph, folder / name)


def trace_encoder(model: FEARec, fft: Form) -> onnx.ModelProto:
    """Trace the encoder; its item table is a two-row placeholder until the file is written.

    Raises:
        ConfigError: a weight is NaN or infinite.
    """
    config = model.config
    for name, weight in model.state_dict().items():
        if not torch.isfinite(weight).all():
            raise ConfigError(
                "weights are NaN or infinite", name, remedy="The training diverged; do not export."
            )
    weights = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    weights[ITEM_TABLE] = weights[ITEM_TABLE][:2]
    traced = _traced(config.model_copy(update={"n_items": 2}), fft)
    program = torch.onnx.ONNXProgram(traced.model.clone(), None)
    used = program.model.graph.initializers
    program.apply_weights({name: weights[name] for name in weights if name in used})
    program.optimize()
    graph = program.model_proto
    _strip(graph)
    metadata = {
        "fearec_format_version": str(files.FORMAT_VERSION),
        "hyper_parameters": config.model_dump_json(),
        "fft": fft,
        "L": str(config.MAX_ITEM_LIST_LENGTH),
        "D": str(config.hidden_size),
        "V": str(config.n_items),
        "opset": str(OPSET),
    }
    helper.set_model_props(graph, metadata)
    return graph


@lru_cache(maxsize=4)
def _traced(config: FEARecConfig, fft: Form) -> torch.onnx.ONNXProgram:
    """The encoder of an architecture, not yet optimised, with any weights.

    Tracing takes seconds and does not look at the weights, so a backfill does it once. Two rows of
    the item table are enough, as its size does not change the graph.
    """
    network = ReferenceFEARec if fft == "dft" else FEARec
    batch = torch.export.Dim("B")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            network(config).eval(),
            (
                torch.ones(3, config.MAX_ITEM_LIST_LENGTH, dtype=torch.int64),
                torch.ones(3, dtype=torch.int64),
            ),
            input_names=["item_seq", "item_seq_len"],
            output_names=["user_embedding"],
            dynamic_shapes=({0: batch}, {0: batch}),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,  # depends on the weights
            verbose=False,
        )
    assert program is not None
    return program


def _strip(graph: onnx.ModelProto) -> None:
    """Drop what depends on the machine or on the exporter's version."""
    graph.producer_name, graph.producer_version = "fearec", str(files.FORMAT_VERSION)
    graph.doc_string = ""
    graph.graph.name = "fearec"
    parts: list[Iterable[onnx.NodeProto | onnx.ValueInfoProto | onnx.TensorProto]] = [
        graph.graph.node,
        graph.graph.input,
        graph.graph.output,
        graph.graph.initializer,
    ]
    for part in parts:
        for entry in part:
            entry.doc_string = ""
            del entry.metadata_props[:]
    del graph.graph.metadata_props[:]
    del graph.graph.value_info[:]
    del graph.metadata_props[:]


def _copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


def _initializer(graph: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in graph.graph.initializer if tensor.name == name)


def _write(graph: onnx.ModelProto, model: FEARec, path: Path) -> None:
    table = model.item_embedding.weight.detach().cpu()
    if table.numel() * 4 < SELF_CONTAINED_BYTES:
        _initializer(graph, ITEM_TABLE).CopyFrom(numpy_helper.from_array(table.numpy(), ITEM_TABLE))
    else:
        _write_table(model, path.parent)
        _refer_to_table(graph, model)
    _save(graph, path)


def _write_table(model: FEARec, folder: Path) -> None:
    model.item_embedding.weight.detach().cpu().numpy().tofile(folder / files.ITEM_TABLE)


def _refer_to_table(graph: onnx.ModelProto, model: FEARec) -> None:
    table = model.item_embedding.weight
    tensor = _initializer(graph, ITEM_TABLE)
    _refer(tensor, TensorProto.FLOAT, table.shape, 4 * table.numel(), files.ITEM_TABLE)


def _write_float16_table(graph: onnx.ModelProto, model: FEARec, folder: Path) -> None:
    table = in_float16(ITEM_TABLE, model.item_embedding.weight.detach().cpu().numpy())
    table.tofile(folder / files.FLOAT16_TABLE)
    tensor = _initializer(graph, float16_name(ITEM_TABLE))
    _refer(tensor, TensorProto.FLOAT16, table.shape, table.nbytes, files.FLOAT16_TABLE)


def _refer(tensor: onnx.TensorProto, kind: int, shape: Sequence[int], size: int, file: str) -> None:
    """Replace an initialiser's data by a reference to a whole file."""
    name = tensor.name
    tensor.Clear()
    tensor.name, tensor.data_type = name, kind
    tensor.dims.extend(shape)
    tensor.raw_data = b""
    external_data_helper.set_external_data(tensor, file, offset=0, length=size)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL


def _save(graph: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(graph.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path), full_check=True)
