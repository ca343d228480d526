#!/usr/bin/env bash
# Rounds of labelling on the Dubai tiles: five points more per tile in each of four, where each strategy of
# tools/active_learning.py places them. The same tiles, size and settings as `val`, every 3rd tile, of study.py.
#     bash benchmarks/active.sh DATA WORK [SEED STRATEGY]
# A cell is a seed and a strategy; named, it alone is run. Cells that WORK/active_learning.csv has are passed
# over, so that a stopped study goes on where it was, and several processes may share it: each claims its cell.
set -euo pipefail
usage="usage: benchmarks/active.sh DATA WORK [SEED STRATEGY]"
data=$(realpath "${1:?$usage}")
work=$(realpath "${2:?$usage}")
cd "$(dirname "$(realpath "$0")")/.."
export OMP_NUM_THREADS=1 PYTHONPATH=benchmarks # two processes of one thread get more done than one of two
python="${PYTHON:-python}" seeds="${3:-0 1 2}" strategies="${4:-random errors suggestions uncertainty errors_slips}"
mkdir -p "$work/claims"

record() { # seed, strategy, [CSV to add]: whether all its rounds are in WORK/active_learning.csv
    "$python" - "$work/active_learning.csv" "$@" <<'END'
import sys
from pathlib import Path
from study import append, in_csv, provenance, read_csv

target, seed, arm, *new = sys.argv[1:]
for row in read_csv(Path(new[0])) if new else ():
    if not in_csv(Path(target), {key: row[key] for key in ("seed", "arm", "round")}):
        source = provenance(f"bash benchmarks/active.sh DATA WORK {seed} {arm}")
        append(Path(target), row | source | {"hardware": row["hardware"]})  # of the run, not of this step
sys.exit(not in_csv(Path(target), {"seed": seed, "arm": arm, "round": 4}))
END
}

run_cell() { # seed, strategy
    record "$@" && { echo "$*: in active_learning.csv already"; return; }
    "$python" tools/active_learning.py simulate --rounds 4 --points-per-round 5 --epochs 6 \
        --seeds "$1" --strategies "$2" \
        --train-image-dir "$work/active/train/images" --train-mask-dir "$work/active/train/masks" \
        --val-image-dir "$work/active/val/images" --val-mask-dir "$work/active/val/masks" \
        --num-classes 5 --class-names land,water,building,vegetation,road --class-colors none --crop-size 128 \
        --batch-size 8 \
        --backbone efficientnet_lite0 --weights imagenet --learning-rate 1e-3 --num-workers 0 \
        --output-dir "$work/active_learning/$1_$2"
    record "$@" "$work/active_learning/$1_$2/active_learning.csv"
}

(
    flock 9
    [ -d "$work/active" ] || {
        rm -rf "$work/active.partial"
        "$python" benchmarks/study.py --data "$data" --work "$work" --split val --every 3 --link "$work/active.partial"
        mv "$work/active.partial" "$work/active"
    }
) 9>"$work/claims/active"
for seed in $seeds; do
    for strategy in $strategies; do
        (
            flock -n 9 || { echo "$seed $strategy: another process has this cell"; exit 0; }
            run_cell "$seed" "$strategy"
        ) 9>"$work/claims/active-$seed-$strategy" # the system lets go of it however the process ends
    done
done
