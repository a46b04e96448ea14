"""Checkpoints that other programs quantized, scored by eval: the same NLL, to the last bit, as a plain checkpoint of the
values that numpy decodes after the published descriptions (compressed-tensors, compressors/; GPTQModel, nn_modules)."""

import json
import shutil
import unittest

import numpy as np

from program import EVALUATION, EXAMPLE, ProgramTest, quantize_arguments, run
from exported_checkpoint import read_checkpoint, write_safetensors
from matrix_file import float_values

LINEARS = [f"{kind}_proj" for kind in ("q", "k", "v", "o", "gate", "up", "down")]
EVAL = ("--tokens", EVALUATION, "--max-windows", 3)


def stream(codes, bits):
    """[rows, count] -> the dense bit stream of each row in 32-bit words, least significant bit first."""
    flat = (codes[..., None] >> np.arange(bits) & 1).astype(np.uint8).reshape(len(codes), -1)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 32)))
    return np.packbits(flat, axis=1, bitorder="little").view(np.int32)


def whole_codes(codes, bits):
    """[rows, count] -> words of 32 // bits codes each, as compressed-tensors before 0.18."""
    per_word = 32 // bits
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per_word))).reshape(len(codes), -1, per_word)
    return (codes.astype(np.uint64) << (np.arange(per_word, dtype=np.uint64) * bits)).sum(axis=2).astype(np.uint32).view(np.int32)


class Maker:
    """Tensors of a linear in a form, and the float32 values that they stand for."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)

    def scales(self, *shape):
        """bf16 values of either sign."""
        values = self.random.uniform(0.004, 0.02, shape) * self.random.choice([-1, 1], shape)
        return (values.astype(np.float32).view(np.uint32) & 0xffff0000).view(np.float32)

    def bf16(self, values):
        return "BF16", (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)

    def words(self, shape, bits, group=32, symmetric=True, pack=stream, order=False, byte_zeros=False):
        rows, columns = shape
        groups = columns // group
        codes, scales = self.random.integers(0, 1 << bits, shape), self.scales(rows, groups)
        zeros = np.full((rows, groups), 1 << (bits - 1)) if symmetric else self.random.integers(0, 1 << bits, (rows, groups))
        group_of = self.random.permutation(columns) // group if order else np.arange(columns) // group
        tensors = {"weight_packed": ("I32", pack(codes, bits)), "weight_scale": self.bf16(scales),
                   "weight_shape": ("I64", np.array(shape))}
        if order:
            tensors["weight_g_idx"] = ("I32", group_of.astype(np.int32))
        if byte_zeros:
            tensors["weight_zero_point"] = ("I8", (zeros - (1 << (bits - 1))).astype(np.int8))
        elif not symmetric:
            tensors["weight_zero_point"] = ("I32", np.ascontiguousarray(pack(zeros.T, bits).T))
        return tensors, (codes - zeros[:, group_of]).astype(np.float32) * scales[:, group_of]

    def bytes(self, shape, symmetric=True):
        codes, scales = self.random.integers(-128, 128, shape).astype(np.int8), self.scales(shape[0], 1) / 16
        scales = (scales.view(np.uint32) & 0xffff0000).view(np.float32)
        tensors = {"weight": ("I8", codes), "weight_scale": self.bf16(scales)}
        zeros = np.zeros((shape[0], 1), np.int8)
        if not symmetric:
            zeros = self.random.integers(-100, 100, (shape[0], 1)).astype(np.int8)
            tensors["weight_zero_point"] = ("I8", zeros)
        return tensors, (codes.astype(np.float32) - zeros) * scales

    def fp8(self, shape, scale_shape):
        codes = self.random.integers(0, 256, shape).astype(np.uint8)
        codes[(codes & 127) == 127] = 0  # NaN
        values = float_values(codes.astype(np.int64) & 0xbf, "e4m3")
        scales = self.scales(*scale_shape)
        spread = scales if scale_shape != (-(-shape[0] // 128), -(-shape[1] // 128)) else np.kron(
            scales, np.ones((128, 128), np.float32))[:shape[0], :shape[1]]
        return {"weight": ("F8_E4M3", codes & 0xbf), "weight_scale": ("F32", scales)}, values * spread

    def fp4(self, shape, nvfp4):
        codes, group = self.random.integers(0, 16, shape), 16 if nvfp4 else 32
        packed = (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)
        tensors = {"weight_packed": ("U8", packed)}
        if nvfp4:
            bits = self.random.integers(0x20, 0x60, (shape[0], shape[1] // group)).astype(np.uint8)
            scales = float_values(bits.astype(np.int64), "e4m3") / np.float32(256)
            tensors["weight_scale"] = ("F8_E4M3", bits)
            tensors["weight_global_scale"] = ("F32", np.array([256], np.float32))
        else:
            bits = self.random.integers(117, 121, (shape[0], shape[1] // group)).astype(np.uint8)
            scales = np.exp2(bits.astype(np.float32) - 127)
            tensors["weight_scale"] = ("U8", bits)
        return tensors, float_values(codes, "e2m1") * np.repeat(scales, group, axis=1)

    def gptq(self, shape, bits, version, order=False, symmetric=False):
        rows, columns = shape
        groups = columns // 32
        codes, scales = self.random.integers(0, 1 << bits, shape), self.scales(groups, rows)
        zeros = np.full((groups, rows), 1 << (bits - 1)) if symmetric else self.random.integers(0, 1 << bits, (groups, rows))
        group_of = self.random.permutation(columns) // 32 if order else np.arange(columns) // 32
        stored = stream(zeros, bits)
        if version == 1:  # words less one in each code, with borrows; codes of three bits one by one
            ones = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}.get(bits)
            stored = (stored.view(np.uint32) - np.uint32(ones)).view(np.int32) if ones else stream((zeros - 1) % 8, bits)
        tensors = {"qweight": ("I32", np.ascontiguousarray(stream(codes, bits).T)), "qzeros": ("I32", stored),
                   "scales": self.bf16(scales), "g_idx": ("I32", group_of.astype(np.int32))}
        return tensors, (codes - zeros.T[:, group_of]).astype(np.float32) * scales.T[:, group_of]


def compressed_config(widths, version="0.18.0"):
    groups = {f"group_{number}": {"targets": ["re:whatever"], "weights": {"num_bits": bits, "type": "int"}}
              for number, bits in enumerate(widths)}
    return {"quant_method": "compressed-tensors", "format": "mixed-precision", "quantization_status": "compressed",
            "config_groups": groups, "ignore": ["lm_head"], "version": version, "sparsity_config": {},
            "transform_config": {}, "kv_cache_scheme": None, "global_compression_ratio": None}


GPTQ_CONFIG = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False, "lm_head": False,
               "meta": {"quantizer": ["gptqmodel:7.7"]}, "pack_dtype": "int32", "damp_percent": 0.05}
# A checkpoint each: the configuration, and the forms that its linears take in turn.
FORMS = {
    "words": (compressed_config([3, 4, 8]), [
        lambda make, shape: make.words(shape, 4), lambda make, shape: make.words(shape, 8, shape[1]),
        lambda make, shape: make.words(shape, 4, symmetric=False), lambda make, shape: make.words(shape, 3, symmetric=False),
        lambda make, shape: make.words(shape, 4, order=True), lambda make, shape: make.words(shape, 4, byte_zeros=True,
                                                                                              symmetric=False)]),
    "words of whole codes": (compressed_config([3, 5, 6], "0.12.3.a20251114"), [
        lambda make, shape: make.words(shape, 3, pack=whole_codes), lambda make, shape: make.words(shape, 6, pack=whole_codes),
        lambda make, shape: make.words(shape, 5, symmetric=False, pack=whole_codes)]),
    "bytes and floats": (compressed_config([8]), [
        lambda make, shape: make.bytes(shape), lambda make, shape: make.bytes(shape, symmetric=False),
        lambda make, shape: make.fp8(shape, (shape[0], 1)), lambda make, shape: make.fp8(shape, (1,)),
        lambda make, shape: make.fp4(shape, True), lambda make, shape: make.fp4(shape, False)]),
    "blocks": (compressed_config([8]), [lambda make, shape: make.fp8(shape, (-(-shape[0] // 128), -(-shape[1] // 128)))]),
    **{f"gptq {version}": ({**GPTQ_CONFIG, "checkpoint_format": name}, [
        lambda make, shape, bits=bits, order=order, version=version: make.gptq(shape, bits, version, order)
        for bits, order in ((4, True), (2, False), (3, True), (8, False))]) for version, name in ((1, "gptq"), (2, "gptq_v2"))},
}


class Packed(ProgramTest):
    def write(self, name, tensors, config=None):
        directory = self.directory / name
        shutil.copytree(EXAMPLE, directory, ignore=shutil.ignore_patterns("*.safetensors*"))
        write_safetensors(directory / "model.safetensors", tensors)
        if config:
            whole = json.loads((directory / "config.json").read_text())
            (directory / "config.json").write_text(json.dumps({**whole, "quantization_config": config}))
        return directory

    def make(self, forms, config, seed=0):
        """The packed checkpoint, and the plain one in float32. The head is a linear as well."""
        maker, packed, plain = Maker(seed), {}, {}
        for number, (name, tensor) in enumerate(sorted(read_checkpoint(EXAMPLE).items())):
            module = name.removesuffix(".weight")
            if not module.endswith((*LINEARS, "lm_head")):
                packed[name] = plain[name] = tensor.dtype, np.frombuffer(tensor.data, np.uint16).reshape(tensor.shape)
                continue
            tensors, values = forms[number % len(forms)](maker, tensor.shape)
            packed.update({f"{module}.{suffix}": value for suffix, value in tensors.items()})
            plain[name] = "F32", np.ascontiguousarray(values, np.float32)
        return self.write("packed", packed, config), self.write("plain", plain)

    def nll(self, model, *arguments, ranks=0):
        figures = self.directory / "eval.json"
        self.succeed("eval", "--model", model, *EVAL, *arguments, "--json", figures, ranks=ranks)
        return json.loads(figures.read_text())["mean_nll"]

    def test_every_form(self):
        for number, (name, (config, forms)) in enumerate(FORMS.items()):
            with self.subTest(name):
                packed, plain = self.make(forms, config, number)
                expected = self.nll(plain)
                self.assertTrue(np.isfinite(expected))
                for ranks in (0, 3):
                    self.assertEqual(self.nll(packed, ranks=ranks), expected)
                self.assertIn("linears quantized by another program", self.succeed("inspect", packed).stdout)
                for directory in (packed, plain):
                    shutil.rmtree(directory)

    def test_zeros_that_the_configuration_denies(self):
        """With `sym` some kernels take the middle for every zero and others read them."""
        for version, name in ((1, "gptq"), (2, "gptq_v2")):
            config = {**GPTQ_CONFIG, "sym": True, "checkpoint_format": name}
            for symmetric in (True, False):
                forms = [lambda make, shape, bits=bits: make.gptq(shape, bits, version, symmetric=symmetric) for bits in (4, 3, 8)]
                packed, plain = self.make(forms, config)
                if symmetric:
                    self.assertEqual(self.nll(packed), self.nll(plain))
                else:
                    done = run("eval", "--model", packed, *EVAL)
                    self.assertEqual(done.returncode, 3, done.stderr)
                    self.assertEqual(done.stderr.count("error: "), 1, done.stderr)
                    for word in (".qzeros", "sym: true", "other than"):
                        self.assertIn(word, done.stderr)
                    whole = json.loads((packed / "config.json").read_text())
                    whole["quantization_config"]["dynamic"] = {"+:.*": {"sym": False}}
                    (packed / "config.json").write_text(json.dumps(whole))
                    self.assertEqual(self.nll(packed), self.nll(plain), "a rule allows them")
                for directory in (packed, plain):
                    shutil.rmtree(directory)

    def test_it_is_no_source_of_a_run(self):
        packed, _ = self.make(*reversed(FORMS["words"]))
        done = run(*quantize_arguments(self.directory / "run", packed), ranks=2)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("quantized already", done.stderr)
        self.assertFalse((self.directory / "run").exists())

    def refused(self, change_config=None, change_tensors=None, words=(), form=("words", 0)):
        """The first linear is spoilt."""
        config, forms = FORMS[form[0]]
        packed, plain = self.make(forms[form[1]:form[1] + 1], config)
        path = packed / "config.json"
        whole = json.loads(path.read_text())
        if change_config:
            change_config(whole["quantization_config"])
            path.write_text(json.dumps(whole))
        if change_tensors:
            bits = {"BF16": np.uint16, "F8_E4M3": np.uint8}
            tensors = {name: (tensor.dtype, np.frombuffer(tensor.data, bits[tensor.dtype]).reshape(tensor.shape)
                              if tensor.dtype in bits else tensor.values())
                       for name, tensor in read_checkpoint(packed).items()}
            change_tensors(tensors, "model.layers.0.mlp.experts.0.down_proj.")
            write_safetensors(packed / "model.safetensors", tensors)
        done = run("eval", "--model", packed, *EVAL)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertEqual(done.stderr.count("error: "), 1, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        for directory in (packed, plain):
            shutil.rmtree(directory)

    def test_what_is_not_understood_is_refused(self):
        name = "experts.0.down_proj"
        self.refused(lambda config: config.update(quantization_status="frozen"), words=["frozen"])
        self.refused(lambda config: config.update(transform_config={"config_groups": {"R1": {}}}), words=["transform_config"])
        self.refused(lambda config: config.update(sparsity_config={"format": "sparse-24-bitmask"}), words=["sparse"])
        self.refused(lambda config: config.update(novel=1), words=["novel", "--assume-unused"])
        self.refused(lambda config: config.update(config_groups={}), words=["q_proj", "no width"])
        self.refused(lambda config: config.update(version="0.17.1", config_groups={
            str(bits): {"weights": {"num_bits": bits}} for bits in (4, 7, 8)}),
            change_tensors=lambda all, at: all.update({at + "weight_packed": ("I32", np.zeros((128, 16), np.int32))}),
            words=[name, "7 or 8 bits"])
        self.refused(change_tensors=lambda all, at: all.pop(at + "weight_scale"), words=[name, "weight_scale"])
        self.refused(change_tensors=lambda all, at: all.update({at + "weight_scale": ("F32", np.ones((128, 3), np.float32))}),
                     words=[name, "3 groups"])
        self.refused(change_tensors=lambda all, at: all.update(
            {at + "weight_zero_point": ("I32", np.zeros((3, 1), np.int32))}), words=[name, "zero_point"])
        self.refused(change_tensors=lambda all, at: all.update(
            {at + "weight_g_idx": ("I32", np.full(64, 5, np.int32))}), words=[name, "group 5 of 2"])
        self.refused(change_tensors=lambda all, at: all.update(
            {at + "weight_scale": ("F32", np.full((128, 2), np.inf, np.float32))}), words=[name, "infinite"])
        for shape in ((128, 0), (0,), (0, 2), (1, 1, 2)):
            self.refused(change_tensors=lambda all, at, shape=shape: all.update(
                {at + "weight_scale": ("F32", np.ones(shape, np.float32))}), words=[name, "weight_scale"])
        self.refused(change_tensors=lambda all, at: all.update(
            {at + "weight_g_idx": ("I32", np.zeros(32, np.int32))}), words=[name, "g_idx"])
        self.refused(change_tensors=lambda all, at: all.update(
            {at + "weight_shape": ("I64", np.array([64, 128]))}), words=[name, "weight_shape"])
        self.refused(change_tensors=lambda all, at: all.update(
            {at + "weight_zero_point": ("I32", np.zeros((3, 1), np.int32))}), words=[name, "zeros"],
            form=("bytes and floats", 2))
        self.refused(change_tensors=lambda all, at: all.pop(at + "weight_global_scale"),
                     words=[name, "no weight_global_scale"], form=("bytes and floats", 4))
        self.refused(lambda config: config.update(rotation="hadamard"), words=["rotation"], form=("gptq 1", 0))
        self.refused(change_tensors=lambda all, at: all.update({at + "g_idx": ("I32", np.full(64, -7, np.int32))}),
                     words=[name, "group -7 of 2"], form=("gptq 1", 0))


if __name__ == "__main__":
    unittest.main()
