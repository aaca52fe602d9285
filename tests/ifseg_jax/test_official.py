"""Official checkpoints: names, sizes, and conversion to the last bit."""

import dataclasses
import re

import jax
import ml_dtypes
import numpy as np
import pytest

import ifseg_jax
from ifseg_jax import PACKAGE, checkpoint, official
from ifseg_jax.config import SIZES, OFAConfig
from ifseg_jax.model import adapted
from vlseg import torch_files
from vlseg.checkpoints.directory import Weights
from vlseg.checkpoints.rules import ArrayTensor, flatten
from vlseg.commands.convert import convert
from vlseg.errors import CheckpointError

PUBLISHED_MILLIONS = {"ofa_tiny": 33, "ofa_medium": 93, "ofa_base": 182, "ofa_large": 472, "ofa_huge": 930}
"""Numbers of parameters in the OFA paper (Wang et al. 2022, Table 1) and in the authors' repository."""


def tensors(state):
    return {name: ArrayTensor(np.asarray(value)) for name, value in state.items()}


def assert_identical(found, expected):
    """Same names, types, shapes and bits."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        assert found[name].tobytes() == value.tobytes(), name


@pytest.fixture(scope="module")
def micro_state(micro_config, micro_variables):
    """Official state dict of the micro model."""
    return official.to_official(Weights(jax.tree.map(np.asarray, micro_variables)), micro_config)


def test_configuration_of_the_official_micro_model(golden_square):
    sizes = {"width": 64, "ffn_width": 128, "heads": 4, "encoder_layers": 2, "decoder_layers": 2}
    others = {"resnet_stages": (3, 4, 6), "vocabulary_size": 301, "image_grid": 6, "segmentation_grid": 6}
    assert official.config_from_official(golden_square.spec) == OFAConfig(**sizes, **others)


def test_official_names_and_values_survive(golden_square):
    config = official.config_from_official(golden_square.spec)
    converted = official.from_official(tensors(golden_square.state), config)
    assert set(converted.tied) == {"decoder.embed_tokens.weight", "encoder.embed_tokens_bag.weight"}
    assert "decoder.seg_projection.weight" in converted.carried
    assert_identical(official.to_official(converted, config), golden_square.state)


def test_every_parameter_has_an_official_name(micro_config, micro_variables, micro_state):
    rules = official.rules(micro_config)
    assert {rule.path for rule in rules} == set(flatten(micro_variables))
    assert len({rule.official for rule in rules}) == len(rules) == len(micro_state)
    count = sum(leaf.size for leaf in jax.tree.leaves(micro_variables))
    assert count == sum(value.size for value in micro_state.values())


CATEGORY_NAMES = {
    "encoder.seg_embed_tokens.weight",
    "decoder.seg_embed_tokens.weight",
    "decoder.seg_projection.weight",
}


def with_extras(state, dtype=np.float32):
    """What a checkpoint of the official code holds besides: tied copies, buffers, category embeddings."""
    state = {name: value.astype(dtype) for name, value in state.items()}
    width = state["encoder.layer_norm.weight"].size
    copies = dict.fromkeys(("decoder.embed_tokens.weight", "decoder.output_projection.weight"), state[official.WORDS])
    buffers = {
        "encoder.version": np.array([3.0], np.float32),
        "encoder.token_rp_bucket": np.arange(-8, 8).reshape(4, 4),
        "decoder.seg_rp_bucket": np.arange(9).reshape(3, 3),
        "decoder.image_position_idx": np.arange(5),
        "encoder.embed_images.bn1.num_batches_tracked": np.array(7),
        "decoder.seg_projection.weight": np.ones((3, width), dtype),
    }
    return state | copies | buffers


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_files_there_and_back(tmp_path, micro_state, dtype):
    state = with_extras(micro_state, dtype)
    special = state["encoder.layers.1.fc1.weight"]
    special[0, :3] = -0.0, ml_dtypes.finfo(dtype).max, ml_dtypes.finfo(dtype).smallest_subnormal
    torch_files.save(tmp_path / "first.pt", {"model": state, "args": {"arch": "segofa_base"}})
    convert(PACKAGE, tmp_path / "first.pt", tmp_path / "directory")
    convert(PACKAGE, tmp_path / "directory", tmp_path / "second.pt")
    lazy = torch_files.load_state_dict(tmp_path / "second.pt", keys=("model",))
    assert_identical({name: tensor.read() for name, tensor in lazy.items()}, state)
    assert lazy[official.WORDS] == lazy["decoder.embed_tokens.weight"]  # one storage, as in the original
    again = checkpoint.read(tmp_path / "directory").weights.variables
    first = checkpoint.read(tmp_path / "first.pt").weights.variables
    assert_identical(flatten(again), flatten(first))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_files_that_are_not_finite_are_not_converted(tmp_path, micro_state, value):
    """A buffer that the official code alone needs, such as a mask, may hold anything."""
    state = with_extras(micro_state, np.float32)
    state["decoder.seg_projection.weight"][0, 0] = value
    torch_files.save(tmp_path / "first.pt", {"model": state, "args": {"arch": "segofa_base"}})
    convert(PACKAGE, tmp_path / "first.pt", tmp_path / "directory")
    state["encoder.layers.1.fc1.weight"] = np.full_like(state["encoder.layers.1.fc1.weight"], value)
    torch_files.save(tmp_path / "second.pt", {"model": state, "args": {"arch": "segofa_base"}})
    with pytest.raises(
        CheckpointError, match=r"second\.pt: weights are not finite .*: encoder\.layers\.1\.fc1\.weight;"
    ):
        convert(PACKAGE, tmp_path / "second.pt", tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_half_precision_loads_as_float32(tmp_path, micro_state, micro_variables):
    torch_files.save(tmp_path / "half.pt", {"model": with_extras(micro_state, np.float16)})
    model = ifseg_jax.load(tmp_path / "half.pt")
    loaded, exact = flatten(model.variables), flatten(micro_variables)
    for name, value in exact.items():
        np.testing.assert_array_equal(loaded[name], np.asarray(value).astype(np.float16).astype(np.float32))
        assert loaded[name].dtype == np.float32
    assert set(model.carried) >= {"encoder.version", "decoder.seg_rp_bucket"}


def test_a_bare_state_dict_loads(tmp_path, micro_state, micro_config):
    torch_files.save(tmp_path / "bare.pt", dict(micro_state))
    stored = checkpoint.read(tmp_path / "bare.pt")
    assert stored.weights.tied == () and stored.weights.carried == {}
    assert stored.config.width == micro_config.width and stored.config.resnet_stages == micro_config.resnet_stages


def test_prefixes_and_modules_of_others(tmp_path, micro_state, caplog):
    torch_files.save(tmp_path / "plain.pt", {"model": dict(micro_state)})
    state = {f"module.{name}": value for name, value in micro_state.items()}
    state |= {"module.classification_heads.mnli.dense.weight": np.ones(2, np.float32), "criterion.weight": np.ones(2)}
    torch_files.save(tmp_path / "wrapped.pt", {"model_state_dict": state, "ema": {"a": np.ones(2)}})
    plain, wrapped = (checkpoint.read(tmp_path / f"{name}.pt") for name in ("plain", "wrapped"))
    assert wrapped.config == plain.config
    assert_identical(flatten(wrapped.weights.variables), flatten(plain.weights.variables))
    (record,) = caplog.records
    assert "'module.'; left out: criterion (1 tensor), classification_heads (1 tensor), the entry" in record.message


@pytest.mark.parametrize("dtype", [np.int8, bool, ml_dtypes.float8_e5m2])
def test_parameters_that_are_no_floats(tmp_path, micro_state, dtype):
    name = "decoder.layers.1.fc2.bias"
    torch_files.save(tmp_path / "a.pt", {"model": dict(micro_state) | {name: micro_state[name].astype(dtype)}})
    with pytest.raises(CheckpointError, match=rf"a\.pt: parameters must be .*but {name} is {np.dtype(dtype)}"):
        checkpoint.read(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"model": {"prompt_prefix": ((1,),)}}, "a setting is no number or text"),
        ({"model": 5}, "cannot be used"),
        ({"model": {"width": 10**250}}, "only category_rows, .* are said beside the parameters"),
        ({"model": {"category_rows": 10**250}}, "model.category_rows is 10000"),
        ({"model": {}, "categories": [("a",)]}, "a category is no text"),
        ({"model": {}, "categories": 5}, "cannot be used"),
    ],
)
def test_settings_of_ours_in_an_archive_that_cannot_be_used(tmp_path, micro_state, own, message):
    torch_files.save(tmp_path / "a.pt", {"model": dict(micro_state), checkpoint.FORMAT: own})
    with pytest.raises(CheckpointError, match=message):
        checkpoint.read(tmp_path / "a.pt")


def test_missing_and_unknown_names_are_listed(tmp_path, micro_state):
    state = dict(micro_state)
    del state["decoder.layers.1.encoder_attn.c_attn"], state["encoder.embed_images.layer2.0.bn3.running_var"]
    state |= {"encoder.prompt_encoder.weight": np.ones(2, np.float32), "decoder.layers.0.extra": np.ones(1, np.float32)}
    torch_files.save(tmp_path / "odd.pt", {"model": state})
    with pytest.raises(CheckpointError) as caught:
        ifseg_jax.load(tmp_path / "odd.pt")
    missing, unknown = str(caught.value).split("not known")
    assert "odd.pt" in missing
    assert "decoder.layers.1.encoder_attn.c_attn, encoder.embed_images.layer2.0.bn3.running_var" in missing
    assert "decoder.layers.0.extra, encoder.prompt_encoder.weight" in unknown
    assert "\n" not in str(caught.value)


def test_long_lists_are_cut(micro_config):
    with pytest.raises(CheckpointError, match=r", and \d+ more; not known: strange$"):
        official.from_official(tensors({"strange": np.ones(1)}), micro_config)


@pytest.mark.parametrize("name", ["decoder.embed_tokens.weight", "encoder.embed_tokens_bag.weight"])
def test_a_copy_that_differs_is_refused(micro_state, micro_config, name):
    words = micro_state[official.WORDS].copy()
    words[-1, -1] += 1e-3
    with pytest.raises(CheckpointError, match=re.escape(f"{name} differs from {official.WORDS}")):
        official.from_official(tensors(micro_state | {name: words}), micro_config)


@pytest.mark.parametrize("lost", [official.WORDS, "encoder.layers.0.fc1.weight", "encoder.embed_positions.weight"])
def test_other_models_are_refused(tmp_path, micro_state, lost):
    state = {name: value for name, value in micro_state.items() if name != lost}
    torch_files.save(tmp_path / "other.pt", {"model": state})
    with pytest.raises(CheckpointError, match=f"it has no {re.escape(lost)}"):
        ifseg_jax.load(tmp_path / "other.pt")


def test_wrong_shapes_are_refused(tmp_path, micro_state):
    name = "decoder.layers.1.fc2.weight"
    torch_files.save(tmp_path / "cut.pt", {"model": micro_state | {name: micro_state[name][:, :-1]}})
    with pytest.raises(CheckpointError, match=re.escape(name)):
        ifseg_jax.load(tmp_path / "cut.pt")


def test_ofa_checkpoints_get_fresh_segmentation_parameters(golden_square):
    state = {name: value for name, value in golden_square.state.items() if not re.search(r"\.(embed_)?seg_", name)}
    assert len(state) == len(golden_square.state) - 8
    config = official.config_from_official({name: value.shape for name, value in state.items()})
    assert (config.image_grid, config.segmentation_grid) == (32, 32)
    one, same, other = (official.from_official(tensors(state), config, seed=seed) for seed in (0, 0, 1))
    flat = flatten(one.variables)
    assert_identical(flatten(same.variables), flat)
    positions = flat["params/decoder/cell_positions"]
    assert positions.shape == (32**2 + 1, 64) and positions.dtype == np.float32
    assert abs(positions.std() - 0.02) < 2e-4 and abs(positions.mean()) < 2e-4
    assert (flat["params/decoder/cell_position_norm/scale"] == 1).all()
    assert (flat["params/decoder/cell_position_norm/bias"] == 0).all()
    tables = flat["params/decoder/layers/cell_table"]
    assert tables.shape == (2, 63**2 + 3, 4) and abs(tables.std() - 0.02) < 4e-4 and abs(tables.mean()) < 4e-4
    assert not np.array_equal(tables[0], tables[1])
    changed = {name for name, value in flatten(other.variables).items() if not np.array_equal(value, flat[name])}
    assert changed == {"params/decoder/cell_positions", "params/decoder/layers/cell_table"}
    assert_identical(official.to_official(one, config), state)
    with_fresh = official.to_official(dataclasses.replace(one, fresh=()), config)
    assert set(with_fresh) == set(state) | set(one.fresh) == set(golden_square.state) - CATEGORY_NAMES


def test_ofa_checkpoints_there_and_back(tmp_path, golden_square):
    """Nothing is added to a file of OFA, and a projection of its own, even of other rows, is carried along."""
    state = {name: value for name, value in golden_square.state.items() if not re.search(r"\.(embed_)?seg_", name)}
    state["decoder.output_projection.weight"] = np.ones((305, 64), np.float32)
    torch_files.save(tmp_path / "first.pt", {"model": state})
    convert(PACKAGE, tmp_path / "first.pt", tmp_path / "directory")
    convert(PACKAGE, tmp_path / "directory", tmp_path / "second.pt")
    lazy = torch_files.load_state_dict(tmp_path / "second.pt")
    assert_identical({name: tensor.read() for name, tensor in lazy.items()}, state)


def test_adapted_ofa_models_keep_what_was_started_fresh(tmp_path, golden_square):
    state = {name: value for name, value in golden_square.state.items() if not re.search(r"\.(embed_)?seg_", name)}
    torch_files.save(tmp_path / "ofa.pt", {"model": state})
    model = ifseg_jax.load(tmp_path / "ofa.pt")
    assert model.fresh
    changed = adapted(model, ("a",))(flatten(model.variables))
    changed.save(tmp_path / "adapted")
    checkpoint.write_official(tmp_path / "adapted.pt", changed.stored())
    assert set(torch_files.load_state_dict(tmp_path / "adapted.pt")) >= set(model.fresh)


def test_official_files_have_what_the_official_loader_asks_for(tmp_path, micro_state):
    """Keys that fairseq's checkpoint_utils and trainer read."""
    torch_files.save(tmp_path / "first.pt", {"model": micro_state})
    convert(PACKAGE, tmp_path / "first.pt", tmp_path / "directory")
    convert(PACKAGE, tmp_path / "directory", tmp_path / "second.pt")
    archive = torch_files.load(tmp_path / "second.pt")
    (history,) = archive["optimizer_history"]
    assert {"optimizer_name", "lr_scheduler_state", "num_updates", "criterion_name"} == set(history)
    assert archive["extra_state"]["train_iterator"]["epoch"] == 1


@pytest.mark.parametrize("shape", [(), (0, 8), (7,)])
def test_word_tables_of_other_shapes_are_refused(tmp_path, micro_state, shape):
    torch_files.save(tmp_path / "a.pt", {"model": micro_state | {official.WORDS: np.zeros(shape, np.float32)}})
    with pytest.raises(CheckpointError, match="not an OFA or IFSeg checkpoint"):
        ifseg_jax.load(tmp_path / "a.pt")


def official_shapes(spec, config: OFAConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of an OFA checkpoint of another size, after those of the official micro model."""
    sizes = {64: config.width, 128: config.ffn_width, 4: config.heads, 301: config.vocabulary_size}
    shapes = {}
    for name, shape in spec.items():
        trunk = re.fullmatch(r"(encoder\.embed_images\.layer)(\d)\.(\d+)(\..*)", name)
        layer = re.fullmatch(r"(encoder|decoder)(\.layers\.|\.\w+_rel_pos_table_list\.)(\d+)(\..*)", name)
        if re.search(r"\.(embed_)?seg_", name):
            continue  # not in an OFA checkpoint
        if trunk:
            head, stage, block, tail = trunk.groups()
            blocks = config.resnet_stages[int(stage) - 1]
            alike = {"0": range(1), "1": range(1, blocks)}.get(block, range(0))
            shapes |= {f"{head}{stage}.{number}{tail}": shape for number in alike}
        elif "embed_images" in name:
            shapes[name] = shape
        elif layer:
            part, kind, _, tail = layer.groups()
            count = config.encoder_layers if part == "encoder" else config.decoder_layers
            shape = tuple(sizes.get(side, side) for side in shape)
            shapes |= {f"{part}{kind}{number}{tail}": shape for number in range(count)}
        else:
            shapes[name] = tuple(sizes.get(side, side) for side in shape)
    return shapes


@pytest.mark.parametrize("size", SIZES)
def test_official_sizes(golden_square, size):
    shapes = official_shapes(golden_square.spec, SIZES[size])
    assert official.config_from_official(shapes) == SIZES[size]
    names = {rule.official for rule in official.rules(SIZES[size])}
    added = {name for name in names if official.ADDED_BY_IFSEG.match(name)}
    copies = {"decoder.embed_tokens.weight", "encoder.embed_tokens_bag.weight"}
    assert names - added == {name for name in shapes if not name.endswith("num_batches_tracked")} - copies
    trained = [name for name in names - added if "running_" not in name]
    millions = sum(int(np.prod(shapes[name])) for name in trained) / 1e6
    np.testing.assert_allclose(millions, PUBLISHED_MILLIONS[size], rtol=0.02)
