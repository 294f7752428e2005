"""An embedder: a BERT, pooling, a length of 1, and a linear layer; kept as sentence-transformers keeps one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel

from rankdistill.data.tokens import length_sorted
from rankdistill.export.progress import Progress
from rankdistill.export.quantization.embedder_graphs import DENSE, EMBEDDER_FILE, LEAST, read_about
from rankdistill.export.runtime.embedder import TextEncoder
from rankdistill.export.runtime.scorer import Float32
from rankdistill.export.runtime.text.tokens import Int32, PairEncoder
from rankdistill.export.torch_models.loading import load_whole
from rankdistill.export.torch_models.no_bars import no_bars
from rankdistill.models.student import choose_layers
from rankdistill.models.teacher import copy_tokenizer

POOLINGS = ("mean", "cls", "pooler")
BATCH = 64
CHUNKS = 4  # of a training step's texts, each padded to its own longest
POOLING, POOLER, NORMALIZE = "1_Pooling", "2_Pooler", "3_Normalize"  # folders, in the order of the computation
ST = "sentence_transformers.models"


class TextEmbedder(nn.Module):
    """Turns tokens into vectors of any length; a prefix made of length 1 is a text's vector.

    Args:
        bert: the encoder, with its pooler.
        pooling: one of `POOLINGS`.
    """

    def __init__(self, bert: BertModel, pooling: str) -> None:
        super().__init__()
        width = int(bert.config.hidden_size)
        self.bert, self.pooling = bert, pooling
        self.projection = nn.Linear(width, width)
        nn.init.eye_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def pooled(self, batch: dict[str, Tensor]) -> Tensor:
        """Return texts' pooled states of length 1, float [texts, width]."""
        output = self.bert(**batch)
        if self.pooling == "mean":
            mask = batch["attention_mask"][..., None].to(output.last_hidden_state.dtype)
            pooled = (output.last_hidden_state * mask).sum(1) / mask.sum(1)
        else:
            pooled = output.pooler_output if self.pooling == "pooler" else output.last_hidden_state[:, 0]
        return functional.normalize(pooled.float(), dim=1, eps=LEAST)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return texts' vectors, float [texts, width]."""
        return torch.as_tensor(self.projection(self.pooled(batch)))

    @classmethod
    def begin(cls, encoder: Path, pooling: str, layers: Any, attention: str, dropout: float = 0.0) -> TextEmbedder:
        """Return an encoder's embedder before any training, its projection the identity.

        Args:
            encoder: folder of a BERT.
            pooling: one of `POOLINGS`.
            layers: that are taken of it: a number, a list, None for all.
            attention: transformers' name of its implementation.
            dropout: in training.
        """
        bert = load_whole(
            BertModel,
            encoder,
            may_lack=() if pooling == "pooler" else ("pooler.",),
            attn_implementation=attention,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        if layers is not None:
            kept = choose_layers(layers, int(bert.config.num_hidden_layers))
            bert.encoder.layer = nn.ModuleList(bert.encoder.layer[layer] for layer in kept)
            bert.config.num_hidden_layers = len(kept)
        return cls(bert, pooling)

    @classmethod
    def load(cls, folder: Path) -> TextEmbedder:
        """Read what `save` wrote."""
        model = cls.begin(folder, str(read_about(folder)["pooling"]), None, "eager")
        dense = load_file(folder / DENSE / "model.safetensors")
        model.projection.load_state_dict({name.removeprefix("linear."): value for name, value in dense.items()})
        return model.eval()

    def save(self, folder: Path, tokenizer: Path, *, kind: str, max_length: int, dimensions: Sequence[int]) -> None:
        """Write a checkpoint that sentence-transformers loads.

        Args:
            folder: to write to.
            tokenizer: folder with the tokenizer's files.
            kind: what it is, "pca" or "distilled".
            max_length: tokens of a text that it reads.
            dimensions: prefixes that can be used by themselves.
        """
        width = int(self.bert.config.hidden_size)
        with no_bars():
            self.bert.save_pretrained(folder)
        copy_tokenizer(tokenizer, folder)
        about = {"kind": kind, "pooling": self.pooling, "max_length": max_length, "width": width}
        _write(folder / EMBEDDER_FILE, about | {"dimensions": sorted({*dimensions, width})})
        _write(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
        mean = self.pooling == "mean"
        modes = {"pooling_mode_cls_token": not mean, "pooling_mode_mean_tokens": mean}
        _write(folder / POOLING / "config.json", {"word_embedding_dimension": width} | modes)
        modules = [("Transformer", ""), ("Pooling", POOLING)]
        if self.pooling == "pooler":
            _save_dense(self.bert.pooler.dense, "torch.nn.modules.activation.Tanh", folder / POOLER)
            modules.append(("Dense", POOLER))
        (folder / NORMALIZE).mkdir()
        _save_dense(self.projection, "torch.nn.modules.linear.Identity", folder / DENSE)
        modules += [("Normalize", NORMALIZE), ("Dense", DENSE)]
        _write(
            folder / "modules.json",
            [
                {"idx": number, "name": str(number), "path": path, "type": f"{ST}.{kind}"}
                for number, (kind, path) in enumerate(modules)
            ],
        )


def text_encoder(folder: Path, max_length: int) -> TextEncoder:
    """Return what turns texts into tokens, in training as in serving."""
    return TextEncoder(PairEncoder.load(folder, max_length))


def by_length(
    model: TextEmbedder, encoder: TextEncoder, ids: Sequence[Int32], size: int, device: torch.device
) -> Tensor:
    """Return the vectors of tokenised texts, computed `size` texts of like length at a time, float [texts, width]."""
    lengths = np.array([len(each) for each in ids])
    order = np.concatenate([*length_sorted(lengths, size)])
    parts = []
    for rows in length_sorted(lengths, size):
        feed = encoder.batch([ids[row] for row in rows])
        parts.append(model({name: torch.from_numpy(value).to(device) for name, value in feed.items()}))
    return torch.cat(parts)[torch.from_numpy(np.argsort(order)).to(device)]


def embed(model: TextEmbedder, encoder: TextEncoder, texts: Sequence[str], what: str) -> Float32:
    """Return texts' vectors, float32 [texts, width], of any length; the model is left in evaluation mode.

    Args:
        model: of the embedder.
        encoder: of its tokens.
        texts: what is embedded.
        what: name for the progress.
    """
    device = next(model.parameters()).device
    model.eval()
    vectors = np.zeros((len(texts), model.projection.out_features), dtype=np.float32)
    with torch.inference_mode(), Progress(what, len(texts), "texts") as bar:
        for rows in length_sorted(np.array([len(text) for text in texts], dtype=np.int64), BATCH * CHUNKS):
            ids = encoder.ids([texts[row] for row in rows])
            vectors[rows] = by_length(model, encoder, ids, BATCH, device).cpu().numpy()
            bar.update(len(rows))
    return vectors


def principal_components(vectors: Float32) -> tuple[Float32, Float32]:
    """Return the mean of vectors and their principal axes, the one with most variance first.

    Pearson 1901; the eigenvectors of the covariance matrix, each with its largest entry positive, so that the same
    vectors give the same axes.

    Args:
        vectors: float32 [texts, width], more texts than one.

    Returns:
        Mean float32 [width]; axes float32 [width, width], one a row.
    """
    wide = vectors.astype(np.float64)
    mean = wide.mean(axis=0)
    _, axes = np.linalg.eigh((wide - mean).T @ (wide - mean))
    axes = axes[:, ::-1].T
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    return mean.astype(np.float32), (axes * signs[:, None]).astype(np.float32)


def turn(model: TextEmbedder, vectors: Float32) -> None:
    """Set the projection to principal components: x -> axes (x - mean).

    Args:
        model: whose projection is set.
        vectors: pooled, of length 1, float32 [texts, width].
    """
    mean, axes = principal_components(vectors)
    with torch.no_grad():
        model.projection.weight.copy_(torch.from_numpy(axes))
        model.projection.bias.copy_(torch.from_numpy(-axes @ mean))


def _save_dense(layer: nn.Linear, activation: str, folder: Path) -> None:
    folder.mkdir()
    save_file({f"linear.{name}": value.detach().contiguous() for name, value in layer.named_parameters()},
              folder / "model.safetensors")  # fmt: skip
    _write(
        folder / "config.json",
        {"in_features": layer.in_features, "out_features": layer.out_features, "bias": True,
         "activation_function": activation},
    )  # fmt: skip


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
