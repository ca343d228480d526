"""What single changes brought that were made for speed, or tried for it: each against what it stands for, in turns, on one CPU core.

    python benchmarks/changes.py                              all of them
    python benchmarks/changes.py --only "fused AdamW"         those whose name has this in it

Both sides get the same input and, where they compute something, must give the same result, or the program stops. Times are medians of
the processor's seconds, ratios those of the rounds' ratios; with worker processes, of wall time. Rows are appended to a CSV.
"""

from __future__ import annotations

import argparse
import copy
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import albumentations as A
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from study import append, command, provenance
from torch import nn

import landcover_segmentation as lc

SIZE, BATCH, CLASSES = 256, 2, 6
CPU = torch.device("cpu")
Sides = tuple[Callable[[], object], Callable[[], object]]  # before and after the change


@dataclass
class Change:
    """A change: what it is, what its times are of, whether the program has it, how often to repeat it for one time."""

    what: str
    unit: str
    kept: bool
    sides: Callable[[], Sides]
    repeats: int = 1
    tiles: int = 1  # in one call, where the unit is one of tiles
    clock: Callable[[], float] = time.process_time


CHANGES: list[Change] = []


def change(what: str, unit: str, kept: bool = True, **more) -> Callable:
    """Registers a function that prepares both sides of a change."""

    def register(sides: Callable[..., Sides]) -> Callable[..., Sides]:
        CHANGES.append(Change(what, unit, kept, sides, **more))
        return sides

    return register


# ---- Tiles


def dataset(num_points: int | None = 100) -> lc.LandCoverDataset:
    folders = (ROOT / "dataset/train" / kind for kind in ("images", "masks"))
    return lc.LandCoverDataset(*folders, num_points, lc.get_transforms("train", crop_size=SIZE), num_classes=CLASSES)


@change("decoded tiles and points kept in memory", "ms per tile", repeats=20)
def cache() -> Sides:
    tiles = dataset()
    return lambda: list(tiles.decode(*tiles.tiles[0])), lambda: list(tiles.read_scene(0))


@change("100 random points of a tile, the same draw with less copying", "ms per tile", repeats=20)
def points() -> Sides:
    mask = dataset().read(0)[2]

    def before() -> np.ndarray:
        labelled = np.argwhere(mask != lc.IGNORE_INDEX)
        return lc.create_sparse_mask(labelled[np.random.default_rng(0).permutation(len(labelled))[:100]], mask)

    return before, lambda: lc.sample_random_points(mask, 100, np.random.default_rng(0))


@change("quarter turns and mirroring by OpenCV, image and two masks", "ms per tile", repeats=50)
def symmetry() -> Sides:
    image, sparse, mask = dataset().read(0)

    def turned(step: A.DualTransform) -> Callable[[], list[np.ndarray]]:
        pipeline = A.Compose([step], seed=0)  # both draw the same turns

        def run() -> list[np.ndarray]:
            item = pipeline(image=image, masks=[sparse, mask])
            return [item["image"], *item["masks"]]

        return run

    return turned(A.D4(p=1)), turned(lc.Symmetry(p=1))


@change("three of a tile's four channels copied by OpenCV, not by NumPy", "ms per tile", repeats=50)
def channels() -> Sides:
    image = dataset().read_scene(0)[0]
    return lambda: np.ascontiguousarray(image[..., :3]), lambda: cv2.cvtColor(image, cv2.COLOR_RGBA2RGB)


@change("colour jitter as one matrix, not step after step with the hue by way of HSV", "ms per tile", repeats=50)
def jitter() -> Sides:
    image = dataset().read(0)[0].copy()
    before, steps = A.ColorJitter(), {"brightness": 1.2, "contrast": 0.9, "saturation": 1.2, "hue": 0.01}
    return (
        lambda: before.apply(image, **steps, order=range(4)),
        lambda: cv2.transform(image, lc.color_matrix(cv2.mean(image)[:3], **steps)),
    )


@change("JPEG decoding by OpenCV, which reads truncated files without a word", "ms per tile", kept=False, repeats=50)
def jpeg() -> Sides:
    file = io.BytesIO()
    Image.fromarray(dataset().read(0)[0]).save(file, "JPEG", quality=93)
    packed = np.frombuffer(file.getvalue(), np.uint8)
    return (
        lambda: np.array(Image.open(file).convert("RGB")),
        lambda: cv2.cvtColor(cv2.imdecode(packed, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB),
    )


@change("eight worker processes kept from epoch to epoch, 24 tiles in memory", "ms per epoch", clock=time.perf_counter)
def workers() -> Sides:
    tiles = dataset()
    for index in range(len(tiles)):
        tiles.read(index)

    def epochs(keep: bool) -> Callable[[], None]:
        loader = lc.make_loader(tiles, [list(range(8))] * 3, 8, CPU, keep_workers=keep)
        return lambda: [None for _ in loader] and None

    return epochs(False), epochs(True)


# ---- Network


def trained_step(model: nn.Module, *inputs: torch.Tensor) -> Callable[[], list[torch.Tensor]]:
    """A pass forward and back; gives the output and the gradients of all weights."""

    def step() -> list[torch.Tensor]:
        model.zero_grad()
        with lc.autocast(CPU, lc.pick_precision("auto", CPU)):
            output = model(*inputs).float()
        output.square().mean().backward()
        return [output.detach(), *(weight.grad for weight in model.parameters())]

    return step


def both_ways(layer: nn.Conv2d, side: int, batch: int = BATCH) -> Sides:
    """A convolution as PyTorch has it, and with the faster way of the program, on maps of side x side."""
    images = torch.randn(batch, layer.in_channels, side, side).to(memory_format=torch.channels_last).requires_grad_()
    layer = layer.to(memory_format=torch.channels_last)
    faster = nn.Sequential(copy.deepcopy(layer))
    lc.mix_in_faster(faster)
    return trained_step(layer, images), trained_step(faster, images)


def atrous(rate: int, batch: int) -> Sides:
    return both_ways(nn.Conv2d(2048, 256, 3, padding=rate, dilation=rate, bias=False), 32, batch)


name = "atrous convolution at a rate above the map's side: the centre alone, forward and back"
change(name, "ms per tile", tiles=BATCH)(lambda: atrous(36, BATCH))
name = "atrous convolution at rate {} as the sum of its taps, 2048 channels, 32 x 32, 8 tiles, forward and back"
for rate in (12, 24):
    change(name.format(rate), "ms per tile", tiles=8)(partial(atrous, rate, 8))


@change(
    "dilated depthwise convolution as an undilated one of parts, in float32, forward and back",
    "ms per tile",
    tiles=BATCH,
)
def depthwise() -> Sides:
    return both_ways(nn.Conv2d(960, 960, 5, padding=4, dilation=2, groups=960, bias=False), 16)


def network(backbone: str) -> nn.Module:
    torch.manual_seed(0)
    return lc.DeepLabV3Segmentation(CLASSES, backbone, None)


@change("the sums of taps in a training step of `resnet50`, 8 tiles", "ms per tile", tiles=8)
def taps_in_a_step() -> Sides:
    images = torch.randn(8, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    after = network("resnet50").to(memory_format=torch.channels_last).eval()  # no dropout: both sides agree
    before = copy.deepcopy(after)
    for layer in before.modules():
        if isinstance(layer, lc.FewerProducts) and layer.dilation[0] in (12, 24):
            layer.__class__ = nn.Conv2d
    return trained_step(before, images), trained_step(after, images)


@change("channels_last, `resnet50`, forward and back", "ms per tile", tiles=BATCH)
def channels_last() -> Sides:
    images, model = (
        torch.randn(BATCH, 3, SIZE, SIZE),
        network("resnet50").eval(),
    )  # dropout would make two results of one
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return trained_step(model, images), trained_step(other, lc.to_device(images, CPU))


def prediction(network: nn.Module) -> Callable[[], torch.Tensor]:
    images = lc.to_device(torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)), CPU)

    @torch.no_grad()
    def predict() -> torch.Tensor:
        with lc.autocast(CPU, lc.pick_precision("auto", CPU)):
            return network(images)

    return predict


def folding(backbone: str) -> Sides:
    model = network(backbone).to(memory_format=torch.channels_last).eval()
    return prediction(model), prediction(lc.fold_batch_norm(model, lc.pick_precision("auto", CPU)))


for backbone in ("resnet50", "mobilenet_v3_large"):
    name = f"batch norm folded and weights converted once, for prediction, `{backbone}`"
    change(name, "ms per tile", tiles=BATCH)(partial(folding, backbone))


@change(
    "`torch.compile` with frozen weights over that, `resnet50`; needs a C++ compiler and time to start",
    "ms per tile",
    kept=False,
    tiles=BATCH,
)
def compilation() -> Sides:
    import torch._inductor.config

    torch._inductor.config.freezing = True
    model = lc.fold_batch_norm(network("resnet50").eval(), lc.pick_precision("auto", CPU))
    return prediction(model), prediction(torch.compile(model))


# ---- Training


def weights(count: int = 161, size: int = 246_000) -> list[nn.Parameter]:
    """As many numbers, in as many tensors, as a DeepLabV3-ResNet50 learns."""
    parameters = [nn.Parameter(torch.randn(size)) for _ in range(count)]
    for parameter in parameters:
        parameter.grad = torch.randn(size)
    return parameters


@change("fused AdamW, 39.6 million weights", "ms per step")
def fused() -> Sides:
    own = weights()
    twin = [nn.Parameter(parameter.detach().clone()) for parameter in own]
    for parameter, other in zip(own, twin, strict=True):
        other.grad = parameter.grad

    def step(parameters: list[nn.Parameter], **how) -> Callable[[], list[torch.Tensor]]:
        optimizer = torch.optim.AdamW(parameters, 1e-4, **how)

        def run() -> list[torch.Tensor]:
            optimizer.step()
            return [parameter.detach() for parameter in parameters]

        return run

    return step(own), step(twin, fused=True)


@change("mean teacher by `torch._foreach_lerp_`, 39.6 million weights", "ms per step", kept=False)
def teacher() -> Sides:
    student = [parameter.detach() for parameter in weights()]
    means = [[torch.zeros_like(value) for value in student] for _ in range(2)]

    def one_by_one() -> list[torch.Tensor]:
        for mean, value in zip(means[0], student, strict=True):
            mean.lerp_(value, 0.01)
        return means[0]

    def together() -> list[torch.Tensor]:
        torch._foreach_lerp_(means[1], student, 0.01)
        return means[1]

    return one_by_one, together


def labelled(num_points: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (BATCH, CLASSES, SIZE, SIZE) and targets with so many points in each tile; None labels all."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(BATCH, CLASSES, SIZE, SIZE, generator=generator)
    classes = torch.randint(CLASSES, (BATCH, SIZE * SIZE), generator=generator)
    if num_points is not None:
        for tile in classes:
            tile[torch.randperm(len(tile), generator=generator)[num_points:]] = lc.IGNORE_INDEX
    return logits, classes.view(BATCH, SIZE, SIZE)


def losses(num_points: int | None) -> Sides:
    """Cross-entropy of the labelled logits, picked, against the program's, which passes over all; with gradients."""
    logits, targets = labelled(num_points)

    def picked(logits: torch.Tensor) -> torch.Tensor:
        known = targets != lc.IGNORE_INDEX
        return F.cross_entropy(logits.movedim(1, -1)[known], targets[known])

    def run(loss: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
        def step() -> list[torch.Tensor]:
            leaf = logits.clone().requires_grad_()
            value = loss(leaf)
            value.backward()
            return [value.detach(), leaf.grad]

        return step

    return run(picked), run(lambda logits: lc.PartialCrossEntropyLoss()(logits, targets))


no_wait = "cross-entropy that does not pick the labelled pixels, for a GPU would have to be waited for: "
change(no_wait + "100 points", "ms per tile", tiles=BATCH, repeats=5)(lambda: losses(100))
change(no_wait + "masks", "ms per tile", tiles=BATCH, repeats=5)(lambda: losses(None))


@change("confusion matrix by adding into bins, for `bincount` waits for a GPU", "ms per tile", tiles=BATCH, repeats=5)
def confusion() -> Sides:
    logits, targets = labelled(None)
    predictions = logits.argmax(1)

    def before() -> torch.Tensor:
        known = targets != lc.IGNORE_INDEX
        pairs = targets[known] * CLASSES + predictions[known]
        return torch.bincount(pairs, minlength=CLASSES**2).view(CLASSES, CLASSES)

    return before, lambda: lc.confusion_matrix(predictions, targets, CLASSES)


def evidence(num_points: int) -> Sides:
    """`point_evidence` by way of the distances between all pixels and points."""
    images = lc.preprocess_image(dataset().read(0)[0]).repeat(BATCH, 1, 1, 1)
    logits, targets = labelled(num_points)
    opinion = F.interpolate(logits[..., ::16, ::16], (SIZE, SIZE), mode="bilinear").softmax(1)

    def before() -> torch.Tensor:
        colors = F.avg_pool2d(F.pad(lc.unnormalised(images), (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        place = torch.stack(torch.meshgrid(*[torch.arange(SIZE) / SIZE] * 2, indexing="ij"))
        found = []
        for color, labels, own in zip(colors, targets.flatten(1), opinion, strict=True):
            places = torch.cat([color / 0.1, place / 0.3, own / 0.3]).flatten(1).T
            at = (labels != lc.IGNORE_INDEX).nonzero()[:, 0]
            classes = F.one_hot(labels[at], CLASSES).float()
            kernel = torch.cdist(places, places[at]).square().mul(-0.5).exp()
            found.append((kernel @ (classes / classes.sum(0).clamp(min=1))).T.view(CLASSES, SIZE, SIZE))
        return torch.stack(found)

    return before, lambda: lc.point_evidence(images, targets, opinion)


one_product = "evidence of the points as one matrix product in pieces that fit a cache, not as distances: "
change(one_product + "100 points", "ms per tile", tiles=BATCH)(lambda: evidence(100))
change(one_product + "1000 points", "ms per tile", tiles=BATCH)(lambda: evidence(1000))


# ---- All of it


def parts(result: object) -> list:
    return result if isinstance(result, list) else [result]


def agree(before: object, after: object) -> None:
    """Raises AssertionError unless two results are the same but for rounding, which in bfloat16 is coarse."""
    for one, other in zip(parts(before), parts(after), strict=True):
        if one is not None:
            one, other = (torch.as_tensor(value).double() for value in (one, other))
            unlike = (one - other).norm() / one.norm().clamp(min=1e-9)
            assert unlike < 0.03, f"the two sides differ by {unlike:.2g}"


def measure(change: Change, rounds: int) -> dict:
    """Times of both sides, which take turns, after a call of each that counts for nothing."""
    sides, times = change.sides(), []
    agree(*[side() for side in sides])
    for _ in range(rounds):
        both = []
        for side in sides:
            start = change.clock()
            for _ in range(change.repeats):
                side()
            both.append(1000 * (change.clock() - start) / change.repeats / change.tiles)
        times.append(both)
    before, after = map(statistics.median, zip(*times, strict=True))
    ratio = statistics.median(one / other for one, other in times)
    precision = str(lc.pick_precision("auto", CPU)).removeprefix("torch.")
    return {"change": change.what, "unit": change.unit, "before": f"{before:.4g}", "after": f"{after:.4g}", "ratio": f"{ratio:.4g}",
            "kept": "yes" if change.kept else "no", "device": "cpu", "precision": precision, "rounds": rounds, "weights": "random initialisation",
            **provenance(command("changes.py", only=change.what, rounds=rounds))}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks/results/changes.csv")
    parser.add_argument("--only", default="", help="changes whose name has this in it")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")
    for change in CHANGES:
        if args.only in change.what:
            row = measure(change, args.rounds)
            append(args.csv, row)
            print(f"{row['change']}: {row['before']} -> {row['after']} {row['unit']}, {row['ratio']}", flush=True)


if __name__ == "__main__":
    main()
