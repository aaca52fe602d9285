"""OFA's kinds of pre-training tasks about photographs whose words and boxes are known, and nothing else.

Every task is a question in words about a picture and an answer in words (Wang et al. 2022, Sec. 3.3): naming places,
which words are in the picture, whether one is, where it is, and text infilling.

Naming is asked of collages: regions, each cut out of a photograph by a box, laid out on one grid of image tokens, with
words in the place of some of them, as VLMixer (Wang et al. 2022b) swaps words and patches. So words and image tokens
of what they name are read in the same places and mean the same. It is asked of windows of photographs, too: there the
places count that lie in the middle of a box and of no smaller one, or outside all boxes, which is background.

Batches are made on the host and depend on the seed and the step alone.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ifseg_jax.pretrain.boxes import BACKGROUND, Boxes
from ifseg_jax.vocabulary import BOS, EOS, PAD, SPECIALS
from vlseg.errors import ConfigError

PLACES = 4
"""Rows and columns of the places in a grid of image tokens that are named, row by row."""

ANSWER = PLACES * PLACES + 1
"""Words of an answer with its end."""

BINS = 17
"""Locations are quantised to multiples of 1/16 of a side, like OFA's <bin_i> words."""

LISTED = "what are the objects in the image? object:"
"""Before a list of names; a model is adapted with the same prompt."""

PHRASES = (
    LISTED,
    "unknown",
    "what does the image describe?",
    "is there a",
    "in the image?",
    "which region does the text",
    "describe?",
    "what is the complete text of",
    "yes no <mask>",
)

TASKS = ("collage", "window", "caption", "yes_no", "where", "infill")

LAYOUTS, LAYOUT_RATES = (1, 2, 4), (0.2, 0.4, 0.4)
"""Regions along a side of a collage, and how often."""

KEPT = 0.4
"""Least share of a box, along a side, that a region is cut out of."""

MIDDLE = 0.3
"""How far from the middle of a box, as a share of its side, a place may be that is named by it."""

TRIES = 30
"""Windows of a photograph, and photographs, that are drawn at most for a window that touches no box."""


class Asked(NamedTuple):
    """A batch of questions and answers.

    features: float16 [B, G, G, C], of the backbone. shown: int32 [B, G, G], the name whose word stands in the place of
    an image token, or -1. boxed: int32 [B, G, G], the name of the box in whose middle an image token lies, or -1; see
    `named_places`. source: int32 [B, S], <s> question </s>, padded. inputs, targets: int32 [B, ANSWER], the
    answer shifted right behind <s>, and the answer. weights: float32 [B, ANSWER], 1 where it counts.
    """

    features: np.ndarray
    shown: np.ndarray
    boxed: np.ndarray
    source: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


class Tokens(NamedTuple):
    """What a model sees in the place of a picture: the first three arrays of `Asked`, of one question."""

    features: np.ndarray
    shown: np.ndarray
    boxed: np.ndarray


class Photograph(NamedTuple):
    """features: float16 [2, h, w, C], of the picture and of its mirror image. boxes: of the picture."""

    features: np.ndarray
    boxes: Boxes

    def seen(self, mirrored: bool) -> tuple[np.ndarray, Boxes]:
        """Features [h, w, C] and boxes of the picture or of its mirror image."""
        return self.features[int(mirrored)], self.boxes.mirrored() if mirrored else self.boxes


def vocabulary(names: Sequence[str]) -> list[str]:
    """The words of a model that is pre-trained with these names, in the order of their ids after the special ones.

    Raises:
        ConfigError: a name is not one lower-case word, or is one of the questions' own.
    """
    listed = list(dict.fromkeys(" ".join(PHRASES).split())) + [f"<bin_{i}>" for i in range(BINS)]
    for name in names:
        if name.split() != [name] or name != name.lower() or name in listed:
            raise ConfigError(f"pre-training asks for names by single lower-case words of their own: not {name!r}")
    return [*listed, *names]


class Questioner:
    """Draws questions about photographs.

    Attributes:
        names: the words that are asked for. photographs: what is asked about. grid: G, tokens along a side of what the
            model sees. name_ids: word ids of the names, int32 [M].
    """

    def __init__(
        self,
        names: Sequence[str],
        photographs: Sequence[Photograph],
        grid: int,
        shares: Mapping[str, float],
        word_share: float,
        candidates: int,
    ) -> None:
        """Counts the words of the photographs.

        Args:
            names, photographs, grid: see the attributes.
            shares: of the tasks, by the names of `TASKS`.
            word_share: of the regions of a collage, those that words stand for.
            candidates: names that a question lists at most, at least as many as there are places.

        Raises:
            ConfigError: any of it cannot be.
        """
        if grid % PLACES:
            raise ConfigError(f"image_grid is {grid}; pre-training needs a multiple of {PLACES}")
        if set(shares) != set(TASKS) or min(shares.values()) < 0 or not sum(shares.values()) > 0:
            raise ConfigError(f"shares must be numbers, not below 0 and not all 0, of {', '.join(TASKS)}")
        if candidates < PLACES**2:
            raise ConfigError(f"candidates is {candidates}; a question names up to {PLACES**2} places")
        self.names, self.photographs, self.grid = tuple(names), photographs, grid
        self._task_rates = np.asarray([shares[task] for task in TASKS]) / sum(shares.values())
        self._word_share, self._candidates = word_share, min(candidates, len(self.names))
        self._ids = {word: number for number, word in enumerate([*SPECIALS, *vocabulary(self.names)])}
        self.name_ids = np.asarray([self._ids[name] for name in self.names], np.int32)
        background = self.background
        self._places: list[list[tuple[int, int]]] = [[] for _ in self.names]
        for number, photograph in enumerate(photographs):
            for row, word in enumerate(photograph.boxes.words):
                self._places[word].append((number, row))
        pictures = np.asarray([len({number for number, _ in found}) for found in self._places], float)
        rates = np.sqrt(pictures)
        # It is in every picture, but one region of it is much like another.
        rates[background] = 0.1 * rates.sum()
        self._rates = rates / rates.sum()

    @property
    def background(self) -> int:
        """The name of what is outside all boxes.

        Raises:
            ConfigError: there is none.
        """
        if BACKGROUND not in self.names:
            raise ConfigError(
                f"pre-training on photographs needs the name {BACKGROUND!r} for what is outside all boxes"
            )
        return self.names.index(BACKGROUND)

    @property
    def source_length(self) -> int:
        """S, words of the longest question."""
        return max(len(LISTED.split()) + self._candidates, len(PHRASES[-2].split()) + ANSWER) + 3

    def batch(self, seed: int, step: int, size: int) -> Asked:
        """A batch of one step."""
        rng = np.random.default_rng([seed, step])
        return Asked(*map(np.stack, zip(*(self._question(rng) for _ in range(size)), strict=True)))

    def _question(self, rng: np.random.Generator) -> Asked:
        task = TASKS[rng.choice(len(TASKS), p=self._task_rates)]
        if task == "collage":
            tokens, labels = self._collage(rng)
            return self._naming(rng, tokens, labels, np.ones(labels.shape, np.float32))
        photograph = self.photographs[int(rng.integers(len(self.photographs)))]
        whole, boxes = photograph.seen(bool(rng.integers(2)))
        if task == "window":
            side = rng.uniform(0.35, 1.0)
            left, top = rng.uniform(0, 1 - side, 2)
            window = np.asarray([left, top, left + side, top + side])
            labels, counts = named_places(boxes, window, PLACES, PLACES, self.background)
            return self._naming(rng, self._tokens(whole, boxes, window), labels, counts.astype(np.float32))
        tokens = self._tokens(whole, boxes, np.asarray([0.0, 0.0, 1.0, 1.0]))
        question, answer = self._about_all(rng, task, boxes)
        return self._packed(tokens, question, answer, np.ones(len(answer) + 1, np.float32))

    def _tokens(self, whole: np.ndarray, boxes: Boxes, window: np.ndarray) -> Tokens:
        """A window of a photograph on the whole grid."""
        side = self.grid
        boxed = self._boxed(boxes, window, side, side)
        return Tokens(cut(whole, window, side, side), np.full((side, side), -1, np.int32), boxed)

    def _boxed(self, boxes: Boxes, window: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """`Asked.boxed` of a window."""
        labels, counts = named_places(boxes, window, rows, columns, self.background)
        return np.where(counts, labels, -1).astype(np.int32)

    def _about_all(self, rng: np.random.Generator, task: str, boxes: Boxes) -> tuple[list[int], list[int]]:
        """A question about a whole photograph and its answer, in ids."""
        present = self._by_size(boxes)
        chosen = int(present[rng.integers(len(present))])
        listed = list(self.name_ids[present[: ANSWER - 1]])
        if task == "caption":
            return self._phrase("what does the image describe?"), listed
        if task == "infill":
            hidden = rng.random(len(listed)) < 0.5
            masked = [self._ids["<mask>"] if hide else word for word, hide in zip(listed, hidden, strict=True)]
            return [*self._phrase("what is the complete text of"), *masked], listed
        if task == "yes_no":
            asked = chosen if rng.integers(2) else int(rng.integers(len(self.names)))
            answer = self._phrase("yes" if asked in present else "no")
            return [*self._phrase("is there a"), self.name_ids[asked], *self._phrase("in the image?")], answer
        largest = boxes.corners[boxes.words == chosen][0]
        bins = np.clip(np.round(largest * (BINS - 1)), 0, BINS - 1).astype(int)
        question = [*self._phrase("which region does the text"), self.name_ids[chosen], *self._phrase("describe?")]
        return question, [self._ids[f"<bin_{i}>"] for i in bins]

    def _by_size(self, boxes: Boxes) -> np.ndarray:
        """The names in a picture, those with the largest box first."""
        found = np.unique(boxes.words)
        largest = [boxes.areas[boxes.words == word].max() for word in found]
        return found[np.argsort(-np.asarray(largest), kind="stable")]

    def _naming(self, rng: np.random.Generator, tokens: Tokens, labels: np.ndarray, weights: np.ndarray) -> Asked:
        """The names of all places, among candidates: a random number of others is listed, too."""
        asked = np.unique(labels[weights > 0])
        others = rng.permutation(np.setdiff1d(np.arange(len(self.names)), asked))
        most = rng.integers(self._candidates + 1)
        listed = self.name_ids[rng.permutation(np.append(asked, others[: max(most - len(asked), 0)]))]
        question = [*self._phrase(LISTED), *listed, *self._phrase("unknown")]
        answer = list(self.name_ids[labels.ravel()])
        return self._packed(tokens, question, answer, np.append(weights.ravel(), 0.0))

    def _packed(self, tokens: Tokens, question: Sequence[int], answer: Sequence[int], weights: np.ndarray) -> Asked:
        source = np.full(self.source_length, PAD, np.int32)
        source[: len(question) + 2] = [BOS, *question, EOS]
        targets = np.full(ANSWER, PAD, np.int32)
        targets[: len(answer) + 1] = [*answer, EOS]
        counted = np.zeros(ANSWER, np.float32)
        counted[: len(weights)] = weights
        inputs = np.concatenate([[BOS], targets[:-1]]).astype(np.int32)
        return Asked(*tokens, source, inputs, targets, counted)

    def _collage(self, rng: np.random.Generator) -> tuple[Tokens, np.ndarray]:
        """A grid of regions and the names of the places, int [PLACES, PLACES]."""
        channels, size = self.photographs[0].features.shape[-1], (self.grid, self.grid)
        whole = Tokens(
            np.zeros((*size, channels), np.float16), np.full(size, -1, np.int32), np.full(size, -1, np.int32)
        )
        labels = np.zeros((PLACES, PLACES), int)
        down, along = rng.choice(LAYOUTS, 2, p=LAYOUT_RATES)
        for row, column in np.ndindex(down, along):
            tokens, places = (
                tuple(slice(i * side // n, (i + 1) * side // n) for i, n in ((row, down), (column, along)))
                for side in (self.grid, PLACES)
            )
            if rng.random() < self._word_share:
                whole.shown[tokens] = labels[places] = rng.integers(len(self.names))
            else:
                labels[places], region, boxes, corners = self._region(rng)
                side = self.grid // down, self.grid // along
                whole.features[tokens] = cut(region, corners, *side)
                whole.boxed[tokens] = self._boxed(boxes, corners, *side)
        return whole, labels

    def _region(self, rng: np.random.Generator) -> tuple[int, np.ndarray, Boxes, np.ndarray]:
        """A name, often a rare one; features and boxes of a photograph, and a window where a box says the name is."""
        word = int(rng.choice(len(self.names), p=self._rates))
        mirrored = bool(rng.integers(2))
        if word == self.background:
            for _ in range(TRIES):
                whole, boxes = self.photographs[int(rng.integers(len(self.photographs)))].seen(mirrored)
                corners = self._outside(rng, boxes)
                if corners is not None:
                    return word, whole, boxes, corners
        # Of background, where no window was found: a box that may hold other words, too.
        number, row = self._places[word][rng.integers(len(self._places[word]))]
        whole, boxes = self.photographs[number].seen(mirrored)
        start, end = boxes.corners[row].reshape(2, 2)
        kept = (end - start) * rng.uniform(KEPT, 1.0, 2)
        start = start + rng.uniform(size=2) * (end - start - kept)
        return word, whole, boxes, np.concatenate([start, start + kept])

    def _outside(self, rng: np.random.Generator, boxes: Boxes) -> np.ndarray | None:
        """A window that touches no box of another word than background; None if none is found."""
        others = boxes.corners[boxes.words != self.background]
        for _ in range(TRIES):
            size = rng.uniform(0.06, 0.35, 2)
            start = rng.uniform(size=2) * (1 - size)
            end = start + size
            apart = (start >= others[:, 2:]) | (end <= others[:, :2])
            if apart.any(axis=1).all():
                return np.concatenate([start, end])
        return None

    def _phrase(self, text: str) -> list[int]:
        return [self._ids[word] for word in text.split()]


def named_places(
    boxes: Boxes, window: np.ndarray, rows: int, columns: int, background: int
) -> tuple[np.ndarray, np.ndarray]:
    """Names of the middles of `rows` x `columns` parts of a window, as far as boxes tell them.

    Args:
        boxes: of a picture. window: float [4], left, top, right, bottom as shares of the picture.
        background: the name of what is outside all boxes of other names.

    Returns:
        The name of the smallest box there, int [rows, columns], and where that is plausible, bool [rows, columns]: in
        the middle of that box, and outside all boxes.
    """
    left, top, right, bottom = window
    y = top + (bottom - top) * (np.arange(rows) + 0.5) / rows
    x = left + (right - left) * (np.arange(columns) + 0.5) / columns
    others = boxes.among(boxes.words != background)
    if not len(others.words):
        return np.full((rows, columns), background), np.ones((rows, columns), bool)
    left, top, right, bottom = others.corners.T[:, :, None]
    down, along = (y - top) / (bottom - top), (x - left) / (right - left)
    inside = ((down >= 0) & (down < 1))[:, :, None] & ((along >= 0) & (along < 1))[:, None]
    central = (np.abs(down - 0.5) < MIDDLE)[:, :, None] & (np.abs(along - 0.5) < MIDDLE)[:, None]
    smallest = np.where(inside, others.areas[:, None, None], np.inf).argmin(axis=0)
    boxed = inside.any(axis=0)
    labels = np.where(boxed, others.words[smallest], background)
    counts = ~boxed | np.take_along_axis(central, smallest[None], axis=0)[0]
    return labels, counts


def cut(features: np.ndarray, corners: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A box of features [h, w, C], corners as shares of the sides, at another size: nearest, [rows, columns, C]."""

    def places(first: float, end: float, count: int, side: int) -> np.ndarray:
        middle = first + (end - first) * (np.arange(count) + 0.5) / count
        return np.clip((middle * side).astype(int), 0, side - 1)

    height, width, _ = features.shape
    left, top, right, bottom = corners
    return features[places(top, bottom, rows, height)[:, None], places(left, right, columns, width)[None]]
