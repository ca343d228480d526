#!/usr/bin/env bash
# A VRT shows no sign that its file is packed with loss, and LERC's loss is not in the key of the others.
#
# Behaviour  Six class ids as noise. In a GeoTIFF with COMPRESS=LERC and MAX_Z_ERROR=1 a third of the pixels come
#            back changed, in one with lossy WebP 83%. The first says so by MAX_Z_ERROR = 1 in the domain
#            IMAGE_STRUCTURE, without COMPRESSION_REVERSIBILITY; the second by COMPRESSION_REVERSIBILITY = LOSSY.
#            A VRT over either reads the same changed ids, but hands on COMPRESSION alone, which both have
#            without loss, too.
# Version    rasterio 1.4.4 with GDAL 3.10.3, numpy 2.4.6, Python 3.11.
# Source     https://gdal.org/en/stable/drivers/raster/gtiff.html on both options; that the VRT drops them is
#            written nowhere that was found.
# Guessed    That COMPRESSION_REVERSIBILITY tells of every packing with loss, and that a mosaic has what its parts
#            have.
# Way out    Ask the files that a VRT names (rasterio: dataset.files), and ask them for MAX_Z_ERROR as well.
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
from rasterio.shutil import copy

print("rasterio", rasterio.__version__, "| GDAL", rasterio.__gdal_version__)
ids = np.random.default_rng(0).integers(0, 6, (256, 256)).astype(np.uint8)
form = {"driver": "GTiff", "height": 256, "width": 256, "dtype": "uint8"}
KEYS = "COMPRESSION", "MAX_Z_ERROR", "COMPRESSION_REVERSIBILITY"
held = True
for name, count, options, of_file in (
    ("lerc", 1, {"compress": "lerc", "max_z_error": 1}, {"MAX_Z_ERROR": "1"}),
    ("webp", 3, {"compress": "webp", "webp_level": 50}, {"COMPRESSION_REVERSIBILITY": "LOSSY"}),
):
    with rasterio.open(f"{name}.tif", "w", count=count, **form, **options) as dataset:
        dataset.write(np.repeat(ids[None], count, 0))
    copy(f"{name}.tif", f"{name}.vrt", driver="VRT")
    for path, wanted in ((f"{name}.tif", of_file), (f"{name}.vrt", {})):
        with rasterio.open(path) as dataset:
            found, tags = dataset.read(1), dataset.tags(ns="IMAGE_STRUCTURE")
        told = {key: tags[key] for key in KEYS if key in tags}
        print(f"{path}: {(found != ids).mean():.0%} of the pixels changed, ids to {found.max()}, {told}")
        loss = {key: value for key, value in told.items() if key != "COMPRESSION"}
        held &= (found != ids).mean() > 0.25 and loss == wanted
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
