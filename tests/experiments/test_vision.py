"""The experiments on networks: recipes, networks, resumption to the same bits, processes, studies,
tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from qemu_swalp_torch import quantize_activations

from qemu_swalp import quantize
from qemu_swalp.cli import main
from qemu_swalp.experiments import load_experiment
from qemu_swalp.experiments.common import report
from qemu_swalp.experiments.common.journal import Checkpoint, Journal
from qemu_swalp.experiments.vision import PRESETS, models, swap, tables
from qemu_swalp.experiments.vision.datasets import load_dataset as load_images
from qemu_swalp.experiments.vision.jobs import Job, jobs
from qemu_swalp.experiments.vision.presets import settings_of
from qemu_swalp.experiments.vision.run import KINDS
from qemu_swalp.experiments.vision.runs import policies
from qemu_swalp.experiments.vision.session import Session
from qemu_swalp.experiments.vision.settings import METHODS, Settings
from qemu_swalp.experiments.vision.types import Source
from qemu_swalp.training import AverageState, swalp

TINY = {
    "method": METHODS,
    "seeds": 1,
    "epochs": 3,
    "start": 1,
    "batch": 32,
    "subset": 96,
    "validation": 32,
    "test_subset": 50,
    "sqwa_captures": 1,
    "swap_workers": 2,
    "swap_epochs": 2,
    "swap_refine": 1,
    "swap_batch": 32,
    "lawa_size": 2,
    "evaluate_every": 1,
}


def tiny(experiment: str = "mnist-lenet", **more: Any) -> Settings:
    return settings_of(experiment)(**{**TINY, **more})


def source_of(settings: Settings, folder: Path) -> Source:
    return load_images(
        settings.dataset, str(folder), settings.subset, settings.validation, settings.test_subset
    )


# Recipes and networks


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("cifar10-vgg16", (300, 200, 0.05, 0.01, 5e-4)),
        ("cifar100-vgg16", (300, 200, 0.05, 0.01, 5e-4)),
        ("cifar10-preresnet164", (225, 150, 0.1, 0.01, 3e-4)),
        ("cifar100-preresnet164", (225, 150, 0.1, 0.01, 3e-4)),
    ],
)
def test_the_defaults_are_the_released_recipe(name: str, recipe: tuple[float, ...]) -> None:
    settings = load_experiment(name).Settings()
    assert (
        settings.epochs,
        settings.start,
        settings.learning_rate,
        settings.swa_learning_rate,
        settings.weight_decay,
    ) == recipe
    assert (settings.batch, settings.momentum, settings.words, settings.include_start) == (
        128,
        0.9,
        (8,),
        True,
    )
    assert (settings.decay_start, settings.decay_end, settings.floor, settings.cycle) == (
        0.5,
        0.9,
        0.01,
        (0,),
    )
    assert settings.recipe(8) == swalp(8)
    assert settings.dataset + "-" + settings.model == name


def test_every_role_has_a_word_of_its_own() -> None:
    settings = tiny(
        weight_word=4,
        activation_word=5,
        error_word=6,
        gradient_word=7,
        block="big",
        rounding="nearest_even",
    )
    assert settings.recipe(9).to_dict() == {
        "weight": "bfp4/nearest_even",
        "activation": "bfp<5>/nearest_even",
        "error": "bfp6/nearest_even",
        "gradient": "bfp<7>/nearest_even",
        "momentum": "bfp<9>/nearest_even",
    }


@pytest.mark.parametrize(
    ("model", "classes", "parameters"),
    [
        ("lenet", 10, 61_706),
        ("vgg16", 10, 15_245_130),
        ("vgg16bn", 10, 15_253_578),
        ("preresnet164", 10, 1_703_258),
        ("resnet18", 1000, 11_689_512),
    ],
)
def test_networks_have_the_published_number_of_parameters(
    model: str, classes: int, parameters: int
) -> None:
    assert sum(p.numel() for p in models.build(model, classes).parameters()) == parameters


@pytest.mark.parametrize("model", ["vgg16", "vgg16bn"])
def test_vgg_rounds_after_every_relu_and_not_the_logits(model: str) -> None:
    network = models.build(model, 10, width=2)
    names = quantize_activations(network, swalp(8), **network.rounded).names  # type: ignore[arg-type]
    assert len(names) == 15
    assert {type(network.get_submodule(name)) for name in names} == {torch.nn.ReLU}


def test_preresnet_rounds_what_the_authors_code_rounds() -> None:
    network = models.build("preresnet164", 10, width=4, depth=20)
    names = set(quantize_activations(network, swalp(8), **network.rounded).names)  # type: ignore[arg-type]
    blocks = [
        f"block{stage}_{place}.residual.{i}"
        for stage in range(3)
        for place in range(2)
        for i in (1, 2, 4, 5, 7, 8)
    ]
    assert names == {"first", *blocks}
    assert "block0_0.shortcut" in dict(network.named_modules())


# A session


def test_evaluation_changes_nothing(data_folder: Path) -> None:
    settings = tiny("cifar10-preresnet164", width=4, depth=11)
    session = Session(settings, source_of(settings, data_folder), 8, 0)
    session.follow(policies(settings, 3, session))
    with report.progress(1, silent=True) as bar:
        session.train_epoch(lambda step: 0.05, 32, bar, "")
    before = flat(session.state_dict())
    in_float = session.evaluate("test", session.weights)
    rounded = session.evaluate("test")
    assert flat(session.state_dict()) == before
    assert session.model.training
    assert in_float["loss"] != rounded["loss"]
    assert session.evaluate("test") == rounded


def flat(state: Any) -> Any:
    """A state whose tensors are bytes, for equality to the bit."""
    if isinstance(state, torch.Tensor):
        return state.numpy().tobytes()
    if isinstance(state, dict):
        return {key: flat(value) for key, value in state.items()}
    return [flat(value) for value in state] if isinstance(state, list | tuple) else state


class Interrupted(report.Progress):
    """A bar that ends the run, as Ctrl-C does, once so many steps are made."""

    def __init__(self, after: int) -> None:
        self.left = after

    def steps(self, count: int, label: str) -> Iterator[int]:
        for step in range(1, count + 1):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield step

    def skip(self, count: int) -> None:
        pass

    def show(self, figure: str) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "word", "experiment"),
    [
        *((kind, word, "mnist-lenet") for kind in KINDS for word in (None, 8)),
        ("plain", None, "cifar10-vgg16"),
        ("plain", None, "cifar10-preresnet164"),  # dropout, batch normalization
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_numbers(
    kind: str, word: int | None, experiment: str, tmp_path: Path, data_folder: Path
) -> None:
    settings, job = tiny(experiment, width=4, depth=11), Job(kind, word, 3)
    source = source_of(settings, data_folder)
    whole = KINDS[kind](
        job, settings, source, Checkpoint(tmp_path / "whole.pt", False), Interrupted(-1)
    )
    checkpoint = Checkpoint(tmp_path / "parts.pt", True)
    for steps in (3, 1, 3):  # 2 an epoch, so in the middle of one, and before one ends
        with pytest.raises(KeyboardInterrupt):
            KINDS[kind](job, settings, source, checkpoint, Interrupted(steps))
    assert KINDS[kind](job, settings, source, checkpoint, Interrupted(-1)) == whole
    parts, one = (torch.load(tmp_path / f"{name}.pt") for name in ("parts", "whole"))
    assert parts.pop("seconds") > 0 < one.pop("seconds")
    assert flat(parts) == flat(one)
    assert {row["method"] for row in whole["rows"]} == (
        {"sgd", "swa", "ema", "lawa", "aswa"} if kind == "plain" else {kind}
    )


def test_sqwa_fine_tunes_from_its_average_quantized_again(
    data_folder: Path, tmp_path: Path
) -> None:
    # At a rate of next to nothing, rounding to nearest, fine-tuning moves no weight.
    settings = tiny(
        epochs=4,
        sqwa_captures=2,
        sqwa_high=0.5,
        sqwa_low=0.5,
        sqwa_fine_tuning=1e-12,
        rounding="nearest_even",
    )
    source = source_of(settings, data_folder)
    job, checkpoint = Job("sqwa", 8, 0), Checkpoint(tmp_path / "sqwa.pt", True)
    with pytest.raises(KeyboardInterrupt):
        KINDS["sqwa"](job, settings, source, checkpoint, Interrupted(settings.sqwa_end * 2))
    state = torch.load(tmp_path / "sqwa.pt")["session"]
    assert state["epoch"] == settings.sqwa_end
    assert not any(kept["momentum_buffer"].any() for kept in state["optimizer"]["state"].values())
    KINDS["sqwa"](job, settings, source, checkpoint, Interrupted(-1))
    state = torch.load(tmp_path / "sqwa.pt")["session"]
    count, sums, _ = state["averages"]["sqwa"]
    assert count == 2
    for name, weight in state["model"].items():
        assert torch.equal(quantize(sums[name] / 2, "bfp<8,axis=0>", "nearest_even"), weight), name
    assert any(
        not torch.equal(quantize(s / 2, "bfp<8,axis=0>", "nearest_even"), s / 2)
        for s in sums.values()
    )


def test_workers_in_processes_have_the_bits_of_workers_in_turn(
    data_folder: Path, tmp_path: Path
) -> None:
    job, settings = Job("swap", 8, 0), tiny(swap_refine=2)
    source = source_of(settings, data_folder)
    in_turn, in_processes = (
        KINDS["swap"](
            job,
            tiny(swap_refine=2, swap_processes=processes),
            source,
            Checkpoint(tmp_path / f"{processes}.pt", False),
            Interrupted(-1),
        )
        for processes in (False, True)
    )
    assert in_processes == in_turn  # the test loss too, which every bit of the weights moves
    state = torch.load(tmp_path / "False.pt")
    workers = [AverageState(*worker) for worker in state["workers"]]
    model = state["session"]["model"]
    assert flat(workers) == flat(
        [swap.refine(job, settings, source, model, rank, Interrupted(-1)) for rank in (0, 1)]
    )
    assert flat(workers[0].value) != flat(workers[1].value)
    for state in workers:
        assert state.value is not None
        assert all(
            torch.equal(quantize(weight, "bfp<8,axis=0>"), weight)
            for weight in state.value.values()
        )


def test_the_first_phase_of_swap_ends_at_the_accuracy(data_folder: Path, tmp_path: Path) -> None:
    curves = {}
    for accuracy in (0.5, 100.0):
        settings = tiny(swap_accuracy=accuracy)
        result = KINDS["swap"](
            Job("swap", None, 0),
            settings,
            source_of(settings, data_folder),
            Checkpoint(tmp_path / "x.pt", False),
            Interrupted(-1),
        )
        curves[accuracy] = [point["epoch"] for point in result["curve"]]
    assert curves == {0.5: [1], 100.0: [1, 2]}


def test_studies_of_precision_and_frequency_average_one_run(data_folder: Path) -> None:
    settings = tiny(method=("swa",), cycle=(0, 1), average_words=(0, 5))
    session = Session(settings, source_of(settings, data_folder), 8, 0)
    session.follow(policies(settings, 2, session))
    with report.progress(1, silent=True) as bar:
        for _ in range(3):
            session.train_epoch(lambda step: 0.05, 32, bar, "")
    counts = {name: state.n_averaged for name, state in session.states.items()}
    assert counts == {"swa": 3, "swa 5 bits": 3, "swa every 1": 5, "swa every 1, 5 bits": 5}
    for name, average in session.averages().items():
        for weight in average.values():
            assert torch.equal(quantize(weight, "bfp<5,axis=0>"), weight) == ("5 bits" in name)


# Calls


def test_a_call_resumes_and_extends(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "reproduce",
        "mnist-lenet",
        "--quick",
        "--data-dir",
        str(data_folder),
        "--out",
        str(tmp_path),
        "--method",
        "sgd",
        "decayed",
        "--precision",
        "low",
        "--subset",
        "64",
        "--validation",
        "0",
        "--epochs",
        "2",
        "--test-subset",
        "20",
    ]
    assert main([*given, "--seeds", "1"]) == 0
    first = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert len(first) == 2
    assert [json.loads(line)["environment"]["device"] for line in first] == ["cpu"] * 2
    assert not list((tmp_path / "checkpoints").iterdir())
    (tmp_path / "runs.jsonl").write_text(
        "\n".join([*first, first[0][:99]])
    )  # a line that was cut off
    assert main([*given, "--seeds", "2", "--resume"]) == 0
    after = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert after[:2] == first
    assert [json.loads(line)["seed"] for line in after[3:]] == [1, 1]
    resumed = json.loads((tmp_path / "results.json").read_text())
    assert main([*given, "--seeds", "2", "--out", str(tmp_path / "anew")]) == 0
    anew = json.loads((tmp_path / "anew" / "results.json").read_text())
    assert anew["rows"] == resumed["rows"]
    assert anew["curves"] == resumed["curves"]
    assert main([*given, "--seeds", "2"]) == 0  # without --resume everything runs anew
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == len(after) + 4


def key_of(settings: Settings, folder: Path) -> str:
    journal: Journal[Job] = Journal(
        folder, "mnist-lenet", settings, lambda job: job.identity(settings)
    )
    return journal.key(Job("plain", 8, 0))


def test_a_changed_option_is_another_run(tmp_path: Path) -> None:
    keys = {
        key_of(tiny(**more), tmp_path)
        for more in ({}, {"ema_decay": 0.8}, {"block": "big"}, {"width": 3}, {"subset": 95})
    }
    assert len(keys) == 5
    same = {
        key_of(tiny(**more), tmp_path)
        for more in (
            {},
            {"seeds": 9},
            {"words": (4, 8)},
            {"resume": True},
            {"data_dir": "x"},
            {"swap_rate": 1.0},
        )
    }
    assert len(same) == 1


def test_jobs_are_what_methods_numbers_and_seeds_ask_for() -> None:
    settings = tiny(method=("aswa", "sqwa"), words=(8, 4), seeds=2, seed=5)
    assert [tuple(job) for job in jobs(settings)] == [
        (kind, word, seed) for seed in (5, 6) for word in (None, 8, 4) for kind in ("plain", "sqwa")
    ]


def test_the_table_has_the_published_figure_beside_ours() -> None:
    settings = load_experiment("cifar100-vgg16").Settings(seeds=1)
    lines = [
        {
            "kind": "plain",
            "word": word,
            "seed": 0,
            "rows": [
                {"method": method, "epoch": epoch, "error": error, "loss": 1.0}
                for method, epoch, error in (
                    ("sgd", 200, 30.0),
                    ("sgd", 300, 31.0),
                    ("swa", 300, 27.125),
                )
            ],
        }
        for word in (None, 8)
    ]
    rows = [row for line in lines for row in tables.rows_of(line, settings)]
    text = tables.text(
        "cifar100-vgg16", settings, 50_000, tables.summary_of("cifar100-vgg16", rows)
    )
    found = {
        tuple(part.strip() for part in line.split("  ") if part.strip())
        for line in text.splitlines()
    }
    assert (
        "8 bits",
        "SGD-LP",
        "30.00",
        "31.00",
        "29.59 ± 0.32 at the start",
    ) in found
    assert ("8 bits", "SWALP", "27.12", "26.65 ± 0.29 at the end") in found
    assert ("float32", "SWA", "27.12", "25.93 ± 0.21 at the end") in found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"start": 3}, "--start must be less than --epochs, or nothing is averaged; got 3 and 3"),
        ({"validation": 0}, "--method aswa needs --validation"),
        ({"sqwa_captures": 2}, r"--epochs must exceed the end of sqwa's cycles, .* = 3, got 3"),
        ({"method": ("swalp",)}, "--method must be of sgd, decayed, swa"),
        ({"decay_start": 0.95}, "decay_start < decay_end"),
    ],
)
def test_settings_are_checked(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny(**given)


def test_depths_are_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"--depth must be 9n \+ 2: 11, 20, …, 164, got 18"):
        models.build("preresnet164", 10, depth=18)


@pytest.mark.parametrize("name", PRESETS)
def test_help_tells_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["reproduce", name, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert exit_.value.code == 0
    assert f"(default: {load_experiment(name).Settings().epochs})" in text
    for part in (
        "--method NAME",
        "One of sgd, decayed, swa, ema, lawa, aswa, sqwa, swap",
        "--no-include-start",
        "--device NAME",
        "training accuracy, %, that ends phase 1 (default: 98.0)",
        f"(default: results/{name})",
    ):
        assert part in text
