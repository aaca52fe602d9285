"""One model, three vocabularies: `python -m lseg_jax.demo --out=demo`.

Segments held-out scenes of the tiny world with the words that the bundled model was trained on, with synonyms and with
hypernyms that it has never seen (as Figure 5 of Li et al. 2022), and draws demo/words.png. Equal colours are equal
classes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from lseg_jax.model import LSeg, load
from vlseg import cli, files, visualize
from vlseg.data.tiny_world import HYPERNYMS, NAMES, SYNONYMS, TEXTURES, TinyWorldDataset

OBJECTS_FROM = len(TEXTURES)
"""Index of the first class that is an object."""


def vocabularies() -> dict[str, list[str]]:
    """Title -> the word for every class; classes may share one."""
    return {
        "trained names": list(NAMES),
        "unseen synonyms": [SYNONYMS[name][-1] for name in NAMES],
        "unseen hypernyms": [HYPERNYMS[name] for name in NAMES],
    }


def overlay(model: LSeg, image: np.ndarray, words: Sequence[str]) -> np.ndarray:
    """The scene under its label map, with a legend."""
    labels = list(dict.fromkeys(words))
    firsts = np.asarray([words.index(label) for label in labels])
    return np.asarray(visualize.overlay(image, firsts[model.segment(image, labels).label_map], words, alpha=0.6))


def draw(model: LSeg, scenes: Sequence[np.ndarray], path: Path) -> None:
    """Writes the picture, a row for each scene uint8 [H, W, 3]."""
    titles = vocabularies()
    rows = []
    for image in scenes:
        shown = np.asarray(visualize.enlarged(Image.fromarray(image)))
        rows.append([shown, *(overlay(model, image, words) for words in titles.values())])
    visualize.save_image(path, visualize.panel(rows, ["image", *titles]))


def crowded(count: int) -> list[np.ndarray]:
    """The first held-out scenes that show three objects."""
    found = []
    for example in TinyWorldDataset("test", count=100):
        if len(np.unique(example.label[example.label >= OBJECTS_FROM])) == 3:
            found.append(example.image)
        if len(found) == count:
            break
    return found


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    with files.output_directory(options.out) as out:
        draw(load(options.checkpoint), crowded(options.scenes), out / "words.png")
        print(f"wrote {out / 'words.png'}")


if __name__ == "__main__":
    flags.DEFINE_string("out", "demo", "Where the picture goes.")
    flags.DEFINE_string("checkpoint", "tiny", "The model.")
    flags.DEFINE_integer("scenes", 3, "Rows of the picture.", lower_bound=1)
    cli.run(main)
