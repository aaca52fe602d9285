"""python tests/scale/train_command.py FLAGS: the train command, with flags for several processes."""

import runpy

if __name__ == "__main__":
    runpy.run_module("vlseg.commands.train", run_name="__main__", alter_sys=True)
