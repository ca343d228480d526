"""How good the labels are that unlabelled pixels of the train tiles get, before anything is learnt from them.

    python benchmarks/soft_labels.py --data DATA     after study.py --split choose --variants teacher

For every way of labelling, on the study's train tiles with its points: the share of unlabelled pixels
that get a label, how many of those labels agree with the dense mask, and their mIoU. The teacher is the
study's model of the variant `teacher`. Superpixels and other numbers of views than two are in
rejected.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2
import rejected
import torch
from study import CLASSES, already_in, append, choose_tiles, command, in_csv, prepare, provenance
from torch import Tensor, nn
from tqdm import tqdm

import landcover_segmentation as lc

TEACHER = {  # whether the points correct it, and how many views of a tile it takes
    "teacher alone": (False, 1),
    "teacher, 2 views": (False, 2),
    "teacher x points": (True, 1),
    "teacher x points, 2 views": (True, 2),
}
WAYS = ["superpixels", *TEACHER, *(f"{name} > 0.9" for name in TEACHER)]


def label(way: str, model: nn.Module, images: Tensor, points: Tensor) -> Tensor:
    """Soft labels (1, C, H, W) for the unlabelled pixels, 0 where there is none."""
    name, _, threshold = way.partition(" > ")
    if name == "superpixels":
        soft, covered = rejected.spread_points(images, points, len(CLASSES))
        return soft * covered[:, None]
    evidence, views = TEACHER[name]
    settings = {"point_evidence": evidence, "pseudo_label_threshold": float(threshold or 0)}
    return rejected.Rejected(model, 1, views=views, **settings).soft_labels(images, points)


def count(
    ways: list[str], model: nn.Module, data: lc.LandCoverDataset, name: str
) -> tuple[dict[str, Tensor], int]:
    """The confusion matrix of each way's labels with the dense masks, and the number of unlabelled pixels."""
    counts = {way: torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.int64) for way in ways}
    asked = 0
    for index in tqdm(range(len(data)), name, unit="tile", disable=None):
        image, points, mask = data.read(index)
        points = torch.from_numpy(points)[None].long()
        truth = torch.from_numpy(mask)[None].long().masked_fill(points != lc.IGNORE_INDEX, lc.IGNORE_INDEX)
        asked += int((truth != lc.IGNORE_INDEX).sum())
        for way in ways:
            soft = label(way, model, lc.preprocess_image(image), points)
            known = truth.masked_fill(soft.sum(1) == 0, lc.IGNORE_INDEX)
            counts[way] += lc.confusion_matrix(soft.argmax(1), known, len(CLASSES))
    return counts, asked


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag, results = parser.add_argument, ROOT / "benchmarks/results"
    flag("--data", type=Path, required=True)
    flag("--csv", type=Path, default=results / "labels.csv")
    flag("--work", type=Path, default=results / "study", help="as for study.py")
    flag("--points", type=int, default=20)
    flag("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    folder = args.work / "tiles/128"
    prepare(args.data, folder, 128)
    train = folder / "train/images", folder / "train/masks"
    for seed in args.seeds:
        data = lc.LandCoverDataset(*train, args.points, sampling="random", seed=seed)
        data.tiles, _ = choose_tiles("choose", 2, data.tiles, [])
        cell = {"points": args.points, "seed": seed}
        todo = [way for way in WAYS if not in_csv(args.csv, {"way": way} | cell)]
        if not todo:
            print(f"seed {seed}: {already_in(args.csv)}")
            continue
        model = lc.load_model(args.work / f"models/choose-teacher-{args.points}-{seed}-12-128-2.pth", "cpu")
        counts, asked = count(todo, model, data, f"seed {seed}")
        source = {"weights": model.starting_weights}
        source |= provenance(command("soft_labels.py", data="DATA", points=args.points, seeds=seed))
        for way, confusion in counts.items():
            scores, covered = lc.Scores(confusion).as_dict(), int(confusion.sum()) / asked
            figures = {"coverage": covered, "accuracy": scores["pixel_accuracy"], "miou": scores["miou"]}
            rounded = {name: round(value, 4) for name, value in figures.items()}
            append(args.csv, {"way": way} | cell | {"tiles": len(data)} | rounded | source)
            right = f"{scores['pixel_accuracy']:.1%} right, mIoU {scores['miou']:.3f}"
            print(f"{way}, seed {seed}: {covered:.0%} of the pixels, {right}")


if __name__ == "__main__":
    main()
