"""Compiles a configuration for a TPU slice on a machine without one, and says what a chip will do there.

python -m launch.compile --config=configs/coco.py --topology=v5e:4x4
python -m launch.compile --config=configs/lseg_ade20k.py --topology=v5e:2x4 --mesh=fsdp=8 --out=report.json

Needs libtpu, which needs no TPU: pip install --no-deps --target=libtpu libtpu==0.0.42.1, and --libtpu=libtpu. Installed
as other packages are, it would make every use of JAX on this machine look for a TPU.

For the training step, inference to logits and inference to label maps (with averaging over neighbours, if the model
does that): parameters and optimizer state, peak memory, FLOPs of matrix products and convolutions (those of a higher
precision once for every pass of the matrix unit) and the share of them that the definition of the model asks for, bytes
to and from memory with the padding of tiles and what kernels declare, the places in the model that move most of them,
each kind of exchange between chips, and the step time that the chip's published peaks allow: the largest of computing,
moving and exchanging, as if each overlapped with the others perfectly. --texts=FOLDER keeps the programs as XLA writes
them. Exits with 1 if a program does not fit.

With --effort=-1, the default here, XLA compiles in a third of the time and uses a little more memory than with 0, which
is what a run on the chip gets.
"""

import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parent.parent))

from absl import flags

from vlseg import cli, packages, settings, storage
from vlseg.errors import ConfigError, VlsegError

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}
"""What keeps libtpu from looking for chips, and from waiting for others that compile."""

GENERATIONS = {"v5e": "default", "v6e": "default", "v4": "megacore", "v5p": "default"}
"""How libtpu calls a chip whose cores are one device, by generation."""

PROGRAMS = ("train", "inference", "segmentation")
"""Updates, inference to logits, and inference to label maps with all that comes before them."""

MOVERS = 5
"""How many of the places in a model that move most are reported."""

HOST = (2, 2, 1)
"""Chips of a host."""


class TopologyError(VlsegError):
    """A slice that libtpu does not know, or no libtpu."""


def devices(topology: str, slices: int = 1) -> list[Any]:
    """The chips of a TPU slice such as "v5e:4x4", for compiling only.

    Raises:
        TopologyError: there is no such slice.
    """
    from jax.experimental import topologies

    generation, _, shape = topology.partition(":")
    if generation not in GENERATIONS or not shape:
        known = ", ".join(GENERATIONS)
        raise TopologyError(f"topology {topology!r} is not like v5e:4x4; known generations are {known}")
    try:
        with _quiet():
            chips = {"chip_config_name": GENERATIONS[generation], "chips_per_host_bounds": HOST, "num_slices": slices}
            found = topologies.get_topology_desc(topology, "tpu", **chips)
    except Exception as error:  # several kinds, from C++
        raise TopologyError(f"libtpu knows no topology {topology}: {str(error).splitlines()[0]}") from error
    return list(found.devices)


def report(program: Any, slices: int = 1, texts: str | None = None) -> dict[str, Any]:
    """Compiles a program of `vlseg.training.program` and reads what a chip does in it.

    Args:
        slices: that the chips are of. texts: folder that the compiled program's text is written into, or None.

    Returns:
        JSON-ready: fits, seconds of compiling, bytes, FLOPs, exchanges, and the roofline. A program that does not fit
        has only "fits" and "reason".
    """
    from launch import program_costs
    from vlseg import chips

    mesh = program.mesh
    chip = chips.chip_of(mesh.devices.flat[0])
    assert chip is not None, "the generations that can be asked for are in the table"
    found: dict[str, Any] = {"program": program.name, "images": program.images, "chips": mesh.size, "slices": slices}
    try:
        with _quiet():
            compiled = program.lower().compile()
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return found | {"fits": False, "reason": _memory_line(str(error))}
    memory = compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    peak += memory.output_size_in_bytes - memory.alias_size_in_bytes
    written = compiled.as_text()
    if texts:
        storage.write_bytes(os.path.join(texts, f"{program.name}.hlo"), written.encode())
    costs = program_costs.costs(written, mesh.size)
    sent = sum(exchange.sent for exchange in costs.collectives)
    times = {
        "compute_seconds": costs.flops / chip.flops,
        "memory_seconds": costs.bytes / chip.bandwidth,
        "network_seconds": sent / chip.network,
    }
    step = max(times.values())
    return found | {
        "fits": peak <= chip.memory,
        "state_bytes": program.held,
        "peak_bytes": peak,
        "memory_bytes": chip.memory,
        "flops": costs.flops,
        "model_share": program.flops / mesh.size / costs.flops,
        "transcendentals": costs.transcendentals,
        "bytes": costs.bytes,
        "unknown_kernels": costs.unknown,
        "movers": [dataclasses.asdict(mover) for mover in costs.movers[:MOVERS]],
        "exchanges": [
            {"kind": e.kind, "group": e.group, "times": e.times, "bytes": e.bytes, "sent_bytes": e.sent}
            for e in costs.collectives
        ],
        **times,
        "roofline_seconds": step,
        "images_per_second": program.images / step,
    }


def text(found: dict[str, Any], chip: str) -> str:
    """A report for people."""
    head = f"{found['program']}: {found['images']} images on {found['chips']} chips ({chip}), per chip"
    if "peak_bytes" not in found:
        return f"{head}\n  does not fit: {found['reason']}"
    fits = "fits" if found["fits"] else "DOES NOT FIT"
    lines = [
        f"  state between steps   {found['state_bytes'] / 1e9:9.2f} GB",
        f"  peak memory           {found['peak_bytes'] / 1e9:9.2f} GB of {found['memory_bytes'] / 1e9:.0f}: {fits}",
        f"  matrix products       {found['flops'] / 1e12:9.3f} TFLOP, the model's own share {found['model_share']:.0%}",
        f"  memory traffic        {found['bytes'] / 1e9:9.2f} GB",
    ]
    for mover in found["movers"]:
        lines.append(f"    {mover['bytes'] / 1e9:7.2f} GB in {mover['times']}: {mover['name']}, {mover['shape'][:60]}")
    for name, times in found["unknown_kernels"].items():
        lines.append(f"  without a cost estimate, so only its operands and results are counted: {name}, {times} times")
    for exchange in found["exchanges"]:
        kind = f"{exchange['kind']} of {exchange['group']}"
        lines.append(f"  {kind:<20}  {exchange['bytes'] / 1e6:9.2f} MB in {exchange['times']}")
    if found["slices"] > 1:
        lines.append("  not counted: exchanges between slices go over the data centre's network, which is slower")
    times = ", ".join(f"{name} {1e3 * found[f'{name}_seconds']:.1f}" for name in ("compute", "memory", "network"))
    lines.append(f"  at the published peaks {1e3 * found['roofline_seconds']:8.1f} ms ({times})")
    lines.append(f"  images/s               {found['images_per_second']:8.0f} at most")
    return "\n".join([head, *lines])


def _memory_line(message: str) -> str:
    wanted = [line.strip() for line in message.splitlines() if "exceeded" in line or "Used" in line]
    return " ".join(" ".join(wanted or message.splitlines()).split())[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what libtpu prints about hosts and metadata that are not there; if it fails, that is shown."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def find_libtpu(folder: str | None) -> None:
    """Makes JAX find libtpu in a folder, or where it is installed; before JAX is used.

    Raises:
        TopologyError: it is in neither.
    """
    os.environ.update(ENVIRONMENT)
    if folder:
        library = next(iter(sorted(Path(folder).rglob("libtpu.so"))), None)
        if library is None:
            raise TopologyError(f"{folder}: no libtpu.so below; pip install --no-deps --target={folder} libtpu")
        os.environ["TPU_LIBRARY_PATH"] = str(library)
    elif "TPU_LIBRARY_PATH" not in os.environ:
        try:
            import libtpu  # type: ignore[import-not-found]  # noqa: F401
        except ImportError as error:
            raise TopologyError(
                "compiling for a TPU needs libtpu: pip install --no-deps --target=libtpu libtpu, and --libtpu=libtpu"
            ) from error


def main(arguments: list[str]) -> int:
    """The command."""
    del arguments
    options = flags.FLAGS
    if unknown := sorted(set(options.programs) - set(PROGRAMS)):
        raise ConfigError(f"--programs={','.join(unknown)}: there are {', '.join(PROGRAMS)}")
    if options.out:
        storage.check_new(options.out)
    find_libtpu(options.libtpu)
    import jax

    from vlseg import chips, sharding
    from vlseg.training import program

    jax.config.update("jax_exec_time_optimization_effort", options.effort)
    config, _ = settings.effective(options.config, settings.given("config")[1])
    package = packages.find(config.package)
    found_devices = devices(options.topology, options.slices)
    if options.chips and options.chips > len(found_devices):
        raise ConfigError(
            f"--chips={options.chips}: {options.topology} has {len(found_devices)}; ask for as many or fewer"
        )
    found_devices = found_devices[: options.chips]
    mesh = sharding.make_mesh(options.mesh or config.mesh, found_devices)
    chip = chips.chip_of(mesh.devices.flat[0])
    if chip is None:
        raise ConfigError(f"{mesh.devices.flat[0].device_kind}: its peaks are not in vlseg/chips.py")
    outline = package.outline(config, options.labels)
    programs = [
        program.training(outline.task, mesh, package.axes),
        program.inference(outline.inference, mesh, package.axes),
    ]
    if outline.segmentation:
        programs.append(program.inference(outline.segmentation, mesh, package.axes, "segmentation"))
    found = []
    for one in programs:
        if one.name in options.programs:
            found.append(report(one, options.slices, options.texts))
            print(text(found[-1], chip.name) + "\n", flush=True)
    if options.out:
        asked = {"topology": options.topology, "slices": options.slices, "mesh": dict(mesh.shape)}
        storage.write_json(options.out, asked | {"config": config.to_dict(), "programs": found})
    return 0 if all(one["fits"] for one in found) else 1


if __name__ == "__main__":
    settings.define_flag("A file such as configs/coco.py.")
    flags.DEFINE_string("topology", None, "Chips, such as v5e:4x4.", required=True)
    flags.DEFINE_integer("slices", 1, "How many of them.", lower_bound=1)
    flags.DEFINE_integer("chips", None, "Use only so many of them.", lower_bound=1)
    flags.DEFINE_string("mesh", None, "Instead of config.mesh, such as data=4,fsdp=4.")
    flags.DEFINE_integer("labels", 150, "Labels of a label set, where only the data would tell.", lower_bound=1)
    flags.DEFINE_list("programs", list(PROGRAMS), "What is compiled.")
    flags.DEFINE_float("effort", -1.0, "What the compiler spends on speed.", lower_bound=-1.0, upper_bound=1.0)
    flags.DEFINE_string("libtpu", None, "Folder that libtpu was installed into.")
    flags.DEFINE_string("out", None, "A new file for the report as JSON.")
    flags.DEFINE_string("texts", None, "A folder for the compiled programs as XLA writes them.")
    cli.run(main)
