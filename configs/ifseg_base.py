"""What the IFSeg configurations share: the official settings for OFA-Base. Not an experiment of its own."""

import ml_collections


def data_section(split: str, count: int) -> ml_collections.ConfigDict:
    """A data set: `source` as `vlseg.data.sources.open_dataset` takes it, and for each kind how it is read."""
    return ml_collections.ConfigDict(
        {
            "source": "",
            "folder": {"ignore_label": 255, "label_offset": 0, "ignore_zero": False},
            "catalog": {"split": "train" if split == "train" else "evaluation"},
            "tfds": {
                "split": "train" if split == "train" else "evaluation",
                "image_feature": "",
                "label_feature": "",
                "names": "",  # of data sets that do not name their classes: with commas, or a file
                "ignore_label": ml_collections.config_dict.placeholder(int),  # by default as the data set says, or 255
                "label_offset": 0,
                "ignore_zero": False,
            },
            "tiny_world": {"split": split, "count": count},
        }
    )


def loading_section() -> ml_collections.ConfigDict:
    """How batches are made ahead: threads in each process, and processes (0 for this one alone).

    `on_error`: "stop" at an example that cannot be read, or "skip" it.
    """
    return ml_collections.ConfigDict({"threads": 4, "workers": 0, "on_error": "stop"})


def add_run_settings(config: ml_collections.ConfigDict) -> None:
    """How a run is spread over devices, how batches are made, and what is logged and saved when."""
    config.mesh = ""  # such as "data=4,fsdp=2"; by default all devices share the batch
    config.loading = loading_section()
    config.log_every = 50
    config.checkpoint_every = 500
    config.checkpoint_minutes = 0.0  # also with a log line when so much time has passed; 0 for never
    config.keep_checkpoints = 2
    config.keep_period = 0  # checkpoints at multiples of so many steps stay too; 0 for none
    config.profile = ""  # first and last step of a profile, such as "10:12"


def get_config() -> ml_collections.ConfigDict:
    """Official image-free settings (alinlab/ifseg) without categories."""
    config = ml_collections.ConfigDict()
    config.checkpoint = "ofa_base"
    config.tokenizer = ""  # directory with the official utils/BPE files, or Hugging Face tokenizer files of OFA
    config.mode = "image_free"
    config.categories = ""
    config.model = ml_collections.ConfigDict({"dtype": "float32", "remat": "attention", "query_blocks": 4})
    config.adaptation = ml_collections.ConfigDict(
        {
            "steps": 2000,
            "batch_size": 16,
            "accumulation_steps": 1,  # parts of a batch, computed one after another
            "learning_rate": 5e-5,
            "warmup_steps": 0,
            "b1": 0.9,
            "b2": 0.999,
            "epsilon": 1e-8,
            "weight_decay": 0.1,
            "clip_norm": 1.0,
            "image_size": ml_collections.config_dict.placeholder(int),  # pixels; by default what it was trained at
            "max_side": 32,
            "row_block": 16,
            "seed": 0,
        }
    )
    config.data = data_section(split="train", count=20000)  # of supervised runs
    config.evaluation = data_section(split="test", count=500)  # at the end of a run; none if there is no source
    add_run_settings(config)
    return config
