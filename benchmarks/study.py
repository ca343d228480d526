"""Trains named variants over seeds and budgets of points, and appends each score to a CSV.

    python benchmarks/study.py --data ../shared/data/dubai256                      the whole grid, one process
    python benchmarks/study.py --data ... --variants plain teacher --points 20 100 --seeds 0 1 2
    python benchmarks/study.py --data ... --split choose                           the split on which settings are chosen

DATA holds {train,val}/{images,masks} of the Dubai tiles. A variant is a set of the module's own settings. Cells that are
in the CSV already are passed over, so that a stopped study goes on where it was, and several processes may share it: each
claims its cell first. Scores are those of the last epoch on dense masks: no epoch is chosen.
`choose` trains on parts 1, 2, 4, 5 of each scene and scores on parts 7, 8, all of them train tiles; `val` trains on every
train tile and scores on val; `scenes` trains on scenes 2, 3, 5, 7, 8 and scores on 1, 4, 6, as they are in both.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2
import torch
from PIL import Image

import landcover_segmentation as lc

CLASSES = ["land", "water", "building", "vegetation", "road"]
BASE = {"backbone": "efficientnet_lite0", "weights": "imagenet", "learning_rate": 1e-3, "num_classes": 5}
OFF = {"teacher_decay": 0.0, "pseudo_label_weight": 0.0, "pairwise_weight": 0.0, "region_weight": 0.0}
VARIANTS = {
    "plain": OFF,
    "teacher": OFF | {"teacher_decay": 0.99},
    "pseudo_labels": OFF | {"teacher_decay": 0.99, "pseudo_label_weight": 1.0},
    "pairwise": OFF | {"teacher_decay": 0.99, "pairwise_weight": 0.01},
    "regions": OFF | {"teacher_decay": 0.99, "region_weight": 0.5},
    "multi_scale": OFF | {"teacher_decay": 0.99, "multi_scale": 1.5},
    "random": OFF | {"teacher_decay": 0.99, "point_sampling": "random"},
    "grid": OFF | {"teacher_decay": 0.99, "point_sampling": "grid"},
    "boundary": OFF | {"teacher_decay": 0.99, "point_sampling": "boundary"},
    "dense": OFF | {"num_points": None},
}


def prepare(data: Path, work: Path, size: int) -> None:
    """Writes the tiles at the given size: images averaged over area, masks by nearest neighbour (for whole masks that is exact enough)."""
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
    hidden = (1, 4, 6)
    both = train + val
    return [t for t in both if number("scene", t) not in hidden][::every], [
        t for t in both if number("scene", t) in hidden
    ]


def run_cell(args: argparse.Namespace, work: Path, variant: str, points: int | None, seed: int) -> dict:
    """Trains one variant and scores its last epoch. Seconds are those of the processor, in training alone."""
    config = lc.parse_settings([])
    changes = BASE | {
        "num_points": points,
        "crop_size": args.size,
        "epochs": args.epochs,
        "seed": seed,
        "device": "cpu",
    }
    for name, value in (changes | VARIANTS[variant]).items():
        setattr(config, name, value)
    config.class_names, config.class_colors = CLASSES, None
    for split in ("train", "val"):
        for kind in ("image", "mask"):
            setattr(config, f"{split}_{kind}_dir", str(work / split / f"{kind}s"))
    train_set, val_set = lc.make_dataset(config, "train"), lc.make_dataset(config, "val")
    train_set.tiles, val_set.tiles = choose_tiles(args.split, args.every, train_set.tiles, val_set.tiles)
    run = lc.start_run(config, train_set, val_set, [(args.size, args.size)] * len(val_set))
    start = time.process_time()
    for epoch in range(1, config.epochs + 1):
        lc.run_epoch(run, epoch)
    seconds = time.process_time() - start
    scores = lc.score(lc.validate(run.unlabelled.teacher, run.val_loader, 5, run.device)[1])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    machine = lc.environment(run.device)
    return {
        "miou": round(scores["miou"], 4),
        **{f"iou_{name}": round(iou, 4) for name, iou in zip(CLASSES, scores["iou_per_class"], strict=True)},
        "train_tiles": len(train_set),
        "val_tiles": len(val_set),
        "backbone": config.backbone,
        "weights": run.model.starting_weights,
        "seconds": round(seconds),
        "hardware": machine["cpu"],
        "torch": machine["torch"],
        "commit": commit.stdout.strip(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks/results/study.csv")
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks/results/study/tiles", help="resized tiles")
    parser.add_argument("--split", choices=("choose", "val", "scenes"), default="val")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--points", nargs="+", type=int, default=[20, 100])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, default=128, help="side of the tiles in pixels")
    parser.add_argument("--every", type=int, default=2, help="train on one tile in so many")
    args = parser.parse_args()
    torch.set_num_threads(1)  # two processes of one thread each get more done than one of two
    cv2.setNumThreads(1)
    work = args.work / str(args.size)
    prepare(args.data, work, args.size)
    cells = [(seed, points, name) for seed in args.seeds for points in args.points for name in args.variants]
    claims = args.work / "claims"
    claims.mkdir(exist_ok=True)
    for seed, points, name in cells:
        budget = "all" if VARIANTS[name].get("num_points", points) is None else points
        cell = {"split": args.split, "variant": name, "points": budget, "seed": seed, "epochs": args.epochs, "size": args.size, "every": args.every}  # fmt: skip
        done = list(csv.DictReader(args.csv.open(newline=""))) if args.csv.exists() else []
        if any(all(row[key] == str(value) for key, value in cell.items()) for row in done):
            continue
        claim = claims / "-".join(map(str, cell.values()))
        try:
            claim.touch(exist_ok=False)
        except FileExistsError:
            print(f"{claim}: another process has this cell; remove the file if none is running")
            continue
        try:
            row = cell | run_cell(args, work, name, None if budget == "all" else points, seed)
        finally:
            claim.unlink()
        new = not args.csv.exists()
        with args.csv.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=row, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(f"{name}, {budget} points, seed {seed}: mIoU {row['miou']:.3f} in {row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
