#!/usr/bin/env bash
# From a CSV of points to a map: 48 tiles to learn from and 24 to score, 50 points each.
#   benchmarks/walkthrough.sh DATA
# DATA, made by dubai_tiles.py, holds {train,val}/{images,masks} of the Dubai tiles, whose masks play the
# person who labels; DATA/../dubai_scenes holds scene8_part6.jpg (image_part_006.jpg of the archive's Tile
# 8), which is mapped. Results go to benchmarks/results/walkthrough.
set -euo pipefail
root=$(dirname "$(realpath "$0")")/..
# No machine's path in the results
data=$(realpath --relative-to="$root" "${1:?usage: benchmarks/walkthrough.sh DATA}")
cd "$root"
out=benchmarks/results/walkthrough
mkdir -p $out/tiles

"${PYTHON:-python}" - "$data" $out/tiles <<'PYTHON'
import csv, os, shutil, sys
from pathlib import Path

sys.path.insert(0, os.getcwd())
import numpy as np

import landcover_segmentation as lc

names = ["land", "water", "building", "vegetation", "road"]
for split, count in (("train", 48), ("val", 24)):
    tiles, rows = lc.list_tiles(*(Path(sys.argv[1], split, kind) for kind in ("images", "masks"))), []
    folder = Path(sys.argv[2], split)
    folder.mkdir(exist_ok=True)
    for image, mask in tiles[:: len(tiles) // count][:count]:
        shutil.copy(image, folder)
        mask = lc.read_mask(mask)
        points = lc.sample_random_points(mask, 50, lc.named_rng("walkthrough", image.stem))
        rows += [(image.name, x, y, names[mask[y, x]]) for y, x in np.argwhere(points != 255).tolist()]
    with Path(f"{folder}_points.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "x", "y", "class"), *rows])
PYTHON

"${PYTHON:-python}" landcover_segmentation.py \
    --num-classes 5 --class-names land,water,building,vegetation,road \
    --class-colors '#d9c79e,#3b78d8,#c0392b,#2e8b3d,#4d4d4d' \
    --train-image-dir $out/tiles/train --train-mask-dir $out/tiles/train_points.csv \
    --val-image-dir $out/tiles/val --val-mask-dir $out/tiles/val_points.csv --num-points none \
    --architecture deeplabv3 --backbone efficientnet_lite0 --weights imagenet --learning-rate 1e-3 \
    --epochs 20 --batch-size 4 --crop-size 128 --output-dir $out
"${PYTHON:-python}" tools/map_scenes.py --checkpoint $out/best_model.pth \
    --input "$data/../dubai_scenes/scene8_part6.jpg" --output $out/tiles/maps
