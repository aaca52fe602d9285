"""Compiles both models for TPU slices of several sizes and writes what a chip does there as a table.

python -m launch.pods --libtpu=libtpu --out=docs/pods

Runs `python -m launch.compile` for each line; its reports stay in OUT, and those that are there are not made anew. All
lines take twenty minutes on two cores. The table is OUT/README.md.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from vlseg import cli, files
from vlseg.errors import VlsegError

SLICES = {"v5e-8": ("v5e:2x4", 8), "v5e-16": ("v5e:4x4", 16), "v5e-256": ("v5e:16x16", 256)}
SLICES |= {"v6e-64": ("v6e:8x8", 64), "v4-32": ("v4:2x2x4", 16)}
"""Slices as Cloud TPU names them: topology and chips. (The 32 of v4-32 are cores.)"""

BATCH = 2
"""Images on a chip, so that slices of all sizes can be compared."""


ABOUT = """\
Made by `make pods`, which compiles for TPUs on a machine without one (`launch/compile.py`); nothing was run on them.
Memory, FLOPs of matrix products and convolutions (and the share that the model's definition asks for), memory traffic
and exchanges with other chips are those of one chip in one step; images are those of all chips. The last two columns
are what the chip's published peaks allow if computing, moving and exchanging overlap perfectly: a bound, not a
measurement. bfloat16 and the default `remat` where no other is named; the compiler at `launch.compile`'s effort."""


class Line(NamedTuple):
    """A line of the table. title: of the model. config: file and settings."""

    title: str
    config: str
    batch: str
    settings: tuple[str, ...]


LINES = (
    Line("IFSeg, OFA-Base, 171 categories", "coco", "adaptation.batch_size", ("model.dtype=bfloat16",)),
    Line("LSeg, ViT-L/16, 150 labels", "lseg_ade20k", "training.batch_size", ("model.dtype=bfloat16",)),
)


class Report(NamedTuple):
    """One compilation. name: of its file."""

    name: str
    title: str
    slice: str
    arguments: tuple[str, ...]


def reports() -> list[Report]:
    """All that the table needs."""
    found = [
        Report(
            "ifseg_one_chip",
            "IFSeg, OFA-Base, float32, the official batch of 16",
            "v5e-1",
            ("--config=configs/coco.py", "--topology=v5e:2x2", "--chips=1"),
        ),
        Report(
            "ifseg_without_remat",
            "IFSeg, OFA-Base, float32, nothing but attention scores computed twice, 8 blocks of queries",
            "v5e-8",
            (
                "--config=configs/coco.py",
                "--topology=v5e:2x4",
                "--config.model.remat=none",
                "--config.model.query_blocks=8",
            ),
        ),
    ]
    for line in LINES:
        for name, (topology, chips) in SLICES.items():
            settings = (*line.settings, f"{line.batch}={BATCH * chips}")
            arguments = (f"--config=configs/{line.config}.py", f"--topology={topology}")
            overrides = tuple(f"--config.{setting}" for setting in settings)
            found.append(Report(f"{line.config}_{name}", line.title, name, arguments + overrides))
    return found


def table(folder: Path, made: list[Report]) -> str:
    """The lines of the reports that are there, as Markdown."""
    head = (
        "",
        "slice",
        "images",
        "memory GB",
        "TFLOP",
        "model's share",
        "traffic GB",
        "exchanged MB",
        "ms",
        "images/s",
    )
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for report in made:
        found = json.loads((folder / f"{report.name}.json").read_text())
        rows += [_row(report, program) for program in found["programs"]]
    return "\n".join(rows) + "\n"


def _row(report: Report, found: dict[str, Any]) -> str:
    first = f"| {report.title} | {report.slice} | {found['images']} | "
    if "peak_bytes" not in found:
        return first + f"does not fit: {found['reason']} |"
    exchanged = sum(exchange["bytes"] for exchange in found["exchanges"])
    numbers = (
        f"{found['peak_bytes'] / 1e9:.1f} of {found['memory_bytes'] / 1e9:.0f}",
        f"{found['flops'] / 1e12:.2f}",
        f"{found['model_share']:.0%}",
        f"{found['bytes'] / 1e9:.0f}",
        f"{exchanged / 1e6:.0f}",
        f"{1e3 * found['roofline_seconds']:.0f}",
        f"{found['images_per_second']:,.0f}",
    )
    return first + " | ".join(numbers) + " |"


def main(_: list[str]) -> None:
    """The command."""
    options = flags.FLAGS
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [report for report in reports() if not options.only or report.name in options.only]
    for report in chosen:
        target = folder / f"{report.name}.json"
        if target.exists():
            continue
        command = [sys.executable, "-m", "launch.compile", *report.arguments, "--programs=train", f"--out={target}"]
        if options.libtpu:
            command.append(f"--libtpu={options.libtpu}")
        print(" ".join(command[1:]), flush=True)
        if subprocess.run(command, check=False).returncode not in (0, 1):
            raise VlsegError(f"{report.name} could not be compiled; what is there stays in {folder}")
    made = [report for report in reports() if (folder / f"{report.name}.json").exists()]
    text = f"# What a chip does in a training step\n\n{ABOUT}\n\n{table(folder, made)}"
    files.atomic_write_text(folder / "README.md", text)
    print(f"wrote {folder / 'README.md'}")


if __name__ == "__main__":
    flags.DEFINE_string("out", "docs/pods", "Folder for the reports and the table.")
    flags.DEFINE_list("only", [], "Names of reports; default: all.")
    flags.DEFINE_string("libtpu", None, "Folder that libtpu was installed into.")
    cli.run(main)
