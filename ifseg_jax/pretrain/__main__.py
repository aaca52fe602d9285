"""Pre-trains a small OFA in the tiny world, or on photographs by their words and boxes.

python -m ifseg_jax.pretrain --config=configs/tiny_pretrain.py --workdir=DIR
python -m ifseg_jax.pretrain --config=configs/clothing_pretrain.py --config.source=FOLDER --workdir=DIR

The first makes the bundled "tiny"; its scenes, questions and answers are drawn on the device. Step t depends on the
seed and t alone, so a run that is stopped and started again continues exactly. The result lies in WORKDIR/model.
"""

from absl import flags
from ml_collections import config_flags

from ifseg_jax.pretrain import photographs, training
from vlseg import cli, settings
from vlseg.training import workdir as workdirs


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    workdir = options.workdir or workdirs.default(settings.given("config")[0])
    pretrain = photographs.pretrain if "source" in options.config else training.pretrain
    print(f"wrote {pretrain(options.config, workdir)}")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", help_string="A file such as configs/tiny_pretrain.py.")
    flags.mark_flag_as_required("config")
    flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and the model go; default: runs/NAME.")
    cli.run(main)
