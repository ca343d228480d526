#!/usr/bin/env bash
# From tiles to areas with intervals: a small model, its maps, 300 points, a report.
#   benchmarks/assess.sh DATA
# DATA, made by dubai_tiles.py, holds {train,val}/{images,masks} of the Dubai tiles; the masks play the person
# who looks at the points. 37 train tiles teach, 14 val tiles choose the epoch, and another 109 val tiles are
# mapped, all together one region.
# Results go to benchmarks/results/assess; metrics.json there has the areas that all pixels of the masks tell.
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
    --architecture deeplabv3 --backbone efficientnet_lite0 --weights imagenet --learning-rate 1e-3 \
    --batch-size 4 --epochs 10 --crop-size 128 --output-dir "$work"
$python tools/map_scenes.py --checkpoint "$work/best_model.pth" --input "$work/region/images" \
    --output "$work/maps" >"$work/written.txt"
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
PYTHON

cp $out/reference.csv "$work"
# The report names what it is given: relative paths
(cd "$work" && PYTHONPATH= $python "$OLDPWD/tools/assess.py" report --map maps --reference reference.csv \
    --checkpoint best_model.pth --output report)
cp "$work"/report/* $out
sed -i "s#$work/##" $out/report.md $out/report.json # no machine's path in the results

# Beside the estimates, what all pixels of the masks tell, and how this came about
times >"$work/times.txt" # of this shell, then of all that it ran, in user and system time like 3m59.784s
$python - "$work" $out "$(git rev-parse --short HEAD)" <<'PYTHON'
import json, os, sys
from pathlib import Path

sys.path[:0] = [os.getcwd(), "tools"]
import assess
import estimators
import numpy as np
import regions

import landcover_segmentation as lc

work, out = map(Path, sys.argv[1:3])
minutes, seconds = (work / "times.txt").read_text().split()[2].rstrip("s").split("m")
training = json.loads((work / "metrics.json").read_text())
report = json.loads((out / "report.json").read_text())
masks = [lc.read_mask(path) for path in (work / "region/masks").glob("*.png")]
counts = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=256)[: lc.IGNORE_INDEX]
areas, inside = {}, 0
for index, name in enumerate(report["classes"]):
    row = next(row for row in report["estimates"] if (row["measure"], row["class"]) == ("area share", name))
    true = counts[index] / counts.sum()
    areas[name] = {key: round(100 * row[key], 2) for key in ("mapped", "estimate", "low", "high")}
    areas[name]["true"] = round(100 * true, 2)
    inside += bool(row["low"] <= true <= row["high"])

# The same with 200 samples: how many of the intervals hold the truth, each pixel of the maps at hand?
region = regions.read_region([work / "maps"])
mapped = np.concatenate([lc.read_mask(each.path) for each in region.maps])
truth = np.concatenate([lc.read_mask(work / "region/masks" / f"{each.name}.png") for each in region.maps])
assess.visit_rows = lambda region, rows: ((row, regions.map_of(region, row), mapped[row]) for row in rows)
starts = {each.name: start for each, start in zip(region.maps, region.starts)}
weights, held = region.counts.sum(0) / region.counts.sum(), dict.fromkeys(areas, 0)
for seed in range(200):
    flags = ["sample", "--map", "maps", "--size", "300", "--seed", str(seed)]
    sample = assess.draw_sample(assess.parse(flags), region)
    at = np.array([(starts[point["image"]] + point["y"], point["x"]) for point in sample])
    ids, found = mapped[tuple(at.T)], truth[tuple(at.T)]
    known = found != lc.IGNORE_INDEX
    table = estimators.tally(ids[known], ids[known], found[known], len(areas))
    for index, name in enumerate(areas):
        y_x = estimators.measures(len(areas))["area share", index]
        low, high = estimators.interval(table, weights, *y_x)
        held[name] += bool(low <= counts[index] / counts.sum() <= high)
record = {
    "percent_of_area": areas, "intervals_that_hold_the_truth": inside,
    "percent_of_200_samples_whose_interval_does": {name: n / 2 for name, n in held.items()}, "points": report["points"],
    "overall_accuracy": report["estimates"][0], "miou_of_training": training["miou"],
    "starting_weights": training["starting_weights"], "command": "benchmarks/assess.sh DATA",
    "cpu_seconds": round(60 * int(minutes) + float(seconds)), "commit": sys.argv[3], "environment": training["environment"],
}
(out / "metrics.json").write_text(json.dumps(record, indent=2) + "\n")
PYTHON
cat $out/report.md $out/metrics.json
