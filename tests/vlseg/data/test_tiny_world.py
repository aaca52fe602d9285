import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlseg.data import tiny_world
from vlseg.data.tiny_world import shapes
from vlseg.errors import ConfigError

SIZE = 64
KEY = jax.random.key(7)
COUNT = 768
TEXTURES = len(tiny_world.TEXTURES)


@pytest.fixture(scope="module")
def batch() -> tiny_world.Scene:
    """`COUNT` scenes as numpy arrays."""
    draw = jax.jit(jax.vmap(lambda key: tiny_world.scene(key, SIZE)))
    return jax.device_get(draw(jax.random.split(KEY, COUNT)))


def test_names_are_single_distinct_words_with_known_relatives() -> None:
    assert tiny_world.NAMES == tiny_world.TEXTURES + tiny_world.OBJECTS
    assert len(tiny_world.TEXTURES) == 8 and len(tiny_world.OBJECTS) == 10
    synonyms = [word for words in tiny_world.SYNONYMS.values() for word in words]
    words = list(tiny_world.NAMES) + synonyms
    assert len(set(words)) == len(words)
    assert all(word.isalpha() and word.islower() for word in words)
    assert set(tiny_world.SYNONYMS) == set(tiny_world.HYPERNYMS) == set(tiny_world.NAMES)
    assert not set(tiny_world.HYPERNYMS.values()) & set(words)


def test_shapes_dtypes_and_ranges(batch: tiny_world.Scene) -> None:
    assert batch.image.shape == (COUNT, SIZE, SIZE, 3) and batch.image.dtype == np.float32
    assert batch.label.shape == (COUNT, SIZE, SIZE) and batch.label.dtype == np.int32
    assert batch.object_ids.shape == (COUNT, tiny_world.MAX_OBJECTS) and batch.object_ids.dtype == np.int32
    assert batch.object_boxes.shape == (COUNT, tiny_world.MAX_OBJECTS, 4) and batch.object_boxes.dtype == np.float32
    assert batch.texture_ids.shape == (COUNT, 2) and batch.texture_ids.dtype == np.int32
    assert batch.image.min() >= -1 and batch.image.max() <= 1
    assert (np.abs(batch.image) == 1).mean() < 0.05  # light must not burn the colours out


def test_labels_are_exactly_the_announced_textures_and_objects(batch: tiny_world.Scene) -> None:
    for label, objects, textures in zip(batch.label, batch.object_ids, batch.texture_ids, strict=True):
        present = set(objects[objects >= 0].tolist())
        assert len(present) == (objects >= 0).sum() >= 1
        assert all(TEXTURES <= name < len(tiny_world.NAMES) for name in present)
        assert len(set(textures.tolist())) == 2 and textures.min() >= 0 and textures.max() < TEXTURES
        assert set(np.unique(label).tolist()) == present | set(textures.tolist())


def test_boxes_are_tight_around_the_visible_pixels(batch: tiny_world.Scene) -> None:
    for label, objects, boxes in zip(batch.label, batch.object_ids, batch.object_boxes, strict=True):
        for name, box in zip(objects, boxes, strict=True):
            if name < 0:
                np.testing.assert_array_equal(box, 0)
                continue
            rows, columns = np.nonzero(label == name)
            expected = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            np.testing.assert_array_equal(box * SIZE, expected)


def test_classes_and_object_counts_are_equally_frequent(batch: tiny_world.Scene) -> None:
    objects = batch.object_ids
    counts = np.bincount((objects >= 0).sum(1), minlength=4) / COUNT
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:], 1 / 3, atol=0.05)
    kinds = np.bincount(objects[objects >= 0] - TEXTURES, minlength=len(tiny_world.OBJECTS))
    np.testing.assert_allclose(kinds / kinds.sum(), 1 / len(tiny_world.OBJECTS), atol=0.025)
    grounds = np.bincount(batch.texture_ids.ravel(), minlength=TEXTURES)
    np.testing.assert_allclose(grounds / grounds.sum(), 1 / TEXTURES, atol=0.03)


def test_either_texture_keeps_a_fair_share_of_the_background(batch: tiny_world.Scene) -> None:
    first = (batch.label == batch.texture_ids[:, :1, None]).sum((1, 2))
    second = (batch.label == batch.texture_ids[:, 1:, None]).sum((1, 2))
    share = np.minimum(first, second) / (first + second)
    assert np.mean(share > 0.2) > 0.98
    assert np.minimum(first, second).min() > 0.05 * SIZE * SIZE


def test_objects_are_large_enough_to_see_and_leave_the_background_visible(batch: tiny_world.Scene) -> None:
    boxes = batch.object_boxes[batch.object_ids >= 0]
    extent = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    assert 0.25 < np.median(extent) < 0.5 and extent.max() < 0.65
    assert np.mean(extent < 0.15) < 0.02
    assert 0.1 < np.mean(batch.label >= TEXTURES) < 0.25


def test_the_same_key_at_a_finer_size_is_the_same_scene(batch: tiny_world.Scene) -> None:
    count = 16
    draw = jax.jit(jax.vmap(lambda key: tiny_world.scene(key, 2 * SIZE)))
    fine = jax.tree.map(np.asarray, draw(jax.random.split(KEY, COUNT)[:count]))
    coarse = jax.tree.map(lambda field: field[:count], batch)
    assert np.mean(coarse.label == fine.label[:, ::2, ::2]) > 0.95
    np.testing.assert_array_equal(coarse.object_ids, fine.object_ids)
    np.testing.assert_array_equal(coarse.texture_ids, fine.texture_ids)
    np.testing.assert_allclose(coarse.object_boxes, fine.object_boxes, atol=2.5 / SIZE)
    mean = fine.image.reshape(count, SIZE, 2, SIZE, 2, 3).mean((2, 4))
    assert np.mean(np.abs(coarse.image - mean)) < 0.15


def test_scenes_are_deterministic_and_differ_by_key() -> None:
    first, again, other = (tiny_world.scene(jax.random.key(seed), SIZE) for seed in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.mean(np.asarray(first.image != other.image)) > 0.5


def test_a_scene_is_the_same_alone_and_in_a_batch(batch: tiny_world.Scene) -> None:
    alone = tiny_world.scene(jax.random.split(KEY, COUNT)[1], SIZE)
    # Rounding, which differs between compilations, may move a pixel on an edge to the other side.
    assert np.mean(alone.label == batch.label[1]) > 0.999
    assert np.mean(np.abs(alone.image - batch.image[1]) < 1e-3) > 0.995
    np.testing.assert_array_equal(alone.object_ids, batch.object_ids[1])


def test_splits_never_share_a_key() -> None:
    indices = jnp.arange(2000)
    keys = [
        jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(tiny_world.split_key(split, seed), indices))
        for split in tiny_world.SPLITS
        for seed in (0, 1)
    ]
    rows = np.concatenate([np.asarray(data) for data in keys])
    assert len(np.unique(rows, axis=0)) == len(rows) == 2000 * 2 * len(tiny_world.SPLITS)


def test_unknown_splits_and_too_small_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="choose one of train"):
        tiny_world.split_key("dev", 0)
    with pytest.raises(ConfigError, match="too small"):
        tiny_world.scene(jax.random.key(0), 8)


def test_names_need_more_than_the_mean_colour_of_a_patch(batch: tiny_world.Scene) -> None:
    def patches(of: slice) -> tuple[np.ndarray, np.ndarray]:
        image = np.asarray(batch.image[of]).reshape(-1, 8, 8, 8, 8, 3).swapaxes(2, 3).reshape(-1, 64, 3)
        label = np.asarray(batch.label[of]).reshape(-1, 8, 8, 8, 8).swapaxes(2, 3).reshape(-1, 64)
        pure = (label == label[:, :1]).all(1)
        return image[pure].mean(1), label[pure, 0]

    colours, names = patches(slice(0, 384))
    kinds = np.unique(names)
    centroids = np.stack([colours[names == kind].mean(0) for kind in kinds])
    colours, names = patches(slice(384, 512))
    guess = kinds[np.argmin(((colours[:, None] - centroids) ** 2).sum(-1), axis=1)]
    recall = np.mean([np.mean(guess[names == kind] == kind) for kind in np.unique(names)])
    assert 0.25 < recall < 0.85


def test_parts_of_every_object_are_regions_inside_about_the_unit_circle() -> None:
    axis = np.linspace(-2, 2, 161)
    x, y = np.meshgrid(axis, axis)
    powers = np.stack([x * x, x * y, y * y, x, y, np.ones_like(x)])
    for kind, name in enumerate(tiny_world.OBJECTS):
        inside = np.einsum("pf,fhw->phw", shapes.INSIDE[kind], powers) > 0
        outside = np.einsum("pf,fhw->phw", shapes.OUTSIDE[kind], powers) > 0
        planes = (np.einsum("pef,fhw->pehw", shapes.PLANES[kind], powers[3:]) > 0).all(1)
        regions = inside & outside & planes
        radius = np.hypot(x, y)
        declared = shapes.COLOURS[kind].any((1, 2)).sum()
        assert regions[:declared].any((1, 2)).all(), name
        assert not regions[declared:].any(), name
        silhouette = regions.any(0)
        assert 0.8 < radius[silhouette].max() < 1.25, name
        assert 0.15 < silhouette.mean() * 16 / np.pi < 0.9, name


@pytest.mark.parametrize(
    ("options", "said"), [({"split": "tset"}, "split 'tset'"), ({"count": 0}, "is 0"), ({"count": 10**20}, "32 bits")]
)
def test_a_set_that_there_is_not_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        tiny_world.TinyWorldDataset(**options)
