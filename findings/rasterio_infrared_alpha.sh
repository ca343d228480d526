#!/usr/bin/env bash
# Write four 8-bit bands with rasterio, and the fourth, say infrared, is read back as transparency.
#
# Behaviour  A GeoTIFF of four uint8 bands, written without saying what they are, has the colours red,
#            green, blue, alpha. dataset_mask() and read(masked=True) then hide every pixel whose fourth
#            band is 0: deep water, in an infrared band. The same bands as uint16 hide nothing. Naming the
#            very default, photometric="RGB", hides nothing either: the fourth is then "undefined".
# Version    rasterio 1.4.4 with GDAL 3.10.3, Python 3.11.
# Source     https://gdal.org/en/stable/drivers/raster/gtiff.html says of PHOTOMETRIC that 3 or 4 bands of
#            Byte become RGB, of ALPHA that it marks the first extra sample; not that the default does.
#            https://rasterio.readthedocs.io/en/stable/topics/masks.html puts such an alpha first among
#            what makes the mask. Met in public data: https://github.com/awslabs/open-data-registry/pull/576
# Guessed    That a band is data until somebody calls it alpha, and that a default and its own name agree.
# Way out    Write with photometric="MINISBLACK" or "RGB"; when reading, do not trust an alpha that is one of
#            the bands asked for.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile rasterio==1.4.4 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" - <<'EOF'
import sys

import numpy as np
import rasterio
from rasterio.transform import from_origin

print("rasterio", rasterio.__version__, "| GDAL", rasterio.__gdal_version__)
bands = np.full((4, 2, 3), 90, np.uint8)
bands[3, 0, 0] = 0  # one pixel of water
form = {"driver": "GTiff", "count": 4, "height": 2, "width": 3, "crs": "EPSG:32632"}
form["transform"] = from_origin(500000, 5000000, 1, 1)

held = True
for options, colour, hidden in (
    ({"dtype": "uint8"}, "alpha", 1),
    ({"dtype": "uint16"}, "undefined", 0),
    ({"dtype": "uint8", "photometric": "RGB"}, "undefined", 0),
    ({"dtype": "uint8", "photometric": "MINISBLACK"}, "undefined", 0),
):
    with rasterio.open("bands.tif", "w", **form, **options) as dataset:
        dataset.write(bands.astype(options["dtype"]))
    with rasterio.open("bands.tif") as dataset:
        colours = [colour.name for colour in dataset.colorinterp]
        masked = int((dataset.dataset_mask() == 0).sum())
        masked_red = int(np.ma.count_masked(dataset.read(1, masked=True)))
    print(f"{options}: {colours}, {masked} of 6 pixels hidden, {masked_red} of band 1")
    held &= colours[3] == colour and masked == masked_red == hidden
print("as described" if held else "NOT as described")
sys.exit(not held)
EOF
