"""Scores a model on PASCAL-5i, COCO-20i or FSS-1000 without an example: "others" against the name of one class.

python -m lseg_jax.fewshot --checkpoint=pascal_fold0.ckpt --benchmark=pascal5i --fold=0 --root=DIR --out=runs/fold0

DIR holds VOC2012/, COCO2014/ or FSS-1000/ as HSNet (juhongm999/hsnet) lays them out, and HSNet's data/splits as
splits/. Images are squeezed into a square (--crop_size), as the authors do; what the model stores of other settings has
no effect and is named. Prints mIoU and FB-IoU of the fold; writes fewshot.json.
"""

import contextlib
from typing import Any

from absl import flags

from lseg_jax.package import PACKAGE
from lseg_jax.settings import SQUARED
from lseg_jax.zero_shot import report
from vlseg import cli, distributed, files, overrides, storage
from vlseg.commands import models
from vlseg.data import episodes as data


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    distributed.initialize()
    storage.check_folder(options.out)
    dataset = data.open_benchmark(options.benchmark, options.root, options.fold)
    model: Any = PACKAGE.flags.applied(models.load(PACKAGE, options), options)
    unused = {name: value for name, value in overrides.stored(model.inference).items() if name not in SQUARED}
    if unused and distributed.is_main():
        print(f"no effect on a benchmark, whose pictures are squeezed into squares: {overrides.shown(unused)}")
    writes = options.out and distributed.is_main()
    with files.output_directory(options.out) if writes else contextlib.nullcontext() as out:
        report(dataset, model, out, batch_size=options.batch_size)


if __name__ == "__main__":
    models.define(PACKAGE, "fewshot")
    flags.DEFINE_enum("benchmark", None, list(data.BENCHMARKS), "Which one.", required=True)
    flags.DEFINE_string("root", None, "The folder with the pictures, label files and splits/.", required=True)
    flags.DEFINE_integer("fold", 0, "Whose classes are asked for; FSS-1000 has none.", lower_bound=0, upper_bound=3)
    flags.DEFINE_string("out", None, "Where fewshot.json goes.")
    flags.DEFINE_integer("batch_size", 1, "Images in a forward pass.", lower_bound=1)
    distributed.define_flags()
    cli.run(main)
