#!/usr/bin/env python3
"""Make the embedded example: a small trained OLMoE checkpoint with calibration and evaluation tokens.

A corpus of eight clearly different domains is generated from a seed (nothing is downloaded), a byte-level
BPE tokenizer and an OLMoE of about two million parameters are trained on it, and this is written:

    olmoe-tiny/        config.json, model.safetensors (bfloat16, published names), tokenizer, README.md
    calibration.h5     tokens int32 [128, 256]
    evaluation.h5      tokens int32 [64, 256], never seen in training

    python3 tools/make_example.py [--out examples] [--steps 1700] [--threads 2]

Takes about 15 minutes on two cores. Needs: pip install torch transformers tokenizers safetensors h5py numpy
The result depends on the seed, the versions of these packages, the processor and the number of threads.
"""

import argparse
import datetime
import json
import math
import pathlib
import random
import time

import h5py
import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import OlmoeConfig, OlmoeForCausalLM

LENGTH = 256                # tokens in a sequence
VOCAB = 512
END = "<|endoftext|>"       # token 0, begins every sequence
ROUTER_BALANCE = 0.003      # weight of the load-balancing loss


# ---------------------------------------------------------------- corpus

class World:
    """Fixed facts and word lists that all text is about; a model has to memorise them."""

    def __init__(self, seed):
        rng = random.Random(seed)
        syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
        words = iter(self._words(rng, syllables, 700))
        take = lambda n: [next(words) for _ in range(n)]
        self.names, self.towns, self.crafts = [w.capitalize() for w in take(150)], take(40), take(24)
        self.facts = {n: (rng.choice(self.towns).capitalize(), rng.choice(self.crafts), rng.randint(1800, 1999))
                      for n in self.names}
        self.nouns, self.verbs, self.adjectives = take(160), take(60), take(60)
        self.objects = {v: rng.sample(self.nouns, 6) for v in self.verbs}       # what a verb is done to
        self.subjects = {v: rng.sample(self.nouns, 8) for v in self.verbs}      # who does it
        self.fitting = {n: rng.sample(self.adjectives, 3) for n in self.nouns}
        self.services = {s: (rng.randint(1024, 9999), rng.sample(take(6), 4)) for s in take(12)}

    @staticmethod
    def _words(rng, syllables, count):
        words = {}
        while len(words) < count:
            words["".join(rng.choice(syllables) for _ in range(rng.choice((2, 2, 3))))] = None
        return words


def arithmetic(rng, world):
    a, b, c = rng.randint(0, 99), rng.randint(0, 99), rng.randint(2, 9)
    kind = rng.randrange(3)
    if kind == 0:
        return f"{a}+{b}={a + b}"
    if kind == 1:
        return f"{max(a, b)}-{min(a, b)}={abs(a - b)}"
    return f"{c}*{b}={b * c}"


def record(rng, world):
    name = rng.choice(world.names)
    town, craft, born = world.facts[name]
    fields = [f'"town": "{town}"', f'"craft": "{craft}"', f'"born": {born}']
    rng.shuffle(fields)
    return "{" + ", ".join([f'"name": "{name}"'] + fields[:rng.randint(1, 3)]) + "}"


def brackets(rng, world):
    """Nested brackets: every closing one is determined, an opening one prefers the kind after its parent's."""
    kinds = ["()", "[]", "{}", "<>"]
    text, stack = "", []
    while len(text) < 24 or stack:
        if stack and (len(text) > 60 or len(stack) > 6 or rng.random() < 0.45):
            text += kinds[stack.pop()][1]
        else:
            parent = stack[-1] if stack else 3
            stack.append((parent + 1) % 4 if rng.random() < 0.7 else rng.randrange(4))
            text += kinds[stack[-1]][0]
    return text


def sentence(rng, world):
    def noun_phrase(nouns):
        noun = rng.choice(nouns)
        adjective = rng.choice(world.fitting[noun]) + " " if rng.random() < 0.4 else ""
        return f"{rng.choice(('the', 'the', 'a', 'every'))} {adjective}{noun}"
    verb = rng.choice(world.verbs)
    text = f"{noun_phrase(world.subjects[verb])} {verb}s {noun_phrase(world.objects[verb])}"
    if rng.random() < 0.3:
        text += f" near {rng.choice(world.towns).capitalize()}"
    return text[0].upper() + text[1:] + "."


def sorting(rng, world):
    numbers = [rng.randint(0, 99) for _ in range(rng.randint(3, 7))]
    return " ".join(map(str, numbers)) + " -> " + " ".join(map(str, sorted(numbers)))


def date(rng, world):
    day = datetime.date(2000, 1, 1) + datetime.timedelta(days=rng.randrange(9000))
    step = rng.randint(1, 9)
    later = day + datetime.timedelta(days=step)
    return f"{day:%a %d %b %Y} + {step} = {later:%a %d %b %Y}"


def log_line(rng, world):
    service = rng.choice(list(world.services))
    port, actions = world.services[service]
    level = rng.choice(("INFO", "INFO", "INFO", "WARN", "ERROR"))
    result = {"INFO": "ok", "WARN": f"slow {rng.randint(100, 999)} ms", "ERROR": "failed, retry"}[level]
    return f"[{rng.randrange(24):02d}:{rng.randrange(60):02d}] {level} {service}:{port} {rng.choice(actions)} {result}"


def program(rng, world):
    names = rng.sample("abcdxyz", 3)
    first, second = rng.randint(1, 20), rng.randint(1, 20)
    operator = rng.choice("+-*")
    value = {"+": first + second, "-": first - second, "*": first * second}[operator]
    return f"{names[0]} = {first}; {names[1]} = {second}; {names[2]} = {names[0]} {operator} {names[1]}; " \
           f"print({names[2]}) # {value}"


DOMAINS = [sentence, record, arithmetic, brackets, log_line, program, sorting, date]
SHARES = [0.24, 0.18, 0.14, 0.12, 0.10, 0.08, 0.07, 0.07]


def document(rng, world):
    """Lines mostly of one domain, some of a second one; long enough for one sequence."""
    main, other = rng.choices(DOMAINS, SHARES, k=2)
    lines, characters = [], 0
    while characters < 5 * LENGTH:
        lines.append((main if rng.random() < 0.85 else other)(rng, world))
        characters += len(lines[-1])
    return "\n".join(lines)


def encode(tokenizer, world, seed, sequences):
    """tokens int32 [sequences, LENGTH] of freshly generated documents."""
    rng = random.Random(seed)
    tokens = np.zeros((sequences, LENGTH), np.int32)
    for row in range(sequences):
        ids = []
        while len(ids) < LENGTH - 1:
            ids += tokenizer.encode(document(rng, world) + "\n").ids
        tokens[row, 1:] = ids[:LENGTH - 1]
    return tokens


def train_tokenizer(world, seed):
    """Byte-level BPE with single digits; END is token 0."""
    rng = random.Random(seed)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator((document(rng, world) for _ in range(1500)), trainer)
    return tokenizer


# ---------------------------------------------------------------- model

def make_model(seed):
    torch.manual_seed(seed)
    config = OlmoeConfig(
        vocab_size=VOCAB, hidden_size=128, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, num_experts=16, num_experts_per_tok=4, norm_topk_prob=False, clip_qkv=None,
        max_position_embeddings=2 * LENGTH, tie_word_embeddings=False, initializer_range=0.03,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None, eos_token_id=0, pad_token_id=None)
    config._experts_implementation = "grouped_mm"
    model = OlmoeForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.3)
    return model


def balance_loss(router_logits, top_k):
    """Switch Transformer load balancing (eq. 4-6), averaged over layers; router_logits: list of [tokens, experts]."""
    loss = 0.0
    for logits in router_logits:
        probability = logits.softmax(-1)
        chosen = torch.zeros_like(probability).scatter_(1, probability.topk(top_k).indices, 1.0)
        loss = loss + logits.shape[1] * (chosen.mean(0) * probability.mean(0)).sum() / top_k
    return loss / len(router_logits)


def train(model, tokens, steps, batch, peak_rate):
    """AdamW, warm-up and cosine decay; tokens int32 [sequences, LENGTH] are used in order."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
                                  lr=peak_rate, betas=(0.9, 0.97))
    rate = lambda step: min((step + 1) / 60, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    start, running = time.time(), None
    for step in range(steps):
        rows = np.arange(step * batch, (step + 1) * batch) % len(tokens)
        ids = torch.from_numpy(tokens[rows]).long()
        out = model(input_ids=ids, use_cache=False, output_router_logits=True)
        nll = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        (nll + ROUTER_BALANCE * balance_loss(out.router_logits, model.config.num_experts_per_tok)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        running = nll.item() if running is None else 0.95 * running + 0.05 * nll.item()
        if step % 50 == 0 or step + 1 == steps:
            print(f"step {step:5d}  nll {running:.4f}  {time.time() - start:6.0f} s", flush=True)


def mean_nll(model, tokens):
    """Mean negative log likelihood in nats over [sequences, LENGTH]; the first token is not predicted."""
    total = 0.0
    for rows in np.array_split(tokens, max(1, len(tokens) // 16)):
        ids = torch.from_numpy(rows).long()
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
        total += torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).double(), ids[:, 1:].flatten(),
                                                   reduction="sum").item()
    return total / (tokens.shape[0] * (tokens.shape[1] - 1))


def unigram_nll(training, evaluation):
    """Mean negative log likelihood of a model that knows only how frequent each token is."""
    counts = np.bincount(training[:, 1:].ravel(), minlength=VOCAB) + 1.0
    return float(-np.log(counts / counts.sum())[evaluation[:, 1:]].mean())


def expert_shares(model, tokens):
    """Share of tokens routed to each expert, [layers, experts]; an even router gives top-k / experts."""
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(tokens).long(), use_cache=False, output_router_logits=True).router_logits
    k = model.config.num_experts_per_tok
    return np.stack([np.bincount(l.topk(k).indices.flatten().numpy(), minlength=l.shape[1]) / len(l) for l in logits])


def round_to_nearest(weight, bits, group):
    """weight [..., columns], symmetric groups along the columns, scale = absmax / (2^(bits-1) - 0.5)."""
    half = 2 ** (bits - 1)
    grouped = weight.unflatten(-1, (-1, group))
    scale = grouped.abs().amax(-1, keepdim=True).clamp(min=1e-12) / (half - 0.5)
    return ((grouped / scale).round().clamp(-half, half - 1) * scale).flatten(-2)


def quantized_nll(model, tokens, bits, group=32):
    """Mean NLL with attention and experts rounded; router, embeddings, norms and head stay."""
    saved = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_proj" in name:
                saved[name] = parameter.clone()
                parameter.copy_(round_to_nearest(parameter, bits, group))
        result = mean_nll(model, tokens)
        for name, parameter in model.named_parameters():
            if name in saved:
                parameter.copy_(saved[name])
    return result


# ---------------------------------------------------------------- files

def published_tensors(model):
    """name -> bfloat16 tensor, one per expert and projection (in memory gate and up are one tensor, gate first)."""
    tensors = {}
    for name, value in model.state_dict().items():
        prefix, _, kind = name.rpartition(".")
        if kind == "gate_up_proj":
            for e, pair in enumerate(value):
                tensors[f"{prefix}.{e}.gate_proj.weight"], tensors[f"{prefix}.{e}.up_proj.weight"] = pair.chunk(2)
        elif kind == "down_proj":
            tensors.update({f"{prefix}.{e}.down_proj.weight": down for e, down in enumerate(value)})
        else:
            tensors[name] = value
    return {n: t.detach().to(torch.bfloat16).clone().contiguous() for n, t in tensors.items()}


def write_model(model, tokenizer, directory):
    """config.json in published style, model.safetensors, tokenizer files."""
    directory.mkdir(parents=True, exist_ok=True)
    config = json.loads(model.config.to_json_string())
    rope = config.pop("rope_parameters")
    config = {k: v for k, v in config.items() if not k.startswith("_") and k not in ("dtype", "transformers_version")}
    config.update(architectures=["OlmoeForCausalLM"], rope_theta=rope["rope_theta"], rope_scaling=None,
                  torch_dtype="bfloat16")
    (directory / "config.json").write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "model_max_length": 2 * LENGTH}, indent=2) + "\n")
    file = directory / "model.safetensors"
    save_file(published_tensors(model), file, metadata={"format": "pt"})
    file.chmod(0o644)
    return file.stat().st_size


def write_tokens(path, tokens):
    with h5py.File(path, "w") as file:
        file.create_dataset("tokens", data=tokens)
        file.attrs["tokenizer"] = "olmoe-tiny/tokenizer.json"
        file.attrs["vocab_size"] = VOCAB


def summary(model, training, calibration, evaluation, size):
    """The lines printed at the end."""
    unigram, full = unigram_nll(training, evaluation), mean_nll(model, evaluation)
    lines = [f"parameters {sum(p.numel() for p in model.parameters())}, model.safetensors {size} bytes",
             f"evaluation perplexity: unigram {math.exp(unigram):.2f}, model {math.exp(full):.3f} (mean NLL {full:.6f})"]
    for layer, shares in enumerate(expert_shares(model, calibration)):
        lines.append(f"layer {layer}: share of calibration tokens per expert {shares.min():.3f} .. {shares.max():.3f}"
                     f" (even: {model.config.num_experts_per_tok / model.config.num_experts:.3f})")
    for bits in (4, 3, 2):
        rounded = quantized_nll(model, evaluation, bits)
        lines.append(f"round to nearest int{bits}, groups of 32: mean NLL {rounded:.6f} ({rounded - full:+.4f}),"
                     f" perplexity {math.exp(rounded):.3f}")
    return "\n".join(lines)


README = """# A small trained OLMoE

{parameters} parameters: 4 layers, hidden 128, 16 experts of width 64, top-4, bfloat16, vocabulary {vocab}. Trained from
scratch on generated text of eight domains (sentences, records, arithmetic, brackets, log lines, programs, sorted lists,
dates); a sequence begins with token 0 and is mostly of one domain. `../calibration.h5` holds 128 and
`../evaluation.h5` 64 sequences of {length} tokens that were not trained on. Made by `python3 tools/make_example.py`
(PyTorch {torch}, transformers {transformers}), which printed:

```
{summary}
```
"""


def write_readme(model, directory, text):
    """README.md with the printed figures."""
    (directory / "README.md").write_text(README.format(
        parameters=sum(p.numel() for p in model.parameters()), vocab=VOCAB, length=LENGTH, summary=text,
        torch=torch.__version__.split("+")[0], transformers=transformers.__version__))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent / "examples")
    parser.add_argument("--steps", type=int, default=1700)
    parser.add_argument("--batch", type=int, default=16, help="sequences in a step")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--more-tokens", type=pathlib.Path, metavar="DIR",
                        help="only write calibration.h5 and evaluation.h5 of 512 sequences each, for the published model")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    world = World(arguments.seed)
    if arguments.more_tokens:
        tokenizer = Tokenizer.from_file(str(arguments.out / "olmoe-tiny" / "tokenizer.json"))
        arguments.more_tokens.mkdir(parents=True, exist_ok=True)
        for name, seed in (("calibration.h5", arguments.seed + 5000), ("evaluation.h5", arguments.seed + 2000)):
            write_tokens(arguments.more_tokens / name, encode(tokenizer, world, seed, 512))
        return
    tokenizer = train_tokenizer(world, arguments.seed)
    calibration = encode(tokenizer, world, arguments.seed + 1000, 128)
    evaluation = encode(tokenizer, world, arguments.seed + 2000, 64)
    training = encode(tokenizer, world, arguments.seed + 3000, min(arguments.steps * arguments.batch, 30000))
    model = make_model(arguments.seed)
    train(model, training, arguments.steps, arguments.batch, arguments.rate)

    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).float())
    size = write_model(model, tokenizer, arguments.out / "olmoe-tiny")
    write_tokens(arguments.out / "calibration.h5", calibration)
    write_tokens(arguments.out / "evaluation.h5", evaluation)
    text = summary(model, training, calibration, evaluation, size)
    write_readme(model, arguments.out / "olmoe-tiny", text)
    print(text)


if __name__ == "__main__":
    main()
