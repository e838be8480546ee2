"""The key `sample.prompts`: texts that a model with text is to draw."""

import os

from etils import epath

_SUFFIX = ".txt"


def parse_prompts(text: str | None, has_text: bool) -> list[str]:
    """Returns the prompts; [] for a model without text.

    Args:
      text: prompts separated by ";", or the path of a .txt file with one in each line.
        An empty prompt asks for nothing in particular.
      has_text: whether the model was trained on captions.

    Raises:
      ValueError: prompts are missing, or the model was trained without captions.
      OSError: the file cannot be read.
    """
    if not has_text:
        if text is not None:
            raise ValueError(
                f"sample.prompts={text!r} is for a model that was trained on captions "
                "(conditions.text); this one was not"
            )
        return []
    if text is None:
        raise ValueError(
            "sample.prompts must be set for a model that was trained on captions: "
            "texts separated by ';', or a .txt file with one in each line"
        )
    if text.endswith(_SUFFIX):
        lines = epath.Path(os.path.expanduser(text)).read_text().splitlines()
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise ValueError(f"sample.prompts={text} holds no prompt")
        return found
    return [prompt.strip() for prompt in text.split(";")]
