"""Our side of `feature_extraction`: a worker of `protocol`."""

import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks import ours, protocol
from benchmarks.feature_weights import images, weight
from simple_diffusion.evaluation.networks import inception
from simple_diffusion.evaluation.networks.feature_network import FeatureNetwork
from simple_diffusion.weights import convert_inception, weight_files


def network() -> FeatureNetwork:
    """Returns the network with the random weights, by way of files as for true ones."""
    shapes = convert_inception.pytorch_shapes()
    with tempfile.TemporaryDirectory() as folder:
        port, made = Path(folder) / "port.npz", Path(folder) / "inception.npz"
        weight_files.write(port, {k: weight(k, s) for k, s in shapes.items()})
        convert_inception.convert(str(port), str(made))
        return inception.load(made)


def prepare(spec: protocol.Spec) -> tuple[dict[str, Any], protocol.Run]:
    """Makes the network, compiles it and looks at the images once."""
    extract = network()
    params = jax.device_put(extract.params)
    x = jax.device_put(images(spec.batch, spec.resolution))
    start = time.perf_counter()
    look = jax.jit(extract.apply).lower(params, x).compile()
    compile_seconds = time.perf_counter() - start

    def run(steps: int) -> int | None:
        for _ in range(steps):
            jax.block_until_ready(look(params, x))
        return ours.device_peak()

    return {
        "features": look(params, x).features[0, :8].tolist(),
        "compile_seconds": compile_seconds,
        "version": f"jax {jax.__version__}",
    }, run


if __name__ == "__main__":
    protocol.serve(prepare)
