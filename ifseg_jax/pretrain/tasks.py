"""OFA's kinds of pre-training tasks, posed about scenes of the tiny world.

Every task is a question in words about an image and an answer in words (Wang et al. 2022, Sec. 3.3): captions, naming a
region with and without candidate words, naming several places, yes/no questions, grounding, and text infilling. None
of them asks for a segmentation map. Everything is arrays of word ids made on the device, one example at a time under
`vmap`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ifseg_jax.vocabulary import BOS, EOS, PAD
from vlseg.data.tiny_world import NAMES, Scene

SOURCE_LENGTH = 31
TARGET_LENGTH = 19
PLACES = 6
LOCATION_BINS = 17
"""Locations are quantised to multiples of 1/16 of the image side, like OFA's <bin_i> words."""

TASKS = ("caption", "name_region", "name_region_candidates", "name_places", "yes_no", "ground", "infill")
TASK_WEIGHTS = (0.08, 0.05, 0.15, 0.45, 0.05, 0.08, 0.14)


class Questions(NamedTuple):
    """A batch of questions and answers.

    source: int32 [B, SOURCE_LENGTH], <s> question </s>, padded.
    inputs: int32 [B, TARGET_LENGTH], the answer shifted right behind <s>.
    targets: int32 [B, TARGET_LENGTH], the answer and </s>, padded.
    weights: float32 [B, TARGET_LENGTH], 1 where the answer counts; 0 at padding, at locations that are given and at the
        end of a list of places, whose length is always the same.
    """

    source: jax.Array
    inputs: jax.Array
    targets: jax.Array
    weights: jax.Array


class TaskWords(NamedTuple):
    """Word ids that the tasks are phrased in.

    names: int32 [len(NAMES)], by label id. bins: int32 [LOCATION_BINS]. mask: the id of <mask>.
    ids: every word -> id.
    """

    names: jax.Array
    bins: jax.Array
    mask: int
    ids: Mapping[str, int]

    @classmethod
    def from_ids(cls, ids: Mapping[str, int]) -> "TaskWords":
        """Looks the words up in a word -> id table."""
        names = jnp.asarray([ids[name] for name in NAMES], jnp.int32)
        bins = jnp.asarray([ids[f"<bin_{i}>"] for i in range(LOCATION_BINS)], jnp.int32)
        return cls(names, bins, ids["<mask>"], ids)

    def phrase(self, text: str) -> jax.Array:
        """Ids of a phrase of known words."""
        return jnp.asarray([self.ids[word] for word in text.split()], jnp.int32)


def _pack(parts: list[jax.Array], length: int) -> jax.Array:
    """Concatenates ids, drops the entries that are negative, and pads or cuts to `length`."""
    ids = jnp.concatenate([jnp.atleast_1d(jnp.asarray(part, jnp.int32)) for part in parts])
    order = jnp.argsort(ids < 0, stable=True)
    ids = jnp.where(ids < 0, PAD, ids)[order]
    return jnp.pad(ids, (0, max(0, length - ids.shape[0])), constant_values=PAD)[:length]


def _caption(scene: Scene, words: TaskWords) -> jax.Array:
    """The objects from left to right, then the two textures, e.g. "apple and car on grass and water"; -1 = gap."""
    present = scene.object_ids >= 0
    left = jnp.where(present, scene.object_boxes[:, 0], 2.0)
    order = jnp.argsort(left)
    objects = jnp.where(present[order], words.names[scene.object_ids[order]], -1)
    joiner, on = words.ids["and"], words.ids["on"]
    between = jnp.where(present[order], joiner, -1).at[0].set(-1)
    listed = jnp.stack([between, objects], axis=1).reshape(-1)
    textures = words.names[scene.texture_ids]
    preposition = jnp.where(present.any(), on, -1)
    return jnp.concatenate([listed, preposition[None], textures[:1], jnp.asarray([joiner]), textures[1:]])


def _box_bins(box: jax.Array, words: TaskWords) -> jax.Array:
    return words.bins[jnp.clip(jnp.round(box * (LOCATION_BINS - 1)), 0, LOCATION_BINS - 1).astype(jnp.int32)]


def _region(key: jax.Array, scene: Scene) -> tuple[jax.Array, jax.Array]:
    """A box of one to three sixteenths around a random place, and the label at its centre."""
    place_key, side_key = jax.random.split(key)
    centre = jax.random.uniform(place_key, (2,), minval=0.03, maxval=0.97)
    side = jax.random.uniform(side_key, (), minval=1.0, maxval=3.0) / (LOCATION_BINS - 1)
    box = jnp.concatenate([centre - side / 2, centre + side / 2])
    size = scene.label.shape[0]
    x, y = (centre * size).astype(jnp.int32)
    return box, scene.label[y, x]


def _candidates(key: jax.Array, labels: jax.Array, words: TaskWords) -> jax.Array:
    """A shuffled list of names that contains `labels` [...], and "unknown"; others are in it at a random rate."""
    rate_key, keep_key, order_key = jax.random.split(key, 3)
    rate = jax.random.uniform(rate_key, (), minval=0.1, maxval=1.0)
    keep = jax.random.uniform(keep_key, (len(NAMES),)) < rate
    keep = keep.at[labels].set(True)
    order = jax.random.permutation(order_key, len(NAMES))
    listed = jnp.where(keep[order], words.names[order], -1)
    return jnp.concatenate([words.phrase("object:"), listed, words.phrase("unknown")])


def question(key: jax.Array, scene: Scene, words: TaskWords) -> Questions:
    """One random question about one scene (no batch axis)."""
    task_key, region_key, candidate_key, object_key, mask_key, place_key = jax.random.split(key, 6)
    box, label = _region(region_key, scene)
    name = words.names[label]
    region = _box_bins(box, words)
    ask_region = [words.phrase("what is in the region"), region]
    candidates = _candidates(candidate_key, label, words)
    caption = _caption(scene, words)

    centres = jax.random.randint(place_key, (PLACES, 2), 0, scene.label.shape[0])
    place_bins = _box_bins((centres + 0.5) / scene.label.shape[0], words)
    place_labels = scene.label[centres[:, 1], centres[:, 0]]
    place_names = words.names[place_labels]
    places = jnp.concatenate([place_bins, place_names[:, None]], axis=1).reshape(-1)
    with_list = jax.random.bernoulli(jax.random.fold_in(place_key, 1), 0.7)
    everything = jnp.where(with_list, _candidates(candidate_key, place_labels, words), -1)

    in_scene = jnp.concatenate([scene.object_ids, scene.texture_ids])
    chance = jax.random.uniform(object_key, in_scene.shape) * (in_scene >= 0)
    positive = in_scene[jnp.argmax(chance)]
    other = jax.random.randint(jax.random.fold_in(object_key, 1), (), 0, len(NAMES))
    asked = jnp.where(jax.random.bernoulli(jax.random.fold_in(object_key, 2)), positive, other)
    truth = jnp.where((in_scene == asked).any(), words.ids["yes"], words.ids["no"])
    extent = _extent(scene.label == positive)

    hidden = jax.random.bernoulli(mask_key, 0.5, caption.shape) & (caption >= 0)
    masked = jnp.where(hidden, words.mask, caption)

    sources = [
        [words.phrase("what does the image describe?")],
        ask_region,
        [*ask_region, candidates],
        [words.phrase("what are the objects in the image?"), everything],
        [words.phrase("is there a"), words.names[asked], words.phrase("in the image?")],
        [words.phrase("which region does the text"), words.names[positive], words.phrase("describe?")],
        [words.phrase("what is the complete text of"), masked],
    ]
    answers = [[caption], [name], [name], [places], [truth], [_box_bins(extent, words)], [caption]]
    task = jax.random.categorical(task_key, jnp.log(jnp.asarray(TASK_WEIGHTS)))
    begin, end = jnp.asarray(BOS), jnp.asarray(EOS)
    source = jnp.stack([_pack([begin, *parts, end], SOURCE_LENGTH) for parts in sources])[task]
    targets = jnp.stack([_pack([*parts, end], TARGET_LENGTH) for parts in answers])[task]
    given = (task == TASKS.index("name_places")) & (jnp.arange(TARGET_LENGTH) % 3 != 2)
    weights = jnp.where((targets == PAD) | given, 0.0, 1.0)
    inputs = jnp.concatenate([jnp.asarray([BOS]), targets[:-1]])
    return Questions(source, inputs, targets, weights)


def _extent(mask: jax.Array) -> jax.Array:
    """Tight box x0, y0, x1, y1 in [0, 1] around a mask [S, S]."""
    size = mask.shape[0]

    def span(present: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.argmax(present) / size, 1.0 - jnp.argmax(present[::-1]) / size

    (x0, x1), (y0, y1) = span(mask.any(axis=0)), span(mask.any(axis=1))
    return jnp.stack([x0, y0, x1, y1])


def questions(key: jax.Array, scenes: Scene, words: TaskWords) -> Questions:
    """One question per scene of a batch."""
    keys = jax.random.split(key, scenes.label.shape[0])
    return jax.vmap(lambda key, scene: question(key, scene, words))(keys, scenes)
