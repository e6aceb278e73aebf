"""A tokenizer for the tiny Whisper, whose special tokens are the ids of its configuration."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tokenizer(decoder) -> Tokenizer:
    """Make it: letters and more, and after all words the times."""
    special = {
        decoder.pad_token_id: "<|nothing|>",
        decoder.eos_token_id: "<|endoftext|>",
        decoder.decoder_start_token_id: "<|startoftranscript|>",
        decoder.no_timestamps_token_id: "<|notimestamps|>",
        **{i: name for name, i in decoder.languages},
        **{i: f"<|{name}|>" for name, i in decoder.tasks},
    }
    known = iter([*LETTERS, "Ġ", *LETTERS.upper(), *(letter + letter for letter in LETTERS), *map(str, range(99))])
    last = decoder.no_timestamps_token_id
    vocabulary = {special.get(i) or (next(known) if i < last else f"<|{i}|>"): i for i in range(decoder.vocab_size)}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.add_special_tokens([AddedToken(special[i], special=True, normalized=False) for i in sorted(special)])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    (language, first), (task, second) = decoder.languages[0], decoder.tasks[0]
    begin = [(decoder.decoder_start_token_id, "<|startoftranscript|>"), (first, language), (second, f"<|{task}|>")]
    begin.append((decoder.no_timestamps_token_id, "<|notimestamps|>"))
    made.post_processor = processors.TemplateProcessing(
        single=[*(text for _, text in begin), "$A", "<|endoftext|>"],
        special_tokens=[(text, i) for i, text in (*begin, (decoder.eos_token_id, "<|endoftext|>"))],
    )
    return made
