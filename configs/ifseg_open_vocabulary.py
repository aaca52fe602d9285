"""Image-free adaptation of IFSeg to the words that configs/open_vocabulary.py asks of a data set.

python -m ifseg_jax.train --config=configs/ifseg_open_vocabulary.py:voc21 --workdir=runs/ifseg_voc21 \
    --config.tokenizer=BPE_DIRECTORY
python -m ifseg_jax.evaluate --config=configs/open_vocabulary.py:voc21 --checkpoint=runs/ifseg_voc21/model \
    --tokenizer=BPE_DIRECTORY --root=ROOT

Instead of voc21 also voc20, context59, context60, coco_object, coco_stuff, cityscapes and ade20k.

Hardware: one accelerator with 16 GB. Time: not run. Expected: no published score of these words; those of
configs/coco.py and configs/ade20k.py are of other prompts. Ours not run.
"""

import ml_collections

from vlseg.evaluation.protocols import PROTOCOLS
from vlseg.settings import check_argument


def get_config(data: str = "voc21") -> ml_collections.ConfigDict:
    """The official settings with all words for the classes of a data set, those for its background included.

    Raises:
        ConfigError: another data set.
    """
    check_argument("configs/ifseg_open_vocabulary.py", data, PROTOCOLS)
    config = ml_collections.ConfigDict({"package": "ifseg_jax"})
    config.categories = ",".join(word for words in PROTOCOLS[data].words for word in words)
    return config
