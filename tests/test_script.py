"""The program as a user starts it: what it writes, and that it comes back from an interruption."""

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import REAL_DATA, SCRIPT, flags, run_script, write_tiles
from matplotlib.figure import Figure
from PIL import Image

import landcover_segmentation as lc


def history(folder) -> list[dict]:
    with (folder / "training_history.csv").open() as file:
        return [
            {name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)
        ]


def weights(folder, name="best_model.pth") -> dict:
    return torch.load(folder / name)["model_state_dict"]


def same_weights(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_file_runs_alone_does_nothing_when_imported_and_its_help_lists_every_constant(tmp_path):
    shutil.copy(SCRIPT, tmp_path)
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "import landcover_segmentation, pathlib, torch\n"
        "print(torch.cuda.is_initialized(), *pathlib.Path().iterdir())\n"
        "landcover_segmentation.main(['--help'])"
    )
    command = [sys.executable, "-I", "-B", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    imported, text = done.stdout.split("\n", 1)
    assert imported == f"False {SCRIPT.name}", "nothing is printed or written, and no device is touched"
    text = " ".join(text.split())
    for name in lc.setting_types():
        assert f"--{name.lower().replace('_', '-')}" in text
    assert "labelled pixels per tile that training may see" in text
    assert "(default: 100)" in text


def test_a_run_writes_everything_it_promises(data):
    out = data.parent / "out"
    done = run_script(
        *flags(data, epochs=2, precision="float32", backbone="mobilenet_v3_large"), cwd=data.parent
    )
    assert done.returncode == 0, done.stderr
    for said in (
        "5 train, 2 val",
        "labelled pixels to learn from",
        "parameters",
        "random initialisation",
        "precision",
    ):
        assert said in done.stdout
    assert {path.name for path in out.iterdir()} == {*lc.RESULT_FILES, "last_checkpoint.pth"}
    assert {path.name for path in data.parent.iterdir()} == {"data", "out"}, "nothing is written elsewhere"

    rows = history(out)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[0]["learning_rate"]) == 1e-3 > float(rows[1]["learning_rate"])
    assert all(row["starting_weights"] == "random initialisation" for row in rows)

    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["miou"] == pytest.approx(max(float(row["val_miou"]) for row in rows))
    assert metrics["miou"] == pytest.approx(
        lc.compute_iou(torch.tensor(metrics["confusion_matrix"])).nanmean().item()
    )
    assert sum(map(sum, metrics["confusion_matrix"])) == 2 * 64 * 64, "every pixel of the dense masks counts"
    assert set(metrics["iou_per_class"]) == {"low", "middle", "high"}
    assert metrics["config"]["num_points"] == 20
    assert metrics["starting_weights"] == "random initialisation"
    assert metrics["environment"]["torch"] == torch.__version__

    best = torch.load(out / "best_model.pth")
    assert {"model_state_dict", "config", "class_names", "versions", "seed"} <= best.keys()
    report = lc.check_dataset(lc.make_dataset(lc.parse_settings(flags(data)), "train"), 3)
    there, here = (
        {name: at.tolist() for name, at in found.items()}
        for found in (best["labelled_pixels"], report.labelled_pixels)
    )
    assert there == here and len(here) == 5, "points are the same in another process"
    for picture in ("training_history.png", "predictions_visualization.png"):
        pixels = np.asarray(Image.open(out / picture).convert("RGB"))
        assert min(pixels.shape[:2]) > 300
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20

    model = lc.load_model(out / "best_model.pth", "cpu")
    dataset = lc.LandCoverDataset(data / "val/images", data / "val/masks")
    loader = lc.make_loader(dataset, [[0, 1]], 0, torch.device("cpu"))
    scores = lc.validate(model, loader, 3, torch.device("cpu"))
    assert scores.confusion.tolist() == metrics["confusion_matrix"], "the saved model was scored"


def test_a_long_title_is_not_cut(tmp_path, pictures):
    """A title that says why there are no weights is wider than the picture: its lines keep off both edges."""
    row = {"epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "val_miou": 0.5, "iou_low": 0.4, "iou_high": 0.6}
    lc.draw_history(
        tmp_path / "history.png",
        [row],
        ["low", "high"],
        None,
        "starting weights: random initialisation, " * 6,
    )
    pixels = np.asarray(Image.open(tmp_path / "history.png").convert("L"))
    assert (pixels[:, [0, 1, -2, -1]] == 255).all()


def test_interrupted_and_resumed_equals_uninterrupted(data, monkeypatch, capsys):
    """The same seed gives the same result, whole or in two parts; Ctrl-C leaves checkpoint and plots."""
    whole, parts = data.parent / "whole", data.parent / "parts"
    steps, update = [], lc.update_teacher

    def interrupt_in_the_second_epoch(*given):
        steps.append(update(*given))
        if len(steps) == 3:  # an epoch has two
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lc, "update_teacher", interrupt_in_the_second_epoch)
        assert lc.main(flags(data, epochs=2, output_dir=parts)) == 130
    assert "go on later with --resume" in capsys.readouterr().out
    assert {path.name for path in parts.iterdir()} == {*lc.RESULT_FILES, "last_checkpoint.pth"}
    assert len(history(parts)) == 1
    lc.load_model(parts / "best_model.pth")

    assert lc.main([*flags(data, epochs=3, output_dir=parts), "--resume"]) == 2
    assert "EPOCHS" in capsys.readouterr().err
    assert lc.main([*flags(data, epochs=2, output_dir=parts), "--resume"]) == 0
    assert lc.main(flags(data, epochs=2, output_dir=whole)) == 0
    assert history(parts) == history(whole)
    assert same_weights(weights(parts), weights(whole))
    assert same_weights(weights(parts, "last_checkpoint.pth"), weights(whole, "last_checkpoint.pth"))


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_interrupted_before_a_first_result_leaves_earlier_results_alone(finished, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    before = contents(finished.parent / "out")
    monkeypatch.setattr(lc, "train_epoch", interrupt)
    assert lc.main(flags(finished, seed=5)) == 130
    assert contents(finished.parent / "out") == before
    assert "earlier results stay" in capsys.readouterr().out


def test_a_full_disk_leaves_earlier_results_alone(finished, capsys):
    """No model of the second run can be written: a limit on the size of files stands for the disk."""
    resource = pytest.importorskip(
        "resource", reason="only systems with resource limits can run out of room on trial"
    )
    before, limits = contents(finished.parent / "out"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        code = lc.main(flags(finished, seed=5, backbone="mobilenet_v3_large"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("a result cannot be written (File too large); free some space")
    )
    assert contents(finished.parent / "out") == before


def test_a_result_that_is_open_elsewhere_stops_the_run_in_one_line(data, monkeypatch, capsys):
    """As on Windows, where a table that a spreadsheet shows cannot be replaced."""
    out, replace, calls = data.parent / "out", lc.Path.replace, []

    def replace_unless_open(path, target):
        calls.append(target)
        if target == out / "training_history.csv" and calls.count(target) == 2:
            raise PermissionError(13, "Access is denied", str(path), 5, str(target))
        return replace(path, target)

    monkeypatch.setattr(lc.Path, "replace", replace_unless_open)
    assert lc.main(flags(data, epochs=2)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {out / 'training_history.csv'}: Access is denied; close what has it open")
    assert lc.main([*flags(data, epochs=2), "--resume"]) == 0
    assert [row["epoch"] for row in history(out)] == ["1", "2"]


def test_resuming_a_mixture_of_two_runs_is_refused(finished, capsys):
    out = finished.parent / "out"
    best = torch.load(out / "best_model.pth")
    torch.save({**best, "miou": 0.0}, out / "best_model.pth")
    assert lc.main([*flags(finished), "--resume"]) == 2
    assert "is not of the run to resume" in capsys.readouterr().err
    (out / "best_model.pth").unlink()
    assert lc.main([*flags(finished), "--resume"]) == 2
    assert "best_model.pth: no such file" in capsys.readouterr().err
    last = torch.load(out / "last_checkpoint.pth")
    weights = {f"{name}.old": value for name, value in last["model_state_dict"].items()}
    torch.save({**last, "model_state_dict": weights}, out / "last_checkpoint.pth")
    assert lc.main([*flags(finished), "--resume"]) == 2
    assert "of another version of this program" in capsys.readouterr().err
    del last["config"]["cut_mix"]
    torch.save(last, out / "last_checkpoint.pth")
    assert lc.main([*flags(finished), "--resume"]) == 2
    assert "another version; start anew" in capsys.readouterr().err


def test_resuming_with_points_where_masks_were_is_refused(finished, capsys):
    for path in (finished / "val/masks").iterdir():
        Image.fromarray(lc.sample_random_points(lc.read_mask(path), 9)).save(path)
    assert lc.main([*flags(finished), "--resume"]) == 2
    assert "tiles or labels have changed since the run began; put them back" in capsys.readouterr().err


def test_resuming_with_other_data_is_refused(finished, capsys):
    """Else the best epoch would be chosen between the scores of two validation sets."""
    before = history(finished.parent / "out")
    for kind in ("train/images", "train/masks", "val/images", "val/masks"):
        path = finished / kind / "tile_1.png"
        was = np.array(Image.open(path))
        Image.fromarray(was[::-1]).save(path)
        assert lc.main([*flags(finished), "--resume"]) == 2
        folder = finished / kind.split("/")[0] / "images"
        changed = f"{folder}: tiles or labels have changed since the run began; put them back"
        assert changed in capsys.readouterr().err
        Image.fromarray(was).save(path)
    assert lc.main([*flags(finished), "--resume"]) == 0
    assert history(finished.parent / "out") == before, "a run that is finished is finished"


@pytest.mark.parametrize("victim", ["torch.save", "csv.DictWriter.writerows"])
def test_crash_while_writing_leaves_the_old_files_whole(victim, finished, monkeypatch):
    out = finished.parent / "out"
    name = "best_model.pth" if victim == "torch.save" else "training_history.csv"
    before = (out / name).read_bytes()

    def write_half(*args, **kwargs):
        if victim == "torch.save":
            args[1].write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(victim, write_half)
    with pytest.raises(OSError, match="no space"):
        lc.main(flags(finished, seed=1))
    assert (out / name).read_bytes() == before
    assert not list(out.glob(".partial*"))


def test_the_main_job_passes_its_settings_on(data, monkeypatch):
    """Points by sampling and seed, new augmentation every epoch, the optimiser's numbers."""
    config = lc.parse_settings(flags(data, seed=3, point_sampling="boundary"))
    direct = lc.LandCoverDataset(data / "train/images", data / "train/masks", 20, sampling="boundary", seed=3)
    for index in range(5):
        assert (lc.make_dataset(config, "train").read(index)[1] == direct.read(index)[1]).all()
    seen, optimizers = [], []

    def look(model, loader, criterion, optimizer, device, **kwargs):
        seen.append(torch.cat([images for images, _ in loader]).sum(dim=(0, 1)))
        optimizers.append({key: optimizer.param_groups[0][key] for key in ("lr", "weight_decay")})
        return 1.0

    monkeypatch.setattr(lc, "train_epoch", look)
    assert lc.main(flags(data, epochs=2, learning_rate=0.01, weight_decay=0.3)) == 0
    assert not torch.allclose(*seen, atol=0.1), "tiles in another order are not another augmentation"
    assert optimizers[0] == {"lr": 0.01, "weight_decay": 0.3}
    assert 0 < optimizers[1]["lr"] < 0.01


def test_names_that_no_picture_stumbles_over(data, pictures):
    """Formulas to matplotlib; and, where the system keeps any bytes as names, what is not Unicode."""
    names = ["a$_$b.png", os.fsdecode(b"caf\xe9.png") if sys.platform == "linux" else "b.png"]
    for kind in ("images", "masks"):
        for index, name in enumerate(names):
            (data / f"val/{kind}/tile_{index}.png").rename(data / f"val/{kind}" / name)
    assert lc.main(flags(data, class_names="$_$,b,c")) == 0


def test_the_legend_names_every_class(data, pictures, monkeypatch):
    names = [f"a class whose name is long {index:02d}" for index in range(24)]
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **options: drawn.append(self) or save(self, *a, **options)
    )
    model = lc.DeepLabV3Segmentation(24, "mobilenet_v3_large", None).eval()
    model.class_names, model.class_colors = names, None
    tiles = lc.LandCoverDataset(data / "val/images", data / "val/masks")
    lc.draw_predictions(data / "picture.png", model, {"val": tiles}, "a title")
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [*names, "unlabelled"]
    box, paper = legend.get_window_extent(), drawn[0].bbox
    assert paper.x0 <= box.x0 and box.x1 <= paper.x1 and paper.y0 <= box.y0 and box.y1 <= paper.y1
    colors = [patch.get_facecolor() for patch in legend.get_patches()]
    assert len(set(colors)) == 25, "no two classes share a colour"


@pytest.mark.parametrize("count", [1, 20, 21, 255])
def test_colours_are_as_many_as_classes(count):
    assert len({tuple(color) for color in lc.class_palette(None, count).tolist()}) == count


def test_few_labels_are_drawn_as_dots():
    """A mask of points as an area would be white with a pixel here and there."""
    mask = np.random.default_rng(0).integers(0, 3, (64, 64)).astype(np.uint8)
    palette, image = lc.class_palette(None, 3), np.zeros((64, 64, 3), np.uint8)
    dots, areas = Figure().subplots(1, 2)
    lc.draw_labels(dots, image, lc.sample_random_points(mask, 5), palette)
    assert len(dots.collections[0].get_offsets()) == 5
    assert (np.asarray(dots.images[0].get_array()) == image).all()
    lc.draw_labels(areas, image, mask, palette)
    assert not areas.collections
    assert (np.asarray(areas.images[0].get_array()) == palette[mask]).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_same_seed_same_result_on_a_gpu(data):
    for out in ("a", "b"):
        assert (
            lc.main(flags(data, device="cuda", backbone="mobilenet_v3_large", output_dir=data.parent / out))
            == 0
        )
    assert same_weights(weights(data.parent / "a"), weights(data.parent / "b"))


def test_every_setting_has_its_way(data, pictures, capsys):
    """Dense masks, tiles of several sizes, accumulation, workers, another strength, all in one run."""
    for split in ("train", "val"):
        write_tiles(data / "more", 2, size=(70, 90), seed=3)
        for kind in ("images", "masks"):
            for path in (data / "more" / kind).iterdir():
                path.rename(data / split / kind / f"large_{path.name}")
    settings = {
        "num_points": "none",
        "accumulation_steps": 2,
        "num_workers": 2,
        "augmentation": "strong",
        "class_names": "none",
    }
    assert lc.main(flags(data, backbone="efficientnet_lite0", **settings)) == 0
    said = capsys.readouterr().out
    assert "of several sizes" in said
    assert "class 2" in said
    metrics = json.loads((data.parent / "out/metrics.json").read_text())
    assert sum(map(sum, metrics["confusion_matrix"])) == 2 * 64 * 64 + 2 * 70 * 90


def test_settings_of_unlabelled_pixels_reach_the_objective(data, monkeypatch):
    """Each one by its own value, in a run that uses them all."""
    settings = {
        "pseudo_label_weight": 0.7,
        "pseudo_label_threshold": 0.3,
        "cut_mix": 0.6,
        "teacher_decay": 0.8,
    }
    runs, scales = [], []
    run_epoch, at_scale = lc.run_epoch, lc.at_scale
    monkeypatch.setattr(lc, "run_epoch", lambda run, *given: runs.append(run) or run_epoch(run, *given))
    monkeypatch.setattr(
        lc, "at_scale", lambda model, scale, x: scales.append(scale) or at_scale(model, scale, x)
    )
    arguments = flags(data, multi_scale=1.5, point_sampling="grid", class_balance=0.5, **settings)
    assert lc.main([*arguments, "--no-point-evidence"]) == 0
    (run,) = runs
    counts = lc.check_dataset(run.train_set, 3).labels_per_class
    assert counts.sum() == 5 * 20
    assert torch.equal(run.criterion.class_weights, lc.balance_classes(counts, 0.5))
    assert {name: getattr(run.unlabelled, name) for name in settings} == settings
    assert not run.unlabelled.point_evidence and run.unlabelled.step == 2
    assert len(scales) == 2 and all(1 / 1.5 <= scale <= 1.5 for scale in scales)
    assert lc.main(flags(data)) == 0
    assert runs[1].unlabelled.point_evidence and runs[1].unlabelled.pseudo_label_weight == 1


@pytest.mark.parametrize(
    ("settings", "gpu", "network", "rate"),
    [
        ({}, False, "unet efficientnet_lite0", 1e-3),
        ({}, True, "deeplabv3 resnet50", 1e-4),
        ({"backbone": "resnet50"}, False, "deeplabv3 resnet50", 1e-4),
        ({"backbone": "mobilenet_v3_large"}, True, "deeplabv3 mobilenet_v3_large", 1e-3),
        ({"backbone": "efficientnet_lite2"}, True, "unet efficientnet_lite2", 1e-3),
        ({"backbone": "mit_b1"}, False, "segformer mit_b1", 1e-4),
        ({"learning_rate": 0.02}, False, "unet efficientnet_lite0", 0.02),
        ({"architecture": "unet"}, False, "unet efficientnet_lite0", 1e-3),
        ({"architecture": "deeplabv3"}, False, "deeplabv3 efficientnet_lite0", 1e-3),
        ({"architecture": "segformer"}, True, "segformer mit_b0", 1e-4),
    ],
)
def test_network_and_learning_rate_follow_the_machine(settings, gpu, network, rate, monkeypatch):
    monkeypatch.setattr(lc, "pick_device", lambda name: torch.device("meta" if gpu else "cpu"))
    config = lc.parse_settings([f"--{name.replace('_', '-')}={value}" for name, value in settings.items()])
    settled = lc.settle_settings(config)
    assert (f"{settled.architecture} {settled.backbone}", settled.learning_rate) == (network, rate)
    assert config.backbone == settings.get("backbone", "auto"), "what was given stays as it was"


def test_a_run_without_a_gpu_says_what_it_takes(data, capsys):
    assert lc.main(flags(data, backbone="auto")) == 0
    said = capsys.readouterr().out
    assert said.count("no GPU: ") == 1 and "--backbone resnet50" in said
    assert "efficientnet_lite0" in said and "learning rate 0.001" in said
    config = torch.load(data.parent / "out/best_model.pth")["config"]
    assert (config["backbone"], config["learning_rate"]) == ("efficientnet_lite0", 1e-3)


def test_points_are_shared_over_the_classes_by_default(data):
    config = lc.parse_settings(flags(data, num_points=6))
    _, points, mask = lc.make_dataset(config, "train").read(0)
    present = np.unique(mask)
    assert [(points == name).sum() for name in present] == [6 // len(present)] * len(present)


def test_a_loss_over_no_label_is_not_printed_as_0(data, pictures, capsys, monkeypatch):
    """Nor drawn: it is a gap in the curves."""
    criterion, model = lc.PartialCrossEntropyLoss(), torch.nn.Conv2d(3, 3, 1)
    batches = [(torch.rand(2, 3, 8, 8), torch.full((2, 8, 8), 255))]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert lc.train_epoch(model, batches, criterion, optimizer, torch.device("cpu")) is None
    assert lc.validate(model, batches, 3, torch.device("cpu")).loss is None
    monkeypatch.setattr(lc, "train_epoch", lambda *_, **__: None)
    assert lc.main(flags(data)) == 0
    assert "loss of no label" in capsys.readouterr().out


def test_predict_names_the_program_that_took_it_over(capsys):
    assert lc.main(["predict", "--input", "scene.tif"]) == 2
    assert "tools/map_scenes.py" in capsys.readouterr().err


def test_missing_weights_are_said_in_every_result(data, capsys):
    out = data.parent / "out"
    assert lc.main(flags(data, weights="auto", backbone="mobilenet_v3_large")) == 0
    said = capsys.readouterr()
    assert "warning: no ImageNet weights for mobilenet_v3_large" in said.err
    assert said.out.count("no ImageNet weights could be had") == 2, "at the start and at the end"
    assert (
        "no ImageNet weights could be had"
        in json.loads((out / "metrics.json").read_text())["starting_weights"]
    )
    assert "no ImageNet weights could be had" in torch.load(out / "best_model.pth")["starting_weights"]
    assert "no ImageNet weights could be had" in history(out)[0]["starting_weights"]


def test_class_without_labels_is_pointed_out(data, capsys):
    assert lc.main(flags(data, num_classes=4, class_names="low,middle,high,none")) == 0
    assert "it cannot be learnt" in capsys.readouterr().out
    metrics = json.loads((data.parent / "out/metrics.json").read_text())
    assert metrics["iou_per_class"]["none"] in (None, 0)


def test_classes_that_no_val_label_scores_are_pointed_out(data, capsys):
    for path in (data / "val/masks").glob("*.png"):
        ids = np.array(Image.open(path))
        Image.fromarray(np.where(ids == 255, 255, 0).astype(np.uint8)).save(path)
    assert lc.main(flags(data)) == 0
    lines = capsys.readouterr().out.splitlines()
    told = [line.split()[0] for line in lines if line.endswith("0.0% of val  <- none in val: not scored")]
    assert told == ["middle", "high"]


def test_masks_of_another_case_are_found_and_ids_from_1_are_asked_about(data, capsys):
    for path in sorted(data.rglob("masks/*.png")):
        ids = np.array(Image.open(path))
        Image.fromarray(np.where(ids == 255, 255, ids + 1).astype(np.uint8)).save(
            path.with_stem(path.stem.upper())
        )
        path.unlink()
    assert lc.main(flags(data, num_classes=4, class_names="nothing,low,middle,high")) == 0
    (doubt,) = [line for line in capsys.readouterr().out.splitlines() if "do ids begin with 1?" in line]
    assert doubt.split()[0] == "nothing"


def test_advice_is_given_where_the_curves_call_for_it():
    def rows(train, val, iou=0.5):
        return [
            {"train_loss": t, "val_loss": v, "val_miou": 0.5, "iou_a": iou}
            for t, v in zip(train, val, strict=True)
        ]

    assert lc.diagnose(rows([1, 0.8, 0.6, 0.5, 0.4], [1, 0.8, 0.7, 0.7, 0.7])) == []
    assert (
        "a is never found" in lc.diagnose(rows([1, 0.8, 0.6, 0.5, 0.4], [1, 0.8, 0.7, 0.7, 0.7], iou=0.0))[0]
    )
    assert lc.diagnose(rows([1, 0.8, 0.6, 0.5, 0.4], [1, 0.8, 0.7, 0.7, 0.7], iou=0.0), absent=["a"]) == []
    assert "overfitting" in lc.diagnose(rows([1, 0.8, 0.5, 0.3, 0.1], [1, 0.8, 0.9, 1.0, 1.2]))[0]
    assert "hardly falls" in lc.diagnose(rows([1, 1, 1, 1, 1], [1, 1, 1, 1, 1]))[0]
    assert "not a number" in lc.diagnose(rows([1, 1, float("nan"), 1, 1], [1, 1, 1, 1, 1]))[0]


@pytest.mark.skipif(not REAL_DATA.exists(), reason="the real tiles are not here")
def test_real_tiles_are_read(tmp_path):
    dataset = lc.LandCoverDataset(REAL_DATA / "val/images", REAL_DATA / "val/masks", 100, num_classes=5)
    dataset.tiles = dataset.tiles[::20]
    report = lc.check_dataset(dataset, 5)
    assert set(report.sizes) == {(256, 256)}
    assert report.labels_per_class.sum() == 100 * len(dataset)
    assert not report.notes
