"""LSeg's zero-shot experiments (Tables 1 to 3): "others" against one class, tested on classes never asked for before.

python -m lseg_jax.train --config=configs/lseg_zero_shot.py:pascal5i --config.benchmark.fold=0 --workdir=runs/fold0 \
    --config.benchmark.root=ROOT --config.pretrained.text=CLIP_VIT_B32 --config.pretrained.image=ENCODER
python -m lseg_jax.fewshot --checkpoint=runs/fold0/model --benchmark=pascal5i --fold=0 --root=ROOT

Instead of pascal5i also coco20i and fss1000. ROOT holds VOC2012/, COCO2014/ or FSS-1000/ and the lists of HSNet in
splits/ (`lseg_jax/fewshot.py`). CLIP_VIT_B32 and a ViT-L/16 as ENCODER are those of configs/lseg_ade20k.py; the other
ENCODER is torchvision's ResNet-101.

Hardware: accelerators with 120 GB in all for the ViT-L/16 in bfloat16 (estimated from docs/pods: 3 GB an image); less
with --config.model.remat=layer. Time: not run. Expected mIoU, published (LSeg paper); ours not run:

    PASCAL-5i, folds 0 to 3, mean, FB-IoU   ResNet-101 52.8 53.8 44.4 38.5, 47.4, 64.1
                                            ViT-L/16   61.3 63.6 43.1 41.0, 52.3, 67.0
    COCO-20i, folds 0 to 3, mean, FB-IoU    ResNet-101 22.1 25.1 24.9 21.5, 23.4, 57.9
                                            ViT-L/16   28.1 27.5 30.0 23.2, 27.2, 59.9
    FSS-1000                                ResNet-101 84.7
                                            ViT-L/16   87.8

On the first two the authors report the best of the first four epochs by the mIoU of the fold that is tested; so does a
run here, which is validated on that fold after each epoch. FSS-1000 is trained for 60 epochs with a base rate of 0.05
(paper, Sec. 4.3). No script of these runs is published. The base rate of 0.004 for the other two, the 200 epochs of
their schedule and 20 pairs of pictures in an update are the defaults of the authors' code, whose rule counts a pair
once: rates of 0.005 and 0.05 (encoder, decoder), for FSS-1000 0.0625 and 0.625. The loss is the mean over the pixels of
an update, as over those of a process there. The paper's batch of 6 (Sec. 4.1) is not said to be that of these runs. An
epoch has an update for every 20 pictures of the training list, as there; but the two pictures of a pair show the same
class there, and here all 40 are drawn from the list.
"""

import ml_collections

from vlseg.settings import check_argument

SCHEDULES: dict[str, dict[str, float]] = {
    "pascal5i": {"epochs": 200, "stop_after": 4, "learning_rate": 0.005},
    "coco20i": {"epochs": 200, "stop_after": 4, "learning_rate": 0.005},
    "fss1000": {"epochs": 60, "learning_rate": 0.0625},
}


def get_config(benchmark: str = "pascal5i") -> ml_collections.ConfigDict:
    """The settings for a few-shot benchmark.

    Raises:
        ConfigError: another benchmark.
    """
    check_argument("configs/lseg_zero_shot.py", benchmark, SCHEDULES)
    config = ml_collections.ConfigDict({"package": "lseg_jax"})
    config.benchmark = {"name": benchmark}
    if benchmark != "fss1000":
        config.validation = {"epochs": 1}
    config.training = {"batch_size": 40, "loss_mean": "pixels", "base_size": 480, **SCHEDULES[benchmark]}
    return config
