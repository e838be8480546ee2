import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.core import rng
from simple_diffusion.diffusion import schedules
from simple_diffusion.diffusion.process import FLOW, VP
from simple_diffusion.restoration import ddnm, operators, travel
from simple_diffusion.sampling import grids, solvers
from tests.gaussian import Gaussian
from tests.restoration.test_null_space import OPERATORS, half
from tests.vectors import vector

SIZE = (8, 8)
SHAPE = (*SIZE, 3)


def logsnr_of(alpha_bar):
    return jnp.log(jnp.float32(alpha_bar)) - jnp.log1p(-jnp.float32(alpha_bar))


def linear_alpha_bar():
    """The schedule of the papers: beta linear from 1e-4 to 0.02 in 1000 steps."""
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def sd_alpha_bar():
    """That of Stable Diffusion: the roots of beta linear from 8.5e-4 to 0.012."""
    return np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def step(solver, z, alpha_bar, alpha_bar_next, denoise, seed=0):
    keys = rng.derive_example_keys(
        rng.derive_key(seed, 0, "restore"), jnp.arange(len(z))
    )
    levels = logsnr_of(alpha_bar), logsnr_of(alpha_bar_next)
    z_s, _ = solver.step(denoise, z, (), *levels, keys)
    return np.asarray(z_s), np.asarray(rng.normal_per_example(keys, z.shape[1:]))


def wrong(z_t, logsnr):
    """An estimate that agrees with no measurement."""
    return 0.3 * jnp.sin(3.0 * z_t) + 0.1


def linear(z_t, logsnr):
    return 0.7 * z_t - 0.1 * jnp.flip(z_t, axis=1)


@pytest.mark.parametrize("eta", [0.0, 0.85, 1.0])
def test_the_step_is_that_of_the_paper(eta):
    """Its formula in NumPy, with alpha-bar, raw eps and the projected estimate."""
    operator = OPERATORS["average"]
    z = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    y = operator.forward(jax.random.normal(jax.random.key(1), (2, *SHAPE)))
    now, then = linear_alpha_bar()[[600, 590]]
    found, n = step(ddnm.ddnm(operator, y, VP, eta), z, now, then, wrong)
    z, x0 = np.asarray(z, np.float64), np.asarray(wrong(z, None), np.float64)
    eps = (z - np.sqrt(now) * x0) / np.sqrt(1 - now)
    blocks = x0.reshape(2, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    up = (blocks - np.asarray(y)).repeat(2, 1).repeat(2, 2)
    noise = eta * n + np.sqrt(1 - eta**2) * eps
    want = np.sqrt(then) * (x0 - up) + np.sqrt(1 - then) * noise
    np.testing.assert_allclose(found, want, atol=2e-5)


@pytest.mark.parametrize("row", vector("restoration.ddnm_vs_ddim_noise"))
def test_fresh_noise_is_that_of_the_two_rules(row):
    alpha_bar = sd_alpha_bar()[[row["t"], row["t_prev"]]]
    operator = operators.inpaint(half())
    z = jnp.zeros((64, *SHAPE))
    y = jnp.zeros((64, *SHAPE))
    for as_ddim, name in ((False, "ddnm_noise_std"), (True, "ddim_sigma")):
        solver = ddnm.ddnm(operator, y, as_ddim=as_ddim)
        # With nothing estimated and no noise seen, only the fresh noise is left.
        found, n = step(solver, z, *alpha_bar, lambda z, _: jnp.zeros_like(z))
        np.testing.assert_allclose(found, row[name] * n, atol=2e-6, rtol=1e-4)


def test_the_noise_kept_is_that_of_the_estimate_before_the_projection():
    operator = operators.identity(SIZE)  # everything is measured
    y = jnp.full((1, *SHAPE), 0.5)
    z = jax.random.normal(jax.random.key(0), (1, *SHAPE))
    found, _ = step(ddnm.ddnm(operator, y, eta=0.0), z, 0.5, 0.6, wrong)
    eps = (np.asarray(z) - 0.5**0.5 * np.asarray(wrong(z, None))) / 0.5**0.5
    np.testing.assert_allclose(found, 0.6**0.5 * 0.5 + 0.4**0.5 * eps, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.85, 1.0])
def test_eta_of_ddim_without_a_measurement_is_ddim(eta):
    nothing = operators.inpaint(np.zeros((1, *SIZE, 1), np.float32))
    z = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    solver = ddnm.ddnm(nothing, jnp.zeros((2, *SHAPE)), eta=eta, as_ddim=True)
    found, _ = step(solver, z, 0.3, 0.5, wrong)
    want, _ = step(solvers.ddim(VP, eta), z, 0.3, 0.5, wrong)
    np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.parametrize("make", ["ddnm", "ddnm_plus", "ddnm_simplified"])
def test_a_step_commutes_with_the_change_of_family(make):
    operator = OPERATORS["bicubic"]
    y = operator.forward(jax.random.normal(jax.random.key(1), (2, *SHAPE)))
    z = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    levels = jnp.float32(-1.0), jnp.float32(0.5)
    keys = rng.derive_example_keys(rng.derive_key(0, 0, "restore"), jnp.arange(2))
    extra = {"sigma_y": 0.1} if make == "ddnm_plus" else {}
    ends = {}
    for family in (VP, FLOW):
        solver = getattr(ddnm, make)(operator, y, family=family, **extra)
        (start, _), (end, _) = (family.alpha_sigma(level) for level in levels)
        base, _ = VP.alpha_sigma(levels[0])

        def denoise(z_t, logsnr, scale=base / start):
            return wrong(scale * z_t, logsnr)

        z_s, _ = solver.step(denoise, z * start / base, (), *levels, keys)
        ends[family.name] = z_s / end
    np.testing.assert_allclose(ends["vp"], ends["flow"], atol=1e-5)


@pytest.mark.parametrize("row", vector("restoration.ddnm_plus"))
def test_shares_with_noise_are_those_of_the_rule(row):
    alpha, sigma = VP.alpha_sigma(logsnr_of(row["alphabar_next"]))
    s = jnp.array([row["s"], 0.0])
    share, fresh, kept = ddnm.ddnm_plus_coefficients(
        s, alpha, sigma, row["sigma_y"], row["eta"]
    )
    np.testing.assert_allclose(share, [row["lam"], 0.0], rtol=2e-6)
    old = np.sqrt(1 - row["eta"] ** 2)
    np.testing.assert_allclose(fresh, [row["d1"], row["eta"] * sigma], rtol=2e-6)
    np.testing.assert_allclose(kept, [row["d2"], old * sigma], rtol=2e-6)
    np.testing.assert_allclose(sigma, row["sigma_t"], rtol=2e-6)


@pytest.mark.parametrize("family", [VP, FLOW], ids=lambda f: f.name)
@pytest.mark.parametrize("eta", [0.0, 0.5, 0.85, 1.0])
def test_the_noise_of_every_measured_coordinate_adds_up(eta, family):
    """(alpha lambda sigma_y / s)^2 + d1^2 = sigma^2, in both branches.

    In the weaker branch for any eta: (1 - eta^2) + eta^2 = 1.
    """
    s = jnp.logspace(-3, 0, 50)
    branches = set()
    for logsnr in (-6.0, -1.0, 2.0, 6.0, 12.0):
        alpha, sigma = family.alpha_sigma(jnp.float32(logsnr))
        for sigma_y in (0.01, 0.2, 1.0):
            share, fresh, kept = ddnm.ddnm_plus_coefficients(
                s, alpha, sigma, sigma_y, eta
            )
            total = (alpha * share * sigma_y / s) ** 2 + fresh**2
            np.testing.assert_allclose(total, np.full(50, sigma**2), rtol=2e-4)
            assert not kept.any()
            branches |= set(np.unique(np.asarray(share == 1)))
    assert branches == {True, False}


def dense(operator):
    """Returns A as a matrix, one column for each number of the image."""
    n = int(np.prod(SHAPE))
    columns = operator.forward(jnp.eye(n).reshape(n, *SHAPE))
    return np.asarray(columns, np.float64).reshape(n, -1).T


def dense_ddnm_plus(matrix, y, z, n, now, then, x0, sigma_y, eta):
    """DDNM+ by NumPy's singular value decomposition, one image as a vector."""
    u, s, vt = np.linalg.svd(matrix)
    rank = int((s > 1e-5 * s[0]).sum())
    u, s, v = u[:, :rank], s[:rank], vt.T
    pinv = v[:, :rank] @ np.diag(1 / s) @ u.T
    a, sigma = np.sqrt(then), np.sqrt(1 - then)
    eps = (z - np.sqrt(now) * x0) / np.sqrt(1 - now)
    lam, d1 = np.zeros(len(vt)), np.full(len(vt), eta * sigma)
    d2 = np.full(len(vt), sigma * np.sqrt(1 - eta**2))
    for i in range(rank):
        d2[i] = 0.0
        if sigma >= a * sigma_y / s[i]:
            lam[i], d1[i] = 1.0, np.sqrt(sigma**2 - (a * sigma_y / s[i]) ** 2)
        else:
            lam[i] = s[i] * sigma * np.sqrt(1 - eta**2) / (a * sigma_y)
    x = x0 - v @ (lam * (v.T @ (pinv @ (matrix @ x0 - y))))
    return a * x + v @ (d1 * (v.T @ n)) + v @ (d2 * (v.T @ eps))


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("now", "then"), [(0.2, 0.4), (0.97, 0.99)])
def test_a_noisy_step_is_that_of_dense_matrices(name, now, then):
    operator, sigma_y = OPERATORS[name], 0.15
    x, noise = jax.random.normal(jax.random.key(5), (2, 2, *SHAPE))
    y = operator.forward(x) + sigma_y * operator.forward(noise)
    z = jax.random.normal(jax.random.key(6), (2, *SHAPE))
    solver = ddnm.ddnm_plus(operator, y, sigma_y, eta=0.85)
    found, n = step(solver, z, now, then, linear)
    matrix, x0 = dense(operator), linear(z, None)
    vectors = (np.asarray(v, np.float64).reshape(2, -1) for v in (y, z, n, x0))
    want = [
        dense_ddnm_plus(matrix, *arrays[:3], now, then, arrays[3], sigma_y, 0.85)
        for arrays in zip(*vectors, strict=True)
    ]
    np.testing.assert_allclose(found.reshape(2, -1), want, atol=1e-4)


@pytest.mark.parametrize("name", ["average", "blur", "old_photo"])
def test_a_whole_way_is_that_of_dense_matrices(name):
    """Twelve steps through both branches, each from where its own last one ended."""
    operator, sigma_y = OPERATORS[name], 0.15
    x, noise = jax.random.normal(jax.random.key(5), (2, 1, *SHAPE))
    y = operator.forward(x) + sigma_y * operator.forward(noise)
    solver, matrix = ddnm.ddnm_plus(operator, y, sigma_y, eta=0.85), dense(operator)
    levels = linear_alpha_bar()[np.linspace(950, 5, 13).astype(int)]
    ours = z = jax.random.normal(jax.random.key(6), (1, *SHAPE))
    theirs, target = np.asarray(z, np.float64), np.asarray(y, np.float64).ravel()
    for k, (now, then) in enumerate(itertools.pairwise(levels)):
        ours, n = step(solver, jnp.asarray(ours), now, then, linear, seed=k)
        x0 = np.asarray(linear(theirs, None), np.float64).ravel()
        vectors = theirs.ravel(), n.astype(np.float64).ravel(), now, then, x0
        ended = dense_ddnm_plus(matrix, target, *vectors, sigma_y, 0.85)
        theirs = ended.reshape(1, *SHAPE)
    np.testing.assert_allclose(ours, theirs, atol=2e-3 * np.abs(theirs).max())


def test_little_noise_does_not_become_none():
    """Along what is measured all noise is fresh with sigma_y > 0, and not with 0."""
    operator = operators.inpaint(half())
    y = operator.forward(jnp.zeros((1, *SHAPE)))
    z = jax.random.normal(jax.random.key(0), (1, *SHAPE))
    exact, n = step(ddnm.ddnm(operator, y, eta=0.85), z, 0.3, 0.5, wrong)
    noisy, _ = step(ddnm.ddnm_plus(operator, y, 1e-6, eta=0.85), z, 0.3, 0.5, wrong)
    known = slice(None, None, 2)
    np.testing.assert_allclose(noisy[:, 1::2], exact[:, 1::2], atol=1e-5)
    np.testing.assert_allclose(noisy[:, known], 0.5**0.5 * n[:, known], atol=1e-5)
    assert np.abs(noisy - exact)[:, known].mean() > 0.05


@pytest.mark.parametrize("name", ["inpaint", "average", "blur", "grey"])
def test_restoring_from_noise_beats_the_measurement_alone(name):
    """Gaussian pixels: the mean of many samples is nearer to the image than A⁺y."""
    operator, model, sigma_y = OPERATORS[name], Gaussian(0.3, 0.2), 0.3
    x = 0.3 + 0.2 * jax.random.normal(jax.random.key(1), (1, *SHAPE))
    noise = sigma_y * jax.random.normal(jax.random.key(2), operator.forward(x).shape)
    y = operator.forward(x) + noise
    grid = grids.uniform_t(schedules.cosine(), 50)
    keys = rng.derive_example_keys(rng.derive_key(0, 0, "restore"), jnp.arange(128))
    solver = ddnm.ddnm_plus(operator, y, sigma_y)
    found = jax.jit(
        lambda: travel.restore(model.denoiser(), solver, lambda x: x, grid, keys, SHAPE)
    )()
    restored = float(jnp.square(found.mean(0) - x[0]).mean())
    alone = float(jnp.square(operator.pinv(y) - x).mean())
    assert restored < 0.7 * alone


@pytest.mark.parametrize("row", vector("restoration.simplified_sampler_noise_factor"))
def test_the_simplified_sampler_scales_its_noise_as_published(row):
    then = linear_alpha_bar()[row["n"]]
    operator = operators.inpaint(half())
    z, y = jnp.zeros((8, *SHAPE)), jnp.zeros((8, *SHAPE))
    zero = lambda z, _: jnp.zeros_like(z)  # noqa: E731
    found, n = step(ddnm.ddnm_simplified(operator, y, eta=1.0), z, 0.01, then, zero)
    want = row["factor"] * np.sqrt(1 - then) * n
    np.testing.assert_allclose(found, want, atol=1e-4 * np.sqrt(1 - then), rtol=2e-3)


def test_what_ddnm_plus_cannot_do_names_its_key():
    compat = operators.average(SIZE, 2, half(), compat=True)
    y = jnp.zeros((1, 4, 4, 3))
    with pytest.raises(ValueError, match="restore.compat=False"):
        ddnm.ddnm_plus(compat, y, 0.1)
    with pytest.raises(ValueError, match="sigma_y=-0.1 must be more than 0"):
        ddnm.ddnm_plus(OPERATORS["average"], y, -0.1)
