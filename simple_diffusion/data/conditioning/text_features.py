"""The host encoder of features of captions by a frozen text encoder."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from simple_diffusion.core.examples import Example
from simple_diffusion.data.conditioning.encoders import Spec
from simple_diffusion.data.errors import UnsuitableImage
from simple_diffusion.data.records.text_features import DTYPE, FIELD, VECTOR


@dataclasses.dataclass(frozen=True)
class TextFeaturesEncoder:
    """The tokens of the vector `text_features`, padded; see `encoders.Encoder`.

    The arrays are "text_features.features", [length, features] float16, and
    "text_features.mask", [length], which is False for padding. Without any tokens the
    condition is its null.

    features: of each token.
    length: number of tokens.
    """

    features: int
    length: int
    name: str = VECTOR
    needs: frozenset[str] = frozenset({FIELD})

    def specs(self, size: tuple[int, int]) -> Mapping[str, Spec]:
        """Returns the arrays; see `encoders.Encoder`."""
        return {
            f"{self.name}.features": Spec((self.length, self.features), "float16"),
            f"{self.name}.mask": Spec((self.length,), "bool"),
        }

    def encode(
        self, example: Example, rng: np.random.Generator
    ) -> Mapping[str, np.ndarray]:
        """Returns the arrays; see `encoders.Encoder`."""
        values = example.vectors[VECTOR]
        if values.dtype != DTYPE or values.size % self.features:
            raise UnsuitableImage(
                f"vector {VECTOR}: {values.size} numbers of {values.dtype} are not "
                f"tokens of {self.features} features in float16"
            )
        tokens = values.reshape(-1, self.features)
        if len(tokens) > self.length:
            raise UnsuitableImage(
                f"vector {VECTOR}: {len(tokens)} tokens, at most {self.length} fit"
            )
        padded = np.zeros((self.length, self.features), np.float16)
        padded[: len(tokens)] = tokens
        mask = np.arange(self.length) < len(tokens)
        return {f"{self.name}.features": padded, f"{self.name}.mask": mask}
