"""Where Keras's own means of resuming lose something."""

from __future__ import annotations

import keras

from .._compat import callbacks_beside


def check_backup(callback: keras.callbacks.Callback) -> None:
    """ValueError if a `BackupAndRestore` beside a callback saves within epochs."""
    for other in callbacks_beside(callback):
        if isinstance(other, keras.callbacks.BackupAndRestore) and other.save_freq != "epoch":
            raise ValueError(
                f"BackupAndRestore(save_freq={other.save_freq}) saves within an epoch, and Keras"
                " resumes at the beginning of it: batches that the weights and the average have"
                " seen come twice. Pass save_freq='epoch'; fit(steps_per_epoch=...) makes epochs"
                " shorter"
            )
