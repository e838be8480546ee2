"""Reading for `record_loading`: the input pipeline on one source, as in training."""

from typing import Any

from benchmarks import protocol
from simple_diffusion.data import pipeline
from simple_diffusion.data.sources import catalogue


def prepare(spec: protocol.Spec) -> tuple[dict[str, Any], protocol.Run]:
    """Opens the source that `spec.folder` names and makes the first batch."""
    source = catalogue.open_source(spec.folder, holdout_fraction=0.0)
    side = spec.resolution
    batches = pipeline.train_batches(
        source,
        batch_size=spec.batch,
        size=(side, side),
        seed=0,
        crop="random",
        flip=True,
    )
    assert next(batches).image.shape == (spec.batch, side, side, 3)

    def run(steps: int) -> None:
        for _ in range(steps):
            next(batches)

    return {"images": len(source)}, run


if __name__ == "__main__":
    protocol.serve(prepare)
