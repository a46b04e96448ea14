#!/usr/bin/env python3
"""Make the tiny random checkpoints and golden outputs of tests/golden/models.

Each fixture is a directory with a checkpoint in published form (config.json and safetensors with one
tensor per expert) and golden.h5: tokens, logits, router choices and routing-weighted Hessians, computed
by transformers in float32 (Hessians by numpy in float64) from the weights as they are stored.

    python3 tools/make_fixtures.py [--out tests/golden/models] [--only NAME]

Needs: pip install torch transformers safetensors h5py numpy
"""

import argparse
import dataclasses
import json
import pathlib

import h5py
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MixtralConfig,
                          MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM)

DTYPE_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclasses.dataclass
class Fixture:
    """One tiny checkpoint: how it is built, stored and probed."""
    config: object            # a transformers config
    model_class: type
    dtype: torch.dtype        # of the stored tensors
    published_config: bool    # True: config.json as published (rope_theta, torch_dtype); False: as transformers 5 saves
    shards: int               # number of safetensors files
    sequences: int
    length: int
    lengths: list = None      # real lengths of the sequences; None: all are full
    hessians: bool = False
    seed: int = 1


def fixtures():
    """Name -> Fixture. Between them: three families, three dtypes, both config styles, one and several files."""
    common = dict(max_position_embeddings=128, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    olmoe = dict(vocab_size=96, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                 num_experts=8, num_experts_per_tok=3, **common)
    rope = lambda theta: {"rope_type": "default", "rope_theta": theta}
    return {
        "olmoe": Fixture(OlmoeConfig(num_key_value_heads=4, norm_topk_prob=False, rope_parameters=rope(10000.0), **olmoe),
                         OlmoeForCausalLM, torch.bfloat16, True, 1, 3, 24, hessians=True),
        "olmoe_clip": Fixture(OlmoeConfig(num_key_value_heads=2, norm_topk_prob=True, clip_qkv=0.75,
                                          rope_parameters=rope(5000.0), **olmoe),
                              OlmoeForCausalLM, torch.float16, False, 1, 2, 24),
        "mixtral": Fixture(MixtralConfig(vocab_size=112, hidden_size=48, intermediate_size=40, num_hidden_layers=3,
                                         num_attention_heads=6, num_key_value_heads=2, num_local_experts=8,
                                         num_experts_per_tok=2, rms_norm_eps=1e-5, sliding_window=None,
                                         rope_parameters=rope(1e6), tie_word_embeddings=False, **common),
                           MixtralForCausalLM, torch.float32, False, 3, 3, 24, lengths=[24, 9, 17], hessians=True),
        "llama": Fixture(LlamaConfig(vocab_size=128, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
                                     num_attention_heads=6, num_key_value_heads=3, head_dim=16, rms_norm_eps=1e-6,
                                     rope_parameters=rope(10000.0), tie_word_embeddings=True, **common),
                         LlamaForCausalLM, torch.float16, True, 1, 3, 32),
    }


# ---------------------------------------------------------------- weights and checkpoint

def build_model(fixture):
    """A float32 model whose weights are random, large enough to matter, and exactly representable in the stored dtype."""
    fixture.config._attn_implementation = "eager"
    fixture.config._experts_implementation = "eager"
    fixture.config.dtype = torch.float32
    model = fixture.model_class(fixture.config).eval()
    generator = torch.Generator().manual_seed(fixture.seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                value = 1.0 + 0.2 * noise
            elif "embed_tokens" in name:
                value = 0.7 * noise
            elif name.endswith("gate.weight"):      # router: clear, uneven choices
                value = 0.35 * noise
            else:
                value = (1.4 / parameter.shape[-1] ** 0.5) * noise
            parameter.copy_(value.to(fixture.dtype).float())
    return model


def published_tensors(model):
    """name -> tensor with one tensor per expert and projection, as published checkpoints name them.

    In memory transformers 5 keeps experts.gate_up_proj [experts, 2*width, hidden] (gate rows first) and
    experts.down_proj [experts, hidden, width].
    """
    mixtral = model.config.model_type == "mixtral"
    names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    tensors = {}
    for name, value in model.state_dict().items():
        value = value.detach()
        if mixtral:
            name = name.replace(".mlp.", ".block_sparse_moe.")
        prefix, _, kind = name.rpartition(".")
        if kind == "gate_up_proj":
            for e, (gate, up) in enumerate(w.chunk(2) for w in value):
                tensors[f"{prefix}.{e}.{names[0]}.weight"] = gate.clone()
                tensors[f"{prefix}.{e}.{names[1]}.weight"] = up.clone()
        elif kind == "down_proj":
            for e, down in enumerate(value):
                tensors[f"{prefix}.{e}.{names[2]}.weight"] = down.clone()
        elif not (name == "lm_head.weight" and model.config.tie_word_embeddings):
            tensors[name] = value.clone()
    return tensors


def config_json(fixture):
    """The dictionary of config.json, in published (v4) or in transformers 5 style."""
    config = json.loads(fixture.config.to_json_string())
    config["architectures"] = [fixture.model_class.__name__]
    config["dtype"] = DTYPE_NAMES[fixture.dtype]
    for key in [k for k in config if k.startswith("_") or k == "transformers_version"]:
        del config[key]
    if fixture.published_config:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = None
        config["torch_dtype"] = config.pop("dtype")
    return dict(sorted(config.items()))


def write_checkpoint(fixture, model, directory):
    """Write config.json and one or more safetensors files (with an index when there are several)."""
    tensors = {n: t.to(fixture.dtype).contiguous() for n, t in published_tensors(model).items()}
    (directory / "config.json").write_text(json.dumps(config_json(fixture), indent=2) + "\n")
    if fixture.shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return tensors
    names = list(tensors)
    per_file = -(-len(names) // fixture.shards)
    weight_map = {}
    for i in range(fixture.shards):
        file = f"model-{i + 1:05d}-of-{fixture.shards:05d}.safetensors"
        part = names[i * per_file:(i + 1) * per_file]
        save_file({n: tensors[n] for n in part}, directory / file, metadata={"format": "pt"})
        weight_map.update({n: file for n in part})
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return tensors


# ---------------------------------------------------------------- what the model computes

class Probe:
    """Collects, over the sequences of one run, the inputs of chosen modules and the routers' outputs."""

    def __init__(self, model):
        self.hooks = []
        self.inputs = {}      # module name as in the checkpoint -> list of [tokens, columns]
        self.routers = {}     # layer -> list of (scores [tokens, k], index [tokens, k])
        for i, layer in enumerate(model.model.layers):
            for linear in ("q_proj", "o_proj"):
                self._watch_input(f"model.layers.{i}.self_attn.{linear}", getattr(layer.self_attn, linear))
            self._watch_input(f"model.layers.{i}.mlp", layer.mlp)
            if hasattr(layer.mlp, "experts"):
                self.hooks.append(layer.mlp.gate.register_forward_hook(
                    lambda _, __, out, i=i: self.routers.setdefault(i, []).append((out[1].clone(), out[2].clone()))))

    def _watch_input(self, name, module):
        def hook(_, arguments):
            x = arguments[0].detach()
            self.inputs.setdefault(name, []).append(x.reshape(-1, x.shape[-1]).double().numpy().copy())
        self.hooks.append(module.register_forward_pre_hook(hook))

    def detach(self):
        """Ends the collection: a later run of the same model does not count."""
        for hook in self.hooks:
            hook.remove()

    def input(self, name):
        """All inputs of a module, float64 [tokens, columns]."""
        return np.concatenate(self.inputs[name])

    def routing(self, layer):
        """(weights float32 [tokens, k], indices [tokens, k]) by falling weight, as the model used them."""
        return (np.concatenate([s.numpy() for s, _ in self.routers[layer]]),
                np.concatenate([i.numpy() for _, i in self.routers[layer]]))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def route(x, router, top_k, normalise):
    """Independent float64 routing: x [tokens, hidden] -> weights [tokens, k], index [tokens, k], gap [tokens]."""
    scores = softmax(x @ router.T)
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    weights = ranked[:, :top_k]
    if normalise:
        weights = weights / weights.sum(1, keepdims=True)
    return weights, order[:, :top_k], ranked[:, top_k - 1] - ranked[:, top_k]


def run(model, tokens, lengths):
    """Each sequence alone, without padding: logits float32 [sequences, length, vocab] (0 behind the real
    length), mean negative log likelihood in nats, and the Probe."""
    probe = Probe(model)
    logits = np.zeros((*tokens.shape, model.config.vocab_size), np.float32)
    nll = []
    for s, length in enumerate(lengths):
        ids = torch.from_numpy(tokens[s:s + 1, :length].astype(np.int64))
        with torch.no_grad():
            out = model(input_ids=ids, use_cache=False).logits[0]
        logits[s, :length] = out.float().numpy()
        nll.append(torch.nn.functional.cross_entropy(out[:-1].double(), ids[0, 1:], reduction="none"))
    probe.detach()
    return logits, torch.cat(nll).mean().item(), probe


# ---------------------------------------------------------------- golden.h5

def write_hessian(parent, name, x, weights, power):
    """Raw sum H = sum_t s_t^p x_t x_t^T in float64, stored as the packed upper triangle, float32, row by row."""
    scaled = weights ** power
    hessian = (x * scaled[:, None]).T @ x
    group = parent.create_group(name)
    group["upper"] = hessian[np.triu_indices(x.shape[1])].astype(np.float32)
    group.attrs["weight_sum"] = float(scaled.sum())
    group.attrs["tokens"] = len(x)
    group.attrs["columns"] = x.shape[1]
    group.attrs["power"] = float(power)


def write_hessians(file, fixture, tensors, probe):
    """Hessians of two experts (most and least used) in two layers, and of attention in the last layer."""
    config = fixture.config
    mixtral = config.model_type == "mixtral"
    block = "block_sparse_moe" if mixtral else "mlp"
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    weight = lambda name: tensors[name + ".weight"].double().numpy()
    groups = {p: file.create_group("hessians" if p == 1 else f"hessians_p{p}") for p in (1, 0, 2)}
    for layer in (0, config.num_hidden_layers - 1):
        x = probe.input(f"model.layers.{layer}.mlp")
        s, index, _ = route(x, weight(f"model.layers.{layer}.{block}.gate"), config.num_experts_per_tok,
                            mixtral or config.norm_topk_prob)
        used = np.bincount(index.ravel(), minlength=config.num_local_experts)
        chosen = (int(used.argmax()), int(np.where(used > 0, used, used.max() + 1).argmin()))
        for expert in chosen:
            token, slot = np.nonzero(index == expert)
            base = f"model.layers.{layer}.{block}.experts.{expert}"
            xe, se = x[token], s[token, slot]
            a = xe @ weight(f"{base}.{gate}").T
            h = a / (1 + np.exp(-a)) * (xe @ weight(f"{base}.{up}").T)
            powers = (1, 0, 2) if (layer, expert) == (0, chosen[0]) else (1,)
            for p in powers:
                write_hessian(groups[p], f"{base}.{gate}", xe, se, p)
                write_hessian(groups[p], f"{base}.{down}", h, se, p)
    for linear in ("q_proj", "o_proj"):
        name = f"model.layers.{config.num_hidden_layers - 1}.self_attn.{linear}"
        x = probe.input(name)
        write_hessian(groups[1], name, x, np.ones(len(x)), 1)


def write_router(file, fixture, tensors, probe):
    """router_index, router_weight, router_gap; checks the model's routing against the independent one."""
    config = fixture.config
    mixtral = config.model_type == "mixtral"
    layers = list(range(config.num_hidden_layers))
    index, weights, gaps = [], [], []
    for layer in layers:
        router = tensors[f"model.layers.{layer}.{'block_sparse_moe' if mixtral else 'mlp'}.gate.weight"]
        s, i, gap = route(probe.input(f"model.layers.{layer}.mlp"), router.double().numpy(),
                          config.num_experts_per_tok, mixtral or config.norm_topk_prob)
        model_s, model_i = probe.routing(layer)
        assert (i == model_i).all() and np.allclose(s, model_s, rtol=1e-4), "routing differs: choose another seed"
        index.append(model_i)
        weights.append(model_s)
        gaps.append(gap)
    file["router_index"] = np.stack(index).astype(np.int32)
    file["router_weight"] = np.stack(weights).astype(np.float32)
    file["router_gap"] = np.stack(gaps).astype(np.float32)
    file["router_gap"].attrs["meaning"] = "score of the k-th minus score of the (k+1)-th expert, softmax over all experts"
    file.attrs["moe_layers"] = np.array(layers, np.int32)
    file.attrs["router_tokens"] = "real tokens only, sequence after sequence"
    return float(np.min(gaps)), np.stack([np.bincount(i.ravel(), minlength=config.num_local_experts) for i in index])


def make(name, fixture, out):
    """Write one fixture and print one line about it."""
    directory = out / name
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    model = build_model(fixture)
    tensors = write_checkpoint(fixture, model, directory)
    rng = np.random.default_rng(fixture.seed)
    tokens = rng.integers(0, fixture.config.vocab_size, (fixture.sequences, fixture.length), dtype=np.int32)
    lengths = fixture.lengths or [fixture.length] * fixture.sequences

    logits, nll, probe = run(model, tokens, lengths)
    reloaded = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager",
                                                    experts_implementation="eager").eval()
    assert np.array_equal(logits, run(reloaded, tokens, lengths)[0]), "the written checkpoint is another model"
    exact = run(model.double(), tokens, lengths)[0]
    noise = np.abs(logits - exact).max() / np.abs(exact).max()

    line = f"{name}: {sum(t.numel() for t in tensors.values())} parameters, {DTYPE_NAMES[fixture.dtype]}, " \
           f"mean NLL {nll:.6f}, logits std {logits.std():.3f}, float32 against float64 {noise:.1e} of the largest"
    with h5py.File(directory / "golden.h5", "w") as file:
        file["tokens"] = tokens
        if fixture.lengths:
            file["lengths"] = np.array(lengths, np.int32)
        file.create_dataset("logits", data=logits)
        file.attrs["mean_nll"] = nll
        file.attrs["predictions"] = sum(lengths) - len(lengths)
        if hasattr(model.model.layers[0].mlp, "experts"):
            gap, used = write_router(file, fixture, tensors, probe)
            line += f", smallest router gap {gap:.1e}, tokens per expert {used.min()}..{used.max()}"
        if fixture.hessians:
            write_hessians(file, fixture, tensors, probe)
    for written in directory.iterdir():
        written.chmod(0o644)
    size = sum(f.stat().st_size for f in directory.iterdir())
    print(f"{line}, {size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=pathlib.Path, default=root / "tests" / "golden" / "models")
    parser.add_argument("--only", help="make one fixture by name")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, fixture in fixtures().items():
        if arguments.only in (None, name):
            make(name, fixture, arguments.out)


if __name__ == "__main__":
    main()
