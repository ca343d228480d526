#!/usr/bin/env bash
# albumentations 2.0.8 repeats its random augmentations as soon as a DataLoader has workers.
#
# Behaviour  Without persistent workers, every epoch starts again from the random state that the pipeline
#            had in the main process: epoch 2 has the very augmentations of epoch 1, and so has epoch 50.
#            Within an epoch all workers draw the same numbers: batches 1 and 2 are augmented alike. With
#            persistent workers the epochs differ, but the workers still draw the same. seed=None or
#            seed=137 makes no difference. With num_workers=0 nothing repeats.
# Version    albumentations 2.0.8 (what `pip install albumentations` gives), torch 2.14.1, Python 3.11.
# Source     The guide says that each worker gets its own seed by itself, renewed when workers start again:
#            https://albumentations.ai/docs/4-advanced-guides/reproducibility ("Automatic Worker Seed
#            Handling"). 2.0.8 has no such code; it came in
#            https://github.com/albumentations-team/albumentations/pull/2561 after it was published.
#            Reported: https://github.com/albumentations-team/AlbumentationsX/issues/266
# Guessed    That epochs and workers differ, as they do for torch's, numpy's and Python's own generators,
#            which DataLoader seeds in each worker.
# Way out    Call Compose.set_random_seed(...) in __getitem__ with a number made of seed, epoch and index,
#            or in worker_init_fn with torch.initial_seed() % 2**32.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile albumentations==2.0.8 torch==2.14.1 numpy==2.4.6

cat > "$work/run.py" <<'EOF'
import sys

import albumentations as A
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info


class Grey(Dataset):
    """Eight grey images; an item is the brightness that the augmentation made of it."""

    def __init__(self, seed):
        steps = [A.RandomBrightnessContrast(brightness_limit=0.5, contrast_limit=0, p=1)]
        self.transform = A.Compose(steps, seed=seed)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        image = np.full((8, 8, 3), 120, np.uint8)
        return int(self.transform(image=image)["image"][0, 0, 0])


def reseed(worker):
    get_worker_info().dataset.transform.set_random_seed(torch.initial_seed() % 2**32)


def epochs(seed, **options):
    """What two epochs in batches of two see. Of two workers, the first loads batches 1 and 3."""
    loader = DataLoader(Grey(seed), batch_size=2, **options)
    return [[batch.tolist() for batch in loader] for _ in range(2)]


if __name__ == "__main__":
    print("albumentations", A.__version__, "| torch", torch.__version__)
    held = True
    for seed in (None, 137):
        for name, options in {
            "no workers": {"num_workers": 0},
            "2 workers": {"num_workers": 2},
            "2 workers, persistent": {"num_workers": 2, "persistent_workers": True},
            "2 workers, reseeded": {"num_workers": 2, "worker_init_fn": reseed},
        }.items():
            first, second = epochs(seed, **options)
            epochs_equal, workers_equal = first == second, first[0] == first[1] and first[2] == first[3]
            print(f"seed={seed}, {name}: epoch 1 {first}, epoch 2 {second}")
            held &= epochs_equal == (name == "2 workers")
            held &= workers_equal == (name in ("2 workers", "2 workers, persistent"))
    print("as described" if held else "NOT as described")
    sys.exit(not held)
EOF
NO_ALBUMENTATIONS_UPDATE=1 "$work/venv/bin/python" "$work/run.py"
