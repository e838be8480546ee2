"""The key `sample.prompts`: texts that a model with text is to draw."""

import os
from collections.abc import Sequence

from etils import epath

_SUFFIX = ".txt"


def parse_prompts(value: str | Sequence[str]) -> list[str]:
    """Returns the prompts.

    Args:
      value: prompts separated by ";", the path of a .txt file with one in each line, or
        a list of prompts. An empty prompt asks for nothing in particular.

    Raises:
      ValueError: the file holds no prompt.
      OSError: the file cannot be read.
    """
    if not isinstance(value, str):
        return [str(prompt) for prompt in value]
    if value.endswith(_SUFFIX):
        lines = epath.Path(os.path.expanduser(value)).read_text().splitlines()
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise ValueError(f"sample.prompts={value} holds no prompt")
        return found
    return [prompt.strip() for prompt in value.split(";")]
