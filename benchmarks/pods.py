"""Compiles both models for TPU slices of several sizes and writes what a chip does there as a table.

python -m benchmarks.pods --libtpu=libtpu --out=docs/pods

Runs `python -m launch.compile` for each line; its reports stay in OUT, and those that are there are not made anew. All
lines take forty minutes on two cores. The tables are OUT/README.md.
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
measurement. Where nothing else is named: bfloat16, two images on a chip, `data` the only axis of the mesh, the default
`remat`. The compiler at `launch.compile`'s effort. What two slices send to each other is not counted."""


TITLES = {
    "train": "In a training step",
    "inference": "In inference, one image on each chip",
    "segmentation": "In inference to label maps (IFSeg: with averaging over neighbours), one image on each chip",
}
"""Headings of the tables, by program."""


class Model(NamedTuple):
    """What is compiled for every slice. title: of its lines. config: name of the file. batch: its setting."""

    title: str
    config: str
    batch: str


IFSEG = Model("IFSeg, OFA-Base, 171 categories", "coco", "adaptation.batch_size")
LSEG = Model("LSeg, ViT-L/16, 150 labels", "lseg_ade20k", "training.batch_size")


class Report(NamedTuple):
    """One compilation. name: of its file. slice: where. arguments: of `launch.compile`."""

    name: str
    title: str
    slice: str
    arguments: tuple[str, ...]


def reports() -> list[Report]:
    """All that the tables need."""
    one_chip = ("--config=configs/coco.py", "--topology=v5e:2x2", "--chips=1")
    without = ("--config.model.remat=none", "--config.model.query_blocks=8")
    scores = "IFSeg, float32, nothing but attention scores computed twice, 8 blocks of queries"
    return [
        Report("ifseg_one_chip", "IFSeg, float32, the official batch of 16", "v5e-1", one_chip),
        Report("ifseg_without_remat", scores, "v5e-8", ("--config=configs/coco.py", "--topology=v5e:2x4", *without)),
        *(_report(model, name) for model in (IFSEG, LSEG) for name in SLICES),
        _report(IFSEG, "v5e-8", "supervised", "with images and labels", "--config.mode=supervised"),
        *(_report(model, "v5e-8", "fsdp", "fsdp=8", "--mesh=fsdp=8") for model in (IFSEG, LSEG)),
        *(_report(model, "v5e-8", "tensor", "data=4,tensor=2", "--mesh=data=4,tensor=2") for model in (IFSEG, LSEG)),
        *(_report(model, "v5e-8", "slices", "two slices", "--slices=2") for model in (IFSEG, LSEG)),
    ]


def _report(model: Model, where: str, name: str = "", title: str = "", *arguments: str) -> Report:
    """A model on a slice, `BATCH` images on a chip, with further arguments that a name and a title tell."""
    topology, chips = SLICES[where]
    images = BATCH * chips * (2 if "--slices=2" in arguments else 1)
    settings = ("model.dtype=bfloat16", f"{model.batch}={images}")
    return Report(
        "_".join(filter(None, (model.config, where, name))),
        ", ".join(filter(None, (model.title, title))),
        where,
        (
            *(f"--config=configs/{model.config}.py", f"--topology={topology}"),
            *(f"--config.{setting}" for setting in settings),
            *arguments,
        ),
    )


def document(folder: Path) -> str:
    """The reports that are there, as Markdown; a table for each program that some of them have."""
    parts = [f"# What a chip does\n\n{ABOUT}\n"]
    parts += [f"## {title}\n\n{table}" for program, title in TITLES.items() if (table := _table(folder, program))]
    return "\n".join(parts)


def _table(folder: Path, program: str) -> str:
    head = "|  | slice | images | memory GB | TFLOP | model's share | traffic GB | exchanged MB | ms | images/s |"
    rows = [head, "|---" * (head.count("|") - 1) + "|"]
    for report in reports():
        file = folder / f"{report.name}.json"
        found = json.loads(file.read_text())["programs"] if file.exists() else []
        rows += [_row(report, one) for one in found if one["program"] == program]
    return "\n".join(rows) + "\n" if len(rows) > 2 else ""


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
        command = [sys.executable, "-m", "launch.compile", *report.arguments, f"--out={target}"]
        if options.libtpu:
            command.append(f"--libtpu={options.libtpu}")
        print(" ".join(command[1:]), flush=True)
        if subprocess.run(command, check=False).returncode not in (0, 1):
            raise VlsegError(f"{report.name} could not be compiled; what is there stays in {folder}")
    files.atomic_write_text(folder / "README.md", document(folder))
    print(f"wrote {folder / 'README.md'}")


if __name__ == "__main__":
    flags.DEFINE_string("out", "docs/pods", "Folder for the reports and the table.")
    flags.DEFINE_list("only", [], "Names of reports; default: all.")
    flags.DEFINE_string("libtpu", None, "Folder that libtpu was installed into.")
    cli.run(main)
