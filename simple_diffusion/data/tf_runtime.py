"""The only place that imports TensorFlow: on first use, and without accelerators."""

import functools
import os
from typing import Any


@functools.cache
def tensorflow() -> Any:
    """Returns the TensorFlow module, from which GPUs and TPUs are hidden.

    TensorFlow feeds the pipeline and computes nothing. By default it would claim all
    memory of a GPU, or the TPU itself, before JAX does. Importing it takes seconds, so
    sampling and restoration, which read no dataset, never call this.
    """
    # Its messages about CPU features would hide our own; warnings are still shown.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf
