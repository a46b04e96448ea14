#!/usr/bin/env python3
"""Quantizes a checkpoint with GPTQ of llm-compressor or GPTQModel on the CPU; run in an environment that has the library.

    tools/peer_quantize.py --library llmcompressor|gptqmodel --model DIR --calib TOKENS.h5 --save DIR --json FILE

int4, symmetric, groups of 128, scales from the largest magnitude, natural order, damping 0.01, Hessians of the tokens that
the router sends. OMP_NUM_THREADS is the number of threads. The JSON has `seconds` of the library's call that quantizes,
without start, load and save, and `versions`."""

import argparse
import importlib.metadata
import json
import os
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1",
                  CUDA_VISIBLE_DEVICES="")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Its own default, but for two cores, where that is 1 and too few for it to start.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(min(12, max(2, (os.cpu_count() + 1) // 2))))
import h5py  # noqa: E402
import torch  # noqa: E402

UNTOUCHED = ["lm_head", "re:.*mlp.gate$"]
DAMPING = 0.01


def run_llmcompressor(model, rows, recipe, out, **settings):
    """Loads, quantizes and saves; `rows` int64 [sequences, length]. Returns the seconds of the middle."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    data = Dataset.from_dict({"input_ids": rows.tolist(), "attention_mask": torch.ones_like(rows).tolist()})
    start = time.perf_counter()
    oneshot(model=network, dataset=data, recipe=recipe, max_seq_length=rows.shape[1], num_calibration_samples=len(rows),
            **settings)
    seconds = time.perf_counter() - start
    network.save_pretrained(out, save_compressed=True)
    return seconds


def gptq_recipe(settings=None, **weights):
    """A recipe of llm-compressor for all linears but the head and routers."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.gptq import GPTQModifier
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))
    return GPTQModifier(config_groups={"group_0": scheme}, ignore=UNTOUCHED, **(settings or {}))


def run_gptqmodel(model, rows, settings, out):
    """Loads, quantizes and saves; `rows` int64 [sequences, length]. Returns the seconds of the middle."""
    from gptqmodel import GPTQModel, QuantizeConfig
    data = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in rows]
    network = GPTQModel.load(str(model), QuantizeConfig(**settings), device="cpu")
    start = time.perf_counter()
    network.quantize(data, batch_size=1)
    seconds = time.perf_counter() - start
    network.save(str(out))
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True, choices=["llmcompressor", "gptqmodel"])
    for name in ("--model", "--calib", "--save", "--json"):
        parser.add_argument(name, required=True, type=Path)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with h5py.File(options.calib) as file:
        rows = torch.from_numpy(file["tokens"][:].astype("int64"))
    if options.library == "llmcompressor":
        recipe = gptq_recipe({"dampening_frac": DAMPING, "actorder": None, "block_size": 128}, num_bits=4, symmetric=True,
                             strategy="group", group_size=128, observer="memoryless_minmax")
        seconds = run_llmcompressor(options.model, rows, recipe, options.save, moe_calibrate_all_experts=False)
    else:
        settings = {"bits": 4, "group_size": 128, "sym": True, "desc_act": False, "act_group_aware": False,
                    "damp_percent": DAMPING, "offload_to_disk": False}
        seconds = run_gptqmodel(options.model, rows, settings, options.save)
    versions = {name: importlib.metadata.version(name) for name in (options.library, "torch", "transformers")}
    options.json.write_text(json.dumps({"seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
