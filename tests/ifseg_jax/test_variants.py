"""Settings that the official code has, against what it computes under them; recorded by `golden/record_training.py`.

A variant is options of a loaded model and settings of `Adaptation`.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ifseg_jax
from ifseg_jax import PACKAGE, objective, official
from ifseg_jax.inference import scaled
from ifseg_jax.model import with_category_table
from ifseg_jax.ofa import OFA
from ifseg_jax.prompt import word_ids
from ifseg_jax.settings import Adaptation, Settings
from tests.ifseg_jax.conftest import GOLDEN, read_golden
from vlseg import settings as settings_of
from vlseg import torch_files, verification
from vlseg.checkpoints.rules import unflatten
from vlseg.commands.convert import convert
from vlseg.data.examples import IGNORED
from vlseg.errors import CheckpointError, ConfigError
from vlseg.nn.losses import counted_pixels

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Compiler options of programs that run once."""

VARIANTS = {
    "image_free_encoder_input": ({"decoder_input_type": "encoder_input"}, {}),
    "image_free_full_context": ({"full_context_alignment": True}, {}),
    "image_free_label_smoothing": ({}, {"label_smoothing": 0.1}),
    "image_free_embeddings": ({}, {"freeze_embedding": False}),
    "supervised_encoder_input": ({"decoder_input_type": "encoder_input"}, {}),
    "supervised_full_context": ({"full_context_alignment": True}, {}),
    "supervised_label_smoothing": ({}, {"label_smoothing": 0.1}),
    "supervised_tokens": ({}, {"upscale_lprobs": False}),
    "supervised_embeddings": ({}, {"freeze_embedding": False}),
    "supervised_resnet": ({}, {"freeze_entire_resnet": False, "freeze_resnet": True}),
    "supervised_resnet_norms": ({}, {"freeze_entire_resnet": False}),
}
"""Options of the model and settings of training."""

FAST_ONES = {"image_free_encoder_input", "image_free_embeddings", "supervised_full_context", "supervised_tokens"}
"""One of each kind that no other test has; the others are slow."""

UNCHANGED = {"image_free_full_context", "image_free_embeddings", "supervised_embeddings", "supervised_resnet"}
"""Variants whose first loss is that of the official settings; of the first, the gradients are, too."""


class Tokens(objective.Supervised):
    """Supervised training whose images have been through the frozen trunk."""

    def examples(self, variables, words, batch):
        return objective.Examples(*batch), {}


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN / "variants.npz") as file:
        return {name: file[name] for name in file}


@pytest.fixture(scope="module")
def goldens(golden_tensor):
    """Batches of both modes."""
    return {mode: read_golden(f"training_{mode}", golden_tensor) for mode in objective.TASKS}


@pytest.fixture(scope="module")
def loaded(goldens, tmp_path_factory):
    """The official archive that all start from, without dropout."""
    path = tmp_path_factory.mktemp("official") / "checkpoint.pt"
    golden = goldens["image_free"]
    torch_files.save(path, {"model": dict(golden.state)})
    model = ifseg_jax.load(path, golden.tokenizer, dropout=0.0, drop_path=0.0)
    return model.with_labels(golden.categories)


@pytest.fixture(scope="module")
def tokens(goldens, loaded):
    """Image tokens of the first supervised batch."""

    def embed(variables, images):
        features = OFA(loaded.config).apply(variables, scaled(images), method=OFA.image_features)
        return OFA(loaded.config).apply(variables, features, method=OFA.image_embeddings)

    images = goldens["supervised"].arrays["images"][0]
    return run(embed, loaded.variables, images)


def run(function, *arguments):
    return jax.jit(function).lower(*arguments).compile(compiler_options=QUICK)(*arguments)


def take(variant, goldens, loaded):
    """A variant's model, settings, and the first batch as an update has it."""
    mode, (options, settings) = mode_of(variant), VARIANTS[variant]
    model = dataclasses.replace(loaded, config=dataclasses.replace(loaded.config, **options))
    if "freeze_embedding" in settings:
        model = with_category_table(model, model.categories)
    names = ("grids", "maps") if mode == "image_free" else ("images", "targets")
    inputs, targets = (goldens[mode].arrays[name][0] for name in names)
    return model, Adaptation(batch_size=4, **settings), inputs, targets.astype(np.int32)


def mode_of(variant):
    return "supervised" if variant.startswith("supervised") else "image_free"


@pytest.mark.parametrize(
    "variant", [v if v in FAST_ONES else pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS]
)
def test_variants(variant, recorded, goldens, loaded, tokens):
    """The loss, the norm of every gradient, and running statistics."""
    model, settings, inputs, targets = take(variant, goldens, loaded)
    kind, ids = objective.TASKS[mode_of(variant)], word_ids(model.words())
    if kind is objective.Supervised and settings.freeze_entire_resnet:
        kind, inputs = Tokens, tokens
    if not settings.upscale_lprobs:
        targets = targets[:, ::16, ::16]
    task = kind(model.config, settings, len(model.categories), len(ids.prompt), ids.categories.shape[1])
    state, needed, _ = task.split(model.variables)

    def loss(params, others, text, inputs, targets):
        words, count = task._words(text, params), counted_pixels(targets, task.categories, IGNORED)
        variables = unflatten({**others, **params})
        return task._loss((inputs, targets), words, variables, jax.random.key(0), count)

    others = {**needed, **state.get("batch_stats", {})}
    text = task.text(model.embed(), ids)
    (value, changed), gradients = run(
        jax.value_and_grad(loss, has_aux=True), state["params"], others, text, inputs, targets
    )
    np.testing.assert_allclose(value, recorded[f"{variant}/loss"], rtol=1e-5)
    same = np.isclose(recorded[f"{variant}/loss"], recorded[f"{task.mode}/loss"], rtol=1e-4)
    assert same == (variant in UNCHANGED)

    names = json.loads(str(recorded["meta"]))["names"]
    norms = zip(names, recorded[f"{variant}/norms"], strict=True)
    expected = {name: norm for name, norm in norms if np.isfinite(norm)}
    # Of names that are tied, the authors' model lists the first.
    first = {"decoder.seg_projection.weight": "encoder.seg_embed_tokens.weight"}
    found = {}
    for rule in official.rules(model.config):
        if rule.path in gradients:
            gradient = gradients[rule.path] if rule.layer is None else gradients[rule.path][rule.layer]
            found[first.get(rule.official, rule.official)] = float(np.linalg.norm(gradient))
    assert set(found) == set(expected)
    largest = max(expected.values())
    for name, norm in found.items():
        # Under batch statistics the authors' own gradients of the trunk are 3e-3 off those that they have in float64.
        tolerance = 1e-2 if settings.trains_norms and "embed_images" in name else 1e-3
        assert abs(norm - expected[name]) < tolerance * expected[name] + 1e-7 * largest, (name, norm, expected[name])
    for name in (name for name in recorded if name.startswith(f"{variant}/encoder")):
        (rule,) = (rule for rule in official.rules(model.config) if rule.official == name.partition("/")[2])
        np.testing.assert_allclose(changed[rule.path], recorded[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["image_free_encoder_input", "image_free_full_context", "supervised_full_context"])
def test_logits(variant, recorded, goldens, loaded, tokens):
    """As inference gives them. The official code decodes artificial images with a causal mask, whatever is said."""
    model, _, inputs, _ = take(variant, goldens, loaded)
    if variant.startswith("image_free"):
        logits = model.artificial_logits(inputs)
    else:
        words = model.embed()
        arguments = tokens, words.categories, words.prompt, words.bos
        variables = {"params": {name: model.variables["params"][name] for name in ("encoder", "decoder")}}
        logits = run(functools.partial(OFA(model.config).apply, method=OFA.segment), variables, *arguments)
    expected = recorded[f"{variant}/logits"].reshape(logits.shape)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("variant", ["image_free_dropout", "image_free_drop_path"])
def test_dropout_and_stochastic_depth(variant, recorded, goldens, loaded):
    """They strike where the authors' do: mean and deviation of every logit over many passes."""
    rates = {"dropout": 0.1} if variant.endswith("dropout") else {"drop_path": 0.3}
    config, words = dataclasses.replace(loaded.config, **rates), loaded.embed()
    variables = {"params": {name: loaded.variables["params"][name] for name in ("encoder", "decoder")}}
    cells = words.categories[goldens["image_free"].arrays["grids"][0]]

    def passes(variables, words, cells):
        def once(key):
            arguments = cells, words.categories, words.prompt, words.bos
            model, how = OFA(config), {"deterministic": False, "rngs": {"dropout": key}}
            return model.apply(variables, *arguments, method=OFA.segment, **how)

        return jax.lax.map(once, jax.random.split(jax.random.key(0), 400), batch_size=20)

    drawn = np.asarray(jax.jit(passes)(variables, words, cells), np.float64)
    mean, deviation = recorded[f"{variant}/mean"], recorded[f"{variant}/deviation"]
    # Of 400 passes a mean's standard error is a twentieth of the deviation, on both sides.
    assert np.abs((drawn.mean(0) - mean) / deviation).mean() < 0.08
    assert abs(drawn.std(0).mean() / deviation.mean() - 1) < 0.02


def test_embeddings_are_frozen_after_an_update(goldens, loaded):
    """`freeze_embedding_iter`: from that update on neither gradient nor decay moves them, and only them."""
    model = with_category_table(loaded, loaded.categories)
    ids = word_ids(model.words())
    settings = Adaptation(batch_size=4, learning_rate=1e-3, freeze_embedding=False, freeze_embedding_iter=2)
    task = objective.ImageFree(model.config, settings, len(model.categories), len(ids.prompt), ids.categories.shape[1])
    state = task.split(model.variables)[0]
    updates = {name: jnp.ones(value.shape) for name, value in state["params"].items()}
    kept = {name for name, update in task._live(updates, 2).items() if not update.any()}
    assert kept == {"params/word_embedding/table", "params/category_embedding/table"}
    assert all(update.all() for update in task._live(updates, 1).values())


@pytest.mark.parametrize(
    ("mode", "settings", "message"),
    [
        ("image_free", {"upscale_lprobs": False}, "upscale_lprobs=False has no effect in image_free training"),
        ("image_free", {"freeze_entire_resnet": False}, "freeze_entire_resnet=False has no effect in image_free"),
        ("supervised", {"artificial_image_type": "norand_k"}, "artificial_image_type=norand_k has no effect in super"),
    ],
)
def test_settings_without_effect_are_refused(mode, settings, message, micro_config):
    with pytest.raises(ConfigError, match=message):
        objective.TASKS[mode](micro_config, Adaptation(**settings), 4, 9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; it must be in"),
        ({"freeze_embedding": "false"}, "freeze_embedding is 'false'; it must be True or False"),
        ({"freeze_embedding_iter": 5}, "freeze_embedding_iter needs freeze_embedding=False"),
        ({"freeze_resnet": True}, "freeze_resnet needs freeze_entire_resnet=False"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        Adaptation(**settings)


def test_what_changes_the_model_is_stored(micro_model, tmp_path):
    """Prompt prefix, decoder inputs and mask are those of the saved model; `words` shows the prefix."""
    options = {"prompt_prefix": "water", "decoder_input_type": "encoder_input", "full_context_alignment": True}
    model = dataclasses.replace(micro_model, config=dataclasses.replace(micro_model.config, **options))
    model.save(tmp_path / "model")
    found = ifseg_jax.load(tmp_path / "model")
    assert found.config == model.config
    words = micro_model.words(["water", "grass", "unknown"])
    (water,), (grass,), (unknown,) = words.category_ids
    assert found.words(["grass"]).prompt_ids[1:-1] == (water, grass, unknown)
    without = ifseg_jax.load(tmp_path / "model", prompt_prefix="")
    assert without.words(["grass"]).prompt_ids[1:-1] == (grass, unknown)
    with pytest.raises(ConfigError, match="full_context_alignment is 1; it must be True or False"):
        ifseg_jax.load(tmp_path / "model", full_context_alignment=1)


def test_trained_embeddings_are_stored(micro_model, tmp_path):
    """Logits of the model's own categories are taken against the table that was trained; those of others are not."""
    names = ("grass", "water")
    settings = {"steps": 2, "batch_size": 2, "image_size": 16, "learning_rate": 1e-2, "freeze_embedding": False}
    model = micro_model.adapt(names, **settings)
    model.save(tmp_path / "model")
    found = ifseg_jax.load(tmp_path / "model")
    table = model.variables["params"]["category_embedding"]["table"]
    for one in (model, found):
        embedded = one.embed()
        np.testing.assert_array_equal(embedded.projected, table)
        assert np.abs(embedded.projected - embedded.categories).max() > 1e-3
        assert np.abs(embedded.categories - micro_model.embed(names).categories).max() > 1e-3
    others = found.with_labels(("tree",))
    assert not others.config.category_rows and others.embed().projection is None
    assert others.variables["params"].keys() == micro_model.variables["params"].keys()


def with_table(model, names):
    """The model with a table of these categories that no training has made."""
    model = with_category_table(model, names)
    table = np.random.default_rng(0).standard_normal((len(names), model.config.width)).astype(np.float32)
    params = {**model.variables["params"], "category_embedding": {"table": jnp.asarray(table)}}
    return dataclasses.replace(model, variables={**model.variables, "params": params}), table


def test_rows_of_a_table_are_found_by_name(micro_model):
    """In another order, some of them, and among others, which are the means of their words."""
    model, table = with_table(micro_model, ("grass", "water", "snow"))
    for labels, rows in {("snow", "grass", "water"): [2, 0, 1], ("water",): [1]}.items():
        np.testing.assert_array_equal(model.embed(labels).projected, table[rows])
        chosen = model.with_labels(labels)
        assert chosen.config.category_rows == len(labels)
        np.testing.assert_array_equal(chosen.variables["params"]["category_embedding"]["table"], table[rows])
    mixed = model.with_labels(("tree", "snow"))
    expected = [micro_model.embed(("tree",)).categories[0], table[2]]
    np.testing.assert_array_equal(mixed.embed().projected, expected)
    again = with_category_table(model, ("tree", "snow"))  # training goes on with the rows that there are
    np.testing.assert_array_equal(again.embed().projected, expected)


def test_outlines_segment_as_the_model_does(micro_model, tmp_path):
    labels = ("grass", "water", "snow")
    micro_model.save(tmp_path / "model")
    changes = {"checkpoint": str(tmp_path / "model"), "categories": ",".join(labels)}
    found = PACKAGE.outline(settings_of.complete(settings_of.as_config(Settings(**changes))), 0).segmentation
    image = np.random.default_rng(0).integers(0, 256, (*found.size, 3), np.uint8)
    asked = micro_model.with_labels(labels)
    (label_map,) = jax.jit(found.function)(asked.variables, asked.embed(), image[None])
    assert label_map.dtype == jnp.int32
    np.testing.assert_array_equal(label_map, asked.segment(image, labels).label_map)


@pytest.mark.parametrize(("categories", "rows"), [("water,tree", 2), ("tree,fish", 0)])
def test_outlines_have_the_table_that_a_run_has(micro_model, tmp_path, categories, rows):
    model, _ = with_table(micro_model, ("grass", "water", "snow"))
    model.save(tmp_path / "model")
    changes = {"checkpoint": str(tmp_path / "model"), "categories": categories}
    task = PACKAGE.outline(settings_of.complete(settings_of.as_config(Settings(**changes))), 0).task
    assert task.config.category_rows == rows == model.with_labels(categories.split(",")).config.category_rows


def test_a_table_survives_the_official_format(micro_model, tmp_path, caplog):
    names = ("grass", "water", "snow")
    model, table = with_table(micro_model, names)
    model.save(tmp_path / "model")
    convert(PACKAGE, tmp_path / "model", tmp_path / "converted.pt")
    PACKAGE.official.write(tmp_path / "exported.pt", PACKAGE.official.of_model(model))
    for stem in ("converted", "exported"):
        found = ifseg_jax.load(tmp_path / f"{stem}.pt", micro_model.tokenizer)
        assert (found.config.category_rows, found.categories) == (3, names)
        np.testing.assert_array_equal(found.embed(names[::-1]).projected, table[::-1])
        convert(PACKAGE, tmp_path / f"{stem}.pt", tmp_path / stem)
        convert(PACKAGE, tmp_path / stem, tmp_path / f"{stem}_again.pt")
        first, second = (torch_files.load_state_dict(tmp_path / f"{stem}{end}.pt") for end in ("", "_again"))
        assert verification.same_bits(first, {name: tensor.read() for name, tensor in second.items()}).passed
        assert torch_files.load(tmp_path / f"{stem}_again.pt")["ifseg_jax"]["categories"] == list(names)
    assert not caplog.records
    archive = torch_files.load(tmp_path / "exported.pt")
    state = {name: tensor.read() for name, tensor in archive["model"].items()}
    own = {"model": {"category_rows": 3}, "categories": ["grass"]}
    torch_files.save(tmp_path / "odd.pt", {"model": state, "ifseg_jax": own})
    with pytest.raises(CheckpointError, match=r"odd\.pt: it names 1 categories for a table of 3"):
        ifseg_jax.load(tmp_path / "odd.pt")


@pytest.mark.parametrize("kind", ["means", "trained", "trained words"])
def test_tables_of_the_authors_files(micro_model, tmp_path, caplog, kind):
    """Their categories have no names: what is not used is said, unless it is the means of the file's own words."""
    stored = PACKAGE.official.of_model(micro_model.with_labels(("grass", "water")))
    carried = {name: tensor.read() for name, tensor in stored.weights.carried.items()}
    if kind == "trained":
        carried = {name: value * np.float32(1 - 1e-6) for name, value in carried.items()}
    state = official.to_official(stored.weights, stored.config) | carried
    if kind == "trained words":
        words = state[official.WORDS] * np.float32(1.001)
        state |= {official.WORDS: words, "decoder.embed_tokens.weight": words}
    torch_files.save(tmp_path / "a.pt", {"model": state})
    convert(PACKAGE, tmp_path / "a.pt", tmp_path / "model")
    lines = [record.getMessage() for record in caplog.records]
    assert [("a.pt: it has a table of 2 categories" in line, "not used" in line) for line in lines] == (
        [] if kind == "means" else [(True, True)]
    )
    convert(PACKAGE, tmp_path / "model", tmp_path / "b.pt")
    found = torch_files.load_state_dict(tmp_path / "b.pt")
    assert verification.same_bits(found, state).passed


def test_options_of_official_files(micro_model, tmp_path, caplog):
    """What the official code takes as options is said when a file is written, and in the file for us."""
    options = {"prompt_prefix": "the water", "decoder_input_type": "encoder_input", "full_context_alignment": True}
    model = dataclasses.replace(micro_model, config=dataclasses.replace(micro_model.config, **options))
    PACKAGE.official.write(tmp_path / "a.pt", model.stored())
    (line,) = (record.getMessage() for record in caplog.records)
    wanted = "--decoder-input-type=encoder_input --full-context-alignment=true '--prompt-prefix=the water'"
    assert line == f"{tmp_path / 'a.pt'}: the official code needs these options with it: {wanted}"
    found = ifseg_jax.load(tmp_path / "a.pt").config
    assert {name: getattr(found, name) for name in options} == options
    PACKAGE.official.write(tmp_path / "plain.pt", micro_model.stored())
    assert len(caplog.records) == 1 and "ifseg_jax" not in torch_files.load(tmp_path / "plain.pt")
    paper = dataclasses.replace(
        micro_model, config=dataclasses.replace(model.config, decoder_positions="encoder_image")
    )
    with pytest.raises(ConfigError, match="no model with decoder_positions=encoder_image; export a directory"):
        PACKAGE.official.write(tmp_path / "paper.pt", paper.stored())
    assert not (tmp_path / "paper.pt").exists()


def test_older_directories_say_max_side(micro_model, tmp_path):
    dataclasses.replace(micro_model, adaptation={"max_side": 8, "steps": 3}).save(tmp_path / "model")
    assert ifseg_jax.load(tmp_path / "model").adaptation == {"artificial_image_type": "rand_k-1-9", "steps": 3}
    with pytest.raises(ConfigError, match="adaptation has no setting max_side; there are steps"):
        micro_model.adapt(("grass",), max_side=8)
