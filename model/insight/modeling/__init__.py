"""The Insight Engine in Flax NNX: pieces, then a class for each class of upstream's.

Every network takes what upstream's method of the same name takes; masks are True where a position counts. In training,
inside `training(rngs)`, what upstream drops is dropped, and batch norms normalise by the batch and remember it.
"""

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
from .training import BatchNorm as BatchNorm
from .training import Drop as Drop
from .training import training as training
from .transformer import EncoderDecoderTransformer as EncoderDecoderTransformer
from .transformer import Transformer as Transformer
from .transformer import TransformerDecoder as TransformerDecoder
from .transformer import TransformerDecoderLayer as TransformerDecoderLayer
from .transformer import TransformerEncoder as TransformerEncoder
from .transformer import TransformerEncoderLayer as TransformerEncoderLayer
from .vision import PatchEmbedding as PatchEmbedding
from .vision import VisionTransformer as VisionTransformer
