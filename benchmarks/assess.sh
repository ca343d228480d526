#!/usr/bin/env bash
# From tiles to areas with intervals: a small model, its maps, 300 points, a report.
#   benchmarks/assess.sh DATA
# DATA, made by dubai_tiles.py, holds {train,val}/{images,masks} of the Dubai tiles; the masks play the person
# who looks at the points. 37 train tiles teach, 14 val tiles choose the epoch, and another 109 val tiles are
# mapped, all together one region.
# Results go to benchmarks/results/assess; truth.csv there is the area that all pixels of the masks tell.
set -euo pipefail
root=$(dirname "$(realpath "$0")")/..
# No machine's path in the results
data=$(realpath --relative-to="$root" "${1:?usage: benchmarks/assess.sh DATA}")
cd "$root"
out=benchmarks/results/assess
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p $out
python=${PYTHON:-python}

for part in train:train:24:1 choose:val:32:3 region:val:4:1; do
    IFS=: read -r name split every at <<<"$part"
    for kind in images masks; do
        mkdir -p "$work/$name/$kind"
        find "$data/$split/$kind" -type f | sort | awk "NR % $every == $at" | xargs cp -t "$work/$name/$kind"
    done
done
$python landcover_segmentation.py --num-classes 5 --class-names land,water,building,vegetation,road \
    --class-colors none --train-image-dir "$work/train/images" --train-mask-dir "$work/train/masks" \
    --val-image-dir "$work/choose/images" --val-mask-dir "$work/choose/masks" --num-points 20 \
    --backbone efficientnet_lite0 --weights imagenet --learning-rate 1e-3 --batch-size 4 \
    --epochs 6 --crop-size 128 --output-dir "$work"
$python tools/map_scenes.py --checkpoint "$work/best_model.pth" --input "$work/region/images" --output "$work/maps"
rm -f "$work"/maps/*overlay*
$python tools/assess.py sample --map "$work/maps" --size 300 --output "$work/reference.csv"

$python - "$work" $out <<'PYTHON'
import csv, os, sys
from pathlib import Path

sys.path.insert(0, os.getcwd())
import numpy as np

import landcover_segmentation as lc

work, out = map(Path, sys.argv[1:])
names = ["land", "water", "building", "vegetation", "road"]
masks = {path.stem: lc.read_mask(path) for path in (work / "region/masks").glob("*.png")}
with (work / "reference.csv").open(newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
for row in rows:
    class_id = masks[row["image"]][int(row["y"]), int(row["x"])]
    row["class"] = "" if class_id == 255 else names[class_id]
lc.write_history(out / "reference.csv", rows)
counts = np.bincount(np.concatenate([mask.ravel() for mask in masks.values()]), minlength=256)[:5]
truth = [{"class": name, "pixels": n, "share": round(n / counts.sum(), 6)} for name, n in zip(names, counts)]
lc.write_history(out / "truth.csv", truth)
PYTHON

cp "$work/best_model.pth" "$work/maps" # the report names what it is given: relative paths
cp $out/reference.csv "$work"
(cd "$work" && PYTHONPATH= $python "$OLDPWD/tools/assess.py" report --map maps --reference reference.csv \
    --checkpoint best_model.pth --output report)
cp "$work"/report/* $out
cat $out/report.md $out/truth.csv
