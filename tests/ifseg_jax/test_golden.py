"""The model against outputs of the official implementation, and against itself under settings that must not matter.

The golden weights are in `conftest.py`; they go through an official archive, as a user's checkpoint does.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ifseg_jax
from ifseg_jax import objective, official
from ifseg_jax.artificial import resize_map
from ifseg_jax.ofa import OFA, Encoded
from ifseg_jax.positions import Grid
from vlseg import torch_files
from vlseg.checkpoints.rules import flatten, unflatten


@pytest.fixture(scope="module")
def models(tmp_path_factory, golden_square, golden_wide):
    """Golden outputs and the model loaded from the official archive behind them, by name."""
    path = tmp_path_factory.mktemp("golden") / "checkpoint.pt"
    torch_files.save(path, {"model": dict(golden_square.state)})
    assert all(np.array_equal(golden_wide.state[name], value) for name, value in golden_square.state.items())
    goldens = {"square": golden_square, "wide": golden_wide}
    return {name: (golden, ifseg_jax.load(path, tokenizer=golden.tokenizer)) for name, golden in goldens.items()}


@pytest.mark.parametrize("name", ["square", "wide"])
def test_real_images(models, name):
    golden, model = models[name]
    arrays, (rows, columns) = golden.arrays, golden.arrays["grid"]
    assert model.words(golden.categories).prompt_ids == tuple(arrays["src_tokens"][0])

    features = model.image_features(golden.image)
    assert features.shape == (1, rows, columns, 1024)
    flat = features.reshape(1, rows * columns, -1)
    peak = np.abs(arrays["backbone"]).max()
    np.testing.assert_allclose(flat / peak, arrays["backbone"] / peak, rtol=0, atol=1e-5)

    @jax.jit
    def encode(variables, features, prompt):
        ofa = OFA(model.config)
        cells = ofa.apply(variables, features, method=OFA.image_embeddings)
        return ofa.apply(variables, prompt, None, cells, method=lambda ofa, *inputs: ofa.encoder(*inputs)).tokens

    encoded = encode(model.variables, features, model.embed(golden.categories).prompt)
    np.testing.assert_allclose(encoded, arrays["encoder_out"], rtol=0, atol=1e-4)

    logits = model.logits(golden.image, golden.categories)
    assert logits.shape == (1, rows, columns, len(golden.categories)) and logits.dtype == jnp.float32
    logits = logits.reshape(1, rows * columns, -1)
    np.testing.assert_allclose(logits, arrays["logits"][:, :-1], rtol=0, atol=1e-4)

    averaged = ifseg_jax.knn_average(jax.nn.softmax(logits), flat, k=3, iterations=25)
    np.testing.assert_allclose(averaged, arrays["knn_prob"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["square", "wide"])
def test_artificial_images(models, name):
    golden, model = models[name]
    grid = golden.arrays["artificial_grid"]
    seed_map = jnp.asarray(golden.arrays["artificial_seed"])
    np.testing.assert_array_equal(resize_map(seed_map, seed_map.shape, *grid.shape), grid)
    logits = model.artificial_logits(grid[None], golden.categories)
    expected = golden.arrays["artificial_logits"][:, :-1].reshape(logits.shape)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_training_loss_and_gradients(models):
    golden, model = models["square"]
    config = dataclasses.replace(model.config, dropout=0.0, drop_path=0.0)
    words = model.embed(golden.categories)
    trained, kept = objective.split(model.variables, config)
    unused = {name: value for name, value in kept.items() if name.startswith("params/decoder")}
    seed_map = jnp.asarray(golden.arrays["artificial_seed"])
    target = resize_map(seed_map, seed_map.shape, *golden.image.shape[1:3])[None]
    cells = words.categories[golden.arrays["artificial_grid"]][None]

    @jax.jit
    @jax.value_and_grad
    def loss(trained, unused, words, cells, target):
        variables = unflatten({**unused, **trained})
        examples = objective.Examples(cells, target)
        return objective.segmentation_loss(config, variables, words, examples, jax.random.key(0), 16)

    value, gradients = loss(trained, unused, words, cells, target)
    np.testing.assert_allclose(value, golden.arrays["artificial_loss"], rtol=0, atol=1e-5)
    rules = [rule for rule in official.rules(config) if rule.path in trained]
    assert {rule.official for rule in rules} == set(golden.gradient_norms)
    for rule in rules:
        gradient = gradients[rule.path] if rule.layer is None else gradients[rule.path][rule.layer]
        expected = golden.gradient_norms[rule.official]
        # A bias of keys shifts all scores of a query alike: its gradient is 0 up to rounding.
        np.testing.assert_allclose(np.linalg.norm(gradient), expected, rtol=1e-3, atol=1e-7, err_msg=rule.official)


CATEGORIES = ("grass", "water", "tree", "house")


def artificial_logits(model, grids, **options):
    """Logits of the image-free branch under changed settings."""
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, **options))
    return np.asarray(model.artificial_logits(grids, CATEGORIES))


@pytest.fixture(scope="module")
def grids():
    """Artificial images on a grid of 5 x 6 cells."""
    return np.random.default_rng(0).integers(0, len(CATEGORIES), (3, 5, 6))


@pytest.fixture(scope="module")
def reference(micro_model, grids):
    """The micro model's logits of `grids`, under its own settings."""
    return artificial_logits(micro_model, grids)


@pytest.mark.parametrize("query_blocks", [1, 4])
def test_blocks_of_queries_do_not_matter(micro_model, grids, reference, query_blocks):
    assert micro_model.config.query_blocks not in (1, 4)
    logits = artificial_logits(micro_model, grids, query_blocks=query_blocks)
    np.testing.assert_allclose(logits, reference, rtol=0, atol=1e-5)


def test_a_batch_equals_its_examples(micro_model, grids, reference):
    singles = [artificial_logits(micro_model, grids[index : index + 1])[0] for index in range(len(grids))]
    np.testing.assert_allclose(np.stack(singles), reference, rtol=0, atol=1e-5)
    assert np.abs(reference[0] - reference[1]).max() > 0.1


def test_bfloat16_is_close(micro_model, grids, reference):
    logits = artificial_logits(micro_model, grids, dtype="bfloat16")
    assert logits.dtype == np.float32
    assert np.abs(logits - reference).max() > 0
    assert np.abs(logits - reference).mean() < 0.05 * reference.std()


def test_the_papers_decoder_positions_are_the_encoders(micro_model, grids, reference):
    """Footnote 4 of the paper: as the authors' decoder if its own tables held the encoder's image positions.

    There are more cells than in the trained grid, so that both kinds of positions are resized.
    """
    config, grid, bucket = micro_model.config, micro_model.config.image_grid, micro_model.config.image_bucket
    assert config.decoder_positions == "segmentation" and config.segmentation_grid == grid
    variables = jax.tree.map(np.array, micro_model.variables)
    encoder, decoder = variables["params"]["encoder"], variables["params"]["decoder"]
    decoder["cell_position_norm"] = encoder["image_position_norm"]
    decoder["cell_positions"][0] = encoder["image_positions"][0]  # of <s>
    for row, column in np.ndindex(grid, grid):
        decoder["cell_positions"][1 + row * grid + column] = encoder["image_positions"][1 + row * bucket + column]
    # Relative positions: a row for each offset, then those of <s>.
    own, images = decoder["layers"]["cell_table"], decoder["layers"]["image_table"]
    for y, x in np.ndindex(2 * grid - 1, 2 * grid - 1):
        offset = (y + bucket - grid) * (2 * bucket - 1) + x + bucket - grid
        own[:, y * (2 * grid - 1) + x] = images[:, offset]
    own[:, -3:] = images[:, -3:]
    expected = artificial_logits(dataclasses.replace(micro_model, variables=variables), grids)
    logits = artificial_logits(micro_model, grids, decoder_positions="encoder_image")
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    assert np.abs(logits - reference).max() > 0.1


@pytest.mark.slow
def test_recomputation_does_not_change_gradients(micro_config, micro_variables, micro_model, grids):
    words = micro_model.embed(CATEGORIES)
    params = micro_variables["params"]
    trained = {name: params[name] for name in ("encoder", "decoder")}

    def gradients(remat):
        config = dataclasses.replace(micro_config, remat=remat)

        @jax.jit
        @jax.grad
        def gradient(trained, words, cells):
            # With dropout, recomputing must draw the same numbers again.
            logits = OFA(config).apply(
                {"params": trained},
                cells,
                *words,
                method=OFA.segment,
                deterministic=False,
                rngs={"dropout": jax.random.key(3)},
            )
            return jnp.mean(jax.nn.logsumexp(logits, axis=-1))

        return flatten(gradient(trained, words, words.categories[grids]))

    reference = gradients("none")
    assert sum(bool(np.abs(value).max() > 1e-6) for value in reference.values()) > 40
    for remat in ("elementwise", "attention", "layer"):
        for name, gradient in gradients(remat).items():
            np.testing.assert_allclose(gradient, reference[name], rtol=1e-4, atol=1e-6, err_msg=f"{remat}: {name}")


@pytest.mark.parametrize("size", [None, (3, 2)], ids=["whole", "padded"])
def test_decoding_is_causal(micro_config, micro_variables, size):
    """Output i reads the encoder's outputs for the cells before i and for no other."""
    # Cross-attention sees every cell, so it is silenced to leave the way through the decoder's inputs.
    variables = jax.tree.map(lambda x: x, micro_variables)
    norm = variables["params"]["decoder"]["layers"]["cross_attention_output_norm"]
    norm["scale"], norm["bias"] = jnp.zeros_like(norm["scale"]), jnp.zeros_like(norm["bias"])
    rows, columns, words, width = 3, 4, 2, micro_config.width
    cells = rows * columns
    rng = np.random.default_rng(0)
    tokens = np.repeat(rng.standard_normal((1, cells + words, width)), cells + 1, axis=0)
    tokens[np.arange(cells), np.arange(cells)] += 1  # example j has another token j; the last is left as it was
    valid = np.ones((rows, columns), bool)
    mask = sizes = None
    if size:
        valid[size[0] :], valid[:, size[1] :] = False, False
        sizes = jnp.asarray([size] * (cells + 1))
        mask = jnp.tile(np.append(valid.ravel(), [True] * words), (cells + 1, 1))
    grid = Grid(rows, columns, sizes)
    positions = rng.standard_normal((1, cells + words, width))

    @jax.jit
    def decode(variables, tokens, positions):
        encoded = Encoded(tokens, positions, mask, grid)
        bos = jnp.ones(width)
        return OFA(micro_config).apply(variables, method=lambda model: model.decoder.cells(bos, encoded, None))

    hidden = np.asarray(decode(variables, jnp.asarray(tokens, jnp.float32), jnp.asarray(positions, jnp.float32)))
    changed = np.abs(hidden[:-1] - hidden[-1]).max(axis=-1) > 0
    order = np.flatnonzero(valid)
    expected = np.arange(len(order))[:, None] < np.arange(len(order))
    np.testing.assert_array_equal(changed[np.ix_(order, order)], expected)
    assert not changed[~valid.ravel()][:, order].any()


def test_word_decoding_is_causal(micro_config, micro_variables):
    length = 6
    ids = np.tile(np.arange(4, 4 + length), (length + 1, 1))
    ids[np.arange(length), np.arange(length)] = 20

    @jax.jit
    def decode(variables, ids):
        model = OFA(micro_config)
        source = model.apply(variables, jnp.arange(5)[None], method=OFA.embed_words)
        encoded = model.apply(
            variables, jnp.repeat(source, length + 1, axis=0), method=lambda ofa, words: ofa.encoder(words)
        )
        return model.apply(variables, ids, encoded, method=OFA.decode_words)

    logits = np.asarray(decode(micro_variables, ids))
    assert logits.shape == (length + 1, length, micro_config.vocabulary_size)
    changed = np.abs(logits[:-1] - logits[-1]).max(axis=-1) > 0
    np.testing.assert_array_equal(changed, np.arange(length)[:, None] <= np.arange(length))
