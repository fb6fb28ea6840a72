"""Modules that the tests export: each function gives what `heddle compile-torch` takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional

Given = tuple[Any, ...]


class Text(nn.Module):
    """Tokens and a mask of padding to logits, through one transformer layer; odd sizes, a tied head, three outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(97, 33)
        self.places = nn.Parameter(torch.randn(64, 33))
        self.layer = nn.TransformerEncoderLayer(33, 3, 70, batch_first=True, norm_first=True, activation="gelu")
        self.head = nn.Linear(33, 97, bias=False)
        self.head.weight = self.tokens.weight
        self.register_buffer("shift", torch.randn(33))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """ids [batch, seq], mask [batch, seq] true where there is padding."""
        x = self.tokens(ids) + self.places[: ids.shape[1]] + self.shift
        logits = self.head(self.layer(x, src_key_padding_mask=mask))
        return {"logits": logits, "best": logits.argmax(-1), "padded": mask.any(1)}


def text() -> Given:
    """Batch and length are dynamic."""
    torch.manual_seed(1)
    mask = torch.zeros(2, 7, dtype=torch.bool)
    mask[1, 5:] = True
    dims = {0: Dim("batch", max=5), 1: Dim("seq", min=2, max=64)}
    return Text(), (torch.randint(0, 97, (2, 7)), mask), {"ids": dims, "mask": dims}


class Image(nn.Module):
    """A small CNN."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, stride=2, bias=False),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(16, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """image [batch, 3, 17, 19]."""
        return self.head(self.features(image))


def image() -> Given:
    """A dynamic batch."""
    torch.manual_seed(2)
    return Image(), (torch.randn(2, 3, 17, 19),), {"image": {0: Dim("batch", max=16)}}


class MLP(nn.Module):
    """Two linears with quantizable shapes, and a product with a matrix that is no linear's."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(256, 512), nn.Linear(512, 128, bias=False)
        self.mix = nn.Parameter(torch.randn(128, 6) / 12)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [..., 256]."""
        y = self.down(functional.gelu(self.up(x)))
        return y, y @ self.mix


def mlp() -> Given:
    """A dynamic number of rows without a bound."""
    torch.manual_seed(3)
    return MLP(), (torch.randn(5, 256),), {"x": {0: Dim("rows")}}


def vector() -> Given:
    """A vector: one row of fixed shape."""
    torch.manual_seed(3)
    return MLP(), (torch.randn(256),)


def few() -> torch.export.ExportedProgram:
    """Three rows, exported already."""
    torch.manual_seed(3)
    return torch.export.export(MLP().eval(), (torch.randn(3, 256),))


class Sequence(nn.Module):
    """Recurrence, grouped and transposed convolution, scans and sorts."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.out = nn.Linear(16, 2)
        self.conv = nn.Conv1d(4, 8, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(3, 4, 2, stride=2)
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """x [2, 4, 8], image [1, 3, 5, 5]."""
        wide = functional.interpolate(self.up(image), scale_factor=2, mode="bilinear")
        top = x.softmax(-1).topk(2)
        return self.out(self.lstm(x)[0]), self.norm(self.conv(x)), wide, torch.cumsum(x, -1), top[0], top[1]


def sequence() -> Given:
    """Fixed shapes."""
    torch.manual_seed(4)
    return Sequence(), (torch.randn(2, 4, 8), torch.randn(1, 3, 5, 5))


class Classifier(nn.Module):
    """A classifier of texts by transformers."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        sizes = {"hidden_size": 96, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 6}
        self.net = BertForSequenceClassification(BertConfig(vocab_size=331, num_labels=3, **sizes))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """ids and mask [batch, seq], the mask 0 where there is padding."""
        return self.net(input_ids=ids, attention_mask=mask).logits


def classifier() -> Given:
    """Batch and length are dynamic."""
    torch.manual_seed(5)
    dims = {0: Dim("batch", max=8), 1: Dim("seq", min=2, max=100)}
    return (
        Classifier(),
        (torch.randint(0, 331, (2, 9)), torch.ones(2, 9, dtype=torch.int64)),
        {"ids": dims, "mask": dims},
    )


class Unsupported(nn.Module):
    """Everything that has no place in an artifact."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x: torch.Tensor, y: torch.Tensor, flag: bool) -> tuple[torch.Tensor, ...]:
        """x and y [3, 3]."""
        self.count.add_(1)
        noise = torch.rand_like(x) if flag else x
        branch = torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))
        return torch.fft.fft(x).real, torch.cholesky_inverse(y), noise, branch


def unsupported() -> Given:
    """With arguments of float64 and of no tensor."""
    return Unsupported(), (torch.randn(3, 3), torch.randn(3, 3).double(), True)


class Indices(nn.Module):
    """An output that TVM's importer translates to zeros."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [1, 2, 4, 4]."""
        return functional.max_pool2d(x, 2, return_indices=True)  # type: ignore[return-value]


def indices() -> Given:
    """Fixed shapes."""
    return Indices(), (torch.randn(1, 2, 4, 4),)


def number() -> int:
    """Nothing that can be exported."""
    return 3


def broken() -> Given:
    """Fails."""
    raise ValueError("surprise")
