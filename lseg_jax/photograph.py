"""The first minute: a photograph segmented by words, `python -m lseg_jax.photograph --out=demo`.

Draws demo/photograph.png with the bundled model of clothing: the photograph; its segmentation in the words of training;
in other words, which the model has never seen: synonyms (gown, spectacles) and hypernyms (outerwear, footwear); and in
the words of training but "background", where pixels that resemble none of the words are "none of these". Equal colours
are equal classes. `--image` takes a photograph of your own.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

import vlseg
from lseg_jax.model import LSeg, load
from vlseg import cli, files, visualize
from vlseg.data.images import read_image
from vlseg.labels import NONE
from vlseg.segmenter import Rejection

PHOTOGRAPH = Path(vlseg.__file__).with_name("photographs") / "hopper.jpg"
BACKGROUND = "background"

SIDE = 448
"""Pixels of the longer side of the photograph in the picture, at most."""

MIN_SIMILARITY = 0.3
"""Below it a pixel is none of the words."""

OTHER_WORDS = {
    "outerwear": ("blazer", "cape", "coat", "jacket"),
    "footwear": ("boots", "clogs", "flats", "heels", "loafers", "pumps", "sandals", "shoes", "sneakers", "wedges"),
    "trousers": ("jeans", "leggings", "pants"),
    "pullover": ("cardigan", "hoodie", "jumper", "sweater", "sweatshirt"),
    "button-down": ("blouse", "shirt"),
    "tee shirt": ("t-shirt", "top"),
    "hosiery": ("socks", "stockings", "tights"),
    "underwear": ("bra", "intimate", "panties"),
    "jewelry": ("bracelet", "earrings", "necklace", "ring"),
    "spectacles": ("glasses", "sunglasses"),
    "handbag": ("bag", "purse"),
    "jumpsuit": ("bodysuit", "romper"),
    "gown": ("dress",),
    "headwear": ("hat",),
    "hairstyle": ("hair",),
    "face": ("skin",),
    "necktie": ("tie",),
    "wristwatch": ("watch",),
    "waistcoat": ("vest",),
    "shawl": ("scarf",),
    "mittens": ("gloves",),
    "miniskirt": ("skirt",),
    "bermudas": ("shorts",),
    "bikini": ("swimwear",),
    "tuxedo": ("suit",),
    "sash": ("belt",),
    "billfold": ("wallet",),
    "adornment": ("accessories",),
    "surroundings": (BACKGROUND,),
}
"""Words that the model has not seen in training, and the trained words in whose places they stand."""


def other_words(labels: Sequence[str]) -> list[str]:
    """The word in the place of every label, which several may share; a label without one keeps its own."""
    places = {label: word for word, replaced in OTHER_WORDS.items() for label in replaced}
    return [places.get(label, label) for label in labels]


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
    firsts = np.asarray([*(words.index(word) for word in asked), len(words)], np.int32)
    classes = firsts[model.segment(image, asked, rejection=rejection).label_map]
    resized = np.asarray(Image.fromarray(classes).resize(shown.size, Image.Resampling.NEAREST))
    return np.asarray(visualize.overlay(np.asarray(shown), resized, [*words, NONE], alpha=0.6))


def draw(model: LSeg, image: np.ndarray, rejection: Rejection, path: Path) -> None:
    """Writes the picture of a photograph, uint8 [H, W, 3]."""
    labels = model.names()
    shown = Image.fromarray(image)
    shown.thumbnail((SIDE, SIDE))
    shown = visualize.enlarged(shown)
    pictures = {
        "photograph": np.asarray(shown),
        "trained words": overlay(model, image, labels, shown, Rejection()),
        "words never seen in training": overlay(model, image, other_words(labels), shown, Rejection()),
        NONE: overlay(model, image, ["" if label == BACKGROUND else label for label in labels], shown, rejection),
    }
    visualize.save_image(path, visualize.gallery(list(pictures.values()), list(pictures)))


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    started = time.monotonic()
    image = read_image(options.image)
    with files.output_directory(options.out) as out:
        draw(load(options.checkpoint), image, Rejection(options.min_similarity), out / "photograph.png")
        print(f"wrote {out / 'photograph.png'} after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    flags.DEFINE_string("out", "demo", "Where the picture goes.")
    flags.DEFINE_string("image", str(PHOTOGRAPH), "The photograph.")
    flags.DEFINE_string("checkpoint", "clothing", "The model, with labels of its own.")
    flags.DEFINE_float(
        "min_similarity", MIN_SIMILARITY, "Least similarity of a pixel to a word, or it is none of them."
    )
    cli.run(main)
