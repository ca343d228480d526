"""How fast this program is beside the loop of the tutorials, both in one run, and where its time goes.

    python benchmarks/speed.py                  both backbones on the CPU, and on the GPU where there is one
    python benchmarks/speed.py --backbones resnet50 --batch 2 --rounds 3 --threads 1    on a slow machine

The tutorials' loop is written out below: float32, NCHW, torchvision's network, files read and the
positions of each class found anew for every item, the same augmentation, logits upsampled and scored per
batch on the host. Both sides train on plain partial cross-entropy; what the default objective costs
stands beside it. The two take turns, so that a machine that slows down slows both, and the ratio is the
median of the rounds'. On a CPU with one thread the clock is the processor's time, which other work on the
machine disturbs little. Rows are appended to a CSV.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from map_scenes import fold_batch_norm
from PIL import Image
from study import append, command, hsv_jitter, provenance
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import segmentation

import landcover_segmentation as lc

# ---- The loop of the tutorials


class PlainDataset(Dataset):
    """Tiles and points as lc.LandCoverDataset's, drawn anew for every item."""

    def __init__(self, tiles: list[tuple[Path, Path]], num_points: int | None, crop_size: int):
        sensor = lc.AUGMENTATION_STRENGTHS["medium"][-1]
        augment = [
            A.RandomCrop(crop_size, crop_size, pad_if_needed=True, fill_mask=255),
            A.D4(p=1),
            hsv_jitter(),
            A.GaussianBlur(sigma_limit=(0.3, 1.0), p=sensor),
            A.GaussNoise(std_range=(0.01, 0.04), p=sensor),
        ]
        self.tiles, self.num_points = tiles, num_points
        finish = [A.Normalize(lc.IMAGENET_MEAN, lc.IMAGENET_STD), ToTensorV2()]
        self.transform = A.Compose([*(augment if num_points else []), *finish])

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int):
        image_path, mask_path = self.tiles[index]
        image, mask = np.array(Image.open(image_path).convert("RGB")), np.array(Image.open(mask_path))
        if self.num_points:
            points, classes = np.full_like(mask, 255), np.unique(mask[mask != 255])
            for class_id in classes:
                rows, columns = np.where(mask == class_id)
                share = min(len(rows), self.num_points // len(classes))
                chosen = np.random.choice(len(rows), share, replace=False)
                points[rows[chosen], columns[chosen]] = class_id
            mask = points
        item = self.transform(image=image, mask=mask)
        return item["image"], item["mask"].long()


class PlainNetwork(nn.Module):
    def __init__(self, backbone: str, num_classes: int):
        super().__init__()
        build = getattr(segmentation, f"deeplabv3_{backbone}")
        self.net = build(weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=False)

    def forward(self, images):
        return self.net(images)["out"]


def plain_train(model, loader, optimizer, device) -> None:
    criterion = nn.CrossEntropyLoss(ignore_index=255)
    model.train()
    for images, targets in loader:
        optimizer.zero_grad()
        loss = criterion(model(images.to(device)), targets.to(device))
        loss.backward()
        optimizer.step()
        loss.item()


@torch.no_grad()
def plain_validate(model, loader, num_classes: int, device) -> float:
    criterion, scores = nn.CrossEntropyLoss(ignore_index=255), []
    model.eval()
    for images, targets in loader:
        logits = model(images.to(device))
        criterion(logits, targets.to(device)).item()
        predictions, masks = logits.argmax(1).cpu().numpy(), targets.numpy()
        for class_id in range(num_classes):
            predicted, true = (predictions == class_id) & (masks != 255), masks == class_id
            scores.append((predicted & true).sum() / max(1, (predicted | true).sum()))
    return float(np.mean(scores))


@torch.no_grad()
def plain_predict(model, images, device) -> np.ndarray:
    model.eval()
    return model(images.to(device)).argmax(1).cpu().numpy()


# ---- Both sides of each measurement


def plain_side(args, backbone: str, device: torch.device) -> dict[str, Callable]:
    """What is measured, by name, as functions without arguments."""
    tiles, val_tiles = tiles_of(args, "train"), tiles_of(args, "val")
    train_set = PlainDataset(tiles, args.points, args.size)
    val_loader = DataLoader(PlainDataset(val_tiles, None, args.size), args.batch)
    model = PlainNetwork(backbone, args.classes).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    images = torch.randn(args.batch, 3, args.size, args.size)
    indices = [index % len(tiles) for index in range(args.batch * args.steps)]
    train_loader = DataLoader(Subset(train_set, indices), args.batch, num_workers=args.workers)

    def train() -> None:  # tutorials do not ask a GPU to give the same result twice
        before = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode("default")
        plain_train(model, train_loader, optimizer, device)
        torch.set_deterministic_debug_mode(before)

    return {
        "training": train,
        "inference": lambda: plain_predict(model, images, device),
        "inference, batch 1": lambda: plain_predict(model, images[:1], device),
        "validation": lambda: plain_validate(model, val_loader, args.classes, device),
        "data loading": lambda: load(train_set, args),
    }


def our_side(args, backbone: str, device: torch.device) -> dict[str, Callable]:
    """The same for this program, with the default objective beside the plain one."""
    train_set = our_dataset(args)
    val_set = lc.LandCoverDataset(*folders(args, "val"), num_classes=args.classes)
    val_set.tiles = tiles_of(args, "val")
    numbers = list(range(len(val_set)))
    val_batches = [numbers[first : first + args.batch] for first in range(0, len(numbers), args.batch)]
    val_loader = lc.make_loader(val_set, val_batches, args.workers, device)
    model, dtype = new_model(args, backbone, device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    points_alone = lc.PartialCrossEntropyLoss()
    folded = cache(partial(fold_batch_norm, model, dtype))  # made when first wanted: the peak memory
    default = cache(partial(lc.UnlabelledPixels, model, 10**6))  # of training is not theirs
    images = torch.randn(args.batch, 3, args.size, args.size)
    indices = np.arange(args.batch * args.steps) % len(train_set)
    batches = indices.reshape(args.steps, args.batch).tolist()
    train_loader = lc.make_loader(train_set, batches, args.workers, device, keep_workers=True)

    def train(unlabelled: lc.UnlabelledPixels | None = None) -> None:
        train_set.epoch += 1
        how = {"unlabelled": unlabelled, "dtype": dtype}
        lc.train_epoch(model, train_loader, points_alone, optimizer, device, **how)

    @torch.inference_mode()
    def predict(images) -> np.ndarray:
        with lc.autocast(device, dtype):
            return folded()(lc.to_device(images, device)).argmax(1).cpu().numpy()

    return {
        "training": train,
        "training, default objective": lambda: train(default()),
        "inference": lambda: predict(images),
        "inference, batch 1": lambda: predict(images[:1]),
        "validation": lambda: lc.validate(model, val_loader, args.classes, device, dtype=dtype),
        "data loading": lambda: load(train_set, args),
    }


def our_dataset(args) -> lc.LandCoverDataset:
    transform = lc.get_transforms("train", "medium", args.size)
    return lc.LandCoverDataset(*folders(args, "train"), args.points, transform, num_classes=args.classes)


def load(dataset: Dataset, args) -> None:
    """Loads items on one core, as a worker process does."""
    set_threads(1)
    for index in range(args.items):
        dataset[index % len(dataset)]
    set_threads(args.threads)


def set_threads(count: int) -> None:
    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def folders(args, split: str) -> tuple[Path, Path]:
    return args.data / split / "images", args.data / split / "masks"


def tiles_of(args, split: str) -> list[tuple[Path, Path]]:
    tiles = lc.list_tiles(*folders(args, split))
    return tiles[: args.batch * args.steps] if split == "val" else tiles


def new_model(args, backbone: str, device: torch.device) -> tuple[nn.Module, torch.dtype]:
    model = lc.DeepLabV3Segmentation(args.classes, backbone, None)
    return model.to(device, memory_format=torch.channels_last), lc.pick_precision(args.precision, device)


# ---- Clocks


def seconds(function: Callable, args, device: torch.device) -> float:
    """One call's time; on a GPU until it has finished."""
    clock = time.process_time if device.type == "cpu" and args.threads == 1 else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measure(functions: list[Callable], args, device: torch.device) -> list[list[float]]:
    """The times of several functions that take turns, after one call each that counts for nothing."""
    for function in functions:
        function()
    rounds = [[seconds(function, args, device) for function in functions] for _ in range(args.rounds)]
    return [list(times) for times in zip(*rounds, strict=True)]


def matrix_rate(dtype: torch.dtype, args, device: torch.device, side: int = 2048) -> float:
    """Floating-point operations per second of a square matrix product, the most a convolution can hope for.

    On a GPU float32 is multiplied as cuDNN's convolutions do by default, with factors rounded to TF32.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    repeats = 100 if device.type == "cuda" else 2
    (times,) = measure([lambda: [left @ right for _ in range(repeats)]], args, device)
    return repeats * 2 * side**3 / statistics.median(times)


def operations(backbone: str, args) -> float:
    """Floating-point operations of a forward pass on one tile, padding counted, as the field counts them."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        PlainNetwork(backbone, args.classes).eval()(torch.empty(1, 3, args.size, args.size))
    return counter.get_total_flops()


def peak_memory(side: str, args, backbone: str, device_name: str) -> float:
    """MiB at the peak of training, of a fresh process: of the GPU on a GPU, else of the process (Linux)."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(train_once, side, args, backbone, device_name).result()


def train_once(side: str, args, backbone: str, device_name: str) -> float:
    set_threads(args.threads)
    device = torch.device(device_name)
    lc.make_repeatable(device)
    {"plain": plain_side, "ours": our_side}[side](args, backbone, device)["training"]()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()  # ru_maxrss begins with that of the process above this one
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


FIRST_STEP = """
import sys
import torch
import landcover_segmentation as lc
def stop(*_, **__): raise SystemExit(0)
torch.optim.AdamW.step = stop
lc.main(sys.argv[1:])
"""


def first_step(args, backbone: str, device: torch.device) -> float:
    """Seconds from the start of Python to the end of the first backward pass, all tiles checked before."""
    names = {
        f"{split}_{kind}_dir": args.data / split / f"{kind}s"
        for split in ("train", "val")
        for kind in ("image", "mask")
    }
    given = names | {"num_classes": args.classes, "class_names": "none", "class_colors": "none"}
    given |= {"backbone": backbone, "weights": "none", "crop_size": args.size, "epochs": 1}
    given |= {"batch_size": max(2, args.batch), "device": device.type, "precision": args.precision}
    given |= {"output_dir": args.csv.parent}
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    one_core = device.type == "cpu" and args.threads == 1  # as in `seconds`, but of the process started
    clock = (lambda: sum(os.times()[2:4])) if one_core else time.perf_counter
    threads = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    start = clock()
    run = [sys.executable, "-c", FIRST_STEP, *flags]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, env=threads)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return clock() - start


def stages(args, backbone: str, device: torch.device) -> dict[str, float]:
    """Milliseconds per tile of each part of a training step of this program, one after the other."""
    train_set = our_dataset(args)
    model, dtype = new_model(args, backbone, device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    criterion, host, spent = lc.PartialCrossEntropyLoss(), {}, {}

    def stage(name: str, function: Callable, rounds: int = args.rounds + 1):
        times = [seconds(lambda: host.__setitem__(name, function()), args, device) for _ in range(rounds)]
        spent[name] = 1000 * statistics.median(times[1:] or times) / args.batch
        return host[name]

    indices = range(args.batch)
    stage("read from disk", lambda: [train_set.decode(*train_set.tiles[index]) for index in indices])
    for index in indices:
        train_set.read(index)
    stage("read from memory", lambda: [train_set.read(index) for index in indices])
    items = stage("augment", lambda: [train_set[index] for index in indices])
    spent["augment"] -= spent["read from memory"]
    batch = [torch.stack(parts) for parts in zip(*items, strict=True)]
    images, targets = stage("copy", lambda: (lc.to_device(batch[0], device), batch[1].to(device)))
    model.train()

    def forward():
        with lc.autocast(device, dtype):
            return model(images)

    def loss():
        with lc.autocast(device, dtype):
            return criterion(logits, targets)

    logits = stage("forward", forward)
    value = stage("loss", loss)
    stage("backward", lambda: value.backward(retain_graph=True))
    stage("optimiser", optimizer.step)
    stage("metrics", lambda: lc.confusion_matrix(logits.argmax(1), targets, args.classes).cpu())
    return spent


# ---- All of it


def compare(args, backbone: str, device: torch.device) -> Iterator[dict]:
    """Rows of what is measured: both values in its unit, their ratio, shares of the matrix rate.

    A ratio above 1: this program is better.
    """
    dtype = lc.pick_precision(args.precision, device)
    rates = [matrix_rate(kind, args, device) for kind in (torch.float32, dtype)]
    yield row("matrix rate", "TFLOP/s", rates[0] / 1e12, rates[1] / 1e12, rates[1] / rates[0])
    plain, ours = plain_side(args, backbone, device), our_side(args, backbone, device)
    forward, steps = operations(backbone, args), args.batch * args.steps
    counts = {"training": (steps, 3), "inference": (args.batch, 1), "inference, batch 1": (1, 1)}
    counts |= {"validation": (len(tiles_of(args, "val")), 1), "data loading": (args.items, 0)}
    for name, (tiles, passes) in counts.items():
        both = measure([plain[name], ours[name]], args, device)
        speeds = [tiles / statistics.median(times) for times in both]
        ratio = statistics.median(before / after for before, after in zip(*both, strict=True))
        shares = [speed * passes * forward / rate for speed, rate in zip(speeds, rates, strict=True)]
        yield row(name, "tiles/s", *speeds, ratio, *(shares if passes else []))
    both = measure([ours["training"], ours["training, default objective"]], args, device)
    ratio = statistics.median(before / after for before, after in zip(*both, strict=True))
    yield row("default objective", "tiles/s", *(steps / statistics.median(times) for times in both), ratio)


def compare_memory(args, backbone: str, device: torch.device) -> Iterator[dict]:
    plain, ours = (peak_memory(side, args, backbone, str(device)) for side in ("plain", "ours"))
    yield row("peak memory in training", "MiB", plain, ours, plain / ours)


def staged(args, backbone: str, device: torch.device) -> Iterator[dict]:
    for name, milliseconds in stages(args, backbone, device).items():
        yield row(f"stage: {name}", "ms per tile", ours=milliseconds)


PARTS = {
    "speed": compare,
    "memory": compare_memory,
    "start": lambda *place: [row("first step after", "s", ours=first_step(*place))],
    "stages": staged,
}


def row(measure: str, unit: str, plain="", ours="", ratio="", plain_share="", our_share="") -> dict:
    """A row; of `default objective`, plain is this program on points alone. Shares: of the matrix rate."""
    figures = {"plain": plain, "ours": ours, "ratio": ratio}
    figures |= {"plain_of_matrix_rate": plain_share, "ours_of_matrix_rate": our_share}
    rounded = {name: value and f"{value:.4g}" for name, value in figures.items()}
    return {"measure": measure, "unit": unit} | rounded


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    flag("--data", type=Path, default=ROOT / "dataset")
    flag("--csv", type=Path, default=ROOT / "benchmarks/results/speed.csv")
    flag("--backbones", nargs="+", default=["resnet50", "mobilenet_v3_large"])
    flag("--devices", nargs="+", default=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
    flag("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    flag("--classes", type=int, default=6)
    flag("--points", type=int, default=100)
    flag("--size", type=int, default=256)
    flag("--batch", type=int, default=8)
    flag(
        "--steps",
        type=int,
        help="of training in a round, 1 on a CPU, else 100; as many batches are validated",
    )
    flag("--items", type=int, default=48, help="loaded in a round")
    flag("--rounds", type=int, default=5)
    flag("--threads", type=int, default=lc.cores_at_hand())
    flag("--workers", type=int, help="that load data, on both sides; by default this program's choice")
    flag("--precision", default="auto")
    return parser.parse_args()


def measure_backbone(args, backbone: str, device: torch.device) -> None:
    """Measures the parts that are asked for, and appends a row for each figure."""
    dtype = str(lc.pick_precision(args.precision, device)).removeprefix("torch.")
    setup = {name: getattr(args, name) for name in ("batch", "size", "threads", "rounds")}
    cell = {"backbone": backbone, "device": device.type, "precision": dtype} | setup
    how = {"backbones": backbone, "devices": device.type, "precision": args.precision} | setup
    for found in chain.from_iterable(PARTS[part](args, backbone, device) for part in args.parts):
        source = {"weights": "random initialisation"} | provenance(command("speed.py", **how), device)
        append(args.csv, cell | found | source)
        said = (f"{key} {value}" for key, value in (cell | found).items() if value != "")
        print(*said, sep=", ", flush=True)


def main() -> None:
    given = parse_arguments()
    set_threads(given.threads)
    warnings.simplefilter("ignore")
    for device in map(torch.device, given.devices):
        lc.make_repeatable(device)
        args = argparse.Namespace(**vars(given))
        args.steps = given.steps or (1 if device.type == "cpu" else 100)
        args.workers = lc.make_loader(range(1), [], given.workers, device).num_workers
        for backbone in args.backbones:
            measure_backbone(args, backbone, device)


if __name__ == "__main__":
    main()
