#!/usr/bin/env bash
# xrspatial's crosstab gives zones each other's counts, and adds left-out classes to the next, where some are selected.
#
# Behaviour  A map of the classes 0 to 3 and three zones. crosstab(zones, classes) is right. zone_ids=[3, 1] returns
#            two rows, labelled 3 and 1, with the counts of zone 1 and zone 3, in this order: the labels are as asked
#            for, the counts as the zones are sorted. zone_ids=[1, 3] is right; so is stats(), which sorts the labels,
#            too. cat_ids=[1, 2] leaves class 0 out and counts its pixels as class 1; with agg="percentage" likewise.
# Version    xarray-spatial 0.5.3 (what `pip install xarray-spatial` gives for Python 3.11), xarray 2026.9.0. 0.10.20,
#            for Python 3.12 and above, counts classes right and still exchanges the zones.
# Source     https://github.com/xarray-contrib/xarray-spatial: the docstring of crosstab in xrspatial/zonal.py calls
#            both the lists of what is to be included. The classes were reported and mended in 2026,
#            https://github.com/xarray-contrib/xarray-spatial/issues/2560. Of the zones no report was found.
# Guessed    That a selection is rows and columns of the full table, in the order asked for.
# Way out    Ask for the full table and select from it: table.set_index("zone").loc[[3, 1], [1, 2]].
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile xarray-spatial==0.5.3 xarray==2026.9.0 numpy==2.4.6 pandas==3.1.1

"$work/venv/bin/python" -W ignore - <<'PY'
import sys
from importlib.metadata import version

import numpy as np
import xarray as xr
from xrspatial.zonal import crosstab, stats

print("xarray-spatial", version("xarray-spatial"))
zones = np.repeat([[1, 2, 3]], 4, axis=1).repeat(6, axis=0)
classes = np.random.default_rng(0).integers(0, 4, zones.shape)
maps = [xr.DataArray(values, dims=("y", "x")) for values in (zones, classes)]
true = {zone: np.bincount(classes[zones == zone], minlength=4).tolist() for zone in (1, 2, 3)}
print("counts of the classes 0 to 3 by zone:", true)


def table(**options):
    found = crosstab(*maps, **options).set_index("zone")
    found = {int(zone): found.loc[zone].round(2).tolist() for zone in found.index}
    print(f"crosstab with {options}: {found}")
    return found


held = table() == true
held &= table(zone_ids=[1, 3]) == {1: true[1], 3: true[3]}
held &= table(zone_ids=[3, 1]) == {3: true[1], 1: true[3]} and true[1] != true[3]
held &= table(cat_ids=[1, 2]) == {zone: [n[0] + n[1], n[2]] for zone, n in true.items()}
share = {zone: [round((n[0] + n[1]) / 24 * 100, 2), round(n[2] / 24 * 100, 2)] for zone, n in true.items()}
held &= table(cat_ids=[1, 2], agg="percentage") == share
means = stats(*maps, zone_ids=[3, 1], stats_funcs=["mean"]).set_index("zone")["mean"]
held &= all(np.isclose(means[zone], classes[zones == zone].mean()) for zone in (1, 3))
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
