"""Writes the seeds of the fuzz targets: DIRECTORY/<target>/. Needs numpy and h5py.

Usage: make_corpus.py DIRECTORY
"""

import json
import sys
from pathlib import Path

import h5py
import numpy as np

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1]
sys.path.insert(0, str(SOURCE / "tests" / "support"))
from matrix_file import checksum  # noqa: E402

CORPUS = Path(sys.argv[1])


def write(target, name, content):
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, str) else json.dumps(header)
    return (len(text) if length is None else length).to_bytes(8, "little") + text.encode() + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write_safetensors():
    whole = {"__metadata__": {"format": "pt"}, "a": tensor("F32", [2, 1], 0, 8), "b": tensor("BF16", [2], 8, 12),
             "c": tensor("F8_E4M3", [1, 4], 12, 16), "d": tensor("U8", [], 16, 17), "e": tensor("F16", [0, 7], 17, 17),
             "f": tensor("I64", [1], 17, 25), "g": tensor("F4", [2], 25, 26)}
    write("safetensors", "every-dtype", safetensors(whole, bytes(range(26))))
    write("safetensors", "nan", safetensors({"a": tensor("F32", [1], 0, 4)}, b"\x00\x00\xc0\x7f"))
    write("safetensors", "overlap", safetensors({"a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 2, 6)}, bytes(6)))
    write("safetensors", "hole", safetensors({"a": tensor("F32", [1], 4, 8)}, bytes(8)))
    write("safetensors", "huge-shape", safetensors({"a": tensor("F32", [1 << 32, 1 << 32], 0, 4)}, bytes(4)))
    write("safetensors", "huge-number", safetensors('{"a":{"dtype":"F32","shape":[1e30],"data_offsets":[0,4]}}', bytes(4)))
    write("safetensors", "deep", safetensors('{"a":' + 70 * "[" + 70 * "]" + "}"))
    write("safetensors", "twice", safetensors('{"a":{},"a":{}}'))
    write("safetensors", "longer-than-the-file", safetensors("{}", length=1 << 20))
    write("safetensors", "git-lfs", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def write_index():
    def index(**files):
        return json.dumps({"metadata": {"total_size": 8}, "weight_map": files})

    write("index", "two-files", index(a="a.safetensors", b="b.safetensors"))
    write("index", "same-tensor-name", index(a="a.safetensors", both="b.safetensors"))
    write("index", "missing-file", index(a="c.safetensors"))
    write("index", "missing-tensor", index(c="a.safetensors"))
    write("index", "outside", index(a="../a.safetensors"))
    write("index", "directory", index(a="."))
    write("index", "number", '{"weight_map":{"a":1}}')
    write("index", "twice", '{"weight_map":{"a":"a.safetensors","a":"b.safetensors"}}')


def write_configs():
    for config in sorted((SOURCE / "tests" / "golden" / "models").glob("*/config.json")):
        write("config", config.parent.name, config.read_bytes())
    base = json.loads((SOURCE / "examples" / "olmoe-tiny" / "config.json").read_text())
    changes = {"inferred": {"model_type": "unknown", "architectures": []},
               "largest": {"hidden_size": 1 << 31, "intermediate_size": 1 << 31, "vocab_size": 1 << 31},
               "too-many-experts": {"num_experts": 1 << 18, "num_hidden_layers": 4},
               "many-layers": {"num_hidden_layers": 1 << 31},
               "fp8": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 65536]}},
               "odd-quantization": {"quantization_config": [1]},
               "rope": {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}},
               "share": {"partial_rotary_factor": 1e300}}
    for name, change in changes.items():
        write("config", name, json.dumps({**base, **change}))
    write("config", "deep", '{"model_type":"olmoe","hidden_size":' + 70 * "[" + 70 * "]" + "}")


def write_recipes():
    for recipe in sorted((SOURCE / "configs").glob("*.json")):
        write("recipe", recipe.stem, recipe.read_bytes())
    write("recipe", "flat-plan", '{"gptq":{"damping":0.01},"model.layers.0.mlp.experts.0.up_proj":"int4",'
                                 '"model.layers.1.self_attn.q_proj":{"wq":"mxfp4","aq":"int8","notes":"x"}}')
    write("recipe", "no-format", '{"default":{"group_size":128}}')
    write("recipe", "twice", '{"default":{"wq":"int4","wq":"int3"}}')
    write("recipe", "huge-group", '{"default":{"wq":"int4","group_size":1e300}}')


def write_architectures():
    write("architecture", "renamed", (SOURCE / "tests" / "golden" / "models" / "renamed" / "architecture.json").read_bytes())
    rows = {"like": {"name": "mine", "like": "qwen2_moe"},
            "latent": {"name": "mine", "like": "deepseek_v3", "attention": {"qkv_bias": True}},
            "moe": {"name": "mine", "config": {"experts": "num_experts", "partial_rotary": 0.5, "moe_every": 2},
                    "experts": {"score": "sigmoid", "renormalize": {"key": "norm_topk_prob", "otherwise": True}},
                    "tensors": {"layer": "blocks.{i}.", "expert_up": "e.{e}.up"}},
            "same-tensors": {"name": "mine", "tensors": {"layer": "blocks."}},
            "same-experts": {"name": "mine", "like": "olmoe", "tensors": {"expert_up": "experts.up"}},
            "same-linears": {"name": "mine", "tensors": {"q": "qkv", "k": "qkv"}}}
    for name, row in rows.items():
        write("architecture", name, json.dumps(row))


def hdf5_file(target, name, **options):
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return h5py.File(path, "w", **options)


def write_tokens():
    tokens = np.arange(12, dtype=np.int32)
    lengths = np.array([4, 2, 1], np.int64)
    whole = {"__metadata__": {"seed": "0"}, "lengths": tensor("I64", [3], 0, 24), "tokens": tensor("I32", [3, 4], 24, 72)}
    write("tokens", "whole", safetensors(whole, lengths.tobytes() + tokens.tobytes()))
    write("tokens", "without-lengths", safetensors({"tokens": tensor("I64", [6, 1], 0, 48)}, tokens.tobytes()))
    write("tokens", "length-outside", safetensors(whole, (lengths + 1).tobytes() + tokens.tobytes()))
    write("tokens", "outside-the-vocabulary", safetensors(whole, lengths.tobytes() + (tokens - 1).tobytes()))
    write("tokens", "floats", safetensors({"tokens": tensor("F32", [3, 4], 0, 48)}, tokens.tobytes()))
    write("tokens", "empty", safetensors({"tokens": tensor("I32", [0, 1 << 62], 0, 0)}))


def write_manifests():
    part = {"layer": 0, "shards": ["layer-0000.rank-0000.h5"], "matrices": ["a.b"], "hessians": []}
    manifest = {"program": "aq-dist", "version": 1, "fingerprint": {"model": "0", "lanes": "4"}, "configuration": {"ranks": "1"},
                "layers": 1, "complete": [part, {**part, "layer": 1}]}
    write("manifest", "whole", json.dumps(manifest))
    write("manifest", "fresh", json.dumps({**manifest, "complete": []}))
    write("manifest", "other-version", json.dumps({**manifest, "version": 1e300}))
    write("manifest", "negative", json.dumps({**manifest, "layers": -1}))
    write("manifest", "outside", json.dumps({**manifest, "complete": [{**part, "shards": ["../x"]}]}))
    write("manifest", "status", json.dumps({"state": "running", "message": "", "layer": 1, "layers": 4, "elapsed_seconds": 1.5,
                                            "remaining_seconds": 2, "ranks": 1, "host": "x", "process": 1, "updated": 1}))
    write("manifest", "failure", json.dumps({"message": "rank 1 on x: no space", "internal": False, "updated": 2}))


def write_matrix(matrices, name, scheme, datasets, activation=None):
    group = matrices.create_group(name)
    if activation:
        group.attrs["activation"] = np.bytes_(json.dumps(activation))
    group.attrs["scheme"] = np.bytes_(json.dumps(scheme))
    group.attrs["shape"] = np.array([2, 20], np.int64)
    group.attrs["stats"] = np.bytes_('{"method":"gptq","tokens":7,"error":0.25}')
    for key, values in datasets.items():
        group.create_dataset(key, data=values)
    encoding = {"bf16": "bf16", "e8m0": "e8m0", "e4m3": "e4m3"}.get(scheme["scale_dtype"])
    if encoding:
        group["scales"].attrs["encoding"] = np.bytes_(encoding)
    group.attrs["checksum"] = np.bytes_(checksum(group))


def int4(symmetric, scale_type):
    return {"format": "int4", "symmetric": symmetric, "group_size": 16, "scale_dtype": scale_type}


def write_shards():
    codes = np.full((2, 3), 0x1234, np.uint32)
    activation = {**int4(True, "bf16"), "group_size": -1}
    one = np.full((2, 2), 0x3F80, np.uint16)
    shards = {
        "int4": (int4(True, "bf16"), {"codes": codes, "scales": one}, activation),
        "int4-asymmetric": (int4(False, "fp32"), {"codes": codes, "scales": np.ones((2, 2), np.float32),
                                                  "zeros": np.full((2, 2), 3, np.uint8)}, None),
        "mxfp4": ({**int4(True, "e8m0"), "format": "mxfp4", "element": "e2m1", "group_size": 32},
                  {"codes": codes, "scales": np.full((2, 1), 127, np.uint8)}, None),
        "nvfp4": ({**int4(True, "e4m3"), "format": "nvfp4", "element": "e2m1"},
                  {"codes": codes, "global_scale": np.float32(64), "scales": np.full((2, 2), 56, np.uint8)}, None),
    }
    for name, (scheme, datasets, inputs) in shards.items():
        with hdf5_file("shard", name, libver=("v110", "v110")) as file:
            file.attrs["format_version"] = np.bytes_("1")
            matrices = file.create_group("matrices")
            write_matrix(matrices, "a.up_proj", scheme, datasets, inputs)
            if name == "int4":
                write_matrix(matrices, "a.down_proj", scheme, {**datasets, "codes": codes + 1})
            matrices.attrs["count"] = np.int64(len(matrices))
    with hdf5_file("shard", "old-format") as file:
        file.attrs["format_version"] = np.bytes_("1")
        write_matrix(file.create_group("matrices"), "a.up_proj", int4(True, "bf16"), {"codes": codes, "scales": one})
        file["matrices"].attrs["count"] = np.int64(1)


def write_hessians():
    for name, options in (("new-format", {"libver": ("v110", "v110")}), ("old-format", {})):
        with hdf5_file("hessian", name, **options) as file:
            file.attrs["format_version"] = np.bytes_("1")
            for group_name, upper, tokens in (("a.gate_proj", [3, 1, 0, 2, -1, 4], 7), ("a.up_proj", [], 0)):
                group = file.create_group("hessians/" + group_name)
                group.attrs["starved"] = np.bytes_("none")
                group.attrs["tokens"] = np.int64(tokens)
                group.attrs["used_by"] = np.array([group_name, "b"], "S")
                group.attrs["weight_sum"] = np.float64(tokens / 2)
                group["upper"] = np.array(upper, np.float32)
                group.attrs["checksum"] = np.bytes_(checksum(group))
            file["hessians"].attrs["count"] = np.int64(2)


def main():
    for step in (write_safetensors, write_index, write_configs, write_recipes, write_architectures, write_tokens,
                 write_manifests, write_shards, write_hessians):
        step()
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    print(f"{len(sizes)} seeds, {sum(sizes)} bytes")


main()
