"""Bit-exact simulation of block floating point, Microscaling, N:M sparsity and the datapaths behind them."""

from sparq_sim._core import Conversion, Datapath, ElementFormat, ScaleLevel, Sparsity, available_isas
from sparq_sim.formats import Format, Spec, conversions, datapaths, elements, formats, spec
from sparq_sim.matmul import matmul
from sparq_sim.quantize import Events, emulate, encode, sparsify
from sparq_sim.tensor import BlockTensor

__version__ = "0.1.0"

__all__ = [
    "BlockTensor",
    "Conversion",
    "Datapath",
    "ElementFormat",
    "Events",
    "Format",
    "ScaleLevel",
    "Sparsity",
    "Spec",
    "available_isas",
    "conversions",
    "datapaths",
    "elements",
    "emulate",
    "encode",
    "formats",
    "matmul",
    "sparsify",
    "spec",
]
