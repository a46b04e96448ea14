"""A model whose Hessians are several times the memory limit: waves of experts, the same bytes."""

import json
import unittest

import h5py
import numpy

from program import ProgramTest, results

HIDDEN, WIDTH, EXPERTS, HEADS, VOCABULARY, LAYERS = 1024, 64, 96, 8, 64, 2
CONFIG = {
    "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "hidden_size": HIDDEN,
    "intermediate_size": WIDTH, "num_experts": EXPERTS, "num_experts_per_tok": 4,
    "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY, "max_position_embeddings": 256, "norm_topk_prob": False,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "torch_dtype": "float16",
}


def tensors():
    random = numpy.random.default_rng(5)

    def matrix(rows, columns):
        return (random.standard_normal((rows, columns), numpy.float32) / 32).astype(numpy.float16)

    ones = numpy.ones(HIDDEN, numpy.float16)
    yield "model.embed_tokens.weight", matrix(VOCABULARY, HIDDEN) * 32
    yield "lm_head.weight", matrix(VOCABULARY, HIDDEN)
    yield "model.norm.weight", ones
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"):
            yield f"{prefix}{norm}.weight", ones
        for name in "qkvo":
            yield f"{prefix}self_attn.{name}_proj.weight", matrix(HIDDEN, HIDDEN)
        yield f"{prefix}mlp.gate.weight", matrix(EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            for name in ("gate", "up"):
                yield f"{prefix}mlp.experts.{expert}.{name}_proj.weight", matrix(WIDTH, HIDDEN)
            yield f"{prefix}mlp.experts.{expert}.down_proj.weight", matrix(HIDDEN, WIDTH)


def write_float16(path, arrays):
    """A safetensors file (github.com/huggingface/safetensors, "Format")."""
    header, end = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F16", "shape": array.shape, "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array.tobytes())


class Memory(ProgramTest):
    def arguments(self, name, *further):
        figures = self.directory / "figures.json"
        return ["quantize", "--model", self.directory / "model", "--calib", self.directory / "tokens.h5",
                "--config", self.write_recipe(), "--save", self.directory / name, "--json", figures,
                "--min-tokens", 0, "--compute", "fp32", *further]

    def measured(self):
        return json.loads((self.directory / "figures.json").read_text())

    def test_hessians_of_several_times_the_limit(self):
        model = self.directory / "model"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(CONFIG))
        write_float16(model / "model.safetensors", dict(tensors()))
        with h5py.File(self.directory / "tokens.h5", "w") as file:
            tokens = numpy.random.default_rng(7).integers(0, VOCABULARY, (8, 128), numpy.int32)
            file["tokens"] = tokens
            file["lengths"] = numpy.full(8, 128, numpy.int32)
        hessians = EXPERTS * (HIDDEN * (HIDDEN + 1) + WIDTH * (WIDTH + 1)) // 2 * 4  # of one layer
        cross = EXPERTS * (HIDDEN * HIDDEN + HIDDEN * WIDTH) * 4
        self.check("own", hessians, hessians * 2 // 5)
        self.check("original", hessians + cross, (hessians + cross) // 5)

    def check(self, target, sums, limit):
        """`sums`: bytes of those of one layer."""
        self.succeed(*self.arguments(f"whole-{target}", "--target", target))
        self.assertGreater(max(self.measured()["peak_rss_bytes"]), sums)
        for ranks, way in ((0, "auto"), (2, "reduce"), (3, "dispatch")):
            with self.subTest(target=target, ranks=ranks, way=way):
                name = f"waves-{target}-{ranks}"
                done = self.succeed(*self.arguments(name, "--target", target, "--memory", limit,
                                                    "--tokens-to-experts", way), ranks=ranks)
                self.assertRegex(done.stderr, "experts in ([2-9]|[1-9][0-9]+) waves")
                self.assertLessEqual(self.measured()["planned_bytes"], limit)
                self.assertLessEqual(max(self.measured()["peak_rss_bytes"]), limit)
                self.assertEqual(results(self.directory / name), results(self.directory / f"whole-{target}"))


if __name__ == "__main__":
    unittest.main()
