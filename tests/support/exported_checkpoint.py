"""Reads exported checkpoints with numpy alone, after the published descriptions of their formats."""

import json
import re
from pathlib import Path

import numpy as np

from matrix_file import float_values

QUANTIZED = (".weight_scale", ".scales")  # a tensor that every quantized linear has
EMBEDDINGS = ("embed_tokens", "wte")  # no linears
# tensors of gpt-oss and the linears of each expert in them, row by row in turn
FUSED = {"gate_up_proj": ["gate_proj", "up_proj"], "down_proj": ["down_proj"]}
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "U8": 1, "I8": 1, "I32": 4, "I64": 8, "F8_E8M0": 1}
TYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I8": np.int8, "I32": np.int32, "I64": np.int64}


class Tensor:
    def __init__(self, dtype, shape, data):
        self.dtype, self.shape, self.data = dtype, tuple(shape), data

    def __eq__(self, other):
        return (self.dtype, self.shape, self.data) == (other.dtype, other.shape, other.data)

    def values(self):
        """Integers as they are, floats as float32."""
        if self.dtype == "BF16":
            values = (np.frombuffer(self.data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        elif self.dtype == "F8_E4M3":
            values = float_values(np.frombuffer(self.data, np.uint8).astype(np.int64), "e4m3")
        else:
            values = np.frombuffer(self.data, TYPES[self.dtype])
        values = values.astype(np.float32) if self.dtype == "F16" else values
        return values.reshape(self.shape)


def read_safetensors(path):
    """Name -> Tensor; checks that the tensors fill the file without gaps."""
    data = Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    assert size % 8 == 0 and header.pop("__metadata__", {"format": "pt"})["format"] == "pt", path
    tensors, end = {}, 8 + size
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, last = (8 + size + at for at in entry["data_offsets"])
        assert begin == end and last - begin == SIZES[entry["dtype"]] * int(np.prod(entry["shape"])), name
        tensors[name] = Tensor(entry["dtype"], entry["shape"], data[begin:last])
        end = last
    assert end == len(data), path
    return tensors


def write_safetensors(path, tensors):
    """`tensors`: name -> (dtype, array whose bytes are the tensor's)."""
    header, end = {}, 0
    for name, (dtype, array) in tensors.items():
        assert array.nbytes == SIZES[dtype] * array.size, name
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in tensors.values():
            file.write(array.tobytes())


def read_checkpoint(directory):
    """Name -> Tensor of all files; checks the index, where there is one."""
    directory, tensors, places = Path(directory), {}, {}
    for path in sorted(directory.glob("*.safetensors")):
        for name, tensor in read_safetensors(path).items():
            assert name not in tensors, name
            tensors[name], places[name] = tensor, path.name
    index = directory / "model.safetensors.index.json"
    assert index.exists() == (len(set(places.values())) > 1), index
    if index.exists():
        index = json.loads(index.read_text())
        assert index["weight_map"] == places
        assert index["metadata"]["total_size"] == sum(len(tensor.data) for tensor in tensors.values())
    return tensors


def stream(words, bits, count):
    """The first `count` codes of each row of a dense little-endian bit stream."""
    flat = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    assert flat.shape[1] - bits * count < 32 and not flat[:, bits * count:].any(), "padding"
    return flat[:, :bits * count].reshape(len(words), count, bits).astype(np.int64) @ (1 << np.arange(bits))


def repeated(values, columns):
    """A value a group of columns, [rows, groups], as one a column."""
    groups = values.shape[-1]
    return values if groups == 1 else np.repeat(values, columns // groups, axis=1)


def matches(target, name):
    """A target of compressed-tensors that is no class name."""
    return bool(re.match(target[3:], name)) if target.startswith("re:") else target == name


def compressed_tensors_group(config, name, linear):
    """What quantization_config says of the module: a config group; None where it stays as it is. An exact name goes
    before an expression, that before the class, and what is to be ignored before all."""
    if any(matches(target, name) or linear and target == "Linear" for target in config["ignore"]):
        return None
    groups = list(config["config_groups"].values())
    for kind in (lambda t: not t.startswith("re:") and t == name, lambda t: t.startswith("re:") and matches(t, name),
                 lambda t: linear and t == "Linear"):
        found = [group for group in groups if any(map(kind, group["targets"]))]
        if found:
            assert len(found) == 1, f"{name}: {len(found)} groups"
            return found[0]
    return None


def gptq_settings(config, name, linear):
    """bits, group_size and sym of the module; None where it stays as it is."""
    if not linear:
        return None
    settings = {key: config[key] for key in ("bits", "group_size", "sym")}
    for rule, changes in config.get("dynamic", {}).items():
        if re.match(rule.removeprefix("+:").removeprefix("-:"), name):
            return None if rule.startswith("-:") else {**settings, **{k: changes[k] for k in settings if k in changes}}
    return None if name == "lm_head" and not config["lm_head"] else settings


def decode_compressed_tensors(get, layout, arguments):
    """`get(suffix)`: the Tensor of the linear, or None."""
    bits, scale = arguments["num_bits"], get("weight_scale").values()
    packed, zeros = get("weight_packed"), get("weight_zero_point")
    if layout in ("pack-quantized", "int-quantized"):
        assert arguments["type"] == "int" and (zeros is None) == arguments["symmetric"]
        if layout == "pack-quantized":
            assert packed.dtype == "I32" and get("weight_shape").dtype == "I64" and get("weight") is None
            rows, columns = get("weight_shape").values()
            codes = stream(packed.values(), bits, columns) - (1 << (bits - 1))
        else:
            codes = get("weight").values().astype(np.int64)
        if zeros is not None:
            zeros = stream(zeros.values().T, bits, len(codes)).T - (1 << (bits - 1))
            codes = codes - repeated(zeros, codes.shape[1])
        values = codes.astype(np.float32)
    elif bits == 4:
        assert packed.dtype == "U8" and get("weight") is None
        pairs = packed.values().astype(np.int64)
        values = float_values(np.stack([pairs & 15, pairs >> 4], axis=2).reshape(len(pairs), -1), "e2m1")
    else:
        assert get("weight").dtype == "F8_E4M3"
        values = get("weight").values()
    if layout.startswith("mx"):
        assert get("weight_scale").dtype == "U8" and arguments["scale_dtype"] == "torch.uint8"
        scale = np.exp2(scale.astype(np.float32) - 127)
    if layout.startswith("nvfp4"):
        assert get("weight_scale").dtype == "F8_E4M3" and get("weight_global_scale").dtype == "F32"
        scale = scale / get("weight_global_scale").values()
    width, strategy = values.shape[1], arguments["strategy"]
    groups = max(1, width // arguments["group_size"]) if "group" in strategy else 1
    expected = (1,) if strategy == "tensor" else (len(values), groups)
    assert scale.shape == expected, f"{scale.shape} for {strategy}"
    return values * (scale if strategy == "tensor" else repeated(scale, width))


def decode_gptq(get, version, settings):
    bits, codes = settings["bits"], get("qweight").values()
    scales, index = get("scales").values(), get("g_idx").values()
    columns, rows = len(index), codes.shape[1]
    size = settings["group_size"] if settings["group_size"] > 0 else columns
    assert (index == np.arange(columns) // min(size, columns)).all() and len(scales) == index[-1] + 1
    zeros = stream(get("qzeros").values(), bits, rows)
    zeros = (zeros + 1) % (1 << bits) if version == "gptq" else zeros
    assert not settings["sym"] or (zeros == 1 << (bits - 1)).all()
    codes = stream(codes.T, bits, columns)
    return (codes - zeros[index].T).astype(np.float32) * scales[index].T


def converted(config, experts):
    """Whether experts that gpt-oss has in one tensor are in MXFP4 (transformers, should_convert_module)."""
    return not any(re.match(rf"(?:{kept})(?:(?<=\.)|(?=\.|$))", experts) or experts.endswith(kept)
                   for kept in config["modules_to_not_convert"])


def decode_mxfp4(blocks, scales):
    """[experts, outputs, groups, 16] of two codes a byte and [experts, outputs, groups]: [experts, outputs, inputs]."""
    assert blocks.dtype == scales.dtype == "U8" and blocks.shape == (*scales.shape, 16)
    pairs = blocks.values().astype(np.int64)
    values = float_values(np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(*scales.shape, 32), "e2m1")
    return (values * np.exp2(scales.values().astype(np.float32) - 127)[..., None]).reshape(*scales.shape[:2], -1)


class ExportedCheckpoint:
    def __init__(self, directory):
        self.tensors = read_checkpoint(directory)
        self.config = json.loads((Path(directory) / "config.json").read_text())
        self.quantization = self.config.get("quantization_config")
        self.fused = bool(self.quantization) and self.quantization["quant_method"] == "mxfp4"

    def get(self, module, suffix):
        return self.tensors.get(f"{module}.{suffix}")

    def quantized(self):
        """Names of the linears that are stored quantized."""
        if self.fused:
            return {f"{name.removesuffix(f'.{tensor}_blocks')}.{expert}.{part}" for tensor, parts in FUSED.items()
                    for name in self.tensors if name.endswith(f".{tensor}_blocks")
                    for expert in range(self.tensors[name].shape[0]) for part in parts}
        return {name.removesuffix(end) for name in self.tensors for end in QUANTIZED if name.endswith(end)}

    def plain(self):
        """Names of the modules with a two-dimensional weight that is not quantized; embeddings are among them."""
        return {name.removesuffix(".weight") for name, tensor in self.tensors.items()
                if name.endswith(".weight") and len(tensor.shape) == 2} - self.quantized()

    def settings(self, module):
        """What the configuration says of the module; None where it stays as it is."""
        if self.fused:
            experts = module.rpartition(".experts.")[0]
            return {"quant_method": "mxfp4"} if experts and converted(self.quantization, experts + ".experts") else None
        gptq = self.quantization["quant_method"] == "gptq"
        return (gptq_settings if gptq else compressed_tensors_group)(self.quantization, module, not module.endswith(EMBEDDINGS))

    def decode(self, module):
        """The values of a quantized linear, as its configuration says."""
        settings, get = self.settings(module), lambda suffix: self.get(module, suffix)
        assert settings, f"{module} is quantized, but not by the configuration"
        if self.fused:
            experts, _, place = module.rpartition(".experts.")
            expert, part = place.split(".")
            tensor, parts = next((tensor, parts) for tensor, parts in FUSED.items() if part in parts)
            return self.decode_fused(f"{experts}.experts.{tensor}")[int(expert), parts.index(part)::len(parts)]
        if self.quantization["quant_method"] == "gptq":
            return decode_gptq(get, self.quantization["checkpoint_format"], settings)
        return decode_compressed_tensors(get, settings.get("format") or self.quantization["format"], settings["weights"])

    def decode_fused(self, name):
        return decode_mxfp4(self.tensors[name + "_blocks"], self.tensors[name + "_scales"])


def to_bf16(values):
    """float32 values rounded to bf16, to nearest, ties to even; not for NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
