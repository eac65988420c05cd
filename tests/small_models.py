"""Two small trained models with data to judge them by, both in `tests/data`: no download, no scikit-learn.

`examples/train_small_models.py` made the files. Sources: the digits are from the test part of "Optical
Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository), as
scikit-learn ships it (BSD-3-Clause); the text is the topic "objects" of Python 3.11's `pydoc_data.topics`
(Python Software Foundation licence 2).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

DATA = Path(__file__).parent / "data"


class DigitsCnn(nn.Sequential):
    """Images float32 [N, 1, 8, 8] to logits [N, 10], with every kind of convolution to be told apart.

    `grouped` has 10 channels a group, no multiple of 4; `depthwise` has one, and so has the stem; 24 and 40
    are no multiples of 16.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 24, 3, padding=1)
        self.stem_relu = nn.ReLU()
        self.down = nn.Conv2d(24, 40, 3, stride=2, padding=1)
        self.down_relu = nn.ReLU()
        self.grouped = nn.Conv2d(40, 40, 3, padding=1, groups=4)
        self.grouped_relu = nn.ReLU()
        self.depthwise = nn.Conv2d(40, 40, 3, padding=1, groups=40)
        self.depthwise_relu = nn.ReLU()
        self.pointwise = nn.Conv2d(40, 64, 1)
        self.pointwise_relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(4 * 64, 10)


class Attention(nn.Module):
    """Causal self-attention, [N, T, width] to the same; the two products of activations are plain matmuls."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        q, k, v = (linear(x).view(split).transpose(1, 2) for linear in (self.q, self.k, self.v))
        scores = torch.matmul(q, k.transpose(2, 3)) * (width // self.heads) ** -0.5
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        mixed = torch.matmul(scores.masked_fill(future, -torch.inf).softmax(-1), v)
        return cast(Tensor, self.out(mixed.transpose(1, 2).reshape(batch, length, width)))


class DecoderLayer(nn.Module):
    """Attention, then a GELU network of four times the width; each normalises first and adds to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU()
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + cast(Tensor, self.down(self.gelu(self.up(self.mlp_norm(x)))))


class CharGpt(nn.Module):
    """Tokens int64 [N, T <= 64], one per character, to logits [N, T, vocabulary] for the next character.

    Width 48 in 3 heads: a block of 32 leaves a ragged 16 in every linear layer but `down`.
    """

    LAYERS, WIDTH, HEADS, CONTEXT = 2, 48, 3, 64

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, self.WIDTH)
        self.position = nn.Embedding(self.CONTEXT, self.WIDTH)
        self.layers = nn.Sequential(*(DecoderLayer(self.WIDTH, self.HEADS) for _ in range(self.LAYERS)))
        self.norm = nn.LayerNorm(self.WIDTH)
        self.head = nn.Linear(self.WIDTH, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        return cast(Tensor, self.head(self.norm(self.layers(x))))


def digits_cnn() -> tuple[DigitsCnn, Tensor, Tensor]:
    """The trained model in eval mode, 200 unseen images float32 [200, 1, 8, 8] in [0, 1], labels int64 [200].

    Pixels are multiples of 1/16. In float32: 197 of 200 right, cross-entropy 0.0568 nat.
    """
    model = DigitsCnn()
    model.load_state_dict(load_file(DATA / "digits_cnn.safetensors"))
    test = load_file(DATA / "digits_test.safetensors")
    images = test["images"].float()[:, None] / 16
    return model.eval().requires_grad_(False), images, test["labels"].long()


def char_gpt() -> tuple[CharGpt, Tensor, Tensor]:
    """The trained model in eval mode, tokens int64 [32, 64] of an unseen text, targets int64 [32, 64].

    `targets` is `tokens` one character later; each window starts without a past. The file also holds
    "vocabulary", int32 [V]: the code point of each token. In float32: cross-entropy 1.4882 nat a character.
    """
    weights = load_file(DATA / "char_gpt.safetensors")
    sample, vocabulary = weights.pop("sample").long(), weights.pop("vocabulary")
    model = CharGpt(len(vocabulary))
    model.load_state_dict(weights)
    windows = (-1, model.CONTEXT)
    return model.eval().requires_grad_(False), sample[:-1].view(windows), sample[1:].view(windows)
