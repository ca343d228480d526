#!/usr/bin/env bash
# Points against dense masks on a second set, of exact labels: generated scenes with thin and rare classes.
#     bash benchmarks/generated_scenes.sh DATA WORK      makes the tiles in DATA; models and copies in WORK
# SEEDS="0" and VARIANTS="plain_unet" choose, of 24 and of 48 epochs; cells that are in results/generated.csv are passed over.
set -euo pipefail
data=$(realpath -m "$1") work=$(realpath -m "$2")
cd "$(dirname "$0")/.."
[ -d "$data/val" ] || "${PYTHON:-python}" tools/generate_dataset.py --output "$data" \
    --scenes 8 --train 192 --val 96 --size 128
run() {
    "${PYTHON:-python}" benchmarks/study.py --data "$data" --work "$work" --csv benchmarks/results/generated.csv \
        --class-names "water,forest,cropland,grassland,built-up,road,greenhouse,bare ground" \
        --split val --every 1 --size 128 --points 20 "$@"
}
stratified="plain_unet_stratified default_unet_stratified"
masks="dense_unet dense+teacher+cut_mix_unet"
run --epochs 24 --seeds ${SEEDS:-0 1 2} --variants ${VARIANTS:-plain_unet default_unet $stratified $masks forest}
run --epochs 48 --seeds ${SEEDS:-0 1 2} --variants ${VARIANTS:-$stratified dense_unet}
