"""Small tokenizers of the shapes that real models have, each trained by the package `tokenizers` on a few sentences."""

import json
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = (
    "Report. Sales rose by 12 % in 2026, and the board was pleased.",
    "The sales report: costs fell (so it is said).\n\n  - Sales rose\n  - costs fell\n",
    "user assistant system\nSales, costs and the board's report </s> <s> <|im_end|> <|user|> [INST] [/INST]",
    "étés à Łódź",
)
BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"
ROLES = ("<|user|>", "<|assistant|>", "<|end|>")
# As some fine-tunes have it, none of the tokens that frame messages is special.
TURN_START, TURN_END, THINK = "<|im_start|>", "<|im_end|>", ("<think>", "</think>")

LINE_BREAK_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Llama 2's: no line break before an answer, contents trimmed, a space before the end.
INST_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# As Phi-3's: it puts its tokens together from roles, and they swallow the line break behind them.
ROLES_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + '\n' + m.content + '<|end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
TEMPLATES = {"line break": LINE_BREAK_TEMPLATE, "inst": INST_TEMPLATE, "roles": ROLES_TEMPLATE}

LLAMA_DECODER = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
EXACT = ("metaspace first", "metaspace always", "prepend", "byte-level", "byte-level with prefix space")
LOSSY = ("wordpiece", "unigram nfkc")
REFUSED = ("every word has a space", "space by a pattern")


@cache
def trained(shape: str) -> str:
    """The backend of that shape, as JSON."""
    made: Tokenizer = {
        "metaspace first": lambda: _sentencepiece(pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first")),
        "metaspace always": _unigram,
        "prepend": lambda: _sentencepiece(
            normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        ),
        "byte-level": lambda: _byte_level(add_prefix_space=False),
        "byte-level with prefix space": lambda: _byte_level(add_prefix_space=True),
        "wordpiece": _wordpiece,
        "unigram nfkc": lambda: _unigram(
            normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex("[ \n]{1,}"), " ")])
        ),
        "every word has a space": lambda: _sentencepiece(
            pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
        ),
        "space by a pattern": lambda: _sentencepiece(
            normalizer=normalizers.Sequence([normalizers.Replace(Regex("^"), " "), normalizers.Replace(" ", "▁")])
        ),
    }[shape]()
    return made.to_str()


def make_tokenizer(shape: str, template: str | None = None) -> PreTrainedTokenizerFast:
    """A transformers tokenizer of that shape, with a bos token before every text."""
    raw = Tokenizer.from_str(trained(shape))
    raw.add_special_tokens([BOS, EOS, UNKNOWN, *(AddedToken(role, rstrip=True, normalized=False) for role in ROLES)])
    raw.add_tokens([AddedToken(token, normalized=False) for token in (TURN_START, TURN_END, *THINK)])
    bos = raw.token_to_id(BOS)
    raw.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=BOS, eos_token=EOS, unk_token=UNKNOWN)
    tokenizer.chat_template = template
    return tokenizer


def _sentencepiece(normalizer: Any = None, pre_tokenizer: Any = None) -> Tokenizer:
    """BPE with bytes for other characters, as Llama 2's. As there, merges lead to the text of a control token."""
    raw = Tokenizer(models.BPE())
    raw.normalizer, raw.pre_tokenizer = normalizer, pre_tokenizer or pre_tokenizers.Metaspace(prepend_scheme="never")
    raw.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    model = json.loads(raw.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    merges += [merge for merge in (("<", "/"), ("</", "s"), ("</s", ">")) if merge not in merges]
    pieces = [UNKNOWN, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"], "</", "</s"]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    raw.model = models.BPE(vocab=vocab, merges=merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True)
    raw.pre_tokenizer, raw.decoder = pre_tokenizer, LLAMA_DECODER
    return raw


def _unigram(normalizer: Any = None) -> Tokenizer:
    """Unigram, whose own pieces are also its control tokens: their plain characters make them."""
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    raw.normalizer = normalizer
    trainer = trainers.UnigramTrainer(vocab_size=150, show_progress=False, unk_token=UNKNOWN, special_tokens=[UNKNOWN])
    raw.train_from_iterator(TEXT, trainer)
    pieces = [(piece, score) for piece, score in json.loads(raw.to_str())["model"]["vocab"] if piece != UNKNOWN]
    fallback = [] if normalizer else [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    vocab = [(UNKNOWN, 0.0), (BOS, 0.0), (EOS, 0.0), *fallback, *pieces]
    raw.model = models.Unigram(vocab=vocab, unk_id=0, byte_fallback=bool(fallback))
    raw.decoder = decoders.Metaspace(prepend_scheme="always") if normalizer else LLAMA_DECODER
    return raw


def _byte_level(*, add_prefix_space: bool) -> Tokenizer:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = [UNKNOWN, BOS, EOS]
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=alphabet, special_tokens=specials
    )
    raw.train_from_iterator(TEXT, trainer)
    return raw


def _wordpiece() -> Tokenizer:
    """It writes all letters small, and forgets white space."""
    raw = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, show_progress=False, special_tokens=[UNKNOWN, BOS, EOS])
    raw.train_from_iterator(TEXT, trainer)
    return raw
