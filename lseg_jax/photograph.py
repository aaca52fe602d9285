"""The first minute: a photograph segmented by words, `python -m lseg_jax.photograph --out=demo`.

Draws demo/photograph.png with the bundled model of clothing: the photograph; its segmentation in the words of training;
in other words, which the model has never seen: synonyms (gown, spectacles) and hypernyms (outerwear, footwear); and in
the words of training but "background", where pixels that resemble none of the words are "none of these". Equal colours
are equal classes; what is found to be background stays as it is. `--image` takes a photograph of your own.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

import vlseg
from lseg_jax.model import STRIDE, LSeg, load
from vlseg import cli, files, visualize
from vlseg.data.images import read_image
from vlseg.errors import VocabularyError
from vlseg.labels import NONE
from vlseg.segmentation import Rejection

PHOTOGRAPH = Path(vlseg.__file__).with_name("photographs") / "hopper.jpg"
BACKGROUND = "background"

SIDE = 448
"""Pixels of the longer side of the photograph in the picture, at most."""

MIN_SIMILARITY = 0.3
"""Below it a pixel is none of the words."""

PORTRAIT = 224
"""Pixels of the longer side at which the bundled photograph is seen: its face is as large then as those of training,
which are of people from head to foot."""

OTHER_WORDS = {
    "headwear": ("hat",),
    "hairstyle": ("hair",),
    "face": ("skin",),
    "spectacles": ("glasses", "sunglasses"),
    "outerwear": ("blazer", "cape", "coat", "jacket", "suit"),
    "button-down": ("blouse", "shirt"),
    "necktie": ("tie",),
    "gown": ("dress",),
    "trousers": ("jeans", "leggings", "pants"),
    "footwear": ("boots", "clogs", "flats", "heels", "loafers", "pumps", "sandals", "shoes", "sneakers", "wedges"),
    "hosiery": ("socks", "stockings", "tights"),
    "handbag": ("bag", "purse"),
    "jewelry": ("bracelet", "earrings", "necklace", "ring"),
    BACKGROUND: (BACKGROUND,),
}
"""Words that the model has not seen in training, but for the last, and trained words in whose places they stand."""


def other_words(labels: Sequence[str]) -> list[str]:
    """The word in the place of every label, which several may share; blank where there is none."""
    places = {label: word for word, replaced in OTHER_WORDS.items() for label in replaced}
    return [places.get(label, "") for label in labels]


def overlay(
    model: LSeg, image: np.ndarray, words: Sequence[str], shown: Image.Image, rejection: Rejection
) -> np.ndarray:
    """The photograph under its label map, with a legend.

    Args:
        image: uint8 [H, W, 3].
        words: one for every class; those that are blank are not asked for.
        shown: the photograph as it is drawn.
        rejection: when a pixel is none of the words.
    """
    asked = [word for word in dict.fromkeys(words) if word]
    places = [-1 if word == BACKGROUND else words.index(word) for word in asked]
    classes = np.asarray([*places, len(words)], np.int32)[model.segment(image, asked, rejection=rejection).label_map]
    resized = np.asarray(Image.fromarray(classes).resize(shown.size, Image.Resampling.NEAREST))
    return np.asarray(visualize.overlay(np.asarray(shown), resized, [*words, NONE], alpha=0.6))


def draw(model: LSeg, image: np.ndarray, rejection: Rejection, path: Path) -> None:
    """Writes the picture of a photograph, uint8 [H, W, 3].

    Raises:
        VocabularyError: the model has no labels of its own, or none of them has another word.
    """
    labels = model.names()
    others = other_words(labels)
    if not any(others):
        raise VocabularyError(f"of the model's labels ({labels[0]}, ...) none is a word for clothing: use predict")
    shown = Image.fromarray(image)
    shown.thumbnail((SIDE, SIDE))
    shown = visualize.enlarged(shown)
    pictures = {
        "photograph": np.asarray(shown),
        "trained words": overlay(model, image, labels, shown, Rejection()),
        "words never seen in training": overlay(model, image, others, shown, Rejection()),
        NONE: overlay(model, image, ["" if label == BACKGROUND else label for label in labels], shown, rejection),
    }
    visualize.save_image(path, visualize.gallery(list(pictures.values()), list(pictures)))


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    started = time.monotonic()
    image = read_image(options.image or PHOTOGRAPH)
    model = load(options.checkpoint)
    if side := options.base_size or (None if options.image else PORTRAIT):
        crop = min(-(-side // STRIDE) * STRIDE, model.inference.crop_size)
        scheme = dataclasses.replace(model.inference, base_size=side, crop_size=crop)
        model = dataclasses.replace(model, inference=scheme)
    with files.output_directory(options.out) as out:
        draw(model, image, Rejection(options.min_similarity), out / "photograph.png")
        print(f"wrote {out / 'photograph.png'} after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    flags.DEFINE_string("out", "demo", "Where the picture goes.")
    flags.DEFINE_string("image", None, "The photograph; default: a portrait that comes with the package.")
    flags.DEFINE_string("checkpoint", "clothing", "The model, with labels of its own.")
    flags.DEFINE_integer(
        "base_size",
        None,
        f"Pixels of the photograph's longer side, as the model sees it; default: the model's own, {PORTRAIT} for the "
        "portrait. Less where people are larger than from head to foot.",
        lower_bound=1,
    )
    flags.DEFINE_float("min_similarity", MIN_SIMILARITY, "Below it a pixel is none of the words.")
    cli.run(main)
