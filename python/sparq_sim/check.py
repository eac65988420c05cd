"""check: does a torch model, or a fake-quant run of it, agree with a simulated machine, and if not, where and why?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sparq_sim.accelerator import Accelerator
from sparq_sim.report import Report

if TYPE_CHECKING:
    import torch
    from torch import nn

    Metric = Callable[[Any], float | dict[str, float]]


def _torch_check() -> Any:
    try:
        import sparq_sim.torch.checking as checking
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModuleNotFoundError("this needs torch: pip install 'sparq_sim[torch]'", name="torch") from None
    return checking


def simulate(
    model: nn.Module, accelerator: Accelerator, *, layers: list[str] | None = None, threads: int | None = None
) -> nn.Module:
    """A copy of a torch model whose Linear and Conv2d layers run on a simulated machine.

    Args:
        model: any module; itself unchanged.
        accelerator: the machine.
        layers: names of the layers to replace; default all.
        threads: threads to use in each layer; default by size.

    Returns:
        A module for inference; its results have no gradient.

    Raises:
        ValueError: an unknown layer name, or a layer that the machine cannot take.
        ModuleNotFoundError: torch is not installed.

    >>> import torch, sparq_sim as sq
    >>> model = torch.nn.Linear(8, 2)
    >>> sq.simulate(model, sq.Accelerator("mxfp4", "mxfp8"))(torch.zeros(1, 8)).shape
    torch.Size([1, 2])
    """
    _torch_check()
    from sparq_sim.torch.simulate import simulate as run

    return run(model, accelerator, layers=layers, threads=threads)


def check(
    subject: nn.Module,
    inputs: torch.Tensor | tuple[Any, ...] | dict[str, Any],
    accelerator: Accelerator | None = None,
    *,
    against: nn.Module | None = None,
    metric: Metric | None = None,
    layers: list[str] | None = None,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Compares a torch model with a simulated machine, layer by layer.

    The reference is the same model with the operands that the machine sees, multiplied by torch in float32; or
    ``against``, a fake-quantized model of another origin. Operands are compared bit for bit; outputs get a verdict
    (``equal``, ``reproduced``, ``consistent``, ``unexplained``; docs/numerics.md section 12) on the reference's own
    inputs, and signal-to-noise ratios free-running. The float model serves for those ratios and for the metric only.

    Args:
        subject: the float model. Its Linear and Conv2d layers are checked.
        inputs: a tensor, a tuple of arguments, or a dict of keyword arguments.
        accelerator: the machine; default `Accelerator()`.
        against: a model whose modules of the same names do what the machine is said to do.
        metric: from a model's output to a number or a dict of numbers.
        layers: names of the layers to check; default all.
        threads: threads to use; default by size. Results never depend on it.
        progress: called with a line for each step.

    Returns:
        A `Report`; ``report.ok`` says whether everything is explained.

    Raises:
        ValueError: unknown layer names; a model without layers to check.
        ModuleNotFoundError: torch is not installed.

    >>> import torch, sparq_sim as sq
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    >>> report = sq.check(model, torch.randn(8, 64), sq.Accelerator("mxfp4", "mxfp8", datapath="block_fp32"))
    >>> report.ok, [layer.operands_equal for layer in report.layers]
    (True, [True, True])
    """
    machine = Accelerator() if accelerator is None else accelerator
    if not isinstance(machine, Accelerator):
        raise TypeError(f"accelerator: needed an Accelerator, got {type(machine).__name__}")
    report: Report = _torch_check().check(
        subject, inputs, machine, against=against, metric=metric, layers=layers, threads=threads, progress=progress
    )
    return report
