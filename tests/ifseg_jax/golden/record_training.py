"""Records how the official IFSeg (alinlab/ifseg) trains; only torch, fairseq's optimizer and the authors' modules run.

Python 3.9; pip install torch==1.12.1 timm==0.4.12 omegaconf==2.0.6 hydra-core==1.0.7 einops regex sacrebleu bitarray
tqdm requests cython "numpy<1.23"
PYTHONPATH=. python tests/ifseg_jax/golden/record_training.py CLONE

CLONE: a checkout of ifseg; its custom_fairseq is used as it lies there. The weights are of `tests.golden_weights`,
without dropout and stochastic depth. Written beside this script:

training_image_free.npz, training_supervised.npz   30 updates in three epochs of ten batches: `losses` and `rates`
    float64 [30]; `update/NAME`, the whole change of each official parameter that is trained; the batches; `meta`, JSON
    with the shapes of the official parameters, the ids of the words, and the parameters that no gradient reached
variants.npz   for each of `VARIANTS` the first batch's `logits`, `loss`, `norms` (of the gradients, NaN where there is
    none; in the order of meta["names"]); for one with dropout, mean and deviation of its logits over many passes
fresh.json     official parameter name -> mean, deviation and largest absolute value as the constructor leaves it
"""

import argparse
import functools
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch

from tests import golden_weights

HERE = Path(__file__).parent
NAMES = [[10], [11, 12], [13], [14, 15, 16], [17], [18]]
"""Ids of the words of five categories and of "unknown"."""
PROMPT = [20, 21, 22]
CATEGORIES, VOCABULARY, SIDE, GRID = 5, 60, 64, 4
PAD, EOS, BOS = 1, 2, 0
EPOCHS, BATCHES, BATCH_SIZE, RATE = 3, 10, 4, 5e-4
SEED = 11
PASSES = 400

VARIANTS = {
    "image_free": {},
    "image_free_encoder_input": {"model": {"decoder_input_type": "encoder_input"}},
    "image_free_full_context": {"criterion": {"full_context_alignment": "true"}},
    "image_free_label_smoothing": {"criterion": {"label_smoothing": 0.1}},
    "image_free_embeddings": {"model": {"freeze_embedding": "false"}},
    "image_free_dropout": {"model": {"dropout": 0.1}},
    "image_free_drop_path": {"model": {"drop_path": 0.3}},
    "supervised": {},
    "supervised_encoder_input": {"model": {"decoder_input_type": "encoder_input"}},
    "supervised_full_context": {"criterion": {"full_context_alignment": "true"}},
    "supervised_label_smoothing": {"criterion": {"label_smoothing": 0.1}},
    "supervised_tokens": {"criterion": {"upscale_lprobs": "false"}},
    "supervised_embeddings": {"model": {"freeze_embedding": "false"}},
    "supervised_resnet": {"model": {"freeze_entire_resnet": "false", "freeze_resnet": "true"}},
    "supervised_resnet_norms": {"model": {"freeze_entire_resnet": "false"}},
}


class Dictionary:
    """As many words as the model knows, and the official categories after them."""

    def __len__(self):
        return VOCABULARY + CATEGORIES + 1

    def __contains__(self, symbol):
        return symbol == "<mask>"

    def pad(self):
        return PAD

    def eos(self):
        return EOS

    def index(self, symbol):
        return VOCABULARY if symbol.startswith("<seg_") else 0


DICTIONARY = Dictionary()
TASK = types.SimpleNamespace(
    source_dictionary=DICTIONARY,
    target_dictionary=DICTIONARY,
    tgt_dict=DICTIONARY,
    cfg=types.SimpleNamespace(num_seg_tokens=CATEGORIES, category_list=",".join("abcde")),
)


def build(
    dropout=0.0,
    drop_path=0.0,
    freeze_embedding="true",
    freeze_entire_resnet="true",
    freeze_resnet="false",
    decoder_input_type="encoder_output",
):
    """The authors' model, as their training scripts ask for it but for its size."""
    from models.segofa.segofa import SegOFAModel, segofa_base_architecture

    set_ = ("encoder_normalize_before", "decoder_normalize_before", "share_decoder_input_output_embed")
    set_ += ("share_all_embeddings", "layernorm_embedding", "patch_layernorm_embedding", "code_layernorm_embedding")
    set_ += ("add_type_embedding", "scale_attn", "scale_fc", "scale_heads", "disable_entangle")
    unset = ("adaptive_input", "no_cross_attention", "cross_self_attention", "encoder_prompt", "decoder_prompt")
    unset += ("adapter", "tie_adaptive_weights", "bitfit")
    zero = ("resnet_drop_path_rate", "attention_dropout", "encoder_layerdrop", "decoder_layerdrop", "quant_noise_pq")
    none = ("adaptive_softmax_cutoff", "decoder_embed_path", "encoder_embed_path", "encoder_layers_to_keep")
    args = argparse.Namespace(
        **dict.fromkeys(set_, True),
        **dict.fromkeys(unset, False),
        **dict.fromkeys(zero, 0.0),
        **dict.fromkeys((*none, "decoder_layers_to_keep")),
        **dict.fromkeys(("encoder_drop_path_rate", "decoder_drop_path_rate"), drop_path),
        **dict.fromkeys(("encoder_embed_dim", "decoder_embed_dim"), 16),
        **dict.fromkeys(("encoder_ffn_embed_dim", "decoder_ffn_embed_dim"), 32),
        **dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads"), 2),
        **dict.fromkeys(("max_source_positions", "max_target_positions"), 62),
        **dict.fromkeys(("patch_image_size", "orig_patch_image_size"), SIDE),
        **dict.fromkeys((f"freeze_{part}_embedding" for part in ("encoder", "decoder", "seg")), freeze_embedding),
        token_bucket_size=32,
        image_bucket_size=6,
        resnet_type="resnet50",
        num_bins=1000,
        num_seg_tokens=CATEGORIES,
        quant_noise_pq_block_size=8,
        freeze_encoder_transformer="false",
        freeze_encoder_transformer_layers=0,
        tie_seg_projection="true",
        decoder_type="surrogate",
        dropout=dropout,
        freeze_entire_resnet=freeze_entire_resnet,
        freeze_resnet=freeze_resnet,
        decoder_input_type=decoder_input_type,
    )
    segofa_base_architecture(args)
    return SegOFAModel.build_model(args, TASK)


def load(model):
    """Gives it the weights of the tests: functions of the names, category tables the means of words."""
    state = model.state_dict()
    for name, value in state.items():
        if value.is_floating_point() and not name.endswith(("version", "token_rp_bucket")):
            state[name] = torch.from_numpy(golden_weights.tensor(name, tuple(value.shape)))
    words = state["encoder.embed_tokens.weight"]
    means = torch.stack([words[ids].mean(dim=0) for ids in NAMES[:CATEGORIES]])
    for name in state:
        if name.endswith(("decoder.embed_tokens.weight", "embed_tokens_bag.weight")):
            state[name] = words
        elif "seg_embed_tokens" in name or "seg_projection" in name:
            state[name] = means
    model.load_state_dict(state)
    kinds = (".running_mean", ".running_var", ".c_attn", ".weight", ".bias")
    return {name: list(value.shape) for name, value in state.items() if name.endswith(kinds)}


def make_criterion(label_smoothing=0.0, upscale_lprobs="true", full_context_alignment="false"):
    from criterions.seg_criterion import SegCriterion

    found = SegCriterion(
        TASK,
        sentence_avg=False,
        label_smoothing=label_smoothing,
        upscale_lprobs=upscale_lprobs,
        full_context_alignment=full_context_alignment,
    )
    # The image-free loss names no sizes: its defaults are those of 512 pixels.
    found.upsample_logits = functools.partial(found.upsample_logits, hp=GRID, wp=GRID, h=SIDE, w=SIDE)
    return found


def batches(seed=SEED):
    """Artificial and real examples, int8 and uint8, all of them [BATCHES, BATCH_SIZE, ...]."""
    rng = np.random.default_rng(seed)
    shape = BATCHES, BATCH_SIZE
    grids, maps = np.zeros((*shape, GRID, GRID), np.int8), np.zeros((*shape, SIDE, SIDE), np.int8)
    for place in np.ndindex(shape):
        # Tokens that are all alike make attention immaterial, and Adam would make steps of what rounding leaves of it.
        rows, columns = rng.integers(2, 5, 2)
        drawn = torch.from_numpy(rng.integers(0, CATEGORIES, (1, 1, rows, columns))).float()
        for array, side in ((grids, GRID), (maps, SIDE)):
            array[place] = torch.nn.functional.interpolate(drawn, size=(side, side), mode="nearest")[0, 0].numpy()
    images = rng.integers(0, 256, (*shape, 8, 8, 3), dtype=np.uint8).repeat(8, axis=2).repeat(8, axis=3)
    targets = rng.integers(0, CATEGORIES, (*shape, 8, 8)).astype(np.int8).repeat(8, axis=2).repeat(8, axis=3)
    targets = np.roll(targets, 3, axis=3)
    targets[:, 0, 40:, 10:30] = -1
    return {"grids": grids, "maps": maps, "images": images, "targets": targets}


def tokens(map_):
    """A label map as the official targets: ids of categories, "unknown" where nothing counts, and </s>."""
    ids = torch.from_numpy(np.where(map_ < 0, CATEGORIES, map_).reshape(len(map_), -1).astype(np.int64)) + VOCABULARY
    return torch.cat([ids, torch.full((len(ids), 1), EOS)], dim=1)


def sample(data, number):
    """Batch `number` as the official data set collates it."""
    source = [BOS, *PROMPT, *(index for name in NAMES for index in name), EOS]
    source = torch.tensor(source).repeat(BATCH_SIZE, 1)
    previous = torch.zeros((BATCH_SIZE, GRID * GRID + 1), dtype=torch.long)
    grids = data["grids"][number].reshape(BATCH_SIZE, -1)
    words = [torch.tensor([index for cell in grid for index in NAMES[cell]]) for grid in grids]
    lengths = [torch.tensor([len(NAMES[cell]) for cell in grid]).cumsum(0) for grid in grids]
    text = {"src_tokens": source, "src_lengths": torch.full((BATCH_SIZE,), source.shape[1])}
    images = torch.from_numpy(data["images"][number]).permute(0, 3, 1, 2).float() / 255
    targets = data["targets"][number]
    return {
        "net_input": {
            **text,
            "prev_output_tokens": previous,
            "patch_images": (images - 0.5) / 0.5,
            "patch_masks": torch.ones(BATCH_SIZE, dtype=torch.bool),
        },
        "aux_input": {
            **text,
            "prev_output_tokens": previous,
            "patch_images": torch.nn.utils.rnn.pad_sequence(words, batch_first=True, padding_value=PAD),
            "patch_masks": torch.cat(lengths),
        },
        "target": tokens(targets),
        "downsampled_target": tokens(targets[:, :: SIDE // GRID, :: SIDE // GRID]),
        "text2seg_target": tokens(data["maps"][number]),
    }


def loss_of(mode, model, criterion, batch):
    """The loss as the authors' criterion takes it in training, and the logits."""
    full = {"full_context_alignment": criterion.full_context_alignment}
    if mode == "image_free":
        found = model(aux_input=batch["aux_input"], **full)[1]["aux_output"]
        return criterion.compute_imfree_loss(model, found, batch, 0), found[0]
    found = model(**batch["net_input"], **full)
    return criterion.compute_loss(model, found, batch, 0)[0], found[0]


def train(mode, data):
    """30 updates, in the order of the authors' trainer."""
    from fairseq.optim.adam import FairseqAdam
    from fairseq.optim.lr_scheduler.cosine_lr_scheduler import CosineLRSchedule

    model, criterion = build(), make_criterion()
    spec = load(model)
    model.train()
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    start = {name: value.detach().clone() for name, value in named.items()}
    settings = {"lr": [RATE], "adam_betas": "(0.9, 0.999)", "adam_eps": 1e-8, "weight_decay": 0.1}
    optimizer = FairseqAdam(argparse.Namespace(**settings, fp16_adam_stats=False), list(named.values()))
    schedule = {"min_lr": 0.0, "warmup_init_lr": -1, "warmup_updates": 0, "warmup_ratio": 0.0, "t_mult": 1.0}
    scheduler = CosineLRSchedule(argparse.Namespace(lr=[RATE], lr_shrink=0.1, **schedule), optimizer)
    scheduler.reinit(EPOCHS * BATCHES, 0)
    losses, rates, untouched = [], [], set(named)
    for epoch in range(EPOCHS):
        scheduler.step_update(len(losses))
        for number in range(BATCHES):
            optimizer.zero_grad()
            loss, _ = loss_of(mode, model, criterion, sample(data, number))
            optimizer.backward(loss)
            optimizer.multiply_grads(1.0)
            untouched -= {name for name, value in named.items() if value.grad is not None}
            optimizer.clip_grad_norm(1.0)
            rates.append(optimizer.get_lr())
            optimizer.step()
            losses.append(loss.item())
            scheduler.step_update(len(losses))
        scheduler.step(epoch + 1)
    updates = {name: (value.detach() - start[name]).numpy() for name, value in named.items() if name not in untouched}
    assert all(torch.equal(named[name], start[name]) for name in untouched)
    meta = {"spec": spec, "names_tok": NAMES, "prompt": PROMPT, "num_seg": CATEGORIES, "hw": [SIDE, SIDE]}
    meta |= {"rate": RATE, "untouched": sorted(untouched)}
    used = ("grids", "maps") if mode == "image_free" else ("images", "targets")
    np.savez_compressed(
        HERE / f"training_{mode}.npz",
        meta=json.dumps(meta),
        losses=np.array(losses),
        rates=np.array(rates),
        **{name: data[name] for name in used},
        **{f"update/{name}": value for name, value in updates.items()},
    )
    print(f"{mode}: loss {losses[0]:.4f} to {losses[-1]:.4f}, {len(updates)} trained, {len(untouched)} untouched")


def record_variants(data):
    """The first batch under each of `VARIANTS`."""
    arrays, names = {}, [name for name, _ in build().named_parameters()]
    # The statistics of a frozen normalization are no parameters of the authors', so the longest list has all names.
    names = list(dict.fromkeys([*names, *(name for name, _ in build(freeze_entire_resnet="false").named_parameters())]))
    for variant, changes in VARIANTS.items():
        mode = "supervised" if variant.startswith("supervised") else "image_free"
        model, criterion = build(**changes.get("model", {})), make_criterion(**changes.get("criterion", {}))
        load(model)
        model.train()
        batch = sample(data, 0)
        if "drop" in variant:
            torch.manual_seed(0)
            with torch.no_grad():
                drawn = torch.cat([loss_of(mode, model, criterion, batch)[1][:, :-1] for _ in range(PASSES)])
            drawn = drawn.reshape(PASSES, BATCH_SIZE, GRID, GRID, CATEGORIES).double()
            arrays[f"{variant}/mean"], arrays[f"{variant}/deviation"] = drawn.mean(0).numpy(), drawn.std(0).numpy()
            print(f"{variant}: deviation {drawn.std(0).mean():.4f}")
            continue
        loss, logits = loss_of(mode, model, criterion, batch)
        loss.backward()
        norms = {name: value.grad.norm().item() for name, value in model.named_parameters() if value.grad is not None}
        arrays[f"{variant}/loss"] = np.float64(loss.item())
        arrays[f"{variant}/logits"] = logits[:, :-1].detach().numpy()
        arrays[f"{variant}/norms"] = np.array([norms.get(name, np.nan) for name in names], np.float32)
        if variant == "supervised_resnet_norms":
            for name, value in model.state_dict().items():
                if "running" in name and ("embed_images.bn1" in name or "layer3.5.bn3" in name):
                    arrays[f"{variant}/{name}"] = value.numpy()
        print(f"{variant}: loss {loss.item():.6f}, gradients {len(norms)}")
    np.savez_compressed(HERE / "variants.npz", meta=json.dumps({"names": names}), **arrays)


def record_fresh():
    """What the authors' constructor leaves, of the sizes here."""
    torch.manual_seed(0)
    found = {}
    for name, value in build().state_dict().items():
        # The layers of a ResNet are of one kind.
        other = "embed_images.layer" in name and "layer1.0" not in name
        if value.is_floating_point() and value.numel() > 1 and not other:
            statistics = value.mean(), value.std(unbiased=False), value.abs().max()
            found[name] = [float(f"{statistic:.5g}") for statistic in statistics]
    lines = [f"{json.dumps(name)}: {json.dumps(statistics)}" for name, statistics in found.items()]
    (HERE / "fresh.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"fresh parameters: {len(found)}")


if __name__ == "__main__":
    (clone,) = sys.argv[1:]
    sys.path[:0] = [f"{clone}/custom_fairseq", clone]
    # The one name that is used of a package of many.
    operations = types.ModuleType("mmseg.ops")
    operations.resize = torch.nn.functional.interpolate
    sys.modules.update({"mmseg": types.ModuleType("mmseg"), "mmseg.ops": operations})
    torch.set_num_threads(1)
    record_fresh()
    for name in ("image_free", "supervised"):
        train(name, batches())
    record_variants(batches())
