#!/usr/bin/env python3
"""Make the tensor lists of tests/golden/configs: NAME.tensors from NAME.json, the config.json of a release.

The transformers model of each configuration is built without storage (meta device) and its state is
renamed to the tensors of the published files: one tensor for each expert and projection, and the scales
of block-wise FP8 or MXFP4 where the configuration names them. Layers that only predict further tokens
ahead are left out, as transformers leaves them out.

A list starts with "parameters N": all weights, dequantized, without scales, a tied head counted once.
Each further line is "NAME EXTENTS..."; {a..b} in NAME stands for every number from a to b.

    python3 tools/make_published_sizes.py [--configs tests/golden/configs] [--only NAME]

Prints the totals beside the published ones. Needs: pip install torch transformers
"""

import argparse
import itertools
import json
import math
import pathlib
import re
import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM

# Billions of parameters as model cards and papers print them.
PUBLISHED = {
    "deepseek-moe-16b": 16.4, "deepseek-v2-lite": 15.7, "deepseek-v2.5": 236, "deepseek-v3": 671.0,
    "glm-4.5-air": 106, "gpt-oss-120b": 116.83, "gpt-oss-20b": 20.91, "kimi-k2": 1026, "llama-2-7b": 6.74,
    "llama-3.2-3b": 3.21, "mixtral-8x7b": 46.70, "olmoe-1b-7b": 6.92, "qwen1.5-moe-a2.7b": 14.3,
    "qwen2-57b-a14b": 57.4, "qwen2-7b": 7.62, "qwen3-235b-a22b": 235.09, "qwen3-30b-a3b": 30.53, "qwen3-8b": 8.19,
}

# Configurations that are another family under a name of their own.
SAME_AS = {"kimi_k2": "deepseek_v3"}

MXFP4_GROUP = 32  # elements; two a byte


class State:
    """Tensors of a model: name -> shape, and the names of those that block-wise FP8 stores."""

    def __init__(self):
        self.shapes = {}
        self.linears = set()

    def add(self, name, *shape, linear=False):
        assert name not in self.shapes, name
        self.shapes[name] = tuple(shape)
        if linear:
            self.linears.add(name)

    def parameters(self):
        return sum(math.prod(shape) for shape in self.shapes.values())


# ---------------------------------------------------------------- from a configuration to its tensors

def state_of_transformers(config):
    """What transformers holds in memory, experts split as they are published."""
    values = {key: value for key, value in config.items() if key not in ("quantization_config", "auto_map")}
    model_type = values.pop("model_type")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(SAME_AS.get(model_type, model_type), **values))
    linears = {f"{name}.weight" for name, module in model.named_modules()
               if isinstance(module, torch.nn.Linear) and name != "lm_head"}
    state = State()
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        add_published(state, model_type, name, tuple(tensor.shape), name in linears)
    return state


def add_published(state, model_type, name, shape, linear):
    """One tensor of memory under its published names."""
    if model_type == "mixtral":
        name = name.replace(".mlp.", ".block_sparse_moe.")
    gate, up, down = ("w1", "w3", "w2") if model_type == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    fused = re.fullmatch(r"(.*\.experts)\.(gate_up_proj|down_proj)", name)
    if not fused or model_type == "gpt_oss":
        state.add(name, *shape, linear=linear)
        return
    prefix, projection = fused.groups()
    for expert in range(shape[0]):
        if projection == "gate_up_proj":
            state.add(f"{prefix}.{expert}.{gate}.weight", shape[1] // 2, shape[2], linear=True)
            state.add(f"{prefix}.{expert}.{up}.weight", shape[1] // 2, shape[2], linear=True)
        else:
            state.add(f"{prefix}.{expert}.{down}.weight", *shape[1:], linear=True)


def state_of_deepseek(config):
    """The first DeepSeekMoE, which transformers does not have: llama's attention, V2's feed-forward layers."""
    hidden = config["hidden_size"]
    q_width = hidden
    kv_width = config["num_key_value_heads"] * (hidden // config["num_attention_heads"])
    state = State()

    def mlp(prefix, width):
        state.add(f"{prefix}.gate_proj.weight", width, hidden)
        state.add(f"{prefix}.up_proj.weight", width, hidden)
        state.add(f"{prefix}.down_proj.weight", hidden, width)

    state.add("model.embed_tokens.weight", config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for projection, width in (("q", q_width), ("k", kv_width), ("v", kv_width)):
            state.add(f"{layer}.self_attn.{projection}_proj.weight", width, hidden)
        state.add(f"{layer}.self_attn.o_proj.weight", hidden, q_width)
        if i >= config["first_k_dense_replace"] and i % config["moe_layer_freq"] == 0:
            state.add(f"{layer}.mlp.gate.weight", config["n_routed_experts"], hidden)
            for expert in range(config["n_routed_experts"]):
                mlp(f"{layer}.mlp.experts.{expert}", config["moe_intermediate_size"])
            mlp(f"{layer}.mlp.shared_experts", config["moe_intermediate_size"] * config["n_shared_experts"])
        else:
            mlp(f"{layer}.mlp", config["intermediate_size"])
        state.add(f"{layer}.input_layernorm.weight", hidden)
        state.add(f"{layer}.post_attention_layernorm.weight", hidden)
    state.add("model.norm.weight", hidden)
    state.add("lm_head.weight", config["vocab_size"], hidden)
    return state


def stored_shapes(state, quantization):
    """Name -> shape in the files: with the scales of FP8 blocks, or experts as MXFP4 blocks and scales."""
    method = quantization["quant_method"] if quantization else None
    stored = {}
    for name, shape in state.shapes.items():
        if method == "mxfp4" and re.search(r"\.experts\.(gate_up_proj|down_proj)$", name):
            experts, inputs, outputs = shape
            groups = inputs // MXFP4_GROUP
            stored[f"{name}_blocks"] = (experts, outputs, groups, MXFP4_GROUP // 2)
            stored[f"{name}_scales"] = (experts, outputs, groups)
            continue
        stored[name] = shape
        if method == "fp8" and name in state.linears:
            blocks = quantization["weight_block_size"]
            stored[f"{name}_scale_inv"] = tuple(-(-extent // block) for extent, block in zip(shape, blocks))
    return stored


# ---------------------------------------------------------------- lines

def collapse(tuples):
    """Lists of (first, last) that together cover exactly these tuples of numbers, all of one length."""
    if tuples == {()}:
        return [[]]
    rests = {}
    for head, *rest in tuples:
        rests.setdefault(head, set()).add(tuple(rest))
    boxes = []
    runs = []  # [first, last, the boxes of the rest]
    for head in sorted(rests):
        inner = collapse(rests[head])
        if runs and runs[-1][1] == head - 1 and runs[-1][2] == inner:
            runs[-1][1] = head
        else:
            runs.append([head, head, inner])
    for first, last, inner in runs:
        boxes += [[(first, last)] + box for box in inner]
    return boxes


def lines_of(shapes):
    """One line for each kind of tensor, in the order in which the kinds first appear."""
    kinds = {}
    for name, shape in shapes.items():
        parts = name.split(".")
        template = ".".join("{}" if part.isdigit() else part for part in parts)
        numbers = tuple(int(part) for part in parts if part.isdigit())
        kinds.setdefault((template, shape), set()).add(numbers)
    lines = []
    for (template, shape), tuples in kinds.items():
        for box in collapse(tuples):
            ranges = [str(a) if a == b else f"{{{a}..{b}}}" for a, b in box]
            lines.append(" ".join([template.format(*ranges), *map(str, shape)]))
    return lines


def expand(line):
    """Every tensor that a line stands for."""
    parts = re.split(r"\{(\d+)\.\.(\d+)\}", line)
    choices = [range(int(a), int(b) + 1) for a, b in zip(parts[1::3], parts[2::3])]
    for numbers in itertools.product(*choices):
        yield "".join(text + str(number) for text, number in zip(parts[::3], numbers)) + parts[-1]


def make(path):
    """Writes the list of one configuration. Returns (parameters, tensors)."""
    config = json.loads(path.read_text())
    state = state_of_deepseek(config) if config["model_type"] == "deepseek" else state_of_transformers(config)
    stored = stored_shapes(state, config.get("quantization_config"))
    lines = lines_of(stored)
    expanded = [tensor for line in lines for tensor in expand(line)]
    assert sorted(expanded) == sorted(" ".join([name, *map(str, shape)]) for name, shape in stored.items())
    path.with_suffix(".tensors").write_text("\n".join([f"parameters {state.parameters()}", *lines]) + "\n")
    return state.parameters(), len(stored)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--configs", type=pathlib.Path, default=root / "tests/golden/configs")
    parser.add_argument("--only", metavar="NAME")
    arguments = parser.parse_args()
    status = 0
    for path in sorted(arguments.configs.glob("*.json")):
        name = path.name.removesuffix(".json")
        if arguments.only not in (None, name):
            continue
        parameters, tensors = make(path)
        published = PUBLISHED[name]
        difference = parameters / 1e9 / published - 1
        print(f"{name:18} {tensors:7} tensors {parameters:14} parameters, "
              f"published {published:g}B ({difference:+.2%})")
        if abs(difference) > 0.01:
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
