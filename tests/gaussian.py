"""Independent Gaussian pixels: data for which every answer has a closed form."""

import dataclasses

import jax.numpy as jnp

from simple_diffusion.diffusion import process


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Pixels of N(mean, std^2)."""

    mean: float = 0.3
    std: float = 0.5

    def denoiser(self, family=process.VP):
        """Returns the exact E[x | z_t]."""

        def denoise(z_t, logsnr):
            alpha, sigma = process.expand(family, logsnr, z_t)
            variance = (alpha * self.std) ** 2 + sigma**2
            return self.mean + alpha * self.std**2 / variance * (
                z_t - alpha * self.mean
            )

        return denoise

    def error(self, snr):
        """Returns E (x - E[x | z])^2."""
        return self.std**2 / (1.0 + snr * self.std**2)

    def flow(self, family, z_t, logsnr_t, logsnr_s):
        """Returns where the flow takes z_t: once standardised, z stays as it is."""

        def moments(logsnr):
            alpha, sigma = family.alpha_sigma(jnp.float32(logsnr))
            return alpha * self.mean, jnp.sqrt((alpha * self.std) ** 2 + sigma**2)

        mean_t, std_t = moments(logsnr_t)
        mean_s, std_s = moments(logsnr_s)
        return mean_s + std_s / std_t * (z_t - mean_t)
