import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simple_diffusion.core import rng
from simple_diffusion.core.types import Conditioning
from simple_diffusion.diffusion import parameterization, process, schedules
from simple_diffusion.sampling import grids, guidance, loop, solvers, windows

KERNELS = [
    np.asarray(0.5 * jax.random.normal(jax.random.key(k), (3, 3, 6, 6)))
    for k in range(4)
]
# Sizes at which the last window has to be moved back along one axis.
SIZE, WINDOW, STRIDE = (31, 24), 12, 6
Z = jax.random.normal(jax.random.key(10), (2, *SIZE, 2))
LOGSNR = jnp.array([-1.0, 0.5])
WHOLE = jnp.array([[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.5, 0.75]])
COND = Conditioning(
    label=jnp.array([1, 3]),
    box=WHOLE,
    tokens=jnp.array([[[0.5]], [[-0.5]]]),
    token_mask=jnp.ones((2, 1), bool),
    image=jax.random.normal(jax.random.key(11), (2, *SIZE, 1)),
    full_size=(64, 64),
)


def convolve(x, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    kernel = jnp.asarray(kernel, jnp.float32)
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=layout
    )


def bind(cond, layers=2):
    """Binds convolutions that see `layers` pixels around each, and all of `cond`.

    Like a real network they are padded with zeros, and know where each pixel is.
    """

    def denoise(z_t, logsnr):
        b, h, w, c = z_t.shape

        def plane(value):  # [b, h or 1, w or 1] -> [b, h, w, 1]
            return jnp.broadcast_to(value, (b, h, w))[..., None]

        level = jnp.tanh(logsnr) + (0.0 if cond.label is None else 0.3 * cond.label)
        planes = [z_t, plane(level[:, None, None])]
        if cond.box is not None:
            low, extent = cond.box[:, :2], cond.box[:, 2:] - cond.box[:, :2]
            y, x = (
                low[:, k, None] + extent[:, k, None] * (jnp.arange(n)[None] + 0.5) / n
                for k, n in enumerate((h, w))
            )
            planes.append(plane(jnp.sin(9 * y)[:, :, None] + jnp.cos(7 * x)[:, None]))
        if cond.tokens is not None:
            real = cond.tokens * cond.token_mask[..., None]
            planes.append(plane(real.sum(1)[..., None]) * cond.full_size[0] / 64)
        if cond.image is not None:
            planes.append(cond.image)
        features = jnp.concatenate(planes, axis=-1)
        features = jnp.pad(features, [(0, 0)] * 3 + [(0, 6 - features.shape[-1])])
        for kernel in KERNELS[:layers]:
            features = jnp.tanh(convolve(features, kernel))
        return features[..., :c]

    return denoise


def fused(layers=2, taper=1 / 3, batch=5, **more):
    settings = {"window": WINDOW, "stride": STRIDE} | more
    of_windows = functools.partial(bind, layers=layers)
    return windows.fuse_windows(of_windows, batch=batch, taper=taper, **settings)


def run(bind, cond=COND, z=Z, logsnr=LOGSNR):
    return jax.jit(lambda cond, z, logsnr: bind(cond)(z, logsnr))(cond, z, logsnr)


@functools.cache
def whole(layers=2):
    return run(functools.partial(bind, layers=layers))


def distance(a, b):
    return np.max(np.abs(np.asarray(a) - np.asarray(b)))


@st.composite
def axes(draw):
    window = draw(st.integers(1, 40))
    stride = draw(st.integers(1, window))
    length = draw(st.integers(1, 200))
    return length, window, stride


tapers = st.floats(0.0, 1.0)


@settings(deadline=None)
@given(axes())
def test_windows_cover_an_axis_from_end_to_end_without_gaps(axis):
    length, window, stride = axis
    starts = windows.window_starts(*axis)
    assert starts[0] == 0 and starts[-1] + min(window, length) == length
    assert np.all((np.diff(starts) > 0) & (np.diff(starts) <= stride))
    # None is superfluous: without the last but one there would be a gap.
    assert len(starts) == 1 or len(starts) == -(-(length - window) // stride) + 1


def test_windows_of_an_image_are_counted():
    assert windows.count_windows((31, 24), 12, 6) == 5 * 3
    assert windows.count_windows((31, 24), (40, 12), 6) == 3
    assert windows.count_windows((4096, 4096), 64, 32) == 127**2


@settings(deadline=None)
@given(axes(), tapers)
def test_weights_add_up_to_one_everywhere(axis, taper):
    weight = windows.window_weights(*axis, taper)
    folded = np.zeros(axis[0])
    for start, row in zip(windows.window_starts(*axis), weight, strict=True):
        folded[start : start + len(row)] += row
    np.testing.assert_allclose(folded, 1.0, rtol=0, atol=1e-6)
    assert np.all(weight >= 0.0)


@settings(deadline=None)
@given(axes(), tapers)
def test_a_pixel_without_its_surroundings_has_no_weight(axis, taper):
    length, window, stride = axis
    radius = int((1.0 - taper) / 2.0 * max(window - stride, 0))
    starts = windows.window_starts(*axis)
    for start, row in zip(starts, windows.window_weights(*axis, taper), strict=True):
        if start > 0:
            assert not np.any(row[:radius])
        if start + len(row) < length:
            assert not np.any(row[len(row) - radius :])


def test_weights_meet_halfway():
    for taper in (0.0, 0.25, 0.5, 1.0):
        left, middle, right = windows.window_weights(20, 8, 6, taper)
        np.testing.assert_allclose(middle, middle[::-1], rtol=0, atol=1e-6)
        np.testing.assert_allclose(left, right[::-1], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(left[:6], 1.0)
    np.testing.assert_array_equal(
        windows.window_weights(20, 8, 6, 0.0)[1], [0, *[1] * 6, 0]
    )
    # An odd overlap has a pixel in the middle, which both share equally.
    np.testing.assert_allclose(
        windows.window_weights(13, 8, 5, 0.0)[0][4:], [1, 1, 0.5, 0]
    )


def test_weights_of_full_taper_and_half_overlap_are_those_of_hann():
    wanted = np.sin(np.pi * (np.arange(16) + 0.5) / 16) ** 2
    np.testing.assert_allclose(
        windows.window_weights(64, 16, 8, 1.0)[2], wanted, rtol=0, atol=1e-6
    )


@settings(max_examples=12, deadline=None)
@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.data(),
)
def test_an_image_cut_up_and_put_together_is_itself(size, window, data):
    stride = data.draw(st.integers(1, min(window)))
    z = jax.random.normal(jax.random.key(0), (2, *size, 3))
    put_together = windows.fuse_windows(
        lambda cond: lambda z_t, logsnr: z_t,
        window=window,
        stride=stride,
        batch=data.draw(st.integers(1, 20)),
        taper=data.draw(tapers),
    )
    # A few roundings of numbers up to 5.
    assert distance(run(put_together, Conditioning(), z), z) < 5e-6


@pytest.mark.parametrize("layers, taper", [(3, 0.0), (2, 1 / 3), (1, 0.5)])
def test_windows_equal_the_full_image(layers, taper):
    # Up to the image's own ends, where both see the same zeros.
    assert distance(run(fused(layers, taper)), whole(layers)) < 5e-6


def test_a_network_that_sees_one_more_pixel_distinguishes_windows_from_the_full_image():
    assert distance(run(fused(4, 0.0)), whole(4)) > 0.01


@pytest.mark.parametrize(
    "change",
    [
        {"label": COND.label[::-1]},
        {"box": WHOLE[::-1]},
        {"tokens": COND.tokens[::-1]},
        {"token_mask": jnp.zeros((2, 1), bool)},
        {"image": COND.image[:, ::-1]},
        {"full_size": (32, 32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_network_of_these_tests_notices_its_conditioning(change):
    assert distance(run(bind, COND.replace(**change)), whole()) > 0.01


def test_a_window_is_conditioned_on_its_own_part_of_the_image():
    seen = []

    def watched(cond):
        jax.debug.callback(seen.append, cond)
        return lambda z_t, logsnr: z_t

    cut = windows.fuse_windows(watched, window=(16, 12), stride=12, batch=3)
    run(cut)
    jax.effects_barrier()
    boxes = np.concatenate([cond.box for cond in seen])
    labels = np.concatenate([cond.label for cond in seen])
    assert all(cond.full_size == (64, 64) for cond in seen)
    corners = [(y, x, y + 16, x + 12) for y in (0, 12, 15) for x in (0, 12)]
    inner = np.array(corners) / (31, 24, 31, 24)
    for label, outer in zip(COND.label, np.asarray(WHOLE), strict=True):
        wanted = outer[[0, 1, 0, 1]] + inner * np.tile(outer[2:] - outer[:2], 2)
        np.testing.assert_allclose(
            sorted(map(tuple, boxes[labels == label])), wanted, rtol=0, atol=1e-6
        )


def test_a_network_without_conditioning_stays_without():
    cond = Conditioning()
    assert distance(run(fused(), cond), run(bind, cond)) < 5e-6


@pytest.mark.parametrize("window", [(31, 24), (99, 99), (31, 12), (12, 99)])
def test_a_window_as_large_as_the_image_is_the_image(window):
    # With one window there is nothing to be seen beyond it, however far a network sees.
    layers = 2 if min(window) == 12 else 4
    assert distance(run(fused(layers, window=window)), whole(layers)) < 5e-6


@pytest.mark.parametrize("batch", [1, 7, 30, 100])
def test_the_image_does_not_depend_on_how_many_windows_are_run_at_a_time(batch):
    # 4 layers: windows that do not agree with each other.
    assert distance(run(fused(4, batch=batch)), run(fused(4, batch=4))) < 5e-6


def test_windows_are_shared_out_evenly():
    def calls(batch, devices=1):
        shapes = []

        def watched(cond):
            def denoise(z_t, logsnr):
                jax.debug.callback(lambda z: shapes.append(z.shape), z_t)
                return z_t

            return denoise

        cut = windows.fuse_windows(
            watched, window=8, stride=8, batch=batch, devices=devices
        )
        run(cut, Conditioning(), jnp.zeros((1, 24, 24, 1)), LOGSNR[:1])
        jax.effects_barrier()
        return [n for n, *_ in shapes]

    assert calls(8) == [5, 5]
    assert calls(9) == calls(100) == [9]
    assert calls(4) == [3, 3, 3]
    assert calls(1, devices=4) == [4, 4, 4]
    assert calls(100, devices=4) == [12]


@pytest.mark.parametrize(
    "turn",
    [
        lambda z: z[:, ::-1],
        lambda z: z[:, :, ::-1],
        lambda z: jnp.swapaxes(z, 1, 2),
    ],
    ids=["from below", "from the right", "columns first"],
)
def test_the_image_does_not_depend_on_the_order_of_the_windows(turn):
    def blurred(cond):
        return lambda z_t, logsnr: convolve(z_t, np.full((9, 9, 1, 1), 1 / 81))

    cut = windows.fuse_windows(blurred, window=12, stride=6, batch=4, taper=1.0)
    z = jax.random.normal(jax.random.key(0), (1, 36, 24, 1))
    got = run(cut, Conditioning(), turn(z), LOGSNR[:1])
    wanted = turn(run(cut, Conditioning(), z, LOGSNR[:1]))
    assert distance(got, wanted) < 5e-6


SOLVERS = {
    "ancestral": solvers.ancestral(),
    "ddim": solvers.ddim(),
    "heun": solvers.heun(),
    "dpmpp_2m": solvers.dpmpp_2m(),
}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_every_solver_draws_the_image_that_it_draws_without_windows(solver):
    grid = grids.uniform_t(schedules.cosine(), 5)
    keys = rng.derive_example_keys(jax.random.key(3), jnp.arange(2))

    def draw(bind):
        return jax.jit(
            lambda cond: loop.sample(bind(cond), solver, grid, keys, Z.shape[1:])
        )(COND)

    assert distance(draw(fused()), draw(bind)) < 2e-5


@pytest.mark.parametrize("weight", [3.0, guidance.interval(3.0, -2.0, 0.0)])
def test_guidance_and_clipping_of_windows_are_those_of_the_full_image(weight):
    null = COND.replace(label=jnp.array([9, 9]))

    def guided(bind):
        return lambda cond: guidance.clip_static(
            guidance.classifier_free(bind, cond, null, weight)
        )

    wanted = run(guided(bind))
    assert distance(run(guided(fused())), wanted) < 1e-5
    assert distance(wanted, whole()) > 0.1


@pytest.mark.parametrize(
    "kind, family", [("eps", process.VP), ("v", process.VP), ("u", process.FLOW)]
)
def test_the_mean_of_x_is_the_mean_of_any_kind(kind, family):
    # 4 layers: windows that do not agree with each other.
    def kind_of(bind):
        def bound(cond):
            def predict(z_t, logsnr):
                x_hat = bind(cond)(z_t, logsnr)
                return parameterization.from_x(kind, x_hat, z_t, logsnr, family)

            return predict

        return bound

    of_windows = kind_of(functools.partial(bind, layers=4))
    cut = windows.fuse_windows(
        of_windows, window=WINDOW, stride=STRIDE, batch=9, taper=1.0
    )
    assert distance(run(cut), run(kind_of(fused(4, 1.0)))) < 1e-5


def test_steps_across_seams_are_no_larger_than_elsewhere():
    # A blur of noise is the same everywhere; this one reaches 3 pixels, past the margin
    # of 2.
    def blurred(cond):
        return lambda z_t, logsnr: convolve(z_t, np.full((7, 7, 1, 1), 1 / 49))

    z = jax.random.normal(jax.random.key(5), (16, 16, 496, 1))

    def steps(stride):
        """Returns the total variation between columns by their place in a stride."""
        cut = windows.fuse_windows(blurred, window=16, stride=stride, batch=248)
        x = run(cut, Conditioning(), z, jnp.zeros(16))
        step = np.abs(np.diff(x, axis=2)).mean((0, 1, 3))
        step = step[stride - 1 : 496 - stride - 1]  # windows inside the image
        return step.reshape(-1, stride).mean(0) / step.mean()

    # Means over 15000 differences of neighbours that know of each other.
    np.testing.assert_allclose(steps(8), 1.0, rtol=0, atol=0.05)
    assert steps(16)[0] > 1.5  # without overlap


def test_eight_devices_share_the_windows_and_fuse_the_same_image():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread, copied = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        for axes in (("data",), ())
    )

    def constrain(array):
        return jax.lax.with_sharding_constraint(array, spread)

    cut = fused(4, batch=8, devices=8, constrain=constrain)
    cond, z, logsnr = jax.device_put((COND, Z, LOGSNR), copied)
    program = jax.jit(lambda *args: cut(cond)(*args)).lower(z, logsnr).compile()
    # The network sees one window on each device; what it made of them is sent around
    # once per group, not window by window.
    text = program.as_text()
    assert re.findall(r"= f32\[(\d+),\S+ convolution\(", text) == ["1"] * 4
    sent = re.findall(r"= (\S+) (?:all|collective|reduce)-\w+\(", text)
    assert [s for s in sent if s.startswith("f32")] == ["f32[8,12,12,2]{3,2,1,0}"]
    assert distance(program(z, logsnr), run(fused(4))) < 5e-6


def test_memory_and_program_do_not_grow_with_the_number_of_windows():
    def compiled(side, batch):
        cut = fused(batch=batch)
        program = jax.jit(lambda z, logsnr: cut(Conditioning())(z, logsnr))
        z = jax.ShapeDtypeStruct((1, side, side, 2), jnp.float32)
        return program.lower(z, LOGSNR[:1]).compile()

    def memory(program):
        return program.memory_analysis().temp_size_in_bytes

    few, many = compiled(48, batch=8), compiled(480, batch=8)  # 49 and 6241 windows
    assert memory(many) < memory(few) + 480 * 480 * 2 * 4
    assert len(many.as_text()) < 1.1 * len(few.as_text())
    assert memory(compiled(480, batch=80)) > 5 * memory(many)
    assert many.as_text().count(" convolution(") == 2


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"window": 0}, "sample.window=0 must be at least 1"),
        ({"stride": 0}, "sample.window_stride=0 must be between 1 and"),
        ({"stride": 13}, "sample.window_stride=13 .* sample.window=12"),
        ({"window": (40, 5)}, "sample.window_stride=6 .* sample.window=5"),
        ({"batch": 0}, "sample.window_batch=0 must be at least 1"),
        ({"taper": -0.1}, "sample.window_taper=-0.1 must be between 0 and 1"),
        ({"taper": 1.5}, "sample.window_taper=1.5 must be between 0 and 1"),
    ],
)
def test_numbers_out_of_range_are_errors_that_name_their_keys(changed, message):
    with pytest.raises(ValueError, match=message):
        fused(**changed)
