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

from vlseg.evaluation.protocols import PROTOCOLS
from vlseg.settings import check_argument


def get_config(data: str = "voc21") -> ml_collections.ConfigDict:
    """What is asked of a data set of the catalog, and what counts as its background.

    Raises:
        ConfigError: another data set.
    """
    check_argument("configs/open_vocabulary.py", data, PROTOCOLS)
    config = ml_collections.ConfigDict({"data": data, "split": "val"})
    config.words, config.background, config.threshold = PROTOCOLS[data]
    if config.threshold is None:
        config.threshold = ml_collections.config_dict.placeholder(float)
    return config
