"""The codec of a config: the space in which diffusion happens. So far only pixels."""

from simple_diffusion.core.options import Config
from simple_diffusion.core.types import PIXELS, Codec, Params


def build_codec(config: Config) -> tuple[Codec, Params]:
    """Returns the codec of a config and its frozen parameters, none for pixels.

    The parameters travel beside those of the denoiser, see `core.types.Weights`, and
    are never part of its checkpoints.
    """
    del config  # all recipes so far work on pixels
    return PIXELS, ()
