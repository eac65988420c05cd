"""Trains the two small models of the tests and writes `tests/data/*.safetensors`.

    python examples/train_small_models.py [--out DIRECTORY] [digits_cnn] [char_gpt]

Needs torch 2.13.0, safetensors and, for the digits, scikit-learn. On one thread of a server CPU digits_cnn
takes 10 seconds and char_gpt 3 minutes. The same machine, torch and Python make the same bytes again; another
CPU may round differently and drift away, and another Python version has another manual to learn from.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from small_models import CharGpt, DigitsCnn  # noqa: E402

SEED = 20
TOPICS_HASH = "37d06970fc926e60"  # SHA-256, first 16 digits, of the text that the committed weights learned
SAMPLE_TOPIC = "objects"  # held out: none of its sentences occurs in another topic
SAMPLE_LENGTH = 32 * CharGpt.CONTEXT + 1


def train(model: nn.Module, batch: Callable[[], tuple[Tensor, Tensor]], *, steps: int, rate: float) -> None:
    """AdamW, 5 % warm-up, then a cosine down to zero. `batch` draws inputs and the classes to predict."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = steps // 20
    model.train()
    for step in range(steps):
        progress = max(0.0, (step - warmup) / (steps - warmup))
        now = rate * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = now
        inputs, targets = batch()
        loss = cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        if step % (steps // 10) == 0:
            print(f"  step {step} of {steps}: loss {loss.item():.3f}", flush=True)
    model.eval()


def train_digits_cnn(out: Path) -> None:
    """Every ninth image is the test set, 200 of 1797: unseen images, though of writers that were seen."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.uint8)  # [1797, 8, 8], 0 to 16
    labels = torch.tensor(digits.target, dtype=torch.uint8)
    test = torch.arange(len(images)) % 9 == 0
    save_file({"images": images[test], "labels": labels[test]}, out / "digits_test.safetensors")
    train_images, train_labels = images[~test].float()[:, None] / 16, labels[~test].long()

    def batch() -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(train_images), (64,))
        return train_images[chosen], train_labels[chosen]

    model = DigitsCnn()
    train(model, batch, steps=500, rate=4e-3)
    save_file(model.state_dict(), out / "digits_cnn.safetensors")
    with torch.inference_mode():
        logits = model(images[test].float()[:, None] / 16)
    right = (logits.argmax(1) == labels[test]).double().mean().item()
    print(f"digits_cnn: accuracy {right:.3f}, cross-entropy {cross_entropy(logits, labels[test].long()):.4f}")


def train_char_gpt(out: Path) -> None:
    """Characters of Python's language manual, all topics but one; the beginning of that one is the sample."""
    from pydoc_data.topics import topics

    text = "".join(topics[name] for name in sorted(topics))
    digest = hashlib.sha256(text.encode()).hexdigest()[: len(TOPICS_HASH)]
    if digest != TOPICS_HASH:
        print(f"  the text is {digest}, the committed weights learned {TOPICS_HASH} (Python 3.11.7)")
    characters = sorted(set(text))
    token = {character: index for index, character in enumerate(characters)}
    learned = "".join(topics[name] for name in sorted(topics) if name != SAMPLE_TOPIC)
    stream = torch.tensor([token[character] for character in learned])
    sample = torch.tensor([token[character] for character in topics[SAMPLE_TOPIC][:SAMPLE_LENGTH]])
    window = torch.arange(CharGpt.CONTEXT + 1)

    def batch() -> tuple[Tensor, Tensor]:
        rows = stream[torch.randint(len(stream) - CharGpt.CONTEXT, (48, 1)) + window]
        return rows[:, :-1], rows[:, 1:]

    model = CharGpt(len(characters))
    train(model, batch, steps=3000, rate=4e-3)
    stored = model.state_dict() | {
        "sample": sample.to(torch.uint8),
        "vocabulary": torch.tensor([ord(character) for character in characters], dtype=torch.int32),
    }
    save_file(stored, out / "char_gpt.safetensors")
    with torch.inference_mode():
        logits = model(sample[:-1].view(-1, CharGpt.CONTEXT)).flatten(0, 1)
    print(f"char_gpt: cross-entropy {cross_entropy(logits, sample[1:]):.4f} over {SAMPLE_LENGTH - 1} characters")


def main() -> None:
    trainers = {"digits_cnn": train_digits_cnn, "char_gpt": train_char_gpt}
    parser = argparse.ArgumentParser(description="Train the small models of the tests.")
    parser.add_argument("models", nargs="*", help=f"any of {', '.join(trainers)}; all if none is named")
    parser.add_argument("--out", type=Path, default=TESTS / "data", help="directory for the safetensors files")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.models if name not in trainers]:
        parser.error(f"unknown model {unknown[0]!r}, choose from {', '.join(trainers)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in arguments.models or trainers:
        torch.manual_seed(SEED)
        start = time.perf_counter()
        trainers[name](arguments.out)
        print(f"{name}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
