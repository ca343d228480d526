#!/usr/bin/env bash
# A JPEG 2000 written with REVERSIBLE=YES changes class ids; with QUALITY=100 alone, too. It takes both.
#
# Behaviour  A mask of six class ids in patches of 8 x 8 pixels, written by GDAL's driver JP2OpenJPEG, comes
#            back with 2.6% of its pixels changed: some by a class, some to an id that no class has. QUALITY=100
#            changes as many; REVERSIBLE=YES still changes 0.2%; only both keep every pixel. No warning is given.
# Version    rasterio 1.4.4 with GDAL 3.10.3, numpy 2.4.6, Python 3.11.
# Source     https://gdal.org/en/stable/drivers/raster/jp2openjpeg.html: QUALITY defaults to 25, a percentage of
#            the raw size; REVERSIBLE chooses the 5x3 wavelet, which throws nothing away by itself, but the
#            quality still cuts its bits off. The band's metadata say COMPRESSION_REVERSIBILITY = LOSSY.
# Guessed    That "reversible" means that what is read is what was written, or that a quality of 100 does.
# Way out    GeoTIFF for class ids. Or both options, and see that the tag COMPRESSION_REVERSIBILITY is LOSSLESS.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile rasterio==1.4.4 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import rasterio

print("rasterio", rasterio.__version__, "| GDAL", rasterio.__gdal_version__)
ids = np.kron(np.random.default_rng(0).integers(0, 6, (32, 32)), np.ones((8, 8))).astype(np.uint8)
form = {"driver": "JP2OpenJPEG", "count": 1, "height": 256, "width": 256, "dtype": "uint8"}

held = True
for options, least, most, said in (
    ({}, 0.01, 0.1, "LOSSY"),
    ({"quality": 100}, 0.01, 0.1, "LOSSY"),
    ({"reversible": "YES"}, 0.0005, 0.01, "LOSSY"),
    ({"quality": 100, "reversible": "YES"}, 0, 0, "LOSSLESS"),
):
    with rasterio.open("mask.jp2", "w", **form, **options) as dataset:
        dataset.write(ids, 1)
    with rasterio.open("mask.jp2") as dataset:
        found = dataset.read(1)
        tag = dataset.tags(ns="IMAGE_STRUCTURE")["COMPRESSION_REVERSIBILITY"]
    changed = (found != ids).mean()
    print(f"{options}: {changed:.2%} of the pixels changed, ids {np.unique(found).tolist()}, {tag}")
    held &= least <= changed <= most and tag == said
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
