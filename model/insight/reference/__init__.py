"""What judges the Insight Engine: its networks written here in plain PyTorch, with the checkpoint's parameter names.

Upstream is a repository without a package. These modules follow what its code was seen to compute, oddities included,
and are held to outputs of it. They know nothing of rules, layouts or JAX, and are loaded strictly.
"""

from typing import Any

import torch

from ...reference import Original, Reference, load_strict
from ...upstream import versions
from .attention import ALiBiAttention as ALiBiAttention
from .attention import GroupedQueryAttention as GroupedQueryAttention
from .attention import MultiHeadAttention as MultiHeadAttention
from .attention import ScaledDotProductAttention as ScaledDotProductAttention
from .attention import SimpleAttention as SimpleAttention
from .embeddings import PositionalEncoding as PositionalEncoding
from .embeddings import RotaryPositionEncoding as RotaryPositionEncoding
from .embeddings import TokenEmbedding as TokenEmbedding
from .feed_forward import FeedForwardBlock as FeedForwardBlock
from .feed_forward import FeedForwardClassifier as FeedForwardClassifier
from .feed_forward import FeedForwardNN as FeedForwardNN
from .feed_forward import LinearLayer as LinearLayer
from .feed_forward import MultiLayerPerceptron as MultiLayerPerceptron
from .fusion import BidirectionalCrossAttention as BidirectionalCrossAttention
from .fusion import CoAttentionFusion as CoAttentionFusion
from .fusion import CrossModalAttention as CrossModalAttention
from .fusion import GatedCrossModalAttention as GatedCrossModalAttention
from .multimodal import CrossAttentionMultiModalTransformer as CrossAttentionMultiModalTransformer
from .multimodal import DualEncoder as DualEncoder
from .multimodal import MultiModalTransformer as MultiModalTransformer
from .transformer import EncoderDecoderTransformer as EncoderDecoderTransformer
from .transformer import Transformer as Transformer
from .transformer import TransformerDecoder as TransformerDecoder
from .transformer import TransformerDecoderLayer as TransformerDecoderLayer
from .transformer import TransformerEncoder as TransformerEncoder
from .transformer import TransformerEncoderLayer as TransformerEncoderLayer
from .vision import PatchEmbedding as PatchEmbedding
from .vision import VisionTransformer as VisionTransformer


def reference(config: Any, original: Original, entries: tuple[str, ...]) -> Reference:
    """Build the judge of a class, loaded strictly with all that the class computes with."""
    with torch.device("meta"):
        module: Any = globals()[config.model_type](config)
    unused = getattr(module, "unused", ())
    state = {n: t for n, t in original.state.items() if not n.startswith(unused)} if unused else dict(original.state)
    load_strict(module, state)
    name = f"{versions('torch')}: {config.model_type} of the Insight Engine, written here"
    return Reference(name, module, {entry: getattr(module, entry) for entry in entries}, original.state)
