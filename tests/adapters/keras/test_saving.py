"""What is saved comes back, on this backend and on others, and training goes on from it bit for
bit.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from qemu_swalp_keras import SGD, QuantizedOptimizer, SWALPSchedule

from qemu_swalp.training import swalp
from tests.adapters.keras.conftest import BACKEND, same
from tests.helpers import keras_exact as exact
from tests.helpers.keras_optimizers import GRADIENTS, KINDS, quantized, state, stepper

ROOT = Path(__file__).parents[3]


def run(
    script: str, *arguments: str, backend: str = BACKEND, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own."""
    head = "import sys, keras, numpy as np\nfrom tests.helpers import keras_exact as exact\n"
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", head + script, *arguments],
        text=True,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": path, **environment},
    )


def half_trained() -> keras.Model:
    model = exact.compiled()
    exact.fit(model)
    return model


def test_a_saved_model_resumes_bit_for_bit(tmp_path: Path) -> None:
    half_trained().save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    exact.assert_as_expected(model, exact.trained(16))
    exact.fit(model)
    exact.assert_as_expected(model, exact.trained(32))


def test_a_saved_model_resumes_on_another_backend_bit_for_bit(tmp_path: Path) -> None:
    other = {"tensorflow": "jax", "jax": "torch", "torch": "tensorflow"}[BACKEND]
    half_trained().save(tmp_path / "model.keras")
    done = run(
        "import qemu_swalp_keras\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "exact.fit(model)\n"
        "exact.assert_as_expected(model, exact.trained(32))\n"
        "print(keras.backend.backend())",
        str(tmp_path / "model.keras"),
        backend=other,
    )
    assert done.stdout.strip() == other, done.stderr


def test_saved_weights_resume_bit_for_bit(tmp_path: Path) -> None:
    half_trained().save_weights(tmp_path / "model.weights.h5")
    model = exact.compiled()
    model.optimizer.build(model.trainable_variables)
    model.load_weights(tmp_path / "model.weights.h5")
    exact.fit(model)
    exact.assert_as_expected(model, exact.trained(32))


def test_state_that_does_not_fit_is_left_out_with_a_warning(tmp_path: Path) -> None:
    """As with Keras's own optimizers."""
    plain = exact.compiled(
        opt=QuantizedOptimizer(keras.optimizers.SGD(0.125, 0.5), exact.RECIPE, seed=exact.SEED)
    )
    exact.fit(plain)
    plain.save_weights(tmp_path / "plain.weights.h5")
    model = exact.compiled()
    model.optimizer.build(model.trainable_variables)
    with pytest.warns(UserWarning, match="average of quantized_optimizer.* is not loaded"):
        model.load_weights(tmp_path / "plain.weights.h5")
    assert model.optimizer.n_averaged == 0
    assert same(model.get_weights(), exact.trained(16).weights)
    assert int(model.optimizer.iterations) == 16


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.keras"
    half_trained().save(file)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises((OSError, ValueError)):
        keras.models.load_model(file)


@pytest.mark.parametrize("kind", KINDS)
def test_configs_and_values_make_an_equal_optimizer(kind: str) -> None:
    """Through `get_config` and JSON, and through the values of `variables`."""
    optimizer, held = quantized(kind)
    step = stepper(optimizer, held, "eager")
    step(GRADIENTS[0])
    again = QuantizedOptimizer.from_config(json.loads(json.dumps(optimizer.get_config())))
    assert again.get_config() == optimizer.get_config()
    copies = [keras.Variable(np.array(keras.ops.convert_to_numpy(v)), name=v.name) for v in held]
    again.build(copies)
    again.set_weights([keras.ops.convert_to_numpy(v) for v in optimizer.variables])
    for v, value in zip(copies, held, strict=True):
        v.assign(value)
    step(GRADIENTS[1])
    stepper(again, copies, "eager")(GRADIENTS[1])
    ours, theirs = state(optimizer, held), state(again, copies)
    assert list(ours) == list(theirs)
    assert same(list(ours.values()), list(theirs.values()))


def test_configs_of_the_native_optimizer() -> None:
    recipe = swalp(8, average="bfp<9>/stochastic")
    schedule = SWALPSchedule(0.05, 100, 0.01)
    optimizer = SGD(
        schedule, 0.9, True, 1e-3, recipe=recipe, seed=2**40, swa_start=100, swa_cycle=3
    )
    plain = json.loads(json.dumps(keras.saving.serialize_keras_object(optimizer)))
    again = keras.saving.deserialize_keras_object(plain)
    assert type(again) is SGD
    assert again.get_config() == optimizer.get_config()
    assert (again.recipe, again.seed, again.averages) == (recipe, 2**40, True)


def test_copies_of_a_model_train_on_as_it_does() -> None:
    model = half_trained()
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        exact.assert_as_expected(again, exact.trained(16))
        exact.fit(again)
        exact.assert_as_expected(again, exact.trained(32))
    exact.assert_as_expected(model, exact.trained(16))


def test_a_cloned_model_takes_the_compilation_over() -> None:
    model = half_trained()
    clone = keras.models.clone_model(model)
    clone.compile_from_config(model.get_compile_config())
    clone.set_weights(exact.INITIAL)
    clone.optimizer.learning_rate = exact.RATE
    assert clone.optimizer is not model.optimizer
    assert clone.optimizer.recipe == exact.RECIPE
    exact.fit(clone)
    assert int(clone.optimizer.iterations) == 16
    assert clone.optimizer.n_averaged == 5


class Dies(keras.callbacks.Callback):
    """A process killed after so many batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


BACKED_UP = """
from tests.adapters.keras.test_saving import Dies
backup = keras.callbacks.BackupAndRestore(sys.argv[1], delete_checkpoint=False)
model = exact.compiled()
exact.fit(model, epochs=3, callbacks=[backup, *(Dies(int(n)) for n in sys.argv[2:])])
exact.assert_as_expected(model, exact.trained(48))
print("equal")
"""


def test_a_killed_process_goes_on_from_its_backup_to_the_same_bits(tmp_path: Path) -> None:
    killed = run(BACKED_UP, str(tmp_path), "37")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = run(BACKED_UP, str(tmp_path))
    assert done.stdout.strip() == "equal", done.stderr
    assert json.loads((tmp_path / "training_metadata.json").read_text())["epoch"] == 3


def test_checkpoints_and_restored_best_weights(tmp_path: Path) -> None:
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    best = keras.callbacks.EarlyStopping(
        "loss", patience=1, min_delta=1e9, restore_best_weights=True
    )
    model = exact.compiled()
    exact.fit(model, epochs=4, callbacks=[checkpoint, best])
    assert same(model.get_weights(), exact.trained(16).weights)
    assert sorted(file.name for file in tmp_path.glob("*.keras")) == ["1.keras", "2.keras"]
    exact.assert_as_expected(keras.models.load_model(tmp_path / "1.keras"), exact.trained(16))
    exact.assert_as_expected(keras.models.load_model(tmp_path / "2.keras"), exact.trained(32))
