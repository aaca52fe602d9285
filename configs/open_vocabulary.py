"""Eight data sets that are scored with words alone, for both systems, each with its way of dealing with the background.

python -m lseg_jax.evaluate --config=configs/open_vocabulary.py:voc21 --checkpoint=runs/lseg_mix/model --root=ROOT \
    --out=runs/lseg_voc21
python -m ifseg_jax.evaluate --config=configs/open_vocabulary.py:voc21 --checkpoint=runs/ifseg_voc21/model \
    --tokenizer=BPE_DIRECTORY --root=ROOT --out=runs/ifseg_voc21/scores

ROOT holds the data set as it is unpacked (`python -m vlseg.data.list`). Instead of voc21 also voc20, context59,
context60, coco_object, coco_stuff, cityscapes and ade20k. IFSeg is adapted to the same words before by
configs/ifseg_open_vocabulary.py.

background:
    "none"       every class is asked for by its name, and pixels of no class do not count. voc20, context59,
                 coco_stuff, cityscapes and ade20k, by the convention of MaskCLIP and SCLIP.
    "words"      class 0 is asked for by words of its own. A class with several words has the score of its best word, as
                 in SCLIP, whose words for the background of VOC and COCO-Object, and "background" alone for that of
                 Context, are these; left out is "bed" for COCO-Object, where it is a class. SCLIP also lets improbable
                 pixels become background (0.1), and gives some classes several words. voc21, context60, coco_object.
    "threshold"  class 0 is not asked for. A pixel whose best class has a probability below `threshold` becomes
                 background, the convention of GroupViT. The thresholds here are its own; probabilities are another
                 model's there, so find yours on other pictures than those you score. The same three, with
                 --config.background=threshold --config.threshold=0.95.

`words` has the words of every class, in the order of the data set's classes.

Hardware: any; a photograph takes seconds on a CPU. Expected: no published scores of these two systems; ours not run.
"""

import ml_collections

from configs import arguments
from vlseg import labels

BACKGROUND_WORDS = (
    "sky", "wall", "tree", "wood", "grass", "road", "sea", "river", "mountain", "sands", "desk", "bed", "building",
    "cloud", "lamp", "door", "window", "wardrobe", "ceiling", "shelf", "curtain", "stair", "floor", "hill", "rail",
    "fence",
)  # fmt: skip

LISTS = {
    "voc20": "voc_20",
    "voc21": "voc_20",
    "context59": "pascal_context_59",
    "context60": "pascal_context_59",
    "coco_object": "coco_object_80",
    "coco_stuff": "coco_stuff_171",
    "cityscapes": "cityscapes_19",
    "ade20k": "ade20k_150",
}
"""Data set -> the list of words for its classes, without the background."""

BACKGROUNDS = {
    "voc21": (BACKGROUND_WORDS, 0.95),
    "context60": (("background",), 0.35),
    "coco_object": (tuple(word for word in BACKGROUND_WORDS if word != "bed"), 0.95),
}
"""Data set with a background -> words for it, and GroupViT's threshold."""


def get_config(data: str = "voc21") -> ml_collections.ConfigDict:
    """What is asked of a data set of the catalog, and what counts as its background.

    Raises:
        ConfigError: another data set.
    """
    arguments.check("configs/open_vocabulary.py", data, LISTS)
    config = ml_collections.ConfigDict({"data": data, "split": "val", "background": "none"})
    config.threshold = ml_collections.config_dict.placeholder(float)
    words: tuple[tuple[str, ...], ...] = tuple((word,) for word in labels.load(LISTS[data]))
    if data in BACKGROUNDS:
        background, config.threshold = BACKGROUNDS[data]
        config.background = "words"
        words = (background, *words)
    config.words = words
    return config
