"""Emulation by other libraries, each held against ours before it is timed.

A hand-written torch function, eager and under torch.compile (the strongest baseline known), composites over ml_dtypes
and gfloat, gfloat's blocks, and torchao. Slow ones take the first rows only; one that is not installed is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import ml_dtypes
import numpy as np
import torch
from timing import Contender, Copy

import sparq_sim as sq


@dataclass
class Peers:
    """Contenders of other libraries, and what has to be said about them."""

    copy: Copy
    contenders: list[Contender]
    notes: list[str]

    def enter(self, what: str, by: str, call: Callable[[], Any], x: np.ndarray, name: str) -> None:
        """Adds a contender that emulates `name` on x, if its result is ours; else it is an error."""
        got, wanted = np.asarray(call()).astype(x.dtype, copy=False), sq.emulate(x, name)
        if not np.array_equal(got, wanted):
            raise AssertionError(f"{by}, {what}: {(got != wanted).sum()} of {x.size} values are not ours")
        zeros = np.count_nonzero(np.signbit(got) != np.signbit(wanted))
        if zeros:
            self.notes.append(f"{what} ({by}): the values are ours but for the signs of {zeros} of {x.size}, all zeros")
        self.contenders.append(Contender(what, by, call, x.size, self.copy))


def torch_mxfp4(x: torch.Tensor) -> torch.Tensor:
    """MXFP4, floor rule, in a dozen lines of torch: exponents by bit-cast, rounding by a magic number."""
    blocks = x.view(-1, 32)
    exponent = (blocks.abs().amax(1, keepdim=True).view(torch.int32) >> 23).clamp(3, 254) - 2
    scale = (exponent << 23).view(torch.float32)
    y = blocks / scale
    field = ((y.view(torch.int32) >> 23) & 0xFF).clamp(127, 129)
    magic = ((field + 22) << 23).view(torch.float32)
    magic = torch.copysign(magic, y)
    return (((y + magic) - magic).clamp(-6, 6) * scale).view_as(x)


def floor_scales(blocks: np.ndarray) -> np.ndarray:
    """Powers of two of blocks of E2M1, floor rule, by frexp."""
    _, exponent = np.frexp(np.abs(blocks).max(1, keepdims=True))
    return np.ldexp(np.float32(1), np.clip(exponent - 3, -126, 127))


def ml_dtypes_mxfp4(x: np.ndarray) -> np.ndarray:
    """MXFP4, floor rule: the element cast by ml_dtypes."""
    blocks = x.reshape(-1, 32)
    scale = floor_scales(blocks)
    return ((blocks / scale).astype(ml_dtypes.float4_e2m1fn).astype(np.float32) * scale).reshape(x.shape)


def enter_gfloat(peers: Peers, x: np.ndarray) -> None:
    """Its rounding of arrays below scales by frexp, and its blocks, which are lists of Python numbers."""
    from gfloat import RoundMode, compute_scale_amax, quantize_block, round_ndarray
    from gfloat.formats import format_info_mxfp4_e2m1, format_info_ocp_e2m1

    def rounded(part: np.ndarray) -> np.ndarray:
        blocks = part.reshape(-1, 32)
        scale = floor_scales(blocks)
        units = round_ndarray(format_info_ocp_e2m1, blocks / scale, RoundMode.TiesToEven, sat=True)
        return (units * scale).reshape(part.shape)

    def by_blocks(part: np.ndarray) -> np.ndarray:
        # In float64, where the floor of its log2 is right.
        wide = part.astype(np.float64).reshape(-1, 32)
        made = [quantize_block(format_info_mxfp4_e2m1, block, compute_scale_amax) for block in wide]
        return np.concatenate(made).reshape(part.shape)

    part, few = x[: max(1, len(x) // 16)], x[:1, :1024]
    peers.enter("mxfp4, composite", "gfloat", partial(rounded, part), part, "mxfp4")
    peers.enter("mxfp4, quantize_block", "gfloat", partial(by_blocks, few), few, "mxfp4")


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the logs of a library to itself: what matters is raised."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def enter_torchao(peers: Peers, x: np.ndarray) -> None:
    """Its MXTensor there and back, which is what emulate gives; eager, and compiled where torch can."""
    with quiet():
        from torchao.prototype.mx_formats.mx_tensor import MXTensor

    by = f"torchao {version('torchao')}"
    tensor = torch.from_numpy(x)
    for name, element in (("mxfp4", torch.float4_e2m1fn_x2), ("mxfp8", torch.float8_e4m3fn)):

        def there_and_back(t: torch.Tensor, element: torch.dtype = element) -> torch.Tensor:
            return MXTensor.to_mx(t, element, 32).dequantize(torch.float32)

        peers.enter(f"{name}, to_mx and dequantize", by, partial(there_and_back, tensor), x, name)
        compiled = torch.compile(there_and_back)
        try:
            with quiet():
                compiled(tensor)
        except torch._dynamo.exc.TorchDynamoException as error:
            why = next(line for line in str(error).splitlines() if line)
            peers.notes.append(f"{name}, to_mx and dequantize under torch.compile ({by}) is left out: {why}")
        else:
            peers.enter(f"{name}, the same compiled", by, partial(compiled, tensor), x, name)


def peers_on(x: np.ndarray, copy: Copy) -> Peers:
    """Every contender of another library on a float32 matrix."""
    peers = Peers(copy, [], [])
    tensor, quarter = torch.from_numpy(x), x[: max(1, len(x) // 4)]
    compiled = torch.compile(torch_mxfp4)
    peers.enter("mxfp4, 12 lines of torch", "torch eager", partial(torch_mxfp4, tensor), x, "mxfp4")
    peers.enter("mxfp4, the same compiled", "torch.compile", partial(compiled, tensor), x, "mxfp4")
    peers.enter("mxfp4, composite", "ml_dtypes", partial(ml_dtypes_mxfp4, quarter), quarter, "mxfp4")
    for library, enter in (("gfloat", enter_gfloat), ("torchao", enter_torchao)):
        if find_spec(library) is None:
            peers.notes.append(f"{library} is not installed: its rows are left out")
        else:
            enter(peers, quarter)
    return peers
