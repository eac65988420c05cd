"""Accelerator: the formats, the sparsity and the machine that a layer runs on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparq_sim import _core
from sparq_sim._core import Datapath, Sparsity
from sparq_sim.epilogue import Epilogue
from sparq_sim.formats import Format, Spec, datapaths, parse_sparsity, pattern_text, spec
from sparq_sim.machines import AnyDatapath, is_file, resolve_datapath
from sparq_sim.split import SplitK, split_of

#: How blocks lie in a convolution: along the channels of one tap, or along the flattened window.
CONV_BLOCKS = ("tap", "window")
#: What a machine can take as it is stored.
COMPRESSED = ("weights", "activations")
#: Order of K in a flattened window: channels fastest, or channels slowest (torch's unfold).
CONV_K_ORDERS = ("khwc", "chw")


@dataclass(frozen=True)
class Accelerator:
    """A simulated machine.

    Args:
        weights, activations: format of each operand: a name, a `Format` or a `Spec` (its axis is ignored: blocks run
            along the reduction axis).
        weight_sparsity, activation_sparsity: ``"N:M"`` or None. A layer whose lines (channels per group, or windows)
            have fewer than M elements stays dense.
        datapath: a name of `datapaths()`, a `Datapath`, or the path of a JSON file of one, which is read once.
        output: a format without scales (``"bf16"``, ``"fp16"``) that layer outputs are rounded to, or None for float32.
        compressed: ``"weights"`` or ``"activations"``, which have a pattern: the machine takes that operand as it is
            stored, and its K (steps, instructions, chunks, parts) counts stored elements. By default K counts the
            elements of dense lines, and pruned ones are zeros. Layers that stay dense are dense here too.
        split_k: a `SplitK`, or the number of parts of K that are added up by themselves (see `matmul`).
        epilogue: an `Epilogue` with alpha, order, precision and fusing, to which a layer brings its bias; default: the
            bias is one float32 addition.
        rules: choices for both operands (``rounding``, ``scale_rule``, ``block``, ``ties`` …, see `spec`) and
            ``conv_blocks`` (``"tap"``, default, or ``"window"``) and ``conv_k_order`` (``"khwc"``, default, or
            ``"chw"``, for windows only); docs/numerics.md section 9.

    Raises:
        ValueError, TypeError: unknown names, or operands that the datapath cannot take.

    >>> import sparq_sim as sq
    >>> print(sq.Accelerator("mxfp4", "mxfp8_e4m3", weight_sparsity="2:4", datapath="block_fp32"))
    mxfp4 2:4 x mxfp8_e4m3 on block_fp32
    >>> print(sq.Accelerator("fp8_e4m3", "fp8_e4m3", "2:4", datapath="hopper_fp8", compressed="weights", split_k=4))
    fp8_e4m3 2:4 compressed x fp8_e4m3 on hopper_fp8 in 4 parts of K
    """

    weights: str | Format | Spec = "mxfp8_e4m3"
    activations: str | Format | Spec = "mxfp8_e4m3"
    weight_sparsity: str | Sparsity | None = None
    activation_sparsity: str | Sparsity | None = None
    datapath: AnyDatapath = "exact"
    output: str | Format | None = None
    compressed: str | None = None
    split_k: SplitK | int | None = None
    epilogue: Epilogue | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", dict(self.rules))
        if is_file(self.datapath):  # what it says now
            object.__setattr__(self, "datapath", resolve_datapath(self.datapath))
        for name in self.rules:
            if name.startswith("conv_") and name not in ("conv_blocks", "conv_k_order"):
                raise TypeError(f"unknown rule {name!r}; rules: conv_blocks, conv_k_order and the choices of a spec")
        _one_of("conv_blocks", self.conv_blocks, CONV_BLOCKS)
        _one_of("conv_k_order", self.conv_k_order, CONV_K_ORDERS)
        if self.conv_k_order != "khwc" and self.conv_blocks == "tap":
            raise ValueError(
                "rules: conv_k_order='chw' needs conv_blocks='window': blocks along a tap need its channels together"
            )
        weights, activations = self.weight_spec.format, self.activation_spec.format
        for operand in (weights, activations, *([] if self.output_spec is None else [self.output_spec.format])):
            if operand.conversion.rounding == "stochastic":
                raise ValueError(f"{operand.name}: rounding='stochastic' needs random bits at every call: use emulate")
        for name, operand in (("weights", weights), ("activations", activations)):
            if operand.has_zero_points:
                raise ValueError(
                    f"{name} {operand.name}: no datapath here multiplies operands with zero points; emulate tensors "
                    "and multiply their values"
                )
            # Scales that vary along K: every power of two per block, and float scales of blocks within a row.
            scaled = operand.scale_kind == "power_of_two" or (
                operand.scale_kind == "float" and not isinstance(operand.block, str)
            )
            try:
                _core.check_operands(self.path, operand.element, operand.element, scaled)
            except ValueError as error:
                raise ValueError(f"{name} {operand.name} on {self.datapath_name}: {error}") from None
        _core.check_operands(self.path, weights.element, activations.element, False)
        if self.output_spec is not None and self.output_spec.format.levels:
            raise ValueError(
                f"output={self.output_spec.format.name}: needed a format without scales, such as bf16 or fp16"
            )
        object.__setattr__(self, "split_k", split_of(self.split_k))
        if self.split is not None:
            self.split.check(self.path)
        self._check_compressed()
        self._check_epilogue()

    def _check_compressed(self) -> None:
        if self.compressed is None:
            return
        _one_of("compressed", self.compressed, COMPRESSED, "")
        own = self.weight_spec if self.compressed == "weights" else self.activation_spec
        if own.sparsity is None:
            raise ValueError(f"compressed={self.compressed!r}: they have no N:M pattern")
        for name, made in (("weights", self.weight_spec), ("activations", self.activation_spec)):
            main = made.format.main
            if main is not None and main.along % own.sparsity.group:
                raise ValueError(
                    f"compressed={self.compressed!r}: {name} {made.format.name} have blocks of {main.along}, "
                    f"and those of a product with a compressed operand hold whole groups of {own.sparsity.group}"
                )

    def _check_epilogue(self) -> None:
        how = self.epilogue
        if how is None:
            return
        if not isinstance(how, Epilogue):
            raise TypeError(f"epilogue: needed an Epilogue, got {type(how).__name__}")
        if how.source is not None or how.bias is not None:
            raise ValueError("epilogue: a layer brings its bias and has no source; needed an Epilogue without both")

    def __hash__(self) -> int:
        after = (self.compressed, self.split_k, self.epilogue)
        return hash(
            (self.weight_spec, self.activation_spec, self.path, self.output_spec, *after, tuple(sorted(self.rules)))
        )

    @property
    def conv_blocks(self) -> str:
        """``"tap"`` or ``"window"``."""
        return str(self.rules.get("conv_blocks", "tap"))

    @property
    def conv_k_order(self) -> str:
        """``"khwc"`` or ``"chw"``."""
        return str(self.rules.get("conv_k_order", "khwc"))

    def _operand_spec(self, format: str | Format | Spec, sparsity: str | Sparsity | None) -> Spec:
        choices = {name: word for name, word in self.rules.items() if not name.startswith("conv_")}
        pattern = parse_sparsity(sparsity)
        if pattern is None and not isinstance(format, Spec):
            choices.pop("ties", None)
            choices.pop("order", None)
        return spec(format, sparsity=pattern, axis=-1, **choices)

    @property
    def weight_spec(self) -> Spec:
        """Of the weights, blocks along the last axis."""
        return self._operand_spec(self.weights, self.weight_sparsity)

    @property
    def activation_spec(self) -> Spec:
        """Of the activations, blocks along the last axis."""
        return self._operand_spec(self.activations, self.activation_sparsity)

    @property
    def output_spec(self) -> Spec | None:
        """Of the outputs, None for float32."""
        return None if self.output is None else spec(self.output)

    @property
    def path(self) -> Datapath:
        """The datapath's record."""
        return resolve_datapath(self.datapath)

    @property
    def datapath_name(self) -> str:
        """The name of the datapath in the catalog, or ``"user"``."""
        path = self.path
        return next((name for name, machine in datapaths().items() if machine.record == path), "user")

    @property
    def split(self) -> SplitK | None:
        """`split_k`, as it was read."""
        return split_of(self.split_k)

    @property
    def is_plain(self) -> bool:
        """Whether the datapath runs through dense lines once, and only a bias and an output's rounding follow."""
        return self.compressed is None and self.split_k is None and self.epilogue is None

    def __str__(self) -> str:
        def operand(name: str, made: Spec) -> str:
            words = [made.format.name, *([pattern_text(made.sparsity)] if made.sparsity else [])]
            return " ".join([*words, *(["compressed"] if self.compressed == name else [])])

        left, right = operand("weights", self.weight_spec), operand("activations", self.activation_spec)
        text = f"{left} x {right} on {self.datapath_name}"
        text += "" if self.split is None else f" in {self.split}"
        text += "" if self.epilogue is None else f", {self.epilogue}"
        return text if self.output_spec is None else f"{text} to {self.output_spec.format.name}"


def _one_of(name: str, word: str, words: tuple[str, ...], where: str = "rules: ") -> None:
    if word not in words:
        raise ValueError(f"{where}{name}={word!r}; choose one of {', '.join(words)}")
