"""What a BERT-like text encoder is, in numbers, and how it is read from shapes and configuration files."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BertConfig:
    """A BERT or XLM-RoBERTa encoder with sentence pooling. Field names are Hugging Face's."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    hidden_act: str
    pad_token_id: int
    model_type: str
    """"bert" numbers positions from 0; "xlm-roberta" counts the tokens that are not padding, from pad_token_id + 1."""
    pooling: str = "cls"
    normalize: bool = True

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def max_tokens(self) -> int:
        """Longest text, special tokens included."""
        return self.max_position_embeddings - self.first_position

    @property
    def first_position(self) -> int:
        """Row of the position table that the first token gets."""
        return 0 if self.model_type == "bert" else self.pad_token_id + 1
