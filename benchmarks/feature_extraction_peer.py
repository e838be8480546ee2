"""The peer's side of `feature_extraction`: torch-fidelity under PyTorch.

A worker of `protocol`, run by the interpreter of the peer's own environment. It uses
the extractor as published, with its own resizing. "channels_last" is another memory
layout, "compiled" uses torch.compile.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from types import ModuleType
from typing import Any

import torch

from benchmarks import protocol
from benchmarks.feature_weights import images, weight

VARIANTS = ("eager", "channels_last", "compiled")


def load() -> ModuleType:
    """Returns the module of the extractor.

    Not through the package's own `__init__`, which imports other networks and what
    those need.
    """
    spec = importlib.util.find_spec("torch_fidelity")
    assert spec is not None and spec.submodule_search_locations is not None
    package = ModuleType("torch_fidelity")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["torch_fidelity"] = package
    return importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")


def network() -> torch.nn.Module:
    """Returns the extractor with the random weights: images -> (features, logits)."""
    module = load()
    module.load_state_dict_from_url = lambda *_, **__: {}

    class Random(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, _: Any) -> Any:
            names = [k for k in self.state_dict() if not k.endswith("_tracked")]
            shapes = {k: tuple(self.state_dict()[k].shape) for k in names}
            return super().load_state_dict(
                {k: torch.from_numpy(weight(k, s)) for k, s in shapes.items()}
            )

    return Random("inception", ["2048", "logits_unbiased"])


def prepare(spec: protocol.Spec) -> tuple[dict[str, Any], protocol.Run]:
    """Makes the network and looks at the images once."""
    torch.set_num_threads(spec.threads)
    device = {"cpu": "cpu", "gpu": "cuda"}[spec.backend]
    extract = network().to(device)
    x = torch.from_numpy(images(spec.batch, spec.resolution)).permute(0, 3, 1, 2)
    x = x.contiguous()
    if spec.variant == "channels_last":
        extract = extract.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    x = x.to(device)
    if spec.variant == "compiled":
        extract = torch.compile(extract)

    @torch.no_grad()
    def run(steps: int) -> int | None:
        for _ in range(steps):
            extract(x)
        if device == "cpu":
            return None
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()

    with torch.no_grad():
        features, _ = extract(x)
    version = importlib.metadata.version("torch_fidelity")
    return {
        "features": features[0, :8].tolist(),
        "version": f"torch-fidelity {version}, torch {torch.__version__}",
    }, run


if __name__ == "__main__":
    protocol.serve(prepare)
