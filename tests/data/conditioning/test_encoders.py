"""From the fields of a source to arrays of a batch."""

import dataclasses

import jax
import numpy as np
import pytest

from simple_diffusion.core.examples import Example, Objects
from simple_diffusion.data import feed, order, patches, pipeline
from simple_diffusion.data.conditioning import encoders
from simple_diffusion.data.errors import DataError, UnsuitableImage
from simple_diffusion.data.scenes import scenes_source
from tests.data.test_pipeline import SEED, same, take, train
from tests.data.test_skipping import Numbered

SEMANTIC = encoders.MapEncoder("semantic")
DEPTH = encoders.MapEncoder("depth", dtype="float32")
OBJECTS = encoders.ObjectsEncoder(5)
H, W = 9, 14


@dataclasses.dataclass(frozen=True)
class Sides:
    """The number of "left" less that of "right" in a caption, and a random number."""

    name: str = "sides"
    needs: frozenset = frozenset({"caption"})

    def specs(self, size):
        return {
            "sides": encoders.Spec((), "int32", 7),
            "noise": encoders.Spec((), "float32"),
        }

    def encode(self, example, rng):
        count = example.caption.count("left") - example.caption.count("right")
        return {
            "sides": np.array(count, np.int32),
            "noise": np.array(rng.random(), np.float32),
        }


ALL = (OBJECTS, SEMANTIC, DEPTH, encoders.VectorEncoder("number", 2), Sides())


class Described(Numbered):
    """Pictures whose map repeats the image, with one object around a bright half."""

    fields = frozenset({"image", "caption", "objects", "maps", "vectors"})
    category_names = ("a", "b")

    def __init__(self, length=20, wrong=None):
        super().__init__(length)
        self.wrong = wrong or {}

    def read(self, index, resolution):
        pixels = np.random.default_rng(index).integers(
            0, 200, (H, W, 1), dtype=np.uint8
        )
        pixels[:, : W // 2] += 50
        example = Example(
            np.repeat(pixels, 3, 2),
            caption="shining on the left",
            objects=Objects(np.array([[0, 0, 1, 0.5]], np.float32), np.array([1])),
            maps={
                "semantic": pixels.astype(np.int32),
                "depth": pixels.astype(np.float32),
                "unused": np.zeros((1, 1, 1), np.uint8),
            },
            vectors={"number": np.array([index, 0.5])},
        )
        return dataclasses.replace(example, **self.wrong.get(index, {}))


class Scenes(scenes_source.ScenesSource):
    """Scenes with a vector, too."""

    fields = scenes_source.ScenesSource.fields | {"vectors"}

    def read_batch(self, indices, size, window=None, fields=()):
        examples = super().read_batch(indices, size, window, fields)
        number = np.stack([indices, np.full(len(indices), 0.5)], 1)
        return dataclasses.replace(examples, vectors={"number": number})


PATCHES = patches.PatchDistribution(
    patch=4, smallest=6, largest=8, flip=True, resize="area"
)
VIEWS = {"full": {"size": (6, 6), "flip": True}, "patches": {"patches": PATCHES}}


@pytest.fixture(params=["stored", "generated"])
def source(request):
    return Described() if request.param == "stored" else Scenes(length=20)


@pytest.fixture(params=VIEWS)
def options(request):
    return VIEWS[request.param] | {"batch_size": 8, "encoders": ALL}


def test_arrays_have_the_specified_shapes_and_nothing_else_changes(source, options):
    size = (4, 4) if "patches" in options else (6, 6)
    (batch,) = take(train(source, **options), 1)
    specs = encoders.EncoderSet(ALL, size).specs
    assert batch.fields.keys() == specs.keys()
    for name, spec in specs.items():
        assert batch.fields[name].shape == (8, *spec.shape)
        assert batch.fields[name].dtype == spec.dtype
    (bare,) = take(train(source, **options | {"encoders": ()}), 1)
    assert bare.fields == {}
    assert same(dataclasses.replace(batch, fields={}), bare)


def test_resuming_and_sharing_between_processes_keep_every_array(source, options):
    whole = take(train(source, **options), 3)
    resumed = take(train(source, start_step=2, **options), 1)
    assert same(whole[2], resumed[0])
    parts = [
        take(train(source, process_index=k, process_count=2, **options), 1)[0]
        for k in range(2)
    ]
    joined = jax.tree.map(lambda *v: np.concatenate(v), *parts)
    assert same(joined, whole[0])


@pytest.mark.parametrize("view", VIEWS)
def test_maps_and_boxes_follow_the_image_however_it_is_cropped(view):
    options = VIEWS[view] | {"encoders": ALL}
    batches = take(train(Described(), batch_size=8, swap_sides=True, **options), 2)
    mirrored = 0
    for batch in batches:
        image = batch.image[..., :1].astype(np.float32)
        # Pixels are rounded up to three times, floats never.
        assert np.abs(batch.fields["map:depth"] - image).max() <= 1.51
        # Where an edge of the object is inside, it is where brightness changes.
        for k in range(8):
            side = batch.fields["sides"][k]
            mirrored += side == -1
            x0, x1 = batch.fields["objects.box"][k, 0, 1::2]
            if batch.fields["objects.present"][k, 0] and x1 - x0 < 0.9:
                assert (x0 < 1e-6) == (side == 1)
    assert 0 < mirrored < 16
    assert {*batch.fields["objects.category"][:, 0].tolist()} <= {0, 1}


def test_scenes_are_cut_into_patches_with_their_fields():
    source = scenes_source.ScenesSource(length=50)
    names = ("semantic", "instance")
    wanted = (encoders.ObjectsEncoder(12), *map(encoders.MapEncoder, names))
    large = dataclasses.replace(PATCHES, patch=32, smallest=40, largest=64)
    (batch,) = take(train(source, batch_size=24, patches=large, encoders=wanted), 1)
    box, present = batch.fields["objects.box"], batch.fields["objects.present"]
    category = batch.fields["objects.category"]
    checked = 0
    for k in range(24):
        instances = batch.fields["map:instance"][k, ..., 0]
        seen = {
            batch.fields["map:semantic"][k][instances == i][0, 0]
            for i in np.unique(instances[instances > 0])
            if (instances == i).sum() > 64
        }
        assert seen <= set(category[k][present[k]].tolist())
        for y0, x0, y1, x1 in box[k][present[k]]:
            assert 0 <= y0 < y1 <= 1 and 0 <= x0 < x1 <= 1
        for i in np.unique(instances[instances > 0]):
            y, x = np.nonzero(instances == i)
            # Some box of the objects encloses it, to within a pixel.
            ends = np.array([y.min(), x.min(), -y.max() - 1, -x.max() - 1]) / 32
            fits = (box[k] * (1, 1, -1, -1) <= ends + 1 / 32).all(1) & present[k]
            checked += len(y) > 64
            assert fits.any() or len(y) <= 64
    assert checked > 10


def test_captions_name_the_other_side_in_mirrored_images_only_if_asked():
    options = dict(batch_size=20, size=(6, 6), flip=True, encoders=(Sides(),))
    (kept,) = take(train(Described(), **options), 1)
    assert (kept.fields["sides"] == 1).all()
    (swapped,) = take(train(Described(), swap_sides=True, **options), 1)
    is_left = swapped.image[:, :, :3].mean((1, 2, 3)) > swapped.image[:, :, 3:].mean(
        (1, 2, 3)
    )
    assert ((swapped.fields["sides"] == 1) == is_left).all()
    assert 0 < is_left.sum() < 20


def test_the_random_numbers_of_an_encoder_are_its_own(source):
    options = dict(batch_size=16, size=(6, 6))
    (one,) = take(train(source, encoders=(Sides(),), **options), 1)
    (many,) = take(train(source, encoders=ALL, **options), 1)
    assert (one.fields["noise"] == many.fields["noise"]).all()
    assert len({*one.fields["noise"].tolist()}) == 16
    (other,) = take(train(source, encoders=ALL, seed=9, **options), 1)
    assert not (one.fields["noise"] == other.fields["noise"]).any()
    # Nor are they those of an encoder of another name, or those of crops and flips.
    named = (dataclasses.replace(Sides(), name="other"),)
    (renamed,) = take(train(source, encoders=named, **options), 1)
    assert not (one.fields["noise"] == renamed.fields["noise"]).any()
    generators = (order.make_generator(SEED, k) for k in range(16))
    drawn = np.concatenate([generator.random(4) for generator in generators])
    assert not np.isin(one.fields["noise"], drawn.astype(np.float32)).any()


WRONG = {
    "caption": {"caption": " "},
    "objects": {"objects": Objects(np.ones((1, 4), np.float32), np.array([0]))},
    "objects: class 2": {
        "objects": Objects(np.array([[0, 0, 1, 1]], np.float32), np.array([2]))
    },
    "map depth: missing": {"maps": {}},
    "vector number: has 1 numbers": {"vectors": {"number": np.zeros(1)}},
}


@pytest.mark.parametrize("problem", WRONG)
def test_an_example_with_a_bad_field_is_skipped_with_its_name(problem, capsys, options):
    source = Described(wrong={3: WRONG[problem]})
    batches = train(source, **options)
    batch, *_ = [next(batches) for _ in range(4)]
    numbers = batch.fields["vector:number"][:, 0]
    assert batches.bad_count == 1 and not (numbers == 3).any()
    batches.close()
    printed = capsys.readouterr()
    assert f"skipped an image: example 3 of data.source: {problem}" in (
        printed.out + printed.err
    )
    # Nobody needs its fields: it is as good as the others.
    batches = train(source, **options | {"encoders": ()})
    assert all(next(batches).mask.all() for _ in range(4)) and not batches.bad_count
    batches.close()


def test_if_all_have_a_bad_field_that_is_an_error(options):
    source = Described(wrong={k: {"caption": ""} for k in range(20)})
    with pytest.raises(DataError, match="none of the 20 images .* caption: empty"):
        take(train(source, **options), 1)


def test_padding_and_skipped_examples_have_blank_fields(source):
    options = dict(batch_size=8, size=(6, 6), encoders=ALL)
    first, second = pipeline.eval_batches(source, count=11, **options)
    assert second.mask.sum() == 3
    for name, spec in encoders.EncoderSet(ALL, (6, 6)).specs.items():
        assert (second.fields[name][~second.mask] == spec.blank).all()
    chosen = pipeline.eval_examples(source, [9, 2], size=(6, 6), encoders=ALL)
    for name, values in chosen.fields.items():
        assert (values[0] == second.fields[name][1]).all()
        assert (values[1] == first.fields[name][2]).all()


def test_of_too_many_objects_the_largest_are_kept_in_their_order():
    side = np.array([0.2, 0.5, 0.1, 0.4, 0.3], np.float32)
    box = np.stack([0 * side, 0 * side, side, side], 1)
    example = Example(np.zeros((2, 2, 3), np.uint8), objects=Objects(box, np.arange(5)))
    rng = np.random.default_rng(0)
    found = encoders.ObjectsEncoder(3).encode(example, rng)
    assert found["objects.category"].tolist() == [1, 3, 4]
    assert (found["objects.box"] == box[[1, 3, 4]]).all()
    roomy = encoders.ObjectsEncoder(7).encode(example, rng)
    assert roomy["objects.present"].tolist() == [True] * 5 + [False] * 2


def test_a_map_of_another_kind_than_expected_is_an_error():
    example = Described().read(0, 9)
    rng = np.random.default_rng(0)
    for wrong in ("uint8", "float32"):
        with pytest.raises(UnsuitableImage, match=f"int32, where {wrong} is expected"):
            encoders.MapEncoder("semantic", dtype=wrong).encode(example, rng)
    with pytest.raises(UnsuitableImage, match="has 1 channels, where 3 are"):
        encoders.MapEncoder("depth", 3, "float32").encode(example, rng)


def test_encoders_with_one_name_are_an_error():
    with pytest.raises(ValueError, match="share a name: objects .*objects"):
        encoders.EncoderSet((OBJECTS, encoders.ObjectsEncoder(2)), (4, 4))


def test_arrays_of_all_ranks_reach_the_devices():
    mesh = jax.make_mesh((8,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    options = dict(batch_size=8, size=(6, 6))
    (batch,) = take(train(Described(), encoders=ALL, **options), 1)
    with feed.Feed(train(Described(), encoders=ALL, **options), sharding) as batches:
        found = next(batches)
    assert same(jax.tree.map(np.asarray, found), batch)


def test_errors_of_encoders_do_not_hide():
    class Careless(Sides):
        def encode(self, example, rng):
            return {"sides": np.zeros(2), "noise": np.zeros(())}

    with pytest.raises(ValueError, match="encoder of sides: must give"):
        take(train(Described(), encoders=(Careless(),), size=(6, 6)), 1)
