"""How good the labels are that unlabelled pixels of the train tiles get, before anything is learnt from them.

    python benchmarks/labels.py --data ../shared/data/dubai256          after study.py --split choose --variants teacher

For every way of labelling, on the study's train tiles with its points: the share of unlabelled pixels that get a label, how many
of those labels agree with the dense mask, and their mIoU. The teacher is the study's model of the variant `teacher`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2
import torch
from study import CLASSES, already_in, append, choose_tiles, command, in_csv, prepare, provenance
from torch import Tensor
from tqdm import tqdm

import landcover_segmentation as lc

TEACHER = {"teacher alone": (False, 1), "teacher, 2 views": (False, 2), "teacher x points": (True, 1),
           "teacher x points, 2 views": (True, 2)}  # fmt: skip


def label(way: str, model: torch.nn.Module, images: Tensor, points: Tensor) -> Tensor:
    """Soft labels (1, C, H, W) for the unlabelled pixels, 0 where there is none."""
    name, _, threshold = way.partition(" > ")
    if name == "superpixels":
        soft, covered = lc.spread_points(images, points, len(CLASSES))
        return soft * covered[:, None]
    evidence, views = TEACHER[name]
    settings = {"point_evidence": evidence, "teacher_views": views, "pseudo_label_threshold": float(threshold or 0)}
    objective = lc.UnlabelledPixels(model, 1, **settings)
    return objective.pseudo_labels(images, points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks/results/labels.csv")
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks/results/study", help="as for study.py")
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    folder = args.work / "tiles/128"
    prepare(args.data, folder, 128)
    ways = ["superpixels", *TEACHER, *(f"{name} > 0.9" for name in TEACHER)]
    for seed in args.seeds:
        data = lc.LandCoverDataset(
            folder / "train/images", folder / "train/masks", args.points, sampling="random", seed=seed
        )
        data.tiles, _ = choose_tiles("choose", 2, data.tiles, [])
        todo = [way for way in ways if not in_csv(args.csv, {"way": way, "points": args.points, "seed": seed})]
        if not todo:
            print(f"seed {seed}: {already_in(args.csv)}")
            continue
        model = lc.load_model(args.work / f"models/choose-teacher-{args.points}-{seed}-12-128-2.pth", "cpu")
        counts = {way: torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.int64) for way in todo}
        asked = 0
        for index in tqdm(range(len(data)), f"seed {seed}", unit="tile", disable=None):
            image, points, mask = data.read(index)
            points = torch.from_numpy(points)[None].long()
            truth = torch.from_numpy(mask)[None].long().masked_fill(points != lc.IGNORE_INDEX, lc.IGNORE_INDEX)
            asked += int((truth != lc.IGNORE_INDEX).sum())
            for way in todo:
                soft = label(way, model, lc.preprocess_image(image), points)
                known = truth.masked_fill(soft.sum(1) == 0, lc.IGNORE_INDEX)
                counts[way] += lc.confusion_matrix(soft.argmax(1), known, len(CLASSES))
        for way, confusion in counts.items():
            scores = lc.score(confusion)
            append(args.csv, {"way": way, "points": args.points, "seed": seed, "tiles": len(data),
                              "coverage": round(int(confusion.sum()) / asked, 4),
                              "accuracy": round(scores["pixel_accuracy"], 4), "miou": round(scores["miou"], 4),
                              "weights": model.starting_weights,
                              **provenance(command("labels.py", data="DATA", points=args.points, seeds=seed))})  # fmt: skip
            print(
                f"{way}, seed {seed}: {int(confusion.sum()) / asked:.0%} of the pixels, {scores['pixel_accuracy']:.1%} right, mIoU {scores['miou']:.3f}"
            )


if __name__ == "__main__":
    main()
