#!/usr/bin/env bash
# Rounds of labelling: five points more per tile in each of four, where each strategy of tools/active_learning.py
# places them. On the Dubai tiles with the tiles, size and settings of `val`, every 3rd tile, of study.py; and on
# the tiles of exact labels that generated_scenes.sh makes.
#     bash benchmarks/active.sh DATA WORK [SEED [STRATEGY ...]]
#     EVERY=1 CLASSES="water,forest,cropland,grassland,built-up,road,greenhouse,bare ground" bash benchmarks/active.sh …
# A seed is a process: its strategies share the first round. WORK/active_learning.csv gets the rounds that ended,
# of a stopped process too; started again it goes on with the first strategy that was not ended.
set -euo pipefail
usage="usage: benchmarks/active.sh DATA WORK [SEED [STRATEGY ...]]"
data=$(realpath "${1:?$usage}")
work=$(realpath "${2:?$usage}")
seeds="${3:-0 1 2}" every="${EVERY:-3}" classes="${CLASSES:-land,water,building,vegetation,road}"
shift $(($# < 3 ? $# : 3))
[ $# -gt 0 ] || set -- random errors suggestions errors_slips uncertainty
cd "$(dirname "$(realpath "$0")")/.."
export OMP_NUM_THREADS=1 PYTHONPATH=benchmarks # two processes of one thread get more done than one of two
python="${PYTHON:-python}"
mkdir -p "$work/claims"

record() { # CSV of a seed: its rows go to WORK/active_learning.csv
    "$python" - "$work/active_learning.csv" "$1" "${EVERY:+EVERY=$every }${CLASSES:+CLASSES=\"$classes\" }" <<'END'
import sys
from pathlib import Path
from study import append, in_csv, provenance, read_csv

target, new = map(Path, sys.argv[1:3])
for row in read_csv(new) if new.exists() else ():
    if not in_csv(target, {key: row[key] for key in ("seed", "arm", "round")}):
        source = provenance(f"{sys.argv[3]}bash benchmarks/active.sh DATA WORK")
        append(target, row | source | {"hardware": row["hardware"]})  # of the run, not of this step
END
}

run_seed() { # seed, strategies
    local seed="$1" output="$work/active_learning/seed_$1"
    shift
    trap "record '$output/active_learning.csv'" EXIT
    "$python" tools/active_learning.py simulate --rounds 4 --points-per-round 5 --epochs 6 \
        --seeds "$seed" --strategies "$@" \
        --train-image-dir "$work/active/train/images" --train-mask-dir "$work/active/train/masks" \
        --val-image-dir "$work/active/val/images" --val-mask-dir "$work/active/val/masks" \
        --num-classes "$(tr , '\n' <<< "$classes" | wc -l)" --class-names "$classes" --class-colors none \
        --crop-size 128 --batch-size 8 \
        --architecture deeplabv3 --backbone efficientnet_lite0 --weights imagenet \
        --learning-rate 1e-3 --num-workers 0 \
        --output-dir "$output"
}

(
    flock 9
    [ -d "$work/active" ] || {
        rm -rf "$work/active.partial"
        "$python" benchmarks/study.py --data "$data" --work "$work" --split val --every "$every" \
            --class-names "$classes" --link "$work/active.partial"
        mv "$work/active.partial" "$work/active"
    }
) 9>"$work/claims/active"
for seed in $seeds; do
    (
        flock -n 9 || { echo "seed $seed: another process has it"; exit 0; }
        run_seed "$seed" "$@"
    ) 9>"$work/claims/active-$seed" # the system lets go of it however the process ends
done
