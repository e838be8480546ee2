"""Our side of `patch_loading`: the input pipeline, as training uses it."""

from typing import Any

from benchmarks import protocol
from simple_diffusion.data import patches, pipeline
from simple_diffusion.data.sources import catalogue


def prepare(spec: protocol.Spec) -> tuple[dict[str, Any], protocol.Run]:
    """Opens the folder and makes the first batch."""
    source = catalogue.open_source(f"folder:{spec.folder}", holdout_fraction=0.0)
    side = spec.resolution
    distribution = patches.PatchDistribution(side, side, spec.largest, flip=True)
    batches = pipeline.train_batches(
        source, batch_size=spec.batch, seed=0, patches=distribution
    )
    assert next(batches).image.shape == (spec.batch, side, side, 3)

    def run(steps: int) -> None:
        for _ in range(steps):
            next(batches)

    return {"version": "tf.data, Pillow"}, run


if __name__ == "__main__":
    protocol.serve(prepare)
