"""Image data sets: the files that they come in, the batches, the distortion."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qemu_swalp.experiments.vision.cifar import cifar
from qemu_swalp.experiments.vision.datasets import distorted, load_dataset
from qemu_swalp.experiments.vision.imagenet import MEAN, STD, central_crop, random_crop
from tests.experiments.folders import pictures


@pytest.mark.parametrize(
    ("dataset", "classes", "count"), [("cifar10", 10, 500), ("cifar100", 100, 100)]
)
def test_the_official_files_are_read(
    dataset: str, classes: int, count: int, data_folder: Path
) -> None:
    train, test = cifar(dataset, data_folder)
    images, labels = pictures(classes, 100, 32, 0)
    assert train.images.shape == (count, 3, 32, 32)
    assert (train.images[:100] == images.transpose(0, 3, 1, 2)).all()
    assert (train.labels[:100] == labels).all()
    assert len(test.labels) == 100
    inside = (
        data_folder / {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[dataset]
    )
    assert (cifar(dataset, inside)[0].images == train.images).all()


def test_jpeg_is_decoded_as_far_as_needed(jpeg_folder: Path) -> None:
    train, test = cifar("cifar10", jpeg_folder, 50)
    images, labels = pictures(10, 300, 32, 0)
    assert train.images.shape == (50, 3, 32, 32)
    assert (train.labels == labels[:50]).all()
    assert (
        np.abs(train.images.transpose(0, 2, 3, 1) - images[:50].astype(float)).mean() < 30
    )  # lossy
    assert len(test.labels) == 100


@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "imagenet"])
def test_batches_depend_on_seed_and_epoch_alone_and_hold_every_image_once(
    dataset: str, data_folder: Path
) -> None:
    source = load_dataset(dataset, str(data_folder), 50, 10, 20)
    assert len(source) == 40

    def labels_and_images(seed: int, epoch: int) -> tuple[list[int], torch.Tensor]:
        batches = list(source.train(seed, epoch, 16))
        assert [len(y) for _, y in batches] == [16, 16, 8]
        return torch.cat([y for _, y in batches]).tolist(), torch.cat([x for x, _ in batches])

    labels, images = labels_and_images(1, 2)
    again, same = labels_and_images(1, 2)
    assert labels == again
    assert torch.equal(images, same)
    assert images.is_contiguous()
    for seed, epoch in ((1, 3), (2, 2)):
        others, different = labels_and_images(seed, epoch)
        assert sorted(others) == sorted(labels)
        assert not torch.equal(different, images)
    assert [
        sum(len(y) for _, y in source.held_out(part, 7)) for part in ("validation", "test")
    ] == [10, 20]


def test_distortion_shifts_and_mirrors() -> None:
    random = np.random.default_rng(0)
    images = random.integers(1, 256, (400, 3, 8, 8)).astype(np.uint8)
    found = distorted(images, 2, random)
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    seen = set()
    for i in range(len(images)):
        matches = [
            (top, left, mirrored)
            for top in range(5)
            for left in range(5)
            for mirrored in (False, True)
            if (
                padded[i][:, top : top + 8, left : left + 8][:, :, :: -1 if mirrored else 1]
                == found[i]
            ).all()
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 50  # every shift, either way round


def test_imagenet_crops(tmp_path: Path) -> None:
    x = np.zeros((256, 512, 3), np.uint8)
    x[:, 144:368, 0] = 255  # the central 224 columns are red
    Image.fromarray(x).save(tmp_path / "x.png")
    central = central_crop(tmp_path / "x.png")
    assert central.shape == (3, 224, 224)
    assert central.dtype == np.float32
    assert central[0, 0, 0] == central[0, 223, 223] == pytest.approx((1 - MEAN[0]) / STD[0])
    assert central[1, 100, 100] == pytest.approx(-MEAN[1] / STD[1])
    crops = [random_crop(tmp_path / "x.png", np.random.default_rng(seed)) for seed in range(20)]
    assert len({crop.tobytes() for crop in crops}) > 15
    assert all(crop.shape == (3, 224, 224) for crop in crops)
    assert random_crop(tmp_path / "x.png", np.random.default_rng(3)).tobytes() == crops[3].tobytes()


class Malice:
    def __reduce__(self) -> Any:
        return (print, ("this must not run",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            pickle.dumps({b"data": Malice(), b"fine_labels": []}),
            "builtins.print has no place in CIFAR's files",
        ),
        (b"nonsense", "not one of CIFAR's files"),
        (
            pickle.dumps({b"data": np.zeros((2, 5), np.uint8), b"fine_labels": [1, 2]}),
            r"images uint8 \(2, 5\)",
        ),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)}), "fine_labels"),
    ],
)
def test_damaged_and_malicious_files_are_refused(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("train", "test"):
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        cifar("cifar100", tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (
            "cifar10",
            (
                "must hold the folder cifar-10-batches-py of the official Python version, or"
                " cifar10_jpeg.npz; download cifar-10-python.tar.gz"
            ),
        ),
        ("cifar100", "must hold the folder cifar-100-python .* download cifar-100-python.tar.gz"),
        ("imagenet", "must hold ImageNet as train/CLASS"),
        ("mnist", "holds no mnist.npz"),
    ],
)
def test_missing_files_are_named(dataset: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=words):
        load_dataset(dataset, str(tmp_path), 0, 0, 0)
    if dataset != "mnist":
        with pytest.raises(
            FileNotFoundError, match=f"--data-dir is needed: the folder that holds {dataset}"
        ):
            load_dataset(dataset, "", 0, 0, 0)


@pytest.mark.parametrize("dataset", ["cifar10", "imagenet"])
def test_some_images_must_be_left_to_train_on(dataset: str, data_folder: Path) -> None:
    with pytest.raises(
        ValueError, match="--validation must be less than the 20 images there are, got 20"
    ):
        load_dataset(dataset, str(data_folder), 20, 20, 0)
