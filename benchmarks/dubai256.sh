#!/usr/bin/env bash
# What the report lacks, for a machine with a GPU and a network: DeepLabV3-ResNet50 from torchvision's ImageNet weights, on all
# Dubai tiles in their full size, by the program as it stands (50 epochs) and by plain partial cross-entropy.
#   benchmarks/dubai256.sh DATA [POINTS ...]
# DATA, made by dubai_tiles.py, holds {train,val}/{images,masks} of the Dubai tiles; POINTS are per tile (default: 20 100 none;
# none = dense masks).
# Interrupted, a run goes on where it stopped. Results go to benchmarks/results/dubai256_METHOD_POINTS.
set -euo pipefail
root=$(dirname "$(realpath "$0")")/..
data=$(realpath --relative-to="$root" "${1:?usage: benchmarks/dubai256.sh DATA [POINTS ...]}") # no machine's path in the results
shift
cd "$root"
[ $# -gt 0 ] || set -- 20 100 none

for points in "$@"; do
    for method in default plain; do
        flags=()
        [ $method = default ] || flags=(--teacher-decay 0 --cut-mix 0 --pseudo-label-weight 0)
        "${PYTHON:-python}" landcover_segmentation.py --resume --output-dir "benchmarks/results/dubai256_${method}_$points" \
            --weights imagenet --num-points "$points" --num-classes 5 --class-names land,water,building,vegetation,road \
            --class-colors '#d9c79e,#3b78d8,#c0392b,#2e8b3d,#4d4d4d' \
            --train-image-dir "$data/train/images" --train-mask-dir "$data/train/masks" \
            --val-image-dir "$data/val/images" --val-mask-dir "$data/val/masks" ${flags[@]+"${flags[@]}"}
    done
done
