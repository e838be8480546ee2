"""The only door to TensorFlow: imported on first use, and kept off accelerators."""

import functools
import os
from typing import Any


@functools.cache
def tensorflow() -> Any:
    """Returns the TensorFlow module, which sees no GPU and no TPU from now on.

    TensorFlow feeds the pipeline and computes nothing. By default it would claim all
    memory of a GPU, or the TPU itself, before JAX does. Importing it takes seconds, so
    sampling and restoration, which read no data set, never call this.
    """
    # Its notes on CPU features would bury our own lines; warnings still come through.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf
