"""The libraries that serve exports: what they make of its tensors and its configuration."""

import functools
import json
import os
import warnings

import numpy as np

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1", CUDA_VISIBLE_DEVICES="")
import torch  # noqa: E402
import transformers  # noqa: E402
from compressed_tensors.compressors import BaseCompressor  # noqa: E402
from compressed_tensors.quantization import QuantizationConfig  # noqa: E402
from compressed_tensors.utils.match import is_match, match_targets  # noqa: E402
from transformers.integrations.mxfp4 import convert_moe_packed_tensors  # noqa: E402
from transformers.quantizers.quantizers_utils import should_convert_module  # noqa: E402

try:
    from gptqmodel import GPTQModel
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization import FORMAT
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module
except Exception as problem:  # it comes with kernels that not every machine builds
    TorchLinear = None
    print(f"gptqmodel not installed: format checked by numpy ({type(problem).__name__})")


class Mismatch(Exception):
    """What was exported is wrong."""


class NotLoadable(Exception):
    """The library does not load it."""


def short(error):
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    text = " ".join(lines[0].split())
    return f"{type(error).__name__}: {text[:150]}"


def as_torch(tensor):
    types = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn,
             "U8": torch.uint8, "I8": torch.int8, "I32": torch.int32, "I64": torch.int64}
    return torch.frombuffer(bytearray(tensor.data), dtype=types[tensor.dtype]).reshape(tensor.shape)


class CompressedTensors:
    """The library's own choice of the scheme, and its own decompression, in float32."""

    def __init__(self, exported):
        self.exported, self.linear = exported, torch.nn.Linear(1, 1)
        self.config = QuantizationConfig.model_validate(exported.quantization)

    def scheme(self, name):
        if is_match(name, self.linear, self.config.ignore):
            return None
        by_target = {target: group for group in self.config.config_groups.values() for target in group.targets}
        found = match_targets(name, self.linear, list(by_target))
        return by_target[found[0]] if found else None

    def decode(self, name):
        scheme = self.scheme(name)
        layout = scheme.format or self.config.format
        compressor = BaseCompressor.get_value_from_registry(getattr(layout, "value", layout))
        suffixes = ("weight", "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_global_scale")
        state = {end: as_torch(self.exported.get(name, end)) for end in suffixes if self.exported.get(name, end)}
        if state["weight_scale"].dtype in (torch.bfloat16, torch.float16):
            state["weight_scale"] = state["weight_scale"].float()  # or the result is rounded to it
        if state["weight_scale"].dtype == torch.float32 and "weight" in state:
            state["weight"] = state["weight"].to(torch.float32 if state["weight"].dtype != torch.int8 else torch.int8)
        return compressor.decompress(state, scheme)["weight"].float().numpy()


class FusedExperts:
    """gpt-oss's own form: the library's choice of modules, and its decoding, in float32."""

    def __init__(self, exported):
        self.exported, self.kept = exported, exported.quantization["modules_to_not_convert"]

    def scheme(self, name):
        experts = name.rpartition(".experts.")[0]
        return bool(experts) and should_convert_module(experts + ".experts", self.kept)

    @functools.lru_cache(maxsize=2)
    def decoded(self, tensor):
        blocks, scales = (as_torch(self.exported.tensors[tensor + end]) for end in ("_blocks", "_scales"))
        return convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).numpy()  # [experts, inputs, outputs]

    def decode(self, name):
        experts, _, place = name.rpartition(".experts.")
        expert, part = place.split(".")
        tensor = "down_proj" if part == "down_proj" else "gate_up_proj"
        slots = {"gate_proj": slice(0, None, 2), "up_proj": slice(1, None, 2), "down_proj": slice(None)}
        return np.ascontiguousarray(self.decoded(f"{experts}.experts.{tensor}")[int(expert), :, slots[part]].T)


class GptqLayers:
    """The library's layer of plain torch."""

    def __init__(self, exported):
        self.exported, self.version = exported, exported.quantization["checkpoint_format"]

    def scheme(self, name):
        return self.exported.settings(name)

    def decode(self, name):
        settings = self.scheme(name)
        tensors = {end: as_torch(self.exported.get(name, end)) for end in ("qweight", "qzeros", "scales", "g_idx")}
        layer = TorchLinear(bits=settings["bits"], group_size=settings["group_size"], sym=settings["sym"], desc_act=False,
                            in_features=len(tensors["g_idx"]), out_features=tensors["scales"].shape[1], bias=False,
                            format=FORMAT.GPTQ if self.version == "gptq" else FORMAT.GPTQ_V2)
        for end, tensor in tensors.items():
            if getattr(layer, end).shape != tensor.shape:
                raise Mismatch(f"{name}.{end} is {list(tensor.shape)}, but gptqmodel has {list(getattr(layer, end).shape)}")
            setattr(layer, end, tensor.float() if end == "scales" else tensor)
        if self.version == "gptq":
            convert_gptq_v1_to_v2_format_module(layer, settings["bits"], torch.int32)
        layer.post_init()
        return layer.dequantize_weight().T.float().contiguous().numpy()


def same(found, expected):
    """Bit by bit, but for the sign of zero, which a library may lose."""
    return found.shape == expected.shape and (found + 0.0).tobytes() == (expected + np.float32(0)).tobytes()


def known_limit(exported):
    """Why transformers cannot load what compressed-tensors decodes module by module; None where it can. Version 5 fuses
    experts and decompresses them itself."""
    if exported.config.get("model_type") == "gpt_oss":
        return "it knows no experts of gpt_oss with a tensor each"
    if any(not group["weights"]["symmetric"] for group in exported.quantization["config_groups"].values()):
        return "it prepares zero points that are not packed, and reads none of experts"
    settings = {json.dumps(exported.settings(name), sort_keys=True) for name in exported.quantized() if ".experts." in name}
    if not settings:
        return None
    if len(settings) > 1:
        return "it takes one scheme for all experts"
    arguments = json.loads(settings.pop())["weights"]
    if arguments["strategy"] == "tensor_group":
        return "it reads no global scales of experts"
    if arguments.get("scale_dtype") == "torch.uint8" and arguments["num_bits"] == 8:
        return "it takes the exponents of experts' scales for the scales"
    return None


def load_gptq(out):
    """By GPTQModel: transformers has no fused experts in this format."""
    if not TorchLinear:
        raise NotLoadable("gptqmodel not installed")
    try:
        network = GPTQModel.load(str(out), backend="gptq_torch", device="cpu", dtype=torch.bfloat16).model
    except Exception as error:
        raise NotLoadable("GPTQModel: " + short(error)) from error
    return network.float().eval()  # it loads no float32; scales and weights are bf16 in the files


def load(out, **further):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            network, info = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32,
                                                                              trust_remote_code=False,
                                                                              ignore_mismatched_sizes=True,
                                                                              output_loading_info=True, **further)
        except ValueError as error:
            if "custom code" in str(error) or "does not recognize" in str(error):
                raise NotLoadable("it does not know the architecture") from error
            raise
    # Unexpected keys are no problem of themselves: MTP layers have no place in its models.
    for key in ("missing_keys", "mismatched_keys", "error_msgs"):
        if names := sorted(map(str, info.get(key) or [])):
            raise Mismatch(f"{len(names)} {key.replace('_', ' ')}, such as {names[0][:100]}")
    # Else the first forward does it, but not all to the dtype asked for.
    if hasattr(getattr(network, "hf_quantizer", None), "compressor"):
        network.hf_quantizer.compressor.decompress_model(network)
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.dtype == torch.bfloat16:
            tensor.data = tensor.data.float()
    return network.eval()
