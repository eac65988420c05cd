"""Bit-exact simulation of block floating point, Microscaling, N:M sparsity and the datapaths behind them."""

from sparq_sim._core import Conversion, Datapath, ElementFormat, ScaleLevel, Sparsity, available_isas
from sparq_sim.accelerator import Accelerator
from sparq_sim.accumulator import Accumulator
from sparq_sim.arrays import FLOATS
from sparq_sim.calibrate import Calibrator
from sparq_sim.check import check, simulate
from sparq_sim.datapath_matches import DatapathIdentification, DatapathMatch
from sparq_sim.difference import Difference, diff
from sparq_sim.epilogue import Epilogue
from sparq_sim.events import Events, MatmulEvents
from sparq_sim.explain import Explanation, explain
from sparq_sim.faults import flip_bits
from sparq_sim.formats import Format, Spec, conversions, datapaths, elements, formats, spec
from sparq_sim.guarantees import AccumulatorWidth, accumulator_width, error_bound
from sparq_sim.identify import Identification, identify
from sparq_sim.identify_datapath import identify_datapath
from sparq_sim.inspection import BlockBits, inspect_block
from sparq_sim.layers import linear
from sparq_sim.layouts import Layout, Plane, find_layout, layouts
from sparq_sim.machines import datapath_from_dict, datapath_to_dict, load_datapath
from sparq_sim.matmul import matmul
from sparq_sim.packing import Packed, unpack
from sparq_sim.presets import Preset, find_preset, presets
from sparq_sim.probe import probe
from sparq_sim.probed import Probe
from sparq_sim.quantize import emulate, encode
from sparq_sim.random import Philox, ShiftRegister
from sparq_sim.rank import rank
from sparq_sim.ranking import Ranking
from sparq_sim.report import LayerReport, Report
from sparq_sim.requantize import Requantization, RequantizationRule, requantizations
from sparq_sim.sparsify import sparsify
from sparq_sim.split import SplitK
from sparq_sim.storage import Storage, Traffic, storage, traffic
from sparq_sim.store import contents, load, others, save
from sparq_sim.stored import Other, Stored
from sparq_sim.summation import Node
from sparq_sim.telling import Telling
from sparq_sim.tensor import BlockTensor
from sparq_sim.trace import DotTrace, TraceStep, TraceTerm
from sparq_sim.traced import dot_trace
from sparq_sim.tradeoff import Tradeoff, tradeoff
from sparq_sim.traits import Traits, traits

__version__ = "0.1.0"

__all__ = [
    "FLOATS",
    "Accelerator",
    "Accumulator",
    "AccumulatorWidth",
    "BlockBits",
    "BlockTensor",
    "Calibrator",
    "Conversion",
    "Datapath",
    "DatapathIdentification",
    "DatapathMatch",
    "Difference",
    "DotTrace",
    "ElementFormat",
    "Epilogue",
    "Events",
    "Explanation",
    "Format",
    "Identification",
    "LayerReport",
    "Layout",
    "MatmulEvents",
    "Node",
    "Other",
    "Packed",
    "Philox",
    "Plane",
    "Preset",
    "Probe",
    "Ranking",
    "Report",
    "Requantization",
    "RequantizationRule",
    "ScaleLevel",
    "ShiftRegister",
    "Sparsity",
    "Spec",
    "SplitK",
    "Storage",
    "Stored",
    "Telling",
    "TraceStep",
    "TraceTerm",
    "Tradeoff",
    "Traffic",
    "Traits",
    "accumulator_width",
    "available_isas",
    "check",
    "contents",
    "conversions",
    "datapath_from_dict",
    "datapath_to_dict",
    "datapaths",
    "diff",
    "dot_trace",
    "elements",
    "emulate",
    "encode",
    "error_bound",
    "explain",
    "find_layout",
    "find_preset",
    "flip_bits",
    "formats",
    "identify",
    "identify_datapath",
    "inspect_block",
    "layouts",
    "linear",
    "load",
    "load_datapath",
    "matmul",
    "others",
    "presets",
    "probe",
    "rank",
    "requantizations",
    "save",
    "simulate",
    "sparsify",
    "spec",
    "storage",
    "tradeoff",
    "traffic",
    "traits",
    "unpack",
]
