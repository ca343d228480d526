#!/usr/bin/env bash
# Every score of the report on the Dubai tiles, measured anew: what answers most comes first, and of
# everything one seed before the next.
#     bash benchmarks/grid.sh DATA WORK
# DATA, made by dubai_tiles.py, holds {train,val}/{images,masks}; WORK takes tiles, models and the CSVs.
# It needs the packages of tests/requirements.txt and took some 40 hours of one core. Interrupted, it goes
# on where it stopped; on further cores start `grid.sh DATA WORK train` beside it, as often as you like:
# no cell is trained twice. Copied over benchmarks/results, the CSVs of WORK give report.py its tables;
# that of the picture is written there at once.
set -euo pipefail
data=$(realpath "${1:?usage: benchmarks/grid.sh DATA WORK [train]}")
mkdir -p "${2:?usage: benchmarks/grid.sh DATA WORK [train]}"
work=$(realpath "$2")
cd "$(dirname "$(realpath "$0")")/.."

run() { # a program of benchmarks/, its flags
    "${PYTHON:-python}" "benchmarks/$1.py" --data "$data" --work "$work" --csv "$work/$1.csv" "${@:2}"
}

for seed in 0 1 2; do
    # The comparison, and what single changes do to it
    val=(study --split val --every 3 --epochs 24 --seeds $seed)
    budgets=(20 100 5 10 50 200 500)
    run "${val[@]}" --points "${budgets[@]}" --variants default plain forest dense dense+teacher+cut_mix
    run "${val[@]}" --points 20 --variants teacher+cut_mix labels teacher plain+cut_mix \
        default_{none,weak,strong,grid,stratified,boundary} {plain,default}_random_weights \
        {plain,default}@{wrong20,wrong10,wrong5,shift5,shift1}
    run "${val[@]}" --points 5 --variants teacher+cut_mix
    run "${val[@]}" --points 100 --variants default_smp_unet default_stratified
    run "${val[@]}" --points 100 --size 256 --variants default plain forest default_smp_unet
    # Scenes never seen
    scenes=(study --split scenes --every 3 --epochs 24 --seeds $seed --points 100)
    run "${scenes[@]}" --variants default plain forest dense default_smp_unet
    run "${scenes[@]}" --size 256 --variants forest default_smp_unet
    scenes=(study --split choose_scenes --epochs 12 --seeds $seed --points 100)
    run "${scenes[@]}" --every 2 --variants default plain forest
    run "${scenes[@]}" --every 4 --variants default_smp_unet
    # The U-Net of machines without a GPU, in turns with the DeepLabV3+, for the times to compare
    unet=(--csv "$work/networks.csv" --seeds $seed)
    run study "${unet[@]}" --split val --every 3 --epochs 24 --points 20 5 100 \
        --variants default_unet default plain_unet teacher+cut_mix_unet dense_unet dense+teacher+cut_mix_unet forest
    run study "${unet[@]}" --split val --every 6 --epochs 24 --points 20 --variants default_unet
    run study "${unet[@]}" --split val --every 6 --epochs 48 --points 20 --variants default_unet
    run study "${unet[@]}" --split val --every 3 --epochs 34 --points 100 5 20 --variants default_unet_lite2
    run study "${unet[@]}" --split choose_scenes --every 2 --epochs 12 --points 100 \
        --variants default_unet plain_unet teacher+cut_mix_unet
    # Where the settings were chosen
    run study --split choose --every 2 --epochs 24 --seeds $seed --points 20 \
        --variants plain default labels teacher+cut_mix default+balanced dense forest
    run study --split choose --every 2 --epochs 12 --seeds $seed --points 20 \
        --variants plain default plain_stratified dense teacher labels labels-evidence labels-views \
        labels+views labels+threshold confident confident+cut_mix pairwise regions multi_scale
    run study --split choose --every 2 --seeds $seed --points 100 --variants forest
    # The same in short, and longer on the same tiles
    run study --split choose --every 4 --epochs 24 --seeds $seed --points 20 --variants plain default
    run study --split choose --every 4 --epochs 12 --seeds $seed --points 20 \
        --variants plain default {plain,default}_smp_unet \
        {plain,default}+balanced plain+focal default_{none,weak,strong,grid,stratified} plain_hsv \
        {plain,default}_random_weights plain_{smp_unet,segformer,resnet34,resnet50}_random_weights \
        {plain,default}@{wrong5,wrong10,wrong20,shift1,shift3,shift5}
done
[ "${3:-}" = train ] && exit

# What needs the models: one process, after the last of them is trained
run inference --split val --every 3 --epochs 24 --points 100 \
    --ways plain "2 views" "8 views" "3 scales" "8 views, 3 scales" CRF "8 views, CRF"
bn="plain, batch norm of these tiles"
scenes=(inference --split scenes --every 3 --epochs 24 --points 100 --variant default_smp_unet)
run "${scenes[@]}" --size 256 --ways plain "8 views"
run "${scenes[@]}" --ways plain "8 views" "$bn"
run inference --split choose_scenes --every 4 --points 100 --variant default_smp_unet --ways plain "8 views" "$bn"
run inference --split choose --every 4 --epochs 24 --ways plain "2 views" "8 views" "3 scales" CRF
run soft_labels --csv "$work/labels.csv"
PYTHON="${PYTHON:-python}" bash benchmarks/active.sh "$data" "$work"
"${PYTHON:-python}" benchmarks/pictures.py --models "$work/models"
