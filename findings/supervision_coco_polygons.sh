#!/usr/bin/env bash
# A mask that supervision writes as COCO polygons is smaller where pycocotools reads it.
#
# Behaviour  DetectionDataset.as_coco writes a mask without holes as the polygon through the middle of its
#            border pixels, in whole numbers: 20 x 10 pixels from 10,5 become the corners 10,5 and 29,14.
#            pycocotools takes corners as points of the plane, in which a pixel reaches from 10 to 11: it reads
#            19 x 9, 171 of 200 pixels; of 2 x 2 one; of a disc of radius 10, 288 of 317. The area beside the
#            polygon says 200. A line one pixel wide becomes no polygon at all. supervision reads its own files
#            right, so a round trip shows nothing. Masks with a hole are written as runs, which agree.
# Version    supervision 0.31.2, pycocotools 2.0.11, OpenCV 4.12.0, numpy 2.2.6, Python 3.11.
# Source     https://docs.opencv.org/4.x/d3/dc0/group__imgproc__shape.html, findContours: points of the border
#            pixels, which fillPoly includes. https://github.com/cocodataset/cocoapi/issues/659 sees the same
#            difference between fillPoly and pycocotools, and is open.
# Guessed    That a file of the COCO format says the same to the reader of COCO's makers.
# Way out    Write masks as runs: pycocotools.mask.encode; or add half a pixel around before writing polygons.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile supervision==0.31.2 pycocotools==2.0.11 numpy==2.2.6 \
    opencv-python-headless==4.12.0.88

cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import json
import sys
from importlib.metadata import version

import cv2
import numpy as np
import supervision as sv
from pycocotools import mask as coco

print(f"supervision {sv.__version__} | pycocotools {version('pycocotools')} | OpenCV {cv2.__version__}")
height, width = 40, 60
cv2.imwrite("a.png", np.zeros((height, width, 3), np.uint8))
y, x = np.mgrid[:height, :width]
block = (y >= 5) & (y < 15) & (x >= 10) & (x < 30)
masks = {
    "20 x 10 pixels": (block, 171),
    "2 x 2 pixels": ((y >= 5) & (y < 7) & (x >= 10) & (x < 12), 1),
    "a disc": ((y - 20) ** 2 + (x - 30) ** 2 <= 100, 288),
    "a line": ((y == 5) & (x >= 10) & (x < 30), 0),
    "with a hole": (block & ~((y == 9) & (x > 12) & (x < 20)), 193),
}

held = True
for name, (mask, expected) in masks.items():
    box = sv.mask_to_xyxy(mask[None]).astype(float)
    found = sv.Detections(xyxy=box, mask=mask[None], class_id=np.array([0]))
    dataset = sv.DetectionDataset(classes=["a"], images=["a.png"], annotations={"a.png": found})
    dataset.as_coco(annotations_path="coco.json")
    with open("coco.json") as file:
        (annotation,) = json.load(file)["annotations"]
    outline, pixels = annotation["segmentation"], 0
    if outline:
        runs = coco.frPyObjects(outline, height, width)
        pixels = int(coco.decode(coco.merge(runs) if isinstance(runs, list) else runs).sum())
    kind = "runs" if isinstance(outline, dict) else "polygon" if outline else "nothing"
    print(f"{name}: {mask.sum()} pixels, area {annotation['area']:g}, as {kind}; pycocotools reads {pixels}")
    held &= pixels == expected and annotation["area"] == mask.sum()
    held &= name not in ("with a hole",) or pixels == mask.sum()
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
