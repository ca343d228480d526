#!/usr/bin/env bash
# The runs on real tiles in technical_report.md: 100 points per tile against dense masks, one seed.
#   benchmarks/dubai256.sh DATA [RUN ...]
# DATA holds {train,val}/{images,masks} of the Dubai tiles; RUN is points_100, dense or resnet50_short (default: all three).
# The learning rate was chosen on train tiles (learnt on parts 1 and 2, scored on part 4): 1e-3 led 5e-4 after 1 and 2 epochs.
# A run that was interrupted goes on where it stopped. Results go to benchmarks/results/dubai256_RUN.
set -euo pipefail
root=$(dirname "$(realpath "$0")")/..
data=$(realpath --relative-to="$root" "${1:?usage: benchmarks/dubai256.sh DATA [RUN ...]}") # no machine's path in the results
shift
cd "$root"
[ $# -gt 0 ] || set -- points_100 dense resnet50_short

train() { # RUN DATA FLAGS...
    local run=$1 data=$2
    shift 2
    "${PYTHON:-python}" landcover_segmentation.py --resume --teacher-decay 0 --cut-mix 0 --pseudo-label-weight 0 --point-sampling stratified --output-dir "benchmarks/results/dubai256_$run" \
        --num-classes 5 --class-names land,water,building,vegetation,road \
        --class-colors '#d9c79e,#3b78d8,#c0392b,#2e8b3d,#4d4d4d' \
        --train-image-dir "$data/train/images" --train-mask-dir "$data/train/masks" \
        --val-image-dir "$data/val/images" --val-mask-dir "$data/val/masks" "$@"
}

for run in "$@"; do
    case $run in
        points_100) train "$run" "$data" --backbone efficientnet_lite0 --precision float32 --weights imagenet --learning-rate 1e-3 --epochs 12 --num-points 100 ;;
        dense) train "$run" "$data" --backbone efficientnet_lite0 --precision float32 --weights imagenet --learning-rate 1e-3 --epochs 12 --num-points none ;;
        resnet50_short) # part 1 of each scene, scored on part 3 of each, so that a CPU gets through
            tiles=benchmarks/results/dubai256_resnet50_short/tiles
            for kind in train:1:images train:1:masks val:3:images val:3:masks; do
                IFS=: read -r split part files <<<"$kind"
                mkdir -p "$tiles/$split/$files"
                ln -sf "$(realpath "$data")/$split/$files"/scene*_part"$part"_* "$tiles/$split/$files/"
            done
            train "$run" "$tiles" --backbone resnet50 --weights auto --epochs 6 --num-points 100 ;;
        *) echo "no such run: $run" >&2; exit 2 ;;
    esac
done
