"""The model card of an export: Markdown with metadata for the Hugging Face hub."""

import json
from collections.abc import Mapping
from typing import Any


def render(process: Mapping[str, Any], metrics: Mapping[str, Any], name: str) -> str:
    """Returns the text of the card.

    Args:
      process: as `process.json` has it.
      metrics: record of the last evaluation, as `metrics.json` has it; may be empty.
      name: of the model.
    """
    values = {
        key: value
        for key, value in metrics.get("metrics", {}).items()
        if "[" not in key and isinstance(value, int | float)
    }
    h, w = process["size"]
    conditional = process["num_classes"] > 0
    kind = f"{process['num_classes']} classes" if conditional else "unconditional"
    trained = "" if process["step"] is None else f", step {process['step']:,}"
    sample = (
        "model.sample([0, 1, 2, 3], seed=0)" if conditional else "model.sample(count=4)"
    )
    table = [f"| {key} | {value:.4g} |" for key, value in values.items()]
    rows = {
        "network": f"{process['network']}, {process['parameters']:,} parameters",
        "images": f"{h}x{w}, {process['channels']} channels, {kind}",
        "prediction": process["prediction"],
        "process": f"{process['family']}, schedule {process['schedule']['name']}",
        "weights": f"{process['weights']}{trained}, {process['dtype']}",
    }
    lines = [
        *_metadata(process, values, name),
        f"# {name}",
        "",
        "An image diffusion model trained with simple_diffusion (JAX, Flax).",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in rows.items()),
        "",
        "## Use",
        "",
        "```python",
        "import simple_diffusion",
        'model = simple_diffusion.load("path/to/this/folder")  # or "hf:OWNER/NAME"',
        f"images = {sample}  # uint8 [n, {h}, {w}, {process['channels']}]",
        "```",
    ]
    if table:
        lines += ["", "## Metrics", "", "| metric | value |", "|---|---|", *table]
    return "\n".join(lines) + "\n"


def _metadata(
    process: Mapping[str, Any], values: Mapping[str, float], name: str
) -> list[str]:
    """Returns the YAML header. JSON strings are YAML strings."""
    tags = ["diffusion", "image-generation", "jax", "flax"]
    lines = [
        "---",
        "library_name: simple_diffusion",
        "pipeline_tag: unconditional-image-generation",
        "tags:",
        *(f"- {tag}" for tag in tags),
    ]
    if values:
        lines += [
            "model-index:",
            f"- name: {json.dumps(name)}",
            "  results:",
            "  - task:",
            "      type: unconditional-image-generation",
            "    dataset:",
            "      name: training data",
            "      type: image",
            "    metrics:",
        ]
        for key, value in values.items():
            lines += [
                f"    - type: {json.dumps(key)}",
                f"      value: {float(value)!r}",
            ]
    return [*lines, "---", ""]
