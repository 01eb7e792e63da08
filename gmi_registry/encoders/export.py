"""From open_clip to files that run without torch; here torch is needed, and the package onnx."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxscript.optimizer import fold_constants, inline, remove_unused_nodes
from open_clip.tokenizer import SimpleTokenizer, get_clean_fn
from safetensors.numpy import save

from gmi_registry.atomic import replace_folder
from gmi_registry.encoders.description import Description, FileEntry, TextInput
from gmi_registry.encoders.encoder import ENCODER_NAME
from gmi_registry.encoders.external_data import aligned
from gmi_registry.encoders.onnx import OnnxEncoder
from gmi_registry.encoders.onnx_files import reference_embeddings
from gmi_registry.encoders.open_clip import OpenClipEncoder
from gmi_registry.encoders.tokenizer import Cleaning, join_merges
from gmi_registry.errors import InputError, install_command

_OPSET = 18
_LARGEST_BATCH = 4096
# Scales and constants: nothing is saved on them, and much depends on them.
_FEW = 1024
_TOOLS = ("onnx", "onnxscript", "open_clip_torch", "torch")
_CLEANINGS: tuple[Cleaning, ...] = ("lower", "whitespace", "canonicalize")


def export_encoder(encoder: OpenClipEncoder, folder: Path, *, half: bool = False) -> Description:
    """Write ``encoder`` as ONNX files into ``folder``, whole or not at all.

    An export that lies there is replaced. With ``half`` the weights take 2 bytes each, where the
    embeddings stay equal to a thousandth; they are computed in float32 all the same. The same
    encoder, machine and versions give the same bytes.

    Raises InputError for a folder that holds anything else, for an encoder whose texts are not
    split by CLIP's byte pairs, and where the files do not give torch's embeddings.
    """
    _require_free(folder)
    text = _text_input(encoder)
    side = encoder.ref.preprocess.size
    no_pixels = torch.zeros(2, 3, side, side)
    no_tokens = torch.zeros(2, text.length, dtype=torch.long)
    tokenizer: Any = encoder.tokenizer
    ranks: dict[tuple[str, str], int] = tokenizer.bpe_ranks
    contents = {
        "image.onnx": _tower(encoder, "encode_image", no_pixels, half=half),
        "text.onnx": _tower(encoder, "encode_text", no_tokens, half=half),
        "merges.txt": join_merges(sorted(ranks, key=ranks.__getitem__)),
        "golden.safetensors": save(_golden(encoder)),
    }
    description = Description.model_validate(
        {
            "encoder": encoder.ref,
            "logit_scale": encoder.logit_scale,
            "fill_color": encoder.model.visual.preprocess_cfg.get("fill_color", 0),
            "text": text,
            "weights": "float16" if half else "float32",
            "opset": _OPSET,
            "files": {name: FileEntry.of(data) for name, data in contents.items()},
            "tools": {name: version(name) for name in _TOOLS},
        }
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".gmi-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / "new"
        fresh.mkdir()
        for name, data in contents.items():
            (fresh / name).write_bytes(data)
        (fresh / ENCODER_NAME).write_bytes(description.to_bytes())
        OnnxEncoder.from_folder(fresh)  # which compares it with torch
        replace_folder(fresh, folder, Path(scratch) / "old")
    return description


def _golden(encoder: OpenClipEncoder) -> dict[str, NDArray[np.float32]]:
    # The last bits depend on how many threads share the work.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return reference_embeddings(encoder)
    finally:
        torch.set_num_threads(threads)


def _require_free(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is not a folder", hint="name another: --output DIR")
    others = [] if not folder.exists() else sorted(path.name for path in folder.iterdir())
    if others and ENCODER_NAME not in others:
        raise InputError(
            f"{folder} holds {others[0]}, which is not an exported encoder",
            hint="name an empty folder, or a new one: --output DIR",
        )


def _text_input(encoder: OpenClipEncoder) -> TextInput:
    tokenizer: Any = encoder.tokenizer
    if type(tokenizer) is SimpleTokenizer and tokenizer.reduction_fn is None:
        for cleaning in _CLEANINGS:
            if tokenizer.clean_fn is get_clean_fn(cleaning) and len(tokenizer.all_special_ids) == 2:
                return TextInput(length=tokenizer.context_length, cleaning=cleaning)
    raise InputError(
        f"{encoder.ref.name}/{encoder.ref.pretrained}: an export needs CLIP's byte pairs, and "
        f"this encoder splits texts in another way",
        hint=f"to search with it, install torch: {install_command('torch')}",
    )


class _One(torch.nn.Module):
    """One tower of a model, as a model."""

    def __init__(self, model: Any, method: str) -> None:
        super().__init__()
        self.model = model
        self.method = method

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = getattr(self.model, self.method)(batch)
        return found


def _tower(encoder: OpenClipEncoder, method: str, example: torch.Tensor, *, half: bool) -> bytes:
    tower = _One(encoder.model, method).eval()
    batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    with torch.no_grad(), _quiet():
        program: Any = torch.onnx.export(
            tower,
            (example.to(encoder.device),),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            input_names=["batch"],
            output_names=["embeddings"],
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
            optimize=False,
        )
        # Folded and inlined, but no more: the exporter's own would also fuse normalisation into
        # weights, and those that were float16 in training no longer fit into float16.
        inline(program.model)
        fold_constants(program.model, onnx_shape_inference=True)
        remove_unused_nodes(program.model)
    model: Any = program.model_proto
    _strip(model)
    if half:
        _halve(model.graph)
    return aligned(model.SerializeToString(deterministic=True))


def _strip(model: Any) -> None:
    """Take out what says where and how the file was made, paths of this machine among it."""
    model.producer_name, model.producer_version, model.doc_string = "gmi-registry", "", ""
    del model.metadata_props[:]
    graph = model.graph
    graph.name, graph.doc_string = "tower", ""
    del graph.value_info[:]
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


def _halve(graph: Any) -> None:
    """Keep float32 weights as float16, each widened again before its use."""
    widened = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if values.size < _FEW:
            continue
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float16)
        if not np.isfinite(narrow).all():
            continue  # beyond what 2 bytes can say
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(narrow, f"{name}.half"))
        widened.append(
            onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*widened, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own future on every call."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
