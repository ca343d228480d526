#!/usr/bin/env bash
# SMOTE makes pixels of impossible brightness where the bands are unsigned integers, as satellites' are.
#
# Behaviour  Pixels of two bands in uint16: 400 of forest, 40 of sand with values of 3000 to 5000. The 360 of sand that
#            SMOTE adds should lie between the 40. Of those in uint16 two thirds are darker or brighter than all
#            sand, up to 65500; the same numbers as int32 or float64 give none. BorderlineSMOTE, SVMSMOTE, ADASYN and
#            uint8 do it, too. A new pixel is a pixel and a part of its difference to a neighbour, and a negative
#            difference of unsigned numbers wraps around. Shapes, classes and types are as they should be; nobody warns.
# Version    imbalanced-learn 0.14.2, scikit-learn 1.9.1, numpy 2.4.6, Python 3.11.
# Source     https://imbalanced-learn.org/stable/over_sampling.html gives the formula, a point between two, no word of
#            types. In the code, _generate_samples of imblearn/over_sampling/_smote/base.py, and _fit_resample of
#            _adasyn.py beside it. No report of it was found.
# Guessed    That new samples lie between old ones, whatever the type of the numbers; scikit-learn's estimators, on
#            which it stands, turn integers into floats first.
# Way out    fit_resample(pixels.astype("float32"), classes).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile imbalanced-learn==0.14.2 scikit-learn==1.9.1 numpy==2.4.6

"$work/venv/bin/python" - <<'PY'
import sys
import warnings

import imblearn
import numpy as np
import sklearn
from imblearn.over_sampling import ADASYN, SMOTE, SVMSMOTE, BorderlineSMOTE

print("imbalanced-learn", imblearn.__version__, "| scikit-learn", sklearn.__version__)
draw = np.random.default_rng(0)
forest = draw.normal((2500, 4000), 900, (400, 2)).clip(300, 9000)
sand = draw.uniform(3000, 5000, (40, 2))
pixels = np.concatenate((forest, sand)).round()
classes = np.repeat([0, 1], (400, 40))


def outside(sampler: type, values: np.ndarray) -> float:
    """The share of the new pixels that are darker or brighter than every old pixel of their class."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        more, labels = sampler(random_state=0).fit_resample(values, classes)
    new, old = more[len(values) :], values[classes == 1]
    assert more.dtype == values.dtype and (labels[len(values) :] == 1).all() and not said
    share = np.mean(((new < old.min(0)) | (new > old.max(0))).any(1))
    reach = f"{share:.0%} outside {old.min()} to {old.max()}, values {new.min():.0f} to {new.max():.0f}"
    print(f"{sampler.__name__}, {values.dtype}: {len(new)} new pixels, {reach}")
    return share


held = True
for sampler in (SMOTE, BorderlineSMOTE, ADASYN):
    held &= outside(sampler, pixels) == 0 and outside(sampler, pixels.astype(np.int32)) == 0
    held &= outside(sampler, pixels.astype(np.uint16)) > 0.3
held &= outside(SVMSMOTE, pixels.astype(np.uint16)) > outside(SVMSMOTE, pixels) + 0.2  # it goes beyond on purpose
held &= outside(SMOTE, (pixels // 40).astype(np.uint8)) > 0.3
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
