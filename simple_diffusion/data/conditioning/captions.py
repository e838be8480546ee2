"""The host encoder of captions."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from simple_diffusion.core.examples import Example
from simple_diffusion.data.conditioning.encoders import Spec
from simple_diffusion.data.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class CaptionEncoder:
    """The tokens of the caption: "text", ids [length], padded; see `encoders.Encoder`.

    tokenizer: splits the caption.
    length: number of tokens; longer captions are cut, with a note.
    """

    tokenizer: Tokenizer
    length: int
    name: str = "text"
    needs: frozenset[str] = frozenset({"caption"})

    def specs(self, size: tuple[int, int]) -> Mapping[str, Spec]:
        """Returns the array; see `encoders.Encoder`."""
        return {self.name: Spec((self.length,), "int32")}

    def encode(
        self, example: Example, rng: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        """Returns the array; see `encoders.Encoder`."""
        assert example.caption is not None
        return {self.name: self.tokenizer.encode([example.caption], self.length).ids[0]}
