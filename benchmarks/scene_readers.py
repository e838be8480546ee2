"""How well the readers of scenes read real scenes, and how long they train.

    python -m benchmarks.scene_readers --size 64

Trains the attribute reader, the detector and the segmenter on scenes of the training
split, as an evaluation does, and lets them read held-out scenes. The second column is
what needs no reader: the most frequent value, or what another scene shows.
"""

import argparse
import tempfile
import time

import numpy as np
from etils import epath

from benchmarks import protocol
from simple_diffusion.data.scenes import scenes
from simple_diffusion.evaluation.conditions import condition_metrics, scene_readers
from simple_diffusion.evaluation.conditions.condition_metrics import Pictures, Tools
from simple_diffusion.evaluation.conditions.scene_readers import SceneReaders
from simple_diffusion.evaluation.conditions.wanted import Attributes, SemanticMaps
from simple_diffusion.evaluation.metrics.conditions.layout import Layouts

_HELD_OUT = 7  # seed of the scenes that are read
KINDS = "text", "layout", "semantic"


def main() -> None:
    """Prints a table for each reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="pixels along a side")
    parser.add_argument("--count", type=int, default=1000, help="held-out scenes")
    parser.add_argument("--steps", type=int, default=scene_readers.STEPS)
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    args = parser.parse_args()
    size = args.size, args.size
    found = scenes.describe(_HELD_OUT, np.arange(args.count), split="holdout")
    boxes = scenes.boxes(found)
    wanted = {
        "text": Attributes(scene_readers.attributes_of(found)),
        "layout": Layouts(*boxes),
        "semantic": SemanticMaps(scenes.maps(found, *size)["semantic"][..., 0]),
    }
    pixels = scenes.render(found, *size)
    print(f"{args.count} held-out scenes of {args.size} pixels, {protocol.processor()}")
    for kind in args.kinds:
        with tempfile.TemporaryDirectory() as folder:
            readers = SceneReaders(epath.Path(folder), size, steps=args.steps)
            wall, cpu = time.perf_counter(), time.process_time()
            readers.prepare(kind)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"\n{kind}: trained in {wall:.0f} s, {cpu:.0f} s of CPU")
        print("| metric | real scenes | without a reader |\n|---|---:|---:|")
        pictures = Pictures(pixels, pixels)
        for metric in condition_metrics.measure(
            kind, pictures, wanted[kind], Tools(readers)
        ):
            *_, guess = (*metric.baselines.values(),)
            print(f"| {metric.name} | {metric.value:.3f} | {guess:.3f} |")


if __name__ == "__main__":
    main()
