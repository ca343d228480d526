"""What single changes brought that were made for speed, or tried for it: each against what it stands for.

    python benchmarks/changes.py                              all of them
    python benchmarks/changes.py --only "fused AdamW"         those whose name has this in it
    python benchmarks/changes.py --against bf478b5            a training step since that commit

Both sides take turns on one CPU core, get the same input and, where they compute something, must give the
same result, or the program stops. Times are medians of the processor's seconds, ratios those of the
rounds' ratios; with worker processes, of wall time. --against starts each side in a process of its own,
in every round, and its ratio is that of the medians. Rows are appended to a CSV. Some of its rows are of
code that is gone: the sums of taps of dilated convolutions, and quarter turns by OpenCV. Commit bf478b5 holds
it and what measured it.
"""

from __future__ import annotations

import argparse
import copy
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import albumentations as A
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from map_scenes import fold_batch_norm
from PIL import Image
from study import append, command, provenance
from torch import nn

import landcover_segmentation as lc

SIZE, BATCH, CLASSES = 256, 2, 6
CPU = torch.device("cpu")
Sides = tuple[Callable[[], object], Callable[[], object]]  # before and after the change


@dataclass
class Change:
    """A change: what it is, what its times are of, whether the program has it, repeats for one time."""

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
    how = {"transform": lc.get_transforms("train", crop_size=SIZE), "num_classes": CLASSES}
    return lc.LandCoverDataset(*folders, num_points, sampling="random", **how)


@change("decoded tiles and points kept in memory", "ms per tile", repeats=20)
def cache() -> Sides:
    tiles = dataset()
    return lambda: list(tiles.decode(*tiles.tiles[0])), lambda: list(tiles.read_with_alpha(0))


@change("100 random points of a tile, the same draw with less copying", "ms per tile", repeats=20)
def points() -> Sides:
    mask = dataset().read(0)[2]

    def before() -> np.ndarray:
        labelled = np.argwhere(mask != lc.IGNORE_INDEX)
        order = np.random.default_rng(0).permutation(len(labelled))
        return lc.create_sparse_mask(labelled[order[:100]], mask)

    return before, lambda: lc.sample_random_points(mask, 100, np.random.default_rng(0))


@change("three of a tile's four channels copied by OpenCV, not by NumPy", "ms per tile", repeats=50)
def channels() -> Sides:
    image = dataset().read_with_alpha(0)[0]
    return lambda: np.ascontiguousarray(image[..., :3]), lambda: cv2.cvtColor(image, cv2.COLOR_RGBA2RGB)


@change(
    "colour jitter as one matrix, not step after step with the hue by way of HSV", "ms per tile", repeats=50
)
def jitter() -> Sides:
    image = dataset().read(0)[0].copy()
    before, steps = A.ColorJitter(), {"brightness": 1.2, "contrast": 0.9, "saturation": 1.2, "hue": 0.01}
    return (
        lambda: before.apply(image, **steps, order=range(4)),
        lambda: cv2.transform(image, lc.color_matrix(cv2.mean(image)[:3], **steps)),
    )


@change(
    "JPEG decoding by OpenCV, which reads truncated files without a word",
    "ms per tile",
    kept=False,
    repeats=50,
)
def jpeg() -> Sides:
    file = io.BytesIO()
    Image.fromarray(dataset().read(0)[0]).save(file, "JPEG", quality=93)
    packed = np.frombuffer(file.getvalue(), np.uint8)
    return (
        lambda: np.array(Image.open(file).convert("RGB")),
        lambda: cv2.cvtColor(cv2.imdecode(packed, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB),
    )


@change(
    "eight worker processes kept from epoch to epoch, 24 tiles in memory",
    "ms per epoch",
    clock=time.perf_counter,
)
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
    images = torch.randn(batch, layer.in_channels, side, side)
    images = images.to(memory_format=torch.channels_last).requires_grad_()
    layer = layer.to(memory_format=torch.channels_last)
    faster = nn.Sequential(copy.deepcopy(layer))
    lc.use_faster_convolutions(faster)
    return trained_step(layer, images), trained_step(faster, images)


centre = "atrous convolution at a rate above the map's side: the centre alone, forward and back"
parts_of_it = "dilated depthwise convolution as an undilated one of parts, in float32, forward and back"


@change(centre, "ms per tile", tiles=BATCH)
def atrous() -> Sides:
    return both_ways(nn.Conv2d(2048, 256, 3, padding=36, dilation=36, bias=False), 32)


@change(parts_of_it, "ms per tile", tiles=BATCH)
def depthwise() -> Sides:
    return both_ways(nn.Conv2d(960, 960, 5, padding=4, dilation=2, groups=960, bias=False), 16)


def network(backbone: str) -> nn.Module:
    torch.manual_seed(0)
    return lc.DeepLabV3Segmentation(CLASSES, backbone, None)


@change("channels_last, `resnet50`, forward and back", "ms per tile", tiles=BATCH)
def channels_last() -> Sides:
    images = torch.randn(BATCH, 3, SIZE, SIZE)
    model = network("resnet50").eval()  # dropout would make two results of one
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
    return prediction(model), prediction(fold_batch_norm(model, lc.pick_precision("auto", CPU)))


for backbone in ("resnet50", "mobilenet_v3_large"):
    name = f"batch norm folded and weights converted once, for prediction, `{backbone}`"
    change(name, "ms per tile", tiles=BATCH)(partial(folding, backbone))


frozen = "`torch.compile` with frozen weights over that, `resnet50`; needs a C++ compiler and time to start"


@change(frozen, "ms per tile", kept=False, tiles=BATCH)
def compilation() -> Sides:
    import torch._inductor.config

    torch._inductor.config.freezing = True
    model = fold_batch_norm(network("resnet50").eval(), lc.pick_precision("auto", CPU))
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
    """Cross-entropy of the labelled logits, picked, against the program's over all; with gradients."""
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


@change(
    "confusion matrix by adding into bins, for `bincount` waits for a GPU",
    "ms per tile",
    tiles=BATCH,
    repeats=5,
)
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
        colors = F.avg_pool2d(
            F.pad(images * torch.tensor(lc.IMAGENET_STD).view(3, 1, 1), (1, 1, 1, 1), mode="replicate"),
            3,
            stride=1,
        )
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


def measure(change: Change, rounds: int) -> tuple[float, float, float]:
    """Medians of both sides' times in ms, and of the rounds' ratios; first calls do not count."""
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
    return before, after, statistics.median(one / other for one, other in times)


# Training steps with the module of a folder and the network that it takes for a backbone: an epoch of one
# step to warm up, then the processor's ms per tile of one of two. Earlier modules settle no settings, and
# have the objective in the criterion's place.
STEP = """
import inspect, sys, time
sys.path.insert(0, sys.argv[1])
import torch
import landcover_segmentation as lc
backbone, objective, tiles, size, classes = *sys.argv[2:4], *map(int, sys.argv[4:])
torch.set_num_threads(1)
torch.manual_seed(0)
cpu = torch.device("cpu")
settings = lc.parse_settings(["--backbone", backbone, "--device", "cpu"])
settings = lc.settle_settings(settings) if hasattr(lc, "settle_settings") else settings
model = lc.DeepLabV3Segmentation(classes, backbone, None, settings.architecture)
model = model.to(memory_format=torch.channels_last)
optimizer, criterion = torch.optim.AdamW(model.parameters(), 1e-4, fused=True), lc.PartialCrossEntropyLoss()
images, targets = torch.randn(tiles, 3, size, size), torch.randint(classes, (tiles, size, size))
how = {"dtype": lc.pick_precision("auto", cpu)}
if objective == "default":
    targets[torch.rand(targets.shape) > 20 / size**2] = lc.IGNORE_INDEX
    unlabelled = lc.UnlabelledPixels(model, 2)
    if "unlabelled" in inspect.signature(lc.train_epoch).parameters:
        how["unlabelled"] = unlabelled
    else:
        criterion = unlabelled
for steps in (1, 2):
    start = time.process_time()
    lc.train_epoch(model, [(images, targets)] * steps, criterion, optimizer, cpu, **how)
print(1000 * (time.process_time() - start) / 2 / tiles)
"""


def measure_against(commit: str, setup: Sequence[object], rounds: int) -> tuple[float, float, float]:
    """Medians of a training step of the module at a commit and of the working tree's, and their ratio.

    setup: backbone, objective, tiles and their side.
    """
    show = ["git", "show", f"{commit}:landcover_segmentation.py"]
    module = subprocess.run(show, cwd=ROOT, capture_output=True, check=True).stdout
    times = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "landcover_segmentation.py").write_bytes(module)  # it runs alone
        for _ in range(rounds):
            both = []
            for side in (folder, str(ROOT)):
                step = [sys.executable, "-W", "ignore", "-c", STEP, side, *map(str, setup), str(CLASSES)]
                environment = os.environ | {"OMP_NUM_THREADS": "1"}
                done = subprocess.run(step, stdout=subprocess.PIPE, text=True, check=True, env=environment)
                both.append(float(done.stdout))
            times.append(both)
    before, after = map(statistics.median, zip(*times, strict=True))
    return before, after, before / after


def record(
    path: Path, what: str, unit: str, kept: bool, rounds: int, figures: Sequence[float], how: str
) -> None:
    """Appends a row, and prints it."""
    numbers = dict(zip(("before", "after", "ratio"), (f"{figure:.4g}" for figure in figures), strict=True))
    precision = str(lc.pick_precision("auto", CPU)).removeprefix("torch.")
    row = {"change": what, "unit": unit} | numbers | {"kept": "yes" if kept else "no"}
    row |= {"device": "cpu", "precision": precision, "rounds": rounds, "weights": "random initialisation"}
    append(path, row | provenance(how))
    print(f"{what}: {row['before']} -> {row['after']} {unit}, {row['ratio']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    flag("--csv", type=Path, default=ROOT / "benchmarks/results/changes.csv")
    flag("--only", default="", help="changes whose name has this in it")
    flag("--rounds", type=int, default=5)
    flag(
        "--against",
        metavar="COMMIT",
        help="measure a training step against the module of this commit instead",
    )
    flag("--backbone", default="resnet50", help="of that step")
    flag("--objective", choices=("plain", "default"), default="plain", help="of that step")
    flag("--batch", type=int, default=8, help="tiles of that step")
    flag("--size", type=int, default=SIZE, help="side of these tiles in pixels")
    args = parser.parse_args()
    if args.against:
        short = ["git", "rev-parse", "--short", args.against]
        commit = subprocess.run(short, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        names = ("backbone", "objective", "batch", "size")
        own = {"against": commit} | {name: getattr(args, name) for name in names} | {"rounds": args.rounds}
        figures = measure_against(commit, [own[name] for name in names], args.rounds)
        tiles = f"{args.batch} tiles of {args.size} px"
        what = f"a training step of `{args.backbone}`, {args.objective} objective, {tiles}, since {commit}"
        record(args.csv, what, "ms per tile", True, args.rounds, figures, command("changes.py", **own))
        return
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")
    for change in CHANGES:
        if args.only in change.what:
            how = command("changes.py", only=change.what, rounds=args.rounds)
            figures = measure(change, args.rounds)
            record(args.csv, change.what, change.unit, change.kept, args.rounds, figures, how)


if __name__ == "__main__":
    main()
