"""LSeg on seven data sets at once, each with its own labels (Sec. 5.2): the model for words of all kinds.

python -m lseg_jax.train --config=configs/lseg_mix.py --workdir=runs/lseg_mix --config.root=ROOT \
    --config.pretrained.text=CLIP_VIT_B32 --config.pretrained.image=VIT_L16_384

ROOT holds the data sets as they are unpacked (`python -m vlseg.data.list`), in ade20k/, bdd100k/, cityscapes/,
coco_panoptic/, idd/, mapillary/ and sun_rgbd/. One that lies elsewhere has a flag of its own, such as
--config.roots.idd=FOLDER. How often each of them comes follows from its size, or from --config.data.weights. The files
are those of configs/lseg_ade20k.py.

Images in an update (12, or the paper's 6) and rates are those of configs/lseg_ade20k.py; of this model the paper does
not say them.

Hardware: one accelerator with 80 GB. Time: not run.
Expected: the paper (Sec. 5.2) gives the 200 epochs, shows pictures and no score; ours not run.
Evaluate with: python -m lseg_jax.evaluate --checkpoint=runs/lseg_mix/model --data=cityscapes:ROOT/cityscapes

Other data sets than these seven are those of configs/open_vocabulary.py.
"""

import ml_collections

DATA_SETS = ("ade20k", "bdd100k", "cityscapes", "coco_panoptic", "idd", "mapillary", "sun_rgbd")


def get_config() -> ml_collections.ConfigDict:
    """The settings for ADE20K with 200 epochs of all seven."""
    config = ml_collections.ConfigDict({"package": "lseg_jax"})
    config.training = {"epochs": 200}
    config.root = "data"
    config.roots = ml_collections.ConfigDict()
    for name in DATA_SETS:
        # References, so that the sources follow what the command line says of the folders.
        config.roots[name] = config.get_ref("root") + f"/{name}"
    sources = [f"{name}:" + config.roots.get_ref(name) for name in DATA_SETS]
    joined = sources[0]
    for source in sources[1:]:
        joined = joined + "," + source
    config.data = ml_collections.ConfigDict({"source": joined})
    return config
