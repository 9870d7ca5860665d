"""The models as a straightforward program runs them: `segment_anything`'s own forward passes.

Our modules are subclasses of `segment_anything`'s and hold the same parts under the same names, so
the original methods run on them as they are: no second set of weights, and the same numbers.
Everything is float32, one image at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from segment_anything.modeling import PromptEncoder, TwoWayTransformer
from torch import Tensor

from unseg.models import Generator, Surrogate
from unseg.models.encoder import ImageEncoder
from unseg.models.noise_decoder import BatchMaskDecoder
from unseg.types import ABSENT_LABEL, Prompts


def single_prompts(prompts: Prompts, row: int) -> Prompts:
    """The prompts that one image of a batch really has."""
    boxes, masks, points, labels = (
        None if tensor is None else tensor[row : row + 1]
        for tensor in (
            prompts.boxes, prompts.mask_inputs, prompts.point_coords, prompts.point_labels
        )
    )  # fmt: skip
    if labels is not None and points is not None:
        kept = labels[0] != ABSENT_LABEL
        points, labels = (points[:, kept], labels[:, kept]) if kept.any() else (None, None)
    return Prompts(
        boxes=None if boxes is None or boxes.isnan().any() else boxes,
        mask_inputs=None if masks is None or masks.isnan().any() else masks,
        point_coords=points,
        point_labels=labels,
    )


def encode(encoder: ImageEncoder, image: Tensor) -> tuple[Tensor, Tensor]:
    """Embedding and early tokens by `segment_anything`'s blocks."""
    tokens = encoder.patch_embed(image) + encoder.pos_embed
    early = tokens
    for index, block in enumerate(encoder.blocks):
        tokens = block(tokens)
        if index == encoder.first_global:
            early = tokens
    return encoder.neck(tokens.permute(0, 3, 1, 2)), early


def encode_prompts(encoder: PromptEncoder, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Sparse and dense embedding of one image's prompts."""
    points = None
    if prompts.point_coords is not None:
        points = (prompts.point_coords, prompts.point_labels)
    return PromptEncoder.forward(encoder, points, prompts.boxes, prompts.mask_inputs)


def decode(
    decoder: BatchMaskDecoder,
    learned: list[Tensor],
    embedding: Tensor,
    image_pe: Tensor,
    prompts: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Token outputs and the upscaled embedding, as in `MaskDecoder.predict_masks`."""
    sparse, dense = prompts
    table = torch.cat(learned, dim=0).unsqueeze(0).expand(len(sparse), -1, -1)
    tokens = torch.cat((table, sparse), dim=1)
    source = torch.repeat_interleave(embedding, len(tokens), dim=0) + dense
    position = torch.repeat_interleave(image_pe, len(tokens), dim=0)
    batch, channels, height, width = source.shape
    found, source = TwoWayTransformer.forward(decoder.transformer, source, position, tokens)
    source = source.transpose(1, 2).view(batch, channels, height, width)
    return found, decoder.output_upscaling(source)


def decode_noise(
    generator: Generator, embedding: Tensor, early: Tensor, prompts: tuple[Tensor, Tensor]
) -> Tensor:
    """Noise of one image from its embeddings."""
    decoder = generator.mask_decoder
    tables = [decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.noise_token.weight]
    pe = PromptEncoder.get_dense_pe(generator.prompt_encoder)
    tokens, upscaled = decode(decoder, tables, embedding, pe, prompts)
    features = decoder.noise_embedding_maskfeature(upscaled)
    features = features + decoder.noise_embedding_encoder(embedding)
    features = features + decoder.noise_compress_vit_feat(early.permute(0, 3, 1, 2))
    first = 1 + decoder.num_mask_tokens
    channels = []
    for index in range(3):
        vector = decoder.noise_mlp[index](tokens[:, first + index])
        batch, size, height, width = features.shape
        product = vector[:, None] @ features.view(batch, size, height * width)
        channels.append(product.view(batch, 1, height, width))
    return torch.tanh(torch.cat(channels, dim=1))


def generate_noise(generator: Generator, image: Tensor, prompts: Prompts) -> Tensor:
    """Noise of a batch, one image after the other."""
    noises = []
    for row, one in enumerate(_single_images(image)):
        with torch.no_grad():
            embedding, early = encode(generator.image_encoder, generator.normalise(one))
            encoded = encode_prompts(generator.prompt_encoder, single_prompts(prompts, row))
        noises.append(decode_noise(generator, embedding, early, encoded))
    return torch.cat(noises)


def segment(surrogate: Surrogate, image: Tensor, prompts: Prompts) -> Tensor:
    """Mask logits of a batch, one image after the other."""
    logits = []
    encoder = surrogate.image_encoder
    assert isinstance(encoder, ImageEncoder)
    for row, one in enumerate(_single_images(image)):
        embedding, _ = encode(encoder, surrogate.normalise(one))
        encoded = encode_prompts(surrogate.prompt_encoder, single_prompts(prompts, row))
        decoder = surrogate.mask_decoder
        pe = PromptEncoder.get_dense_pe(surrogate.prompt_encoder)
        tokens, upscaled = decode(decoder, [decoder.mask_tokens.weight], embedding, pe, encoded)
        vector = decoder.output_hypernetworks_mlps[0](tokens[:, :1])
        batch, size, height, width = upscaled.shape
        product = vector @ upscaled.view(batch, size, height * width)
        logits.append(product.view(batch, 1, height, width))
    return torch.cat(logits)


def _single_images(image: Tensor) -> Iterator[Tensor]:
    for row in range(len(image)):
        yield image[row : row + 1]
