"""Tokenizers and text encoders of tiny models: the real classes and files, small vocabularies."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn

__all__ = [
    "bert_encoder",
    "bert_tokenizer",
    "byte_tokenizer",
    "chatglm",
    "clip_encoder",
    "clip_tokenizer",
    "clip_vision",
    "decoder_config",
    "gemma_tokenizer",
    "glm_tokenizer",
    "llama_tokenizer",
    "randomise",
    "t5_encoder",
    "t5_tokenizer",
]

WIDTH = 16
"""Numbers a token, in every text encoder."""

CLIP_MERGES = 1000
"""Of CLIP's 48,894: a prompt has some three letters a token."""

CLIP_WORDS = 512 + CLIP_MERGES + 2

_LETTERS = [chr(code) for code in range(33, 127)]
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def randomise(module: nn.Module, *, seed: int = 0) -> Any:
    """Weights under which every input has an effect, whatever the class's own start.

    Matrices keep the size of what they are given; embeddings are of size 1. Some classes start
    with zeros, with embeddings too small to tell two prompts apart, or with uninitialised memory.
    """
    generator = torch.Generator().manual_seed(seed)
    embeddings = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, nn.Embedding)
        for parameter in part.parameters(recurse=False)
    }
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                scale = name.endswith(("weight", "gamma", "scale"))
                value = noise / 10 + 1 if scale else noise / 10
            elif id(parameter) in embeddings:
                value = noise
            else:
                value = noise / max(1, parameter[0].numel()) ** 0.5
            parameter.copy_(value)
    return module.eval()


# ---- CLIP and BERT


def clip_tokenizer(length: int = 77, pad: str = "<|endoftext|>") -> Any:
    import open_clip

    packed = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(packed.read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : CLIP_MERGES + 1]
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += [merge.replace(" ", "") for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    assert len(words) == CLIP_WORDS
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, rules = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps(_numbered(words)), encoding="utf-8")
        rules.write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        return transformers.CLIPTokenizer(
            str(vocabulary), str(rules), model_max_length=length, pad_token=pad
        )


def clip_encoder(
    *, projected: bool = False, width: int = WIDTH, projection: int = WIDTH, length: int = 77
) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=CLIP_WORDS,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=length,
        projection_dim=projection,
        bos_token_id=CLIP_WORDS - 2,
        eos_token_id=CLIP_WORDS - 1,
        pad_token_id=CLIP_WORDS - 1,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return randomise(kind(config))


def clip_vision(*, projection: int = WIDTH, size: int = 32) -> Any:
    config = transformers.CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=size,
        patch_size=16,
        projection_dim=projection,
    )
    return randomise(transformers.CLIPVisionModelWithProjection(config))


def bert_tokenizer(length: int = 77) -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_LETTERS]
    words += [f"##{letter}" for letter in _LETTERS]
    return transformers.BertTokenizer(vocab=_numbered(words), model_max_length=length)


def bert_encoder(words: int) -> Any:
    config = transformers.BertConfig(
        vocab_size=words,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=WIDTH,
        max_position_embeddings=512,
    )
    return randomise(transformers.BertModel(config))


# ---- T5


def t5_tokenizer(length: int = 512) -> Any:
    """A token a letter."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -5.0) for letter in _LETTERS]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)


def t5_encoder(width: int = WIDTH, *, multilingual: bool = False) -> Any:
    kinds = (transformers.T5Config, transformers.T5EncoderModel)
    if multilingual:
        kinds = (transformers.UMT5Config, transformers.UMT5EncoderModel)
    config = kinds[0](
        vocab_size=4 + len(_LETTERS),
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    return randomise(kinds[1](config))


# ---- decoders that are used as text encoders


def byte_tokenizer(*more: str, length: int = 131072) -> Any:
    """Qwen's, with a token a byte, and a chat template that is saved as a file of its own."""
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", *more]
    words = [*sorted(ByteLevel.alphabet()), *marks]
    return transformers.Qwen2Tokenizer(
        vocab=_numbered(words),
        merges=[],
        model_max_length=length,
        chat_template=_CHAT,
        additional_special_tokens=marks[1:],
    )


def gemma_tokenizer(length: int = 8192) -> Any:
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *_LETTERS]
    words += [f"<0x{byte:02X}>" for byte in range(256)]
    return transformers.GemmaTokenizer(
        vocab=_numbered(words), merges=[], model_max_length=length, padding_side="right"
    )


def llama_tokenizer(length: int = 131072) -> Any:
    """HiDream's, with a token a byte."""
    words = ["<|begin_of_text|>", "<|end_of_text|>", *sorted(ByteLevel.alphabet())]
    return _byte_level(words, "<|begin_of_text|>", "<|end_of_text|>", length)


def glm_tokenizer(length: int = 128000) -> Any:
    """CogView4's, with a token a byte."""
    words = ["<|endoftext|>", "[gMASK]", "<sop>", *sorted(ByteLevel.alphabet())]
    return _byte_level(words, "[gMASK]", "<|endoftext|>", length)


def _byte_level(words: list[str], start: str, end: str, length: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    backend = Tokenizer(models.BPE(vocab=_numbered(words), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, words.index(start))]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=start,
        eos_token=end,
        pad_token=end,
        model_max_length=length,
        model_input_names=["input_ids", "attention_mask"],
    )


def decoder_config(words: int, *, layers: int = 2, **more: Any) -> dict[str, Any]:
    """What the configurations of decoder-only text encoders have in common."""
    return {
        "vocab_size": words,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        **more,
    }


def chatglm(folder: Path) -> tuple[Any, Any]:
    """Kolors' text encoder and its tokenizer, whose file is made in ``folder``; needs
    sentencepiece, a token a letter."""
    import sentencepiece
    from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(_LETTERS)]),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=len(_LETTERS) + 4,
        model_type="char",
        character_coverage=1.0,
        minloglevel=2,
    )
    tokenizer = ChatGLMTokenizer(str(folder / "tokenizer.model"), model_max_length=256)
    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=128,
        hidden_size=WIDTH,
        ffn_hidden_size=WIDTH,
        kv_channels=8,
        num_attention_heads=2,
        seq_length=256,
        multi_query_attention=True,
        multi_query_group_num=1,
        original_rope=True,
        rmsnorm=True,
        add_qkv_bias=True,
    )
    return randomise(ChatGLMModel(config)), tokenizer


def _numbered(words: list[str]) -> Mapping[str, int]:
    return {word: number for number, word in enumerate(words)}
