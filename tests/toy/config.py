import ml_collections


def get_config():
    return ml_collections.ConfigDict({"package": "tests.toy", "log_every": 10, "checkpoint_every": 10})
