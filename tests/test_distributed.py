"""Several processes give what one gives, and end as one; what is done when memory runs out.

Started by itself, this file is the program of two processes: see `start_two_processes`.
"""

import contextlib
import copy
import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PYTHON, ROOT, SCRIPT, flags, write_tiles
from torch import nn

sys.path.insert(0, str(ROOT / "tools"))
import map_scenes

import landcover_segmentation as lc

CPU = torch.device("cpu")
TORCHRUN = [*PYTHON, Path(sys.executable).with_name("torchrun"), "--standalone", "--nproc_per_node=2"]
TORCHRUN += ["--no-python", *PYTHON]  # whose ranks, too, start with their imports made
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
STEPS = [
    [0, 1, 2, 3, 4],
    [5, 6, 7],
    [8, 9],
    [10, 11, 12],
]  # unevenly shared by two; the last two are one step, accumulated


class FrozenBatchNorm(nn.BatchNorm2d):
    def train(self, mode: bool = True):
        return super().train(False)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), FrozenBatchNorm(8), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)
    )


def small_tiles() -> list:
    """Tiles with from 0 to 60 points each, one of them dense: means of means would be far off."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(13, 3, 16, 16, generator=generator)
    masks = torch.randint(0, 3, (13, 16, 16), generator=generator)
    hidden = torch.rand(13, 16, 16, generator=generator) > torch.linspace(0, 0.25, 13).roll(4).view(-1, 1, 1)
    hidden[6] = False
    return list(zip(images, masks.masked_fill(hidden, 255), strict=True))


def train_small(batches: list, objective: bool) -> dict:
    """Two epochs of SGD, whose steps are the gradients; as this process sees them."""
    model, tiles = small_model(), small_tiles()
    teaching = {"cut_mix": 0.0, "pseudo_label_weight": 0.7, "teacher_decay": 0.5}  # CutMix: within a process
    criterion = lc.PartialCrossEntropyLoss(class_weights=torch.tensor([0.5, 1.0, 2.0]))
    student = lc.spread_over_ranks(model)
    unlabelled = lc.UnlabelledPixels(model, 4, **teaching) if objective else None
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loader = [
        tuple(map(torch.stack, zip(*(tiles[index] for index in batch), strict=True))) for batch in batches
    ]
    how = {"unlabelled": unlabelled}
    losses = [
        lc.train_epoch(student, part, criterion, optimizer, CPU, accumulation_steps=steps, **how)
        for part, steps in ((loader[:2], 1), (loader[2:], 2))
    ]
    teacher = [unlabelled.teacher.state_dict()] if objective else []
    return {"losses": losses, "networks": [model.state_dict(), *teacher]}


def start_two_processes(folder: Path) -> None:
    """Does what torchrun does, twice, by forks of one process, whose imports take longest here."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    for target in (learn_in_each_process, map_in_each_process):
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
        processes = [context.Process(target=target, args=(folder, index, address)) for index in (0, 1)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if code := max(abs(process.exitcode) for process in processes):
            sys.exit(code)


def become_rank(index: int, address: dict) -> None:
    ranks = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    ranks = {name: str(value) for name, value in ranks.items()} | {"TORCHELASTIC_RUN_ID": "none"}
    os.environ.update(ranks | address)


def map_arguments(folder: Path, source: str, output: str) -> list[str]:
    given = {"checkpoint": "whole/best_model.pth", "input": source, "output": output}
    given = [part for name, path in given.items() for part in (f"--{name}", str(folder / path))]
    return [*given, "--device", "cpu", "--tile", "64"]


def map_in_each_process(folder: Path, index: int, address: dict) -> None:
    """What each process does with one scene of several windows."""
    become_rank(index, address)
    sys.exit(map_scenes.main(map_arguments(folder, "scene.png", "together")))


def learn_in_each_process(folder: Path, index: int, address: dict) -> None:
    """What each process does: stumble over a bad mask, train a small model and the real one, resume, map."""
    become_rank(index, address)
    arguments = (folder / "flags").read_text().split("\n")
    broken = ["--train-mask-dir", str(folder / "broken"), "--output-dir", str(folder / "never")]
    results = {}
    with lc.process_group():
        lc.process_group = contextlib.nullcontext  # the processes can meet but once
        lc.time.sleep = lambda seconds: None  # the others let rank 0 speak first
        results["code"] = lc.main([*arguments, *broken])
        me, runs, run_epoch = lc.rank(), [], lc.run_epoch
        batches = [batch[me::2] for batch in STEPS]
        results |= {name: train_small(batches, name == "objective") for name in ("objective", "points")}
        lc.run_epoch = lambda run, *given: runs.append(run) or run_epoch(run, *given)
        lc.draw_history = lc.draw_predictions = lambda *given: None
        for more in (["--output-dir", str(folder / "whole")], ["--resume"]):
            lc.train_and_score(lc.parse_settings([*arguments, *more]))
        results |= {"teacher": runs[0].unlabelled.teacher.state_dict(), "student": runs[0].model.state_dict()}
        assert map_scenes.main(map_arguments(folder, "data/val/images", "maps")) == 0
        torch.save(results, folder / f"rank_{me}.pth")


def interrupt(command: list, line: str) -> str:
    """Starts a program, sends Ctrl-C once it has said a line that begins so; returns what it says after."""
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for said in process.stdout:
        if said.startswith(line):
            process.send_signal(signal.SIGINT)
            break
    return process.communicate(timeout=900)[0]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The folder of the results of two processes, with 9 train tiles and 5 val tiles of two sizes."""
    folder = tmp_path_factory.mktemp("both")
    write_tiles(folder / "data/train", 9)
    write_tiles(folder / "data/val", 2, seed=1)
    write_tiles(folder / "more", 3, size=(40, 56), seed=2)
    for kind in ("images", "masks"):
        for path in (folder / "more" / kind).iterdir():
            path.rename(folder / "data/val" / kind / f"other_{path.name}")
    write_tiles(folder, 1, size=(150, 260), seed=3)
    (folder / "images/tile_0.png").rename(folder / "scene.png")
    shutil.copytree(folder / "data/train/masks", folder / "broken")
    (folder / "broken/tile_3.png").write_bytes(b"no picture")  # the second process reads it
    settings = {
        "backbone": "mobilenet_v3_large",
        "epochs": 4,
        "batch_size": 5,
        "precision": "float32",
        "multi_scale": 1.2,
    }
    arguments = flags(folder / "data", **settings)
    (folder / "flags").write_text("\n".join(arguments))
    (folder / "rest").write_text(interrupt([*TORCHRUN, SCRIPT, *arguments], "epoch   1/4"))
    (folder / "written").write_text("\n".join(path.name for path in (folder / "out").iterdir()))
    shutil.copy(folder / "out/training_history.csv", folder / "interrupted.csv")
    done = subprocess.run(
        [*PYTHON, __file__, folder], env=ENVIRONMENT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stdout)
    (folder / "complained").write_text(done.stderr)
    return folder


def rank_results(folder: Path) -> list[dict]:
    return [torch.load(folder / f"rank_{index}.pth") for index in (0, 1)]


@pytest.mark.parametrize("kind", ["points", "objective"])
def test_steps_of_two_processes_are_those_of_the_whole_batch(both, kind):
    """Gradients, loss and teacher, with means over unlike numbers of points and tiles, and accumulation."""
    alone = train_small(STEPS, kind == "objective")
    for of_rank in rank_results(both):
        assert of_rank[kind]["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        for theirs, ours in zip(of_rank[kind]["networks"], alone["networks"], strict=True):
            for name, value in ours.items():
                torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=1e-6)
    start = small_model().state_dict()
    assert (alone["networks"][0]["0.weight"] - start["0.weight"]).abs().max() > 1e-3, (
        "the steps are large enough to tell"
    )


def test_model_and_teacher_stay_the_same_in_both_processes(both):
    first, second = rank_results(both)
    for network in ("teacher", "student"):
        assert all(torch.equal(value, second[network][name]) for name, value in first[network].items())


def test_two_processes_score_every_tile_once(both):
    metrics = json.loads((both / "whole/metrics.json").read_text())
    assert sum(map(sum, metrics["confusion_matrix"])) == 2 * 64 * 64 + 3 * 40 * 56
    dataset = lc.LandCoverDataset(both / "data/val/images", both / "data/val/masks")
    loader = lc.make_loader(dataset, [[index] for index in range(5)], 0, CPU)
    scores = lc.validate(lc.load_model(both / "whole/best_model.pth", "cpu"), loader, 3, CPU)
    ours, theirs = scores.confusion, torch.tensor(metrics["confusion_matrix"])
    assert ours.sum(1).tolist() == theirs.sum(1).tolist()
    # Other batches and threads round otherwise, which may turn a pixel whose two classes are even.
    assert (ours - theirs).abs().sum() <= 2e-3 * ours.sum()
    with (both / "whole/training_history.csv").open() as file:
        row = list(csv.DictReader(file))[metrics["epoch"] - 1]
    assert float(row["val_loss"]) == pytest.approx(scores.loss, rel=1e-5)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_two_processes_are_interrupted_together_write_once_and_resume_to_the_same_end(both):
    rest = (both / "rest").read_text()
    assert rest.count("interrupted: writing") == rest.count("wrote ") == 1
    assert set((both / "written").read_text().split("\n")) == {*lc.RESULT_FILES, "last_checkpoint.pth"}
    assert 1 <= len((both / "interrupted.csv").read_text().splitlines()) - 1 < 4
    whole, parts = (torch.load(both / f"{name}/last_checkpoint.pth") for name in ("whole", "out"))
    assert [row["epoch"] for row in parts["history"]] == [1, 2, 3, 4]
    for network in ("model_state_dict", "student_state_dict"):
        assert all(torch.equal(value, parts[network][name]) for name, value in whole[network].items())


def test_two_processes_speak_and_map_once(both):
    said = (both / "said").read_text()
    batch = "batch: 5 tiles over 2 processes x 1 accumulated = 5 per step, learning rate 0.001"
    assert said.count(batch) == 2
    assert said.count("9 train, 5 val") == 2 and said.count("epoch   4/4") == 2
    names = {path.stem for path in (both / "data/val/images").iterdir()}
    assert {path.name for path in (both / "maps").glob("*_classes.png")} == {
        f"{n}_classes.png" for n in names
    }


def test_processes_share_the_windows_of_one_scene(both):
    assert map_scenes.main(map_arguments(both, "scene.png", "alone")) == 0
    one, two = (lc.read_mask(both / output / "scene_classes.png") for output in ("alone", "together"))
    assert one.shape == (150, 260) and len(np.unique(one)) > 1 and (one == two).mean() > 0.999
    assert (both / "said").read_text().count(f"wrote {both / 'together'}") == 1


def test_a_mistake_that_both_processes_find_is_said_once(both):
    complaints = re.findall("^error: .*", (both / "complained").read_text(), re.MULTILINE)
    assert len(complaints) == 1 and complaints[0].startswith(f"error: {both}/broken/tile_3.png")
    assert [of_rank["code"] for of_rank in rank_results(both)] == [2, 2]
    assert not (both / "never").exists()


def test_torchrun_ends_all_after_a_mistake_of_rank_0_alone(both):
    """Only it looks for weights; the other, left in an exchange, is ended without a traceback."""
    arguments = [*(both / "flags").read_text().split("\n"), "--weights", "imagenet"]
    arguments += ["--backbone", "resnet101"]
    environment = {**ENVIRONMENT, "TORCH_HOME": str(both / "no_weights"), "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [*TORCHRUN, SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=900
    )
    lines = re.findall("^error: .*", done.stderr, re.MULTILINE)
    assert done.returncode != 0 and len(lines) == 1 and "WEIGHTS = 'imagenet'" in lines[0], done.stderr
    assert "Connection closed by peer" not in done.stderr


def test_synchronised_batch_norm_loses_no_activation():
    for backbone in ("mobilenet_v3_large", "efficientnet_lite0"):
        model = lc.DeepLabV3Segmentation(3, backbone, None).eval()
        images, names = torch.rand(1, 3, 64, 64), list(model.state_dict())
        before = model(images)
        spread = lc.convert_sync_batchnorm(copy.deepcopy(model))
        assert torch.equal(spread(images), before) and list(spread.state_dict()) == names
        norms = [module for module in spread.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        assert len(norms) > 30 and all(isinstance(module, nn.SyncBatchNorm) for module in norms)


@pytest.fixture
def small_memory(monkeypatch):
    """A GPU that cannot hold more than so many tiles of 64x64 in training."""
    forward, room = lc.DeepLabV3Segmentation.forward, {"tiles": 2}

    def forward_if_it_fits(model, images):
        if (
            torch.is_grad_enabled()
            and images.shape[0] * images.shape[2] * images.shape[3] > room["tiles"] * 64 * 64
        ):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(model, images)

    monkeypatch.setattr(lc.DeepLabV3Segmentation, "forward", forward_if_it_fits)
    return room


def test_memory_that_runs_out_is_one_line_and_leaves_what_was_written(data, small_memory, capsys):
    assert lc.main(flags(data, epochs=1)) == 2  # 5 tiles in batches of 2 make one of 3
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "halve BATCH_SIZE" in said
    assert not list((data.parent / "out").iterdir())


if __name__ == "__main__":
    start_two_processes(Path(sys.argv[1]))
