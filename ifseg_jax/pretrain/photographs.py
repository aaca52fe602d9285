"""Pre-training of a small OFA on photographs, by their words and boxes; its image backbone is frozen.

The features of the backbone are computed once and kept in the working directory: an update is the transformer's alone.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from ifseg_jax import inference
from ifseg_jax.backbone import read_image_encoder
from ifseg_jax.config import OFAConfig
from ifseg_jax.model import image_size
from ifseg_jax.ofa import OFA
from ifseg_jax.pretrain import common
from ifseg_jax.pretrain.boxes import Boxes, boxes_of
from ifseg_jax.pretrain.regions import Asked, Photograph, Questioner, vocabulary
from ifseg_jax.settings import Inference
from ifseg_jax.vocabulary import PAD, SPECIALS
from vlseg import files
from vlseg.checkpoints import rules
from vlseg.checks import check_numbers
from vlseg.data.images import resize_image
from vlseg.data.sources import Dataset, announced, open_dataset
from vlseg.errors import ConfigError
from vlseg.progress import Progress
from vlseg.training import loop, optimizers
from vlseg.training.workdir import Place, open_workdir

FEATURES_FILE = "features.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining(common.Pretraining):
    """Settings of pre-training on photographs.

    Attributes:
        source: labelled photographs, as `vlseg.data.sources.open_dataset` takes them; only words and boxes of their
            label maps are used. encoder: weights of the EfficientNet-Lite, see
            `ifseg_jax.backbone.read_image_encoder`.
        short_side: pixels of the photographs' short side when features are computed; the long side has as many as keep
            the aspect, both to multiples of 32.
        shares: of the tasks, see `ifseg_jax.pretrain.regions`. word_share: of the regions of a collage that are words.
        candidates: names that a question lists at most.
    """

    source: str
    encoder: str
    short_side: int
    shares: Mapping[str, float]
    word_share: float
    candidates: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "short_side", "candidates", least=1, whole=True)
        check_numbers(self, "word_share", below=1)


def photographs(dataset: Dataset, config: OFAConfig, variables: Any, short_side: int, folder: Path) -> list[Photograph]:
    """Features and boxes of all photographs, kept in a file of the run's folder.

    Args:
        dataset: with label maps, of which only words and boxes are used.
        config, variables: of a model whose backbone has its weights.
        short_side: see `Pretraining`.
        folder: of the run, whose configuration stays the same.
    """
    path = folder / FEATURES_FILE
    if not path.exists():
        arrays: dict[str, np.ndarray] = {}
        with Progress(len(dataset), "features", "photograph") as progress:
            for number, example in enumerate(dataset):
                label = np.where(example.label == dataset.ignore_label, -1, example.label)
                boxes = boxes_of(label, len(dataset.names))
                arrays |= {f"words{number}": boxes.words, f"corners{number}": boxes.corners}
                arrays[f"features{number}"] = _features(config, variables, example.image, short_side)
                progress.update()
        with files.atomic_file(path) as file:
            np.savez(file, allow_pickle=False, **arrays)
    with np.load(path) as stored:
        return [
            Photograph(stored[f"features{i}"], Boxes(stored[f"words{i}"], stored[f"corners{i}"]))
            for i in range(len(dataset))
        ]


def _features(config: OFAConfig, variables: Any, image: np.ndarray, short_side: int) -> np.ndarray:
    """Features float16 [2, h, w, C] of a picture and its mirror image."""
    size = image_size(config, image.shape, Inference(short_side=short_side))
    resized = resize_image(image, size)
    both = inference.image_features(config, variables, np.stack([resized, resized[:, ::-1]]))
    return np.asarray(both, np.float16)


def answers(model: Any, asked: Any, name_ids: jax.Array) -> jax.Array:
    """Logits of the answers' words, float32 [B, ANSWER, V], of an `OFA` and `Asked` in JAX's arrays."""
    tokens = model.image_embeddings(asked.features.astype(jnp.float32))
    swapped = model.embed_words(name_ids[jnp.maximum(asked.shown, 0)])
    tokens = jnp.where((asked.shown >= 0)[..., None], swapped, tokens)
    encoded = model.encoder(
        model.embed_words(asked.source), jnp.not_equal(asked.source, PAD), tokens, deterministic=False
    )
    return model.decode_words(asked.inputs, encoded, deterministic=False)


def make_step(config: ml_collections.ConfigDict, model: Any, questioner: Questioner) -> tuple[Any, Any]:
    """The optimizer and the step function of `vlseg.training.loop.train`."""
    schedule = optimizers.learning_rate_schedule(config.learning_rate, config.steps, config.warmup_steps)
    optimizer = optimizers.adamw(schedule, b2=config.b2, weight_decay=config.weight_decay)
    name_ids = jnp.asarray(questioner.name_ids)

    def loss(params: Any, asked: Asked, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = model.apply({"params": params}, asked, name_ids, method=answers, rngs={"dropout": key})
        return common.answer_scores(logits, asked.targets, asked.weights)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: dict[str, Any], asked: Asked, number: int) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        (value, accuracy), gradients = jax.value_and_grad(loss, has_aux=True)(state["params"], asked, key)
        updates, optimizer_state = optimizer.update(gradients, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "optimizer": optimizer_state}, {"loss": value, "accuracy": accuracy}

    def step(state: dict[str, Any], number: int) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        return update(state, questioner.batch(config.seed, number, config.batch_size), number)

    return optimizer, step


def standardized(params: Any, found: list[Photograph]) -> Any:
    """The projection of features started so that every channel counts the same, whatever its scale and mean."""
    sample = np.concatenate([each.features[0].reshape(-1, each.features.shape[-1])[::7] for each in found])
    mean, deviation = sample.mean(axis=0, dtype=np.float32), sample.std(axis=0, dtype=np.float32) + 1e-5
    kernel = np.asarray(params["encoder"]["image_projection"]["kernel"]) / deviation[:, None]
    projection = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(-mean @ kernel)}
    return {**params, "encoder": {**params["encoder"], "image_projection": projection}}


def pretrain(config: ml_collections.ConfigDict, workdir: str | Path) -> Place:
    """Runs or resumes pre-training and writes the model.

    Returns:
        The model directory, readable by `ifseg_jax.load`.

    Raises:
        ConfigError: a setting that cannot be, or `workdir` holds a run of another configuration.
        DatasetError, CheckpointError: photographs or weights cannot be read. StorageError: nothing can be written.
    """
    common.check_settings(Pretraining, config, "configs/clothing_pretrain.py")
    if not config.source:
        raise ConfigError("pre-training needs photographs: give --config.source=FOLDER, or a data set by name")
    dataset = announced(open_dataset(config.source))
    listed = vocabulary(dataset.names)
    model_config = common.model_config(config, len(listed) + len(SPECIALS))
    if model_config.backbone != "efficientnet":
        raise ConfigError(
            "pre-training on photographs starts from weights of an EfficientNet-Lite: backbone must be so"
        )
    encoder = read_image_encoder(config.encoder, model_config)
    folder = Path(os.fspath(open_workdir(workdir, config.to_dict())))
    model = OFA(model_config)
    fresh = rules.flatten(common.initialize(model_config, config.seed))
    variables = rules.unflatten({**fresh, **{name: jnp.asarray(value) for name, value in encoder.items()}})
    found = photographs(dataset, model_config, variables, config.short_side, folder)
    questioner = Questioner(
        dataset.names, found, model_config.image_grid, config.shares.to_dict(), config.word_share, config.candidates
    )
    optimizer, step = make_step(config, model, questioner)
    flat = rules.flatten({"params": standardized(variables["params"], found)})
    trained = {name: value for name, value in flat.items() if name not in encoder}
    params = rules.unflatten(trained)["params"]
    state = {"params": params, "optimizer": optimizer.init(params)}
    schedule = loop.Schedule(config.steps, config.log_every, config.checkpoint_every)
    state = loop.train(state, step, folder, schedule, on_log=loop.print_metrics)
    learnt = rules.flatten({"params": jax.tree.map(np.asarray, state["params"])})
    target, words = folder / "model", "".join(f"{word}\n" for word in listed).encode()
    common.write_model(target, config, model_config, rules.unflatten({**learnt, **encoder}), words)
    return target
