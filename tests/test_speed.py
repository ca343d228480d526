"""The faster ways give what the slower ones give, and the benchmark that compares them runs."""

import csv
import multiprocessing
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from conftest import PYTHON, ROOT
from torch.utils.data import DataLoader

sys.path.insert(0, str(ROOT / "benchmarks"))
import big_scene
import changes
import speed

import landcover_segmentation as lc


def dataset(data, num_points=20) -> lc.LandCoverDataset:
    return lc.LandCoverDataset(data / "train/images", data / "train/masks", num_points, num_classes=3)


def test_a_tile_read_again_is_the_same_and_nobody_can_spoil_it(data):
    tiles = dataset(data)
    first = [array.copy() for array in tiles.read(0)]
    for array in tiles.read(0):
        array[:] = 7
    assert all(np.array_equal(*pair) for pair in zip(tiles.read(0), first, strict=True))
    assert all(np.array_equal(*pair) for pair in zip(dataset(data).read(0), first, strict=True))


def test_a_tile_is_decoded_once(data, monkeypatch):
    tiles, decoded = dataset(data), []
    read = lc.read_mask
    monkeypatch.setattr(lc, "read_mask", lambda path: decoded.append(path) or read(path))
    for _ in range(3):
        for index in range(len(tiles)):
            tiles[index]
    assert len(decoded) == len(tiles)


def test_what_decides_the_points_is_no_stale_memory(data):
    tiles = dataset(data)
    before = tiles.read(0)[1]
    tiles.seed = 1
    assert not np.array_equal(tiles.read(0)[1], before)
    tiles.num_points = None
    assert (tiles.read(0)[1] != 255).all()
    tiles.num_classes = 2
    with pytest.raises(lc.InputError, match="NUM_CLASSES is 2"):
        tiles.read(0)


def test_memory_of_the_tiles_is_bounded(data, monkeypatch):
    size = 64 * 64 * 6  # image with alpha, points and mask
    monkeypatch.setattr(lc, "CACHE_BYTES", 2 * size + 1)
    tiles = dataset(data)
    items = [tiles[index][0] for index in range(len(tiles))]
    assert len(tiles.cache) == 2
    assert all(torch.equal(tiles[index][0], items[index]) for index in range(len(tiles)))
    assert not pickle.loads(pickle.dumps(tiles)).cache


def test_workers_give_the_same_whether_or_not_tiles_are_in_memory(data):
    fresh, warm = dataset(data), dataset(data)
    for index in range(len(warm)):
        warm.read(index)
    loaders = (DataLoader(tiles, 2, num_workers=1) for tiles in (fresh, warm))
    for images, others in zip(*loaders, strict=True):
        assert all(torch.equal(*pair) for pair in zip(images, others, strict=True))
    assert not fresh.cache


def test_workers_that_live_on_see_each_epoch_and_its_batches(data):
    tiles = dataset(data)
    tiles.transform = lc.get_transforms("train", crop_size=48)
    loader = lc.make_loader(tiles, [], 1, torch.device("cpu"), keep_workers=True)
    workers = set()
    seen = {}
    for epoch, batches in ((1, [[0, 1], [2]]), (2, [[0], [3, 1]])):
        tiles.epoch, loader.batch_sampler[:] = epoch, batches
        before = {child.pid for child in multiprocessing.active_children()}
        got = list(loader)
        workers |= {child.pid for child in multiprocessing.active_children()} - before
        for (images, _), batch in zip(got, batches, strict=True):
            assert torch.equal(images, torch.stack([tiles[index][0] for index in batch]))
        seen[epoch] = got[0][0][0]
    assert len(workers) == 1 and not torch.equal(seen[1], seen[2])


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    quota = lc.Path("/sys/fs/cgroup/cpu.max")
    monkeypatch.setattr(lc.os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    given = {"max 100000": 12, "400000 100000": 4, "50000 100000": 1, "9900000 100000": 12}
    for text, expected in given.items():

        def read_text(path: lc.Path, text: str = text) -> str:
            return text if path == quota else pytest.fail(str(path))

        monkeypatch.setattr(lc.Path, "read_text", read_text)
        assert lc.cores_at_hand() == expected


def rows(path) -> list[dict]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_benchmark_measures_both_sides(data, tmp_path, monkeypatch, quick_starts):
    given = ["--csv", tmp_path / "speed.csv", "--backbones", "mobilenet_v3_large", "--devices", "cpu"]
    given += ["--data", data, "--parts", "speed", "start", "stages"]
    numbers = {"classes": 3, "points": 20, "size": 64, "batch": 2, "rounds": 1, "items": 2, "threads": 1}
    given += [part for name, number in numbers.items() for part in (f"--{name}", number)]
    monkeypatch.setattr(sys, "argv", ["speed.py", *map(str, given)])
    monkeypatch.setattr(speed, "matrix_rate", partial(speed.matrix_rate, side=256))
    speed.main()
    found = {row["measure"]: row for row in rows(tmp_path / "speed.csv")}
    for name in ("training", "inference", "inference, batch 1", "validation", "data loading"):
        plain, ours, ratio = (float(found[name][key]) for key in ("plain", "ours", "ratio"))
        assert plain > 0 and ours > 0 and ratio == pytest.approx(ours / plain, rel=0.01)
    assert 0 < float(found["training"]["ours_of_matrix_rate"]) < 2
    assert float(found["default objective"]["ratio"]) > 0 and float(found["first step after"]["ours"]) > 0
    assert sum(name.startswith("stage: ") and float(row["ours"]) >= 0 for name, row in found.items()) == 9
    assert {row["backbone"] for row in found.values()} == {"mobilenet_v3_large"}
    assert found["training"]["commit"]


def test_a_change_is_measured_against_what_it_replaces(tmp_path, monkeypatch):
    given = ["--csv", str(tmp_path / "changes.csv"), "--rounds", "1", "--only", "does not pick"]
    monkeypatch.setattr(sys, "argv", ["changes.py", *given])
    changes.main()
    found = rows(tmp_path / "changes.csv")
    assert [row["change"].rpartition(": ")[2] for row in found] == ["100 points", "masks"]
    for row in found:
        before, after, ratio = (float(row[name]) for name in ("before", "after", "ratio"))
        assert ratio == pytest.approx(before / after, rel=0.01) and row["commit"]


def test_a_step_is_measured_against_an_earlier_commit(tmp_path, monkeypatch, capsys):
    """The step of the commit's module in a process of its own, that of the working tree's in this one."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if head.returncode:
        pytest.skip("needs the history")
    run = subprocess.run

    def run_here(command: list[str], **options) -> subprocess.CompletedProcess:
        if command[0] == "git":
            return run(command, **options)
        if str(ROOT) not in command:
            return run([*PYTHON, *command[3:]], **options)  # all but that it shows no warnings
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["-c", *command[5:]])
            exec(command[4], {})
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out)

    monkeypatch.setattr(changes.subprocess, "run", run_here)
    given = ["--against", "HEAD", "--backbone", "mobilenet_v3_large", "--batch", "2", "--rounds", "1"]
    given += ["--size", "64", "--objective", "default"]
    monkeypatch.setattr(sys, "argv", ["changes.py", "--csv", str(tmp_path / "changes.csv"), *given])
    changes.main()
    (row,) = rows(tmp_path / "changes.csv")
    what = "a training step of `mobilenet_v3_large`, default objective, 2 tiles of 64 px, since "
    assert row["change"] == what + head.stdout.strip()
    assert float(row["ratio"]) == pytest.approx(float(row["before"]) / float(row["after"]), rel=0.01)
    assert float(row["ratio"]) > 0


DEAR = ("million", "`resnet50`", "`mobilenet", "convolution", "worker", "1000 points")
CHEAP = [change for change in changes.CHANGES if not any(part in change.what for part in DEAR)]


@pytest.mark.parametrize("change", CHEAP, ids=lambda change: change.what)
def test_both_sides_of_a_change_give_the_same(change):
    before, after = change.sides()
    for _ in range(3):  # those that draw at random draw alike, again and again
        result = before()
        changes.agree(result, after())
    assert result is not None
    with pytest.raises(AssertionError, match="the two sides differ"):
        changes.agree(result, [1.1 * torch.as_tensor(part) for part in changes.parts(result)])


def test_a_large_scene_is_measured_in_its_own_process(tmp_path, monkeypatch, quick_starts):
    given = ["--side", "300", "--threads", "1", "--csv", str(tmp_path / "big.csv")]
    monkeypatch.setattr(sys, "argv", ["big_scene.py", *given])
    big_scene.main()
    (row,) = rows(tmp_path / "big.csv")
    assert row["side"] == "300" and 100 < float(row["peak_mib"]) < 4000
