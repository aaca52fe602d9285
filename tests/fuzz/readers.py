"""Every reader of files of this project, with small files that it reads: a new format is one line in `READERS`."""

import contextlib
import hashlib
import importlib.util
import io
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, features

FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = ("wall", "building", "sky", "tree", "road", "grass", "dog", "cat", "car", "person", "bed", "window", "lamp",
         "door", "table", "plant", "rock", "water")  # fmt: skip


class Reader(NamedTuple):
    """make: from an empty folder to the names of the files made in it that are broken, one at a time.
    read: from the folder to what is read, which can be compared.
    checked: whether checksums in the files show any damage. slow: takes too long for the fast tests.
    """

    make: Callable[[Path], Sequence[str]]
    read: Callable[[Path], Any]
    checked: bool = False
    slow: bool = False


def digest(value: Any) -> Any:
    """What arrays, and anything that holds them, are told apart by."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, dict):
        return {key: digest(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [digest(item) for item in value]
    return value


def picture(form: str, mode: str = "RGB", **options: Any) -> Callable[[Path], Sequence[str]]:
    def make(folder: Path) -> Sequence[str]:
        pixels = np.add.outer(np.arange(24) * 7, np.arange(33) * 3)[..., None] + np.array([0, 60, 120])
        name = f"a.{form.lower()}"
        Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(folder / name, form, **options)
        return [name]

    return make


def read_picture(folder: Path) -> Any:
    from vlseg.data.images import read_image

    return digest(read_image(next(folder.glob("a.*"), folder / "a.png")))


def label(mode: str) -> Callable[[Path], Sequence[str]]:
    def make(folder: Path) -> Sequence[str]:
        ids = np.random.default_rng(0).integers(0, 18, (6, 9)).repeat(4, 0).repeat(4, 1)
        if mode == "P":
            image = Image.fromarray(ids.astype(np.uint8), "P")
            image.putpalette(bytes(range(54)))
        else:
            image = Image.fromarray(ids.astype(np.uint8 if mode == "L" else np.uint16))
        image.save(folder / "a.png")
        return ["a.png"]

    return make


def read_label(folder: Path) -> Any:
    from vlseg.data.images import read_label

    return digest(read_label(folder / "a.png"))


def texts(**contents: str) -> Callable[[Path], Sequence[str]]:
    """Text files by their name, in which _ stands for a dot."""

    def make(folder: Path) -> Sequence[str]:
        for name, content in contents.items():
            (folder / name.replace("_", ".")).write_text(content)
        return [name.replace("_", ".") for name in contents]

    return make


def read_names(folder: Path) -> Any:
    from vlseg.labels import read_names

    return read_names(folder / "names.txt")


def read_list(folder: Path) -> Any:
    from vlseg.data.pairs import read_lines

    return read_lines(folder / "list.txt")


def ifseg_directory(folder: Path) -> Sequence[str]:
    from tests import micro

    micro.save_ifseg(folder / "model", inference={"short_side": 64}, adaptation={"steps": 3}, categories=["cat", "dog"])
    return ["model/config.json"] * 4 + ["model/model.safetensors", "model/words.txt"]


def read_ifseg(folder: Path) -> Any:
    import ifseg_jax

    model = ifseg_jax.load(folder / "model")
    return str((model.config, model.inference, model.categories))


def lseg_directory(folder: Path) -> Sequence[str]:
    from lseg_jax import checkpoint
    from tests import micro
    from vlseg.checkpoints import directory

    variables = micro.variables(checkpoint.parameter_shapes(micro.LSEG))
    settings = {"labels": ["cat", "dog"], "inference": {"base_size": 64, "crop_size": 32, "scales": [1.0]}}
    known = {"cat": np.ones(24, np.float32)}
    stored = directory.Stored(micro.LSEG, directory.Weights(variables), settings, arrays={"labels.safetensors": known})
    directory.write(folder / "model", checkpoint.FORMAT, stored)
    return ["model/config.json"] * 4 + ["model/model.safetensors", "model/labels.safetensors"]


def read_lseg(folder: Path) -> Any:
    import lseg_jax

    model = lseg_jax.load(folder / "model")
    return str((model.config, model.inference, model.labels))


def safetensors(folder: Path) -> Sequence[str]:
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {"a": np.ones((3, 4), np.float32), "b": np.arange(5), "c": np.zeros((), np.float16)}
    save_file(arrays, folder / "a.safetensors")
    return ["a.safetensors"]


def read_safetensors(folder: Path) -> Any:
    from vlseg.safetensors_files import open_safetensors

    return {name: digest(tensor.read()) for name, tensor in open_safetensors(folder / "a.safetensors").items()}


def npz(folder: Path) -> Sequence[str]:
    np.savez(folder / "a.npz", a=np.ones((3, 4), np.float32), b=np.arange(5.0))
    return ["a.npz"]


def read_npz(folder: Path) -> Any:
    from vlseg.checkpoints.foreign import open_tensors

    return {name: digest(tensor.read()) for name, tensor in open_tensors(folder / "a.npz")[0].items()}


def torch_archive(fixture: str) -> Callable[[Path], Sequence[str]]:
    def make(folder: Path) -> Sequence[str]:
        (folder / "a.pt").write_bytes((FIXTURES / "torch" / fixture).read_bytes())
        return ["a.pt"]

    return make


def read_torch(folder: Path) -> Any:
    from vlseg import torch_files

    torch_files.load(folder / "a.pt")
    state = torch_files.load_state_dict(folder / "a.pt")
    return {name: digest(np.asarray(tensor.read())) for name, tensor in state.items()}


def read_hyperparameters(folder: Path) -> Any:
    from lseg_jax import checkpoint
    from vlseg import torch_files

    return repr(checkpoint._hyperparameters(torch_files.load(folder / "a.pt")))


def shards(folder: Path) -> Sequence[str]:
    from safetensors.numpy import save_file

    places = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    for name, place in places.items():
        save_file({name: np.ones(3, np.float32)}, folder / place)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return ["model.safetensors.index.json"]


def read_shards(folder: Path) -> Any:
    from vlseg.checkpoints.foreign import open_tensors

    return {name: digest(tensor.read()) for name, tensor in open_tensors(folder)[0].items()}


def few_shot(folder: Path) -> Sequence[str]:
    path = folder / "splits/coco/val/fold0.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps({number: [f"val2014/{number}.jpg"] for number in range(80)}))
    return ["splits/coco/val/fold0.pkl"]


def read_few_shot(folder: Path) -> Any:
    from vlseg.data import episodes

    return episodes._coco_lists(folder / "splits/coco/val/fold0.pkl", range(0, 80, 4))


def matlab(compressed: bool) -> Callable[[Path], Sequence[str]]:
    def make(folder: Path) -> Sequence[str]:
        import scipy.io

        ids = np.arange(16 * 20, dtype=np.uint8).reshape(16, 20) % 21
        nested = {"GTcls": {"Boundaries": np.zeros(3), "Segmentation": ids}}
        scipy.io.savemat(folder / "a.mat", nested, do_compression=compressed)
        return ["a.mat"]

    return make


def read_matlab(folder: Path) -> Any:
    from vlseg.data.decoding import matlab

    return digest(matlab(folder / "a.mat", "GTcls", "Segmentation"))


def matlab_cells(compressed: bool) -> Callable[[Path], Sequence[str]]:
    def make(folder: Path) -> Sequence[str]:
        import scipy.io

        from tests.samples import cells

        scipy.io.savemat(folder / "a.mat", {"label_list": cells(NAMES)}, do_compression=compressed)
        return ["a.mat"]

    return make


def read_matlab_cells(folder: Path) -> Any:
    from vlseg.data.decoding import matlab_texts

    return matlab_texts(folder / "a.mat", "label_list")


def panoptic(folder: Path) -> Sequence[str]:
    segments = [{"id": 1, "category_id": 7}, {"id": 300, "category_id": 9}]
    described = {"annotations": [{"file_name": "a.png", "segments_info": segments}]}
    (folder / "a.json").write_text(json.dumps(described))
    ids = np.full((12, 16), 1)
    ids[4:] = 300
    Image.fromarray(np.stack([ids % 256, ids // 256, ids * 0], -1).astype(np.uint8)).save(folder / "a.png")
    return ["a.json", "a.json", "a.png"]


def read_panoptic(folder: Path) -> Any:
    from vlseg.data.decoding import panoptic

    return digest(panoptic(folder / "a.json", (7, 9))(folder / "a.png"))


def annotations(kind: str) -> Callable[[Path], Sequence[str]]:
    def make(folder: Path) -> Sequence[str]:
        from tests.vlseg.data.formats import test_broken_annotations as broken

        path, content = getattr(broken, kind)(folder)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return [str(path.relative_to(folder))]

    return make


def read_annotations(source: str) -> Callable[[Path], Any]:
    """source: as --data has it, in which {} stands for the folder."""

    def read(folder: Path) -> Any:
        from vlseg.data.sources import open_dataset

        return digest([tuple(example) for example in open_dataset(source.format(folder))])

    return read


class Examples(list[Any]):
    """A small data set, as `vlseg.data.sources` has them."""

    names, ignore_label = NAMES, 255


def examples() -> Examples:
    from vlseg.data.examples import Example

    rng = np.random.default_rng(0)
    pixels, ids = rng.integers(0, 256, (2, 12, 16, 3), np.uint8), rng.integers(0, 18, (2, 12, 16)).astype(np.int32)
    return Examples(Example(pixels[number], ids[number], f"{number}") for number in range(2))


def prepared(folder: Path) -> Sequence[str]:
    from vlseg.data.formats import prepared

    prepared.write(examples(), folder / "set")
    return ["set/prepared.json", "set/00000-of-00001.array_record"]


def read_prepared(folder: Path) -> Any:
    from vlseg.data.formats.prepared import open_prepared

    return digest([tuple(example) for example in open_prepared(folder / "set")])


def tfds(folder: Path) -> Sequence[str]:
    from vlseg.data.formats import tfds_builder

    tfds_builder.write({"train": examples()}, folder, "small")
    names = (path for path in (folder / "small").rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in names)


def read_tfds(folder: Path) -> Any:
    from vlseg.data.formats.tfds import open_tfds

    return digest([tuple(example) for example in open_tfds(f"small:{folder}:train")])


def words(folder: Path) -> Sequence[str]:
    (folder / "words.txt").write_text("\n".join(NAMES))
    return ["words.txt"]


PIECES = {"Ġcat": 4, "Ġgrass": 5, "Ġdog": 6, "s": 7}


def official_pieces(folder: Path) -> Sequence[str]:
    from tests import byte_pairs

    byte_pairs.write_dictionary(folder, PIECES)
    return ["encoder.json", "vocab.bpe", "dict.txt"]


def hub_pieces(folder: Path) -> Sequence[str]:
    from tests import byte_pairs

    specials = ("<s>", "<pad>", "</s>", "<unk>")
    ids = {piece: index for index, piece in enumerate([*specials, *byte_pairs.alphabet().values(), "ca", "cat"])}
    byte_pairs.write(folder, ids, [("c", "a"), ("ca", "t")])
    return ["vocab.json", "merges.txt"]


def fast_pieces(folder: Path) -> Sequence[str]:
    import tokenizers

    ids = {piece: index for index, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *"catdog"[:3], "ca", "cat"])}
    merges = [("c", "a"), ("ca", "t")]
    tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    return ["tokenizer.json"]


def read_tokenizer(folder: Path) -> Any:
    from ifseg_jax.vocabulary import load_tokenizer

    return list(load_tokenizer(folder)("cat"))


def clip_pieces(folder: Path) -> Sequence[str]:
    from tests import byte_pairs

    letters = list(byte_pairs.alphabet().values())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    ids = {piece: index for index, piece in enumerate(pieces)}
    byte_pairs.write(folder, ids, [("c", "a"), ("ca", "t</w>")])
    return ["vocab.json", "merges.txt"]


def read_clip(folder: Path) -> Any:
    from lseg_jax.tokenizers import load_tokenizer

    return list(load_tokenizer(folder)("cat"))


def step(folder: Path) -> Sequence[str]:
    import orbax.checkpoint as ocp

    state = {"params": {"a/kernel": np.ones((3, 4), np.float32)}, "optimizer": {"a/kernel": np.zeros(3)}}
    target = folder / "checkpoints/7/default"
    target.parent.mkdir(parents=True)
    ocp.PyTreeCheckpointer().save(target, state)
    return [str(path.relative_to(folder)) for path in sorted(target.rglob("*")) if path.is_file()]


def read_step(folder: Path) -> Any:
    from vlseg.checkpoints import runs

    return digest(runs.read_parts(folder / "checkpoints/7"))


def journal(folder: Path) -> Sequence[str]:
    from vlseg.commands.journal import FILE, Journal

    written = Journal(folder, {"labels": ["cat", "dog"], "scales": [1.0]})
    written.add("a.jpg", {"file": "a.png", "shares": {"cat": 0.5}})
    written.add("b.jpg", {"file": "b.png"})
    written.close()
    return [FILE]


def read_journal(folder: Path) -> Any:
    from vlseg.commands.journal import Journal

    with contextlib.redirect_stderr(io.StringIO()):
        return Journal(folder, {"labels": ["cat", "dog"], "scales": [1.0]}).entries


SETTINGS = {"steps": 10, "learning_rate": 0.1, "data": {"source": "voc:x", "names": ["cat", "dog"]}, "seed": None}
INPUTS = {
    "data": {"names": ["cat", "dog"], "examples": 7, "files": "0" * 64},
    "checkpoint": {"bytes": 3, "sha256": "1"},
}


def workdir(folder: Path) -> Sequence[str]:
    from vlseg.training import workdir

    workdir.open_workdir(folder / "run", SETTINGS, found=INPUTS)
    return [f"run/{workdir.CONFIG_FILE}", f"run/{workdir.INPUTS_FILE}"]


def read_workdir(folder: Path) -> Any:
    from vlseg.training import workdir

    return workdir.check_same(folder / "run", SETTINGS, INPUTS, workdir.Same())


def metrics(folder: Path) -> Sequence[str]:
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": {step}, "loss": {step / 7}}}\n' for step in range(9)))
    return ["metrics.jsonl"]


def read_metrics(folder: Path) -> Any:
    from vlseg import files
    from vlseg.errors import StorageError
    from vlseg.training import telemetry

    with contextlib.redirect_stdout(io.StringIO()):
        return telemetry._kept(files.read_regular(folder / "metrics.jsonl", StorageError), 7)


def lease(folder: Path) -> Sequence[str]:
    from vlseg.training import lease

    (folder / lease.FOLDER).mkdir()
    (folder / lease.FOLDER / "3.json").write_bytes(lease._text(lease.Holder.here()))
    return [f"{lease.FOLDER}/3.json"]


def read_lease(folder: Path) -> Any:
    from vlseg.training.lease import Lease

    return [(one.number, str(one.holder), one.why_free) for one in Lease(folder)._found()]


def run_folder(folder: Path) -> Sequence[str]:
    described = {"format": "ifseg-jax 1", "model": {}, "training": {"step": 7}, "part": "frozen"}
    for name in ("frozen", "model", "last"):
        (folder / "run" / name).mkdir(parents=True)
        (folder / "run" / name / "config.json").write_text(json.dumps(described))
    (folder / "run/checkpoints/5").mkdir(parents=True)
    return ["run/frozen/config.json", "run/last/config.json"]


def read_run_folder(folder: Path) -> Any:
    from vlseg.checkpoints import directory, runs

    found = runs.find(folder / "run", 7), runs.kept_steps(folder / "run")
    return str((found, directory.read_settings(folder / "run/checkpoints/5"), runs.find(folder / "run", 5)))


NAMES_FILES = {
    "names json": ("names.json", json.dumps(NAMES)),
    "names map": ("names.json", json.dumps(dict(enumerate(NAMES)))),
    "names table": ("names.csv", "id,name\n" + "".join(f"{number},{name}\n" for number, name in enumerate(NAMES))),
    "names numbered": ("names.txt", "".join(f"{number} {name}\n" for number, name in enumerate(NAMES))),
    "names coco": ("names.json", json.dumps({"categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)]})),
    "names cvat": ("names.json", json.dumps([{"name": name, "color": "#ff0000", "attributes": []} for name in NAMES])),
}
"""Lists of names as people have them: the name of the file and its content."""


def names_file(name: str, content: str) -> Reader:
    def make(folder: Path) -> Sequence[str]:
        (folder / name).write_text(content)
        return [name]

    def read(folder: Path) -> Any:
        from vlseg.labels import read_names

        return read_names(folder / name)

    return Reader(make, read)


def clip_fast_pieces(folder: Path) -> Sequence[str]:
    import transformers

    names = clip_pieces(folder)
    transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer.save(
        str(folder / "tokenizer.json")
    )
    for name in names:
        (folder / name).unlink()
    return ["tokenizer.json"]


def optional_pictures() -> dict[str, Reader]:
    """Formats that are read where this Pillow, or pillow-heif, has them."""
    found = {"avif": Reader(picture("AVIF"), read_picture)} if features.check("avif") else {}
    if importlib.util.find_spec("pillow_heif"):
        found["heic"] = Reader(heic, read_picture)
    return found


def heic(folder: Path) -> Sequence[str]:
    import pillow_heif

    picture("PNG")(folder)
    pillow_heif.from_pillow(Image.open(folder / "a.png")).save(folder / "a.heic")
    (folder / "a.png").unlink()
    return ["a.heic"]


READERS = {
    "png": Reader(picture("PNG"), read_picture, checked=True),
    "jpeg": Reader(picture("JPEG"), read_picture),
    "tiff": Reader(picture("TIFF"), read_picture),
    "tiff lzw": Reader(picture("TIFF", compression="tiff_lzw"), read_picture),
    "gif": Reader(picture("GIF", "P"), read_picture),
    "webp": Reader(picture("WEBP"), read_picture),
    "bmp": Reader(picture("BMP"), read_picture),
    "ppm": Reader(picture("PPM"), read_picture),
    "label grey": Reader(label("L"), read_label, checked=True),
    "label palette": Reader(label("P"), read_label, checked=True),
    "label 16 bits": Reader(label("I;16"), read_label, checked=True),
    "names": Reader(texts(names_txt="\n".join(NAMES)), read_names),
    "list": Reader(texts(list_txt="2007_000033\n2007_000042\n"), read_list),
    "panoptic": Reader(panoptic, read_panoptic),
    "coco instances": Reader(annotations("instances"), read_annotations("coco:{}/instances_val2017.json")),
    "coco panoptic": Reader(annotations("panoptic"), read_annotations("coco:{}/panoptic.json")),
    "labelme": Reader(annotations("labelme"), read_annotations("labelme:{}")),
    "cvat": Reader(annotations("cvat"), read_annotations("cvat:{}/annotations.xml")),
    "matlab": Reader(matlab(compressed=False), read_matlab),
    "matlab compressed": Reader(matlab(compressed=True), read_matlab),
    "matlab cells": Reader(matlab_cells(compressed=False), read_matlab_cells),
    "matlab cells compressed": Reader(matlab_cells(compressed=True), read_matlab_cells),
    "few-shot pickle": Reader(few_shot, read_few_shot),
    "safetensors": Reader(safetensors, read_safetensors),
    "npz": Reader(npz, read_npz, checked=True),
    "torch model": Reader(torch_archive("torch_2_13_model.pt"), read_torch, checked=True),
    "torch training state": Reader(torch_archive("torch_2_13_training_state.pt"), read_torch, checked=True),
    "torch module": Reader(torch_archive("torch_1_9_module.pt"), read_torch, checked=True),
    "torch legacy": Reader(torch_archive("torch_legacy.pt"), read_torch),
    "hyperparameters": Reader(torch_archive("torch_1_9_omegaconf.ckpt"), read_hyperparameters, checked=True),
    "shards": Reader(shards, read_shards),
    "words": Reader(words, read_tokenizer),
    "official pieces": Reader(official_pieces, read_tokenizer),
    "hub pieces": Reader(hub_pieces, read_tokenizer),
    "fast pieces": Reader(fast_pieces, read_tokenizer),
    "clip pieces": Reader(clip_pieces, read_clip, slow=True),
    "clip fast pieces": Reader(clip_fast_pieces, read_clip, slow=True),
    "prepared": Reader(prepared, read_prepared),
    "prepared records": Reader(lambda folder: prepared(folder)[1:], read_prepared, checked=True),
    "tfds": Reader(tfds, read_tfds, slow=True),
    "step of a run": Reader(step, read_step, slow=True),
    "ifseg directory": Reader(ifseg_directory, read_ifseg, slow=True),
    "lseg directory": Reader(lseg_directory, read_lseg, slow=True),
    "journal": Reader(journal, read_journal),
    "working directory": Reader(workdir, read_workdir),
    "metrics": Reader(metrics, read_metrics),
    "lease": Reader(lease, read_lease),
    "run": Reader(run_folder, read_run_folder),
    **{kind: names_file(*file) for kind, file in NAMES_FILES.items()},
    **optional_pictures(),
}
