"""Checkpoints that are read by the libraries that others read them with: a job of its own (CONTRIBUTING.md)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sparq_sim as sq
from sparq_sim.convert import convert

pytestmark = pytest.mark.packages


@pytest.mark.parametrize("format", ["mxfp4", "nvfp4"])
def test_transformers_and_compressed_tensors_read_what_was_encoded(tmp_path: Path, format: str) -> None:
    from compressed_tensors.compressors import ModelCompressor
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))
    model.save_pretrained(tmp_path / "in")
    spec = sq.spec(format, like="compressed-tensors-0.20")
    layout = sq.layouts()[f"compressed_tensors_{format}"]
    convert(tmp_path / "in", tmp_path / "out", spec, layout, exclude=["*embed*", "lm_head*"])
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ModelCompressor.from_pretrained_model(read).decompress_model(read)
    compared = 0
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            got = read.get_submodule(name).weight
            # The library decodes to bfloat16.
            assert torch.equal(got, sq.emulate(module.weight.detach(), spec).to(got.dtype)), name
            compared += 1
    assert compared == 14
