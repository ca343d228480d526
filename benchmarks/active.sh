#!/usr/bin/env bash
# Rounds of labelling on the Dubai tiles: five points more per tile in each of four, where each strategy of
# tools/active_learning.py places them.
#     bash benchmarks/active.sh DATA WORK
# DATA holds the tiles, WORK takes what is left over. The same tiles, size and settings as `val`, every
# 3rd tile, of study.py. Interrupted, it goes on where it stopped.
set -euo pipefail
data=$(realpath "${1:?usage: benchmarks/active.sh DATA WORK}")
work=$(realpath "${2:?usage: benchmarks/active.sh DATA WORK}")
cd "$(dirname "$(realpath "$0")")/.."
python="${PYTHON:-python}"
[ -d "$work/active" ] ||
    "$python" benchmarks/study.py --data "$data" --work "$work" --split val --every 3 --link "$work/active"
"$python" tools/active_learning.py simulate --rounds 4 --points-per-round 5 --seeds 0 1 2 --epochs 6 \
    --train-image-dir "$work/active/train/images" --train-mask-dir "$work/active/train/masks" \
    --val-image-dir "$work/active/val/images" --val-mask-dir "$work/active/val/masks" \
    --num-classes 5 --class-names land,water,building,vegetation,road --class-colors none --crop-size 128 \
    --batch-size 8 \
    --backbone efficientnet_lite0 --weights imagenet --learning-rate 1e-3 --num-workers 0 \
    --output-dir "$work/active_learning"
PYTHONPATH=benchmarks "$python" - "$work/active_learning/active_learning.csv" <<'END'
import csv, sys
from pathlib import Path
from study import append, provenance

target = Path("benchmarks/results/active_learning.csv")
source = provenance("bash benchmarks/active.sh DATA WORK")
target.unlink(missing_ok=True)
for row in csv.DictReader(open(sys.argv[1])):
    append(target, row | source | {"hardware": row["hardware"]})  # of the run, not of this step
END
