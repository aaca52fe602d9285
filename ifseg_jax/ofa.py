"""OFA encoder-decoder with IFSeg's spatially conditioned decoding, in Flax linen.

The model reads images through a ResNet and words through an embedding table into one encoder (Wang et al. 2022). IFSeg
(Yun et al. 2023, Sec. 2.2) segments with it by feeding the decoder, at every image cell, the encoder's output for the
preceding cell, and comparing the decoder's output with one averaged word embedding per category.

Everything is a pure function of (variables, inputs). Arrays are [B, ...]; N is the number of image cells, T of words.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from ifseg_jax import backbone, positions
from ifseg_jax.config import OFAConfig
from ifseg_jax.positions import Grid
from ifseg_jax.transformer import (
    INITIALIZER,
    DecoderContext,
    DecoderLayer,
    EncoderContext,
    EncoderLayer,
    dense,
    layer_norm,
    position_pair,
    stack,
)
from vlseg.sharding import batch_sharded

WORD_TYPE, IMAGE_TYPE = 0, 1


class Encoded(NamedTuple):
    """What the encoder hands to the decoder.

    Attributes:
        tokens: [B, N + T, D], image cells in raster order, then words; after the final norm.
        positions: normalised position embeddings [b, N + T, D].
        mask: bool [B, N + T], False at padding; None when nothing is padded.
        grid: the image cells; None for text alone.
        image_inputs: image cells as they came into the encoder [B, N, D], or None.
    """

    tokens: jax.Array
    positions: jax.Array
    mask: jax.Array | None
    grid: Grid | None
    image_inputs: jax.Array | None = None

    @property
    def image_tokens(self) -> jax.Array:
        """[B, N, D]."""
        return self.tokens[:, : self.grid.cells if self.grid else 0]


def joined(*parts: jax.Array) -> jax.Array:
    """Sequences [b, n, ...] one after another: [B, sum of n, ...]; each b is B, or 1 for what the batch shares."""
    (batch,) = jnp.broadcast_shapes(*(part.shape[:1] for part in parts))
    return jnp.concatenate([jnp.broadcast_to(part, (batch, *part.shape[1:])) for part in parts], axis=1)


def drop_path_rates(config: OFAConfig, layers: int) -> jax.Array:
    """Stochastic depth of each of `layers` layers, rising linearly from 0: float32 [layers]."""
    return jnp.linspace(0.0, config.drop_path, layers)


class Encoder(nn.Module):
    """Joint encoder of image cells and words."""

    config: OFAConfig

    def setup(self) -> None:
        config = self.config
        # The name of the backbone is that of its parameters.
        setattr(self, config.backbone, backbone.MODULES[config.backbone](config))
        self.image_projection = dense(config, config.width)
        self.type_embedding = self.param("type_embedding", INITIALIZER, (2, config.width))
        self.word_norm = layer_norm(config)
        self.image_norm = layer_norm(config)
        self.word_positions = self.param("word_positions", INITIALIZER, (config.max_positions + 2, config.width))
        self.image_positions = self.param("image_positions", INITIALIZER, (config.image_bucket**2 + 1, config.width))
        self.word_position_norm = layer_norm(config)
        self.image_position_norm = layer_norm(config)
        self.position_query = dense(config, config.width)
        self.position_key = dense(config, config.width)
        self.layers = stack(EncoderLayer, config, config.encoder_layers)
        self.norm = layer_norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def __call__(
        self,
        words: jax.Array,
        word_mask: jax.Array | None = None,
        cells: jax.Array | None = None,
        cell_size: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> Encoded:
        """Encodes words and, if given, image cells.

        Args:
            words: word embeddings [b, T, D]; b is B, or 1 for one text shared by the batch.
            word_mask: bool [b, T], False at padding, or None.
            cells: embeddings in the place of image cells [B, h, w, D]: from `OFA.image_embeddings`, or word embeddings
                for an artificial image (Eq. 16-17).
            cell_size: int32 [B, 2] valid rows and columns of `cells`, or None.
            deterministic: False switches dropout and stochastic depth on (rng stream "dropout").
        """
        config = self.config
        words = words.astype(config.dtype)
        batch = words.shape[0] if cells is None else cells.shape[0]
        length = words.shape[1]
        x = self.word_norm(words + self.type_embedding[WORD_TYPE].astype(words.dtype))
        x = jnp.broadcast_to(x, (batch, *x.shape[1:]))
        position = self.word_position_norm(self.word_positions[:length])[None]
        grid = image = None
        if cells is not None:
            grid = Grid(cells.shape[1], cells.shape[2], cell_size)
            image = rearrange(cells, "b h w d -> b (h w) d").astype(config.dtype)
            table, trained, bucket = self.image_positions, config.image_grid, config.image_bucket
            raw = positions.image_position_embeddings(table, grid, trained, bucket)
            x = joined(self.read_cells(image), x)
            position = joined(self.image_position_norm(raw), position)
        x = batch_sharded(self.dropout(x, deterministic=deterministic))
        mask = _joint_mask(grid, word_mask, batch, length)
        pair = position_pair(config, self.position_query, self.position_key, position, position)
        axes = positions.relative_axes(grid, config.image_grid) if grid else None
        context = EncoderContext(pair, axes, mask)
        x, _ = self.layers(x, context, drop_path_rates(config, config.encoder_layers), deterministic)
        return Encoded(self.norm(x), position, mask, grid, image)

    def read_cells(self, cells: jax.Array) -> jax.Array:
        """Embeddings in the place of image cells [..., D] as the first layer reads them, before dropout."""
        return self.image_norm(cells + self.type_embedding[IMAGE_TYPE].astype(cells.dtype))


def _joint_mask(grid: Grid | None, word_mask: jax.Array | None, batch: int, length: int) -> jax.Array | None:
    """Mask of [cells, words]: bool [batch, N + T], or None when nothing is padded."""
    cell_mask = grid.valid() if grid else None
    if cell_mask is None and word_mask is None:
        return None
    if word_mask is None:
        word_mask = jnp.ones((1, length), bool)
    word_mask = jnp.broadcast_to(word_mask, (batch, length))
    if grid is None:
        return word_mask
    if cell_mask is None:
        cell_mask = jnp.ones((batch, grid.cells), bool)
    return joined(cell_mask, word_mask)


class Decoder(nn.Module):
    """Decoder of words (OFA) or of one output per image cell (IFSeg)."""

    config: OFAConfig

    def setup(self) -> None:
        config = self.config
        self.embedding_norm = layer_norm(config)
        self.code_embedding_norm = layer_norm(config)
        image_rows = config.image_bucket**2 + 1
        cell_rows = config.segmentation_grid**2 + 1
        self.word_positions = self.param("word_positions", INITIALIZER, (config.max_positions + 2, config.width))
        self.image_positions = self.param("image_positions", INITIALIZER, (image_rows, config.width))
        self.cell_positions = self.param("cell_positions", INITIALIZER, (cell_rows, config.width))
        self.word_position_norm = layer_norm(config)
        self.image_position_norm = layer_norm(config)
        self.cell_position_norm = layer_norm(config)
        self.self_position_query = dense(config, config.width)
        self.self_position_key = dense(config, config.width)
        self.cross_position_query = dense(config, config.width)
        self.cross_position_key = dense(config, config.width)
        self.layers = stack(DecoderLayer, config, config.decoder_layers)
        self.norm = layer_norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def words(
        self, words: jax.Array, encoded: Encoded, mask: jax.Array | None = None, *, deterministic: bool = True
    ) -> jax.Array:
        """Causal decoding of word embeddings [B, L, D] into hidden states [B, L, D] (Eq. 8-9)."""
        length = words.shape[1]
        position = self.word_position_norm(self.word_positions[:length])[None]
        return self._run(self.embedding_norm(words), position, encoded, None, mask, deterministic)

    def cells(
        self, bos: jax.Array, encoded: Encoded, encoder_positions: jax.Array | None, *, deterministic: bool = True
    ) -> jax.Array:
        """Spatially conditioned decoding (Sec. 2.2, Eq. 10): one hidden state per image cell, [B, N, D].

        Args:
            bos: embedding of <s>, [D].
            encoded: from the encoder, with image cells.
            encoder_positions: normalised encoder position embeddings [b, N + 1, D] of the cells and of the zeroth
                position, for `decoder_positions="encoder_image"`; None otherwise.
        """
        config, grid = self.config, encoded.grid
        assert grid is not None, "spatially conditioned decoding needs image cells"
        inputs = encoded.image_tokens
        if config.decoder_input_type == "encoder_input":
            assert encoded.image_inputs is not None, "the encoder's image cells are not there"
            inputs = encoded.image_inputs
        inputs = joined(inputs, bos.astype(inputs.dtype)[None, None])
        if encoder_positions is None:
            square = rearrange(self.cell_positions[1:], "(h w) d -> h w d", h=config.segmentation_grid)
            raw = joined(positions.resized_square(square, grid), self.cell_positions[:1][None])
            position = self.cell_position_norm(raw)
            trained = config.segmentation_grid
        else:
            position = encoder_positions
            trained = config.image_grid
        axes = positions.relative_axes(grid, trained)
        valid = grid.valid()
        mask = None if valid is None else joined(valid, jnp.ones((1, 1), bool))
        x = self._run(self.embedding_norm(inputs), position, encoded, axes, mask, deterministic)
        if grid.size is None:
            return jnp.concatenate([x[:, -1:], x[:, :-2]], axis=1)  # the last cell conditions nothing
        return jnp.take_along_axis(x, grid.preceding()[..., None], axis=1)

    def _run(
        self,
        x: jax.Array,
        position: jax.Array,
        encoded: Encoded,
        axes: positions.RelativeAxes | None,
        mask: jax.Array | None,
        deterministic: bool,
    ) -> jax.Array:
        config = self.config
        x = batch_sharded(self.dropout(x, deterministic=deterministic))
        self_pair = position_pair(config, self.self_position_query, self.self_position_key, position, position)
        query, key = self.cross_position_query, self.cross_position_key
        cross_pair = position_pair(config, query, key, position, encoded.positions)
        context = DecoderContext(encoded.tokens, encoded.mask, self_pair, cross_pair, axes, mask)
        x, _ = self.layers(x, context, drop_path_rates(config, config.decoder_layers), deterministic)
        return self.norm(x)


class OFA(nn.Module):
    """OFA with IFSeg's segmentation path.

    Parameters of the parts that a call does not touch need not be present: image-free training passes neither the
    trunk nor the word table, since both are frozen and artificial images consist of category embeddings.
    """

    config: OFAConfig

    def setup(self) -> None:
        config = self.config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.word_embedding = WordEmbedding(config.vocabulary_size, config.width)

    def embed_words(self, ids: jax.Array) -> jax.Array:
        """Word embeddings: int [...] -> float32 [..., D]."""
        return self.word_embedding(ids)

    def image_features(self, images: jax.Array, size: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Backbone features: images float [B, H, W, 3] in [-1, 1] -> [B, h, w, C]; see `ifseg_jax.backbone`."""
        network = getattr(self.encoder, self.config.backbone)
        return network(images, size, train=train)[-1]

    def image_embeddings(self, features: jax.Array) -> jax.Array:
        """Image tokens: a linear map of trunk features [B, h, w, C] into the embedding space, [B, h, w, D] (Eq. 6)."""
        return self.encoder.image_projection(features)

    def decode_words(
        self, ids: jax.Array, encoded: Encoded, mask: jax.Array | None = None, *, deterministic: bool = True
    ) -> jax.Array:
        """Next-word logits over the vocabulary: int [B, L] -> float32 [B, L, V] (Eq. 9)."""
        hidden = self.decoder.words(self.embed_words(ids), encoded, mask, deterministic=deterministic)
        return self.word_embedding.attend(hidden)

    def segment(
        self,
        cells: jax.Array,
        category_embeddings: jax.Array,
        prompt_embeddings: jax.Array,
        bos_embedding: jax.Array,
        cell_size: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """Category logits of every image cell: float32 [B, h, w, M] (Eq. 10-11 before the softmax).

        Args:
            cells: [B, h, w, D], from `image_embeddings` or category embeddings laid out as an artificial image.
            category_embeddings: [M, D], the mean word embedding of each category (Sec. 2.2).
            prompt_embeddings: [1, T, D], word embeddings of the whole prompt.
            bos_embedding: [D], word embedding of <s>.
            cell_size: int32 [B, 2] valid rows and columns, or None; logits outside are meaningless.
        """
        encoded = self.encoder(prompt_embeddings, None, cells, cell_size, deterministic=deterministic)
        encoder_positions = None
        if self.config.decoder_positions == "encoder_image":
            encoder_positions = self._encoder_positions(encoded)
        hidden = self.decoder.cells(bos_embedding, encoded, encoder_positions, deterministic=deterministic)
        logits = jnp.einsum(
            "bnd,md->bnm", hidden, category_embeddings.astype(hidden.dtype), preferred_element_type=jnp.float32
        )
        return rearrange(logits, "b (h w) m -> b h w m", h=cells.shape[1])

    def _encoder_positions(self, encoded: Encoded) -> jax.Array:
        """Encoder image positions of the cells and, row 0 of the table, for <s>: those of the paper's variant."""
        cells = encoded.positions[:, : encoded.image_tokens.shape[1]]
        first = self.encoder.image_position_norm(self.encoder.image_positions[:1])[None]
        return joined(cells, first)

    def __call__(self, images: jax.Array, ids: jax.Array) -> jax.Array:
        """Touches every parameter once, for initialization: segments `images` into the words `ids` [M]."""
        words, decoder = self.embed_words(ids), self.decoder
        for norm in (decoder.word_position_norm, decoder.image_position_norm, decoder.cell_position_norm):
            norm(decoder.image_positions[:1])
        decoder.code_embedding_norm(decoder.image_positions[:1])
        return self.segment(self.image_embeddings(self.image_features(images)), words, words[None], words[0])


class WordEmbedding(nn.Module):
    """Word table, tied between encoder, decoder and output projection."""

    size: int
    width: int

    def setup(self) -> None:
        self.table = self.param("table", INITIALIZER, (self.size, self.width))

    def __call__(self, ids: jax.Array) -> jax.Array:
        """int [...] -> float32 [..., D]."""
        return self.table[ids]

    def attend(self, hidden: jax.Array) -> jax.Array:
        """Inner products with all words: [..., D] -> float32 [..., V]."""
        table = self.table.astype(hidden.dtype)
        return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)
