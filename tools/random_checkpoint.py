"""Checkpoints with random weights, and tokens for them: work of a given size for tools/bench_peers.py."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from exported_checkpoint import to_bf16, write_safetensors  # noqa: E402

HEAD = 64  # width of a head of attention
DEVIATION = 0.02  # as transformers initialises (initializer_range)


@dataclass(frozen=True)
class Work:
    """An OLMoE and its calibration tokens."""
    name: str
    hidden: int
    width: int  # of an expert
    experts: int
    chosen: int  # experts of a token
    layers: int
    vocabulary: int
    sequences: int
    length: int

    def text(self):
        return (f"OLMoE of random bf16 weights, hidden width {self.hidden}, {self.layers} layer{'s' * (self.layers > 1)}, "
                f"{self.experts} experts of width {self.width}, top-{self.chosen}, vocabulary {self.vocabulary}; "
                f"{self.sequences} x {self.length} tokens")


WORKS = {work.name: work for work in (
    Work("tiny", hidden=128, width=128, experts=8, chosen=2, layers=2, vocabulary=512, sequences=16, length=64),
    Work("S", hidden=1024, width=512, experts=16, chosen=4, layers=4, vocabulary=50304, sequences=32, length=512),
    Work("W", hidden=2048, width=1024, experts=64, chosen=8, layers=1, vocabulary=50304, sequences=16, length=512),
)}


def linears(work):
    """Names and shapes [out, in] of what is quantized."""
    shapes = {}
    for layer in (f"model.layers.{i}" for i in range(work.layers)):
        shapes |= {f"{layer}.self_attn.{name}_proj": (work.hidden, work.hidden) for name in "qkvo"}
        for expert in (f"{layer}.mlp.experts.{e}" for e in range(work.experts)):
            shapes |= {f"{expert}.{name}_proj": (work.width, work.hidden) for name in ("gate", "up")}
            shapes[f"{expert}.down_proj"] = (work.hidden, work.width)
    return shapes


def untouched(work):
    """Names and shapes of the tensors that stay as they are."""
    shapes = {"model.embed_tokens.weight": (work.vocabulary, work.hidden), "lm_head.weight": (work.vocabulary, work.hidden),
              "model.norm.weight": (work.hidden,)}
    for layer in (f"model.layers.{i}" for i in range(work.layers)):
        shapes[f"{layer}.mlp.gate.weight"] = (work.experts, work.hidden)
        for norm in ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"):
            shapes[f"{layer}.{norm}.weight"] = (work.hidden,)
    return shapes


def write_model(work, directory):
    """config.json and model.safetensors: normal weights, norms of one; the same for every call."""
    config = {"architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "torch_dtype": "bfloat16",
              "hidden_size": work.hidden, "intermediate_size": work.width, "num_experts": work.experts,
              "num_experts_per_tok": work.chosen, "num_hidden_layers": work.layers, "vocab_size": work.vocabulary,
              "num_attention_heads": work.hidden // HEAD, "num_key_value_heads": work.hidden // HEAD,
              "max_position_embeddings": 4096, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
              "norm_topk_prob": False, "attention_bias": False, "tie_word_embeddings": False, "clip_qkv": None,
              "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1, "initializer_range": DEVIATION}
    generator = np.random.default_rng(0)
    tensors = {}
    for name, shape in (untouched(work) | {f"{name}.weight": shape for name, shape in linears(work).items()}).items():
        values = np.ones(shape, np.float32)
        if len(shape) == 2:
            values = generator.standard_normal(shape, np.float32) * np.float32(DEVIATION)
        tensors[name] = ("BF16", to_bf16(values))
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_safetensors(directory / "model.safetensors", tensors)


def write_tokens(work, path, sequences, seed):
    """`tokens` int32 [sequences, length]; as in text, the n-th most frequent one is drawn 1/n times as often as the first."""
    generator = np.random.default_rng(seed)
    share = 1 / np.arange(1, work.vocabulary + 1)
    ranks = generator.choice(work.vocabulary, (sequences, work.length), p=share / share.sum())
    order = np.random.default_rng(0).permutation(work.vocabulary)  # the same tokens are frequent in every file
    with h5py.File(path, "w") as file:
        file["tokens"] = order[ranks].astype(np.int32)
