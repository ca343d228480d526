"""Ideas that lost: they still do what they did, and the study still runs them."""

import csv
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, write_tiles
from torch import nn

sys.path.insert(0, str(ROOT / "benchmarks"))
import rejected
import report
import study
from map_scenes import pairwise_messages

import landcover_segmentation as lc


@pytest.mark.parametrize("backbone", lc.LITE_BACKBONES)
def test_the_unet_of_smp_gets_weights_without_its_hub(backbone):
    pytest.importorskip("segmentation_models_pytorch")
    ours = lc.DeepLabV3Segmentation(3, backbone, "imagenet").backbone.features.state_dict()
    smp = lc.DeepLabV3Segmentation(3, backbone, "imagenet", "smp_unet").backbone.state_dict()
    assert len(ours) > 200 and all(torch.equal(value, smp[name]) for name, value in ours.items())


def test_pairwise_loss_has_the_gradient_of_its_value():
    torch.manual_seed(0)
    logits, images = torch.randn(1, 3, 6, 6), torch.randn(1, 3, 6, 6)
    loss = rejected.PairwiseLoss(reduction=1, radius=2)
    given = logits.clone().requires_grad_()
    loss(given, images).backward()
    probabilities = logits.clone().requires_grad_()
    p = probabilities.softmax(1)
    with torch.no_grad():
        places = torch.eye(36).view(36, 1, 1, 6, 6)
        kernels = torch.stack([pairwise_messages(one, images, 2)[0] for one in places]).reshape(36, 36)
    flat = p[0].reshape(3, 36)
    energy = (kernels * (1 - flat.T @ flat)).sum() / 36  # the definition: weight times the chance to differ
    energy.backward()
    assert loss(logits, images).item() == pytest.approx(energy.item(), rel=1e-4)
    assert torch.allclose(given.grad, probabilities.grad, atol=1e-5)


def test_pairwise_loss_is_deaf_to_what_is_beyond_the_tile():
    """Neither the pixels there nor their neighbours inside learn anything of what is said of them."""
    torch.manual_seed(0)
    images, logits = torch.randn(1, 3, 24, 24), torch.randn(1, 3, 24, 24, requires_grad=True)
    images[..., 11:] = 0
    loss = rejected.PairwiseLoss()(logits, images)
    loss.backward()
    assert logits.grad[..., 10:].abs().max() == 0, "half a cell beyond is beyond"
    alone = rejected.PairwiseLoss()(logits[..., :10], images[..., :10])
    assert loss.item() == pytest.approx(alone.item() * 10 / 24, rel=1e-5)


def test_points_spread_over_their_superpixel_as_shares(monkeypatch):
    regions = iter([np.array([[0, 0, 1, 1]]), np.array([[0, 0, 0, 2]])])
    monkeypatch.setattr(rejected, "find_superpixels", lambda picture: next(regions))
    targets = torch.tensor([[[1, 255, 255, 255]], [[0, 1, 255, 255]]])
    soft, covered = rejected.spread_points(torch.zeros(2, 3, 1, 4), targets, 3)
    assert covered.tolist() == [[[True, True, False, False]], [[True, True, True, False]]]
    assert soft[0, :, 0, 1].tolist() == [0, 1, 0] and soft[1, :, 0, 2].tolist() == [0.5, 0.5, 0]


def test_superpixels_are_those_of_the_picture():
    """Two halves of different colour; the points of each reach no pixel of the other."""
    pytest.importorskip("skimage")
    images = torch.zeros(1, 3, 40, 40)
    images[..., 20:] = 2.0
    targets = torch.full((1, 40, 40), 255)
    targets[0, ::5, 5], targets[0, ::5, 30] = 0, 1
    soft, covered = rejected.spread_points(images, targets, 2)
    assert covered.float().mean() > 0.2
    assert (soft[0, 1, :, :20] == 0).all() and (soft[0, 0, :, 20:] == 0).all()


def test_what_lost_is_added_to_what_the_program_teaches(monkeypatch):
    """The pairwise loss with the ramp, the cross-entropy of superpixels over the pixels they cover."""
    torch.manual_seed(0)
    model = nn.Conv2d(3, 2, 1)
    images, targets = torch.randn(1, 3, 4, 4), torch.full((1, 4, 4), 255)
    targets[0, 0, 0] = 1
    monkeypatch.setattr(rejected, "find_superpixels", lambda picture: np.indices((4, 4))[0] // 2)
    logits = model(images)
    log = logits.log_softmax(1)
    pairwise = rejected.PairwiseLoss()(logits, images)
    regions = -log[0, 1, :2].flatten()[1:].mean()  # the upper half but for the point itself
    for step, ramp in ((0, np.exp(-5)), (30, 1.0)):
        objective = rejected.Rejected(model, 100, pseudo_label_weight=0, pairwise_weight=2.0)
        objective.step = step
        given = objective.loss(logits, images, targets, None)
        assert given.item() == pytest.approx(2 * ramp * pairwise.item(), rel=1e-5)
    objective = rejected.Rejected(model, 100, pseudo_label_weight=0, region_weight=0.5)
    given = objective.loss(logits, images, targets, None)
    assert given.item() == pytest.approx(0.5 * regions.item(), rel=1e-5)
    soft = torch.rand(1, 2, 4, 4)
    own, alone = (kind(model, 100).loss(logits, images, targets, soft) for kind in KINDS)
    assert own.item() == alone.item() > 0


KINDS = (rejected.Rejected, lc.UnlabelledPixels)


def test_the_teacher_looks_at_as_many_views_as_it_is_told():
    torch.manual_seed(0)
    model = nn.Conv2d(3, 2, 3, padding=1)
    images, targets = torch.randn(1, 3, 8, 8), torch.full((1, 8, 8), 255)
    for views in (1, 4):
        objective = rejected.Rejected(model, 10, views=views, point_evidence=False)
        expected = lc.predict_probabilities(model, images, views)
        assert torch.allclose(objective.soft_labels(images, targets), expected)
    as_it_is = lc.UnlabelledPixels(model, 10, point_evidence=False).soft_labels(images, targets)
    unchanged = rejected.Rejected(model, 10, point_evidence=False).soft_labels(images, targets)
    assert torch.equal(as_it_is, unchanged) and lc.UnlabelledPixels.views == 2


def test_the_study_trains_what_lost(tmp_path, monkeypatch):
    for split in ("train", "val"):
        write_tiles(tmp_path / split, 4, 64)
    made = []
    kind = rejected.Rejected
    monkeypatch.setattr(rejected, "Rejected", lambda *given, **own: made.append(own) or kind(*given, **own))
    variants = ["labels", "labels-views", "labels+views", "pairwise", "regions"]
    given = ["--data", tmp_path, "--csv", tmp_path / "study.csv", "--work", tmp_path / "work", "--size", 32,
             "--points", 10, "--seeds", 0, "--epochs", 1, "--every", 1, "--class-names", "low,middle,high",
             "--variants", *variants]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["study.py", *map(str, given)])
    study.main()
    with (tmp_path / "study.csv").open() as file:
        assert [row["variant"] for row in csv.DictReader(file)] == variants
    own = [{name: value for name, value in one.items() if name in study.REJECTED} for one in made]
    assert own == [{"views": 1}, {"views": 4}, {"pairwise_weight": 0.01}, {"region_weight": 0.5}]


def test_its_figures_are_those_of_the_study():
    for variant, base in (
        ("pairwise", "teacher"),
        ("regions", "teacher"),
        ("labels-views", "labels"),
        ("labels+views", "labels"),
    ):
        cell = {"split": "choose", "every": "2", "size": "128", "epochs": "12", "points": "20"}
        found = [row for row in report.rows("study.csv") if cell.items() <= row.items()]
        own, others = ([row for row in found if row["variant"] == name] for name in (variant, base))
        gains = report.gains(own, others)
        figure = f"{np.mean(gains):+.3f} ± {np.std(gains, ddof=1):.3f} over `{base}`"
        assert f"  {variant:<14}{figure}" in rejected.__doc__
