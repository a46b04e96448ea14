"""gptq.output_factor: rows of q, k and v refined together. Kept factors beside gradients in numpy."""

import json
import shutil
import unittest

import h5py
import numpy as np

from program import CALIBRATION, EVALUATION, EXAMPLE, FIXTURES, ProgramTest, quantize_arguments, results, run
from exported_checkpoint import to_bf16, write_safetensors
from test_quantize import read_safetensors
from test_target import Olmoe, softmax

TILE = 64  # rows whose factor is kept
LATENT_HEADS = 16  # heads that are made at one time (aq/runtime/workspace.h)


def mixed(x):
    """SplitMix64."""
    with np.errstate(over="ignore"):
        x = np.asarray(x, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def signs(layer, sequence, tokens, channels):
    """What the program draws for a sequence."""
    key = mixed(mixed(layer) ^ np.uint64(sequence))
    number = np.arange(tokens * channels, dtype=np.uint64)
    bits = mixed(key ^ number // np.uint64(64)) >> number % np.uint64(64) & np.uint64(1)
    return np.where(bits == 1, 1.0, -1.0).reshape(tokens, channels)


def rotation(tokens, width, theta=10000.0):
    angles = np.arange(tokens)[:, None] / theta ** (np.arange(width // 2) / (width // 2))
    return np.cos(angles)[:, None], np.sin(angles)[:, None]


def rotated(x, interleaved, back=False):
    """x [tokens, heads, width]."""
    cos, sin = rotation(x.shape[0], x.shape[-1])
    sin = -sin if back else sin
    half = x.shape[-1] // 2
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    a, b = a * cos - b * sin, b * cos + a * sin
    return np.stack([a, b], axis=-1).reshape(x.shape) if interleaved else np.concatenate([a, b], axis=-1)


def gradients(q, k, v, gradient):
    """Of Σ gradient * attention by rotated q, k and by v, all [tokens, heads, width]."""
    scale = q.shape[-1] ** -0.5
    scores = np.einsum("qhd,khd->hqk", q, k) * scale
    scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
    p = softmax(scores)
    by_p = np.einsum("qhd,khd->hqk", gradient, v)
    by_score = p * (by_p - (p * by_p).sum(axis=-1, keepdims=True)) * scale
    return (np.einsum("hqk,khd->qhd", by_score, k), np.einsum("hqk,qhd->khd", by_score, q),
            np.einsum("hqk,qhd->khd", p, gradient))


def factor(g, groups=1):
    """Σ g gᵀ of tiles of rows; of g = [tokens, rows], made in `groups` of which each is summed by itself."""
    sums = np.zeros((g.shape[1], TILE))
    width = -(-g.shape[1] // groups)
    for first in range(0, g.shape[1], TILE):
        for begin in range(0, g.shape[1], width):
            part = slice(max(first, begin), min(first + TILE, begin + width, g.shape[1]))
            if part.start < part.stop:
                sums[part, part.start - first: part.stop - first] = g[:, part].T @ g[:, part]
    return sums


class OutputFactor(ProgramTest):
    def outputs(self, save):
        """Name of a first matrix -> kept factors."""
        found = {}
        for path in (save / "hessians").iterdir():
            with h5py.File(path) as file:
                found |= {name: group["output_factor"][:] for name, group in file["hessians"].items() if "output_factor" in group}
        return found

    def assert_near(self, got, expected, name):
        self.assertEqual(got.shape, expected.shape, name)
        self.assertLess(np.linalg.norm(got - expected), 1e-4 * np.linalg.norm(expected), name)

    def test_factors_are_those_of_numpy(self):
        """q, k and v of two layers of the example, whose norms are over all heads."""
        save, _ = self.quantize("run", "--keep-hessians", "--sequential", "none", samples=16, length=48, ranks=3)
        got = self.outputs(save)
        self.assertEqual(sorted(got), [f"model.layers.{layer}.self_attn.q_proj" for layer in range(4)])
        tensors = {name: tensor.astype(np.float64)
                   for name, tensor in read_safetensors(EXAMPLE / "model.safetensors").items()}
        model = Olmoe(tensors)
        weight = lambda name: tensors[name + ".weight"]

        def norm_gradient(x, name, g):
            root = np.sqrt((x * x).mean(axis=-1, keepdims=True) + model.eps)
            g = g * weight(name)
            return g / root - x * (g * x).mean(axis=-1, keepdims=True) / root**3

        with h5py.File(CALIBRATION) as file:
            x = tensors["model.embed_tokens.weight"][file["tokens"][:16, :48]]
        flat = lambda values: values.reshape(-1, values.shape[-1])
        for layer in (0, 1):
            at = f"model.layers.{layer}.self_attn."
            inputs = model.norm(x, f"model.layers.{layer}.input_layernorm")
            expected = 0
            for sequence, h in enumerate(inputs):
                q, k, v = (h @ weight(f"{at}{name}_proj").T for name in "qkv")
                split = lambda values: values.reshape(len(h), model.heads, -1)
                turned = [rotated(split(model.norm(values, at + name)), False)
                          for values, name in ((q, "q_norm"), (k, "k_norm"))]
                back = split(signs(layer, sequence, *h.shape) @ weight(at + "o_proj"))
                by_q, by_k, by_v = gradients(*turned, split(v), back)
                by_q, by_k = (norm_gradient(values, at + name, rotated(g, False, back=True).reshape(h.shape))
                              for values, name, g in ((q, "q_norm", by_q), (k, "k_norm", by_k)))
                expected = expected + np.concatenate([factor(by_q), factor(by_k), factor(by_v.reshape(h.shape))])
            self.assert_near(got[at + "q_proj"], expected, at)
            x = x + model.core(layer, inputs, weight) @ weight(at + "o_proj").T
            h = flat(model.norm(x, f"model.layers.{layer}.post_attention_layernorm"))
            x = x + model.experts_sum(layer, h, model.route(layer, h), weight).reshape(x.shape)

    def latent_model(self, name):
        """A DeepSeek of 20 heads, which are made 16 at a time, without scaled rotations."""
        model = self.directory / name
        shutil.copytree(FIXTURES / name, model)
        config = json.loads((model / "config.json").read_text())
        config |= {"num_attention_heads": 20, "num_key_value_heads": 20, "rope_scaling": None}
        (model / "config.json").write_text(json.dumps(config))
        key, value = config["qk_nope_head_dim"] + config["qk_rope_head_dim"], config["v_head_dim"]
        shapes = {"q_b_proj": (20 * key, config["q_lora_rank"]), "q_proj": (20 * key, config["hidden_size"]),
                  "kv_b_proj": (20 * (config["qk_nope_head_dim"] + value), config["kv_lora_rank"]),
                  "o_proj": (config["hidden_size"], 20 * value)}
        generator = np.random.default_rng(1)
        tensors = {}
        for path in model.glob("*.safetensors*"):
            for tensor, values in read_safetensors(path).items() if path.suffix == ".safetensors" else ():
                shape = shapes.get(tensor.split(".")[-2])
                values = values if shape is None else generator.normal(0, 0.2, shape)
                tensors[tensor] = ("BF16", to_bf16(values))
            path.unlink()
        write_safetensors(model / "model.safetensors", tensors)
        return model, config

    def test_factors_of_latent_heads(self):
        for name in ("deepseek_v2", "deepseek_v2_lite"):
            with self.subTest(name):
                model, config = self.latent_model(name)
                from_latents = config["q_lora_rank"] is not None
                recipe = self.write_recipe(default={"wq": "int4", "group_size": 4})
                save, _ = self.quantize(f"{name}-run", "--keep-hessians", "--sequential", "none", model=model,
                                        calibration=model / "golden.h5", recipe=recipe, samples=0, length=0, ranks=2)
                got = self.outputs(save)
                at = "model.layers.0.self_attn."
                tensors = {name: tensor.astype(np.float64)
                           for name, tensor in read_safetensors(model / "model.safetensors").items()}
                heads, plain = 20, config["qk_nope_head_dim"]
                rope, value = config["qk_rope_head_dim"], config["v_head_dim"]

                def normed(x, name):
                    eps = config["rms_norm_eps"] if "input" in name else 1e-6
                    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * tensors[name + ".weight"]

                q_sum = kv_sum = 0
                with h5py.File(model / "golden.h5") as file:
                    tokens = file["tokens"][:]
                for sequence, row in enumerate(tokens):
                    h = normed(tensors["model.embed_tokens.weight"][row], "model.layers.0.input_layernorm")
                    compressed = h @ tensors[at + "kv_a_proj_with_mqa.weight"].T
                    latent = normed(compressed[:, :-rope], at + "kv_a_layernorm")
                    kv = (latent @ tensors[at + "kv_b_proj.weight"].T).reshape(len(row), heads, -1)
                    if from_latents:
                        q = normed(h @ tensors[at + "q_a_proj.weight"].T, at + "q_a_layernorm") @ \
                            tensors[at + "q_b_proj.weight"].T
                    else:
                        q = h @ tensors[at + "q_proj.weight"].T
                    q = q.reshape(len(row), heads, -1)
                    key = np.broadcast_to(rotated(compressed[:, None, -rope:], True), (len(row), heads, rope))
                    q = np.concatenate([q[..., :plain], rotated(q[..., plain:], True)], axis=-1)
                    k = np.concatenate([kv[..., :plain], key], axis=-1)
                    back = (signs(0, sequence, *h.shape) @ tensors[at + "o_proj.weight"]).reshape(len(row), heads, value)
                    by_q, by_k, by_v = gradients(q, k, kv[..., plain:], back)
                    by_q = np.concatenate([by_q[..., :plain], rotated(by_q[..., plain:], True, back=True)], axis=-1)
                    by_kv = np.concatenate([by_k[..., :plain], by_v], axis=-1)

                    def of_groups(g):
                        """Heads beyond the first LATENT_HEADS are summed by themselves."""
                        g = g.reshape(len(row), -1)
                        width = g.shape[1] // heads * LATENT_HEADS
                        padded = np.zeros((len(row), 2 * width))
                        padded[:, : g.shape[1]] = g
                        return factor(padded, groups=2)[: g.shape[1]]

                    q_sum, kv_sum = q_sum + of_groups(by_q), kv_sum + of_groups(by_kv)
                self.assert_near(got[at + "kv_b_proj"], kv_sum, "kv_b")
                if from_latents:
                    self.assert_near(got[at + "q_b_proj"], q_sum, "q_b")
                    self.assertNotIn(at + "q_a_proj", got)
                else:
                    self.assert_near(got[at + "q_proj"], q_sum, "q, without kv_a, which makes no heads")

    def test_kept_factors_give_the_same_bytes(self):
        none = ("--sequential", "none")
        whole, _ = self.quantize("whole", *none)
        kept, _ = self.quantize("kept", "--keep-hessians", *none, ranks=2)
        plain, _ = self.quantize("plain", "--output-factor", "none", "--keep-hessians", *none)
        self.assertEqual(self.outputs(plain), {})
        self.assertNotEqual(results(whole), results(plain))
        arguments = quantize_arguments(self.directory / "again")
        again = arguments + [*none, "--hessians", kept]
        self.succeed(*again, ranks=3)
        self.assertEqual(results(self.directory / "again"), results(whole))
        self.succeed(*again, "--output-factor", "none", "--resume", "never")
        self.assertEqual(results(self.directory / "again"), results(plain))
        refused = run(*arguments, *none, "--resume", "never", "--hessians", plain)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("output_factor: 'none' there, 'layer' now", refused.stderr)

    def test_only_some_of_q_k_and_v(self):
        """Factors of those that gptq quantizes; kept ones must be of what the new run quantizes."""
        recipe = self.write_recipe(default={"wq": "int3", "group_size": 32}, gptq={"sequential": "none"}, overrides=[
            {"pattern": "*.q_proj", "skip": True}, {"pattern": "*.k_proj", "method": "rtn"}])
        save, _ = self.quantize("some", "--keep-hessians", recipe=recipe, ranks=2)
        self.assertEqual({values.shape for values in self.outputs(save).values()}, {(128, TILE)})
        refused = run(*quantize_arguments(self.directory / "all"), "--sequential", "none", "--hessians", save)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("its output factors are [128, 64], not [384, 64]", refused.stderr)
        self.assertFalse((self.directory / "all" / "shards").exists())

    def test_without_sweeps_nothing_is_summed(self):
        save, _ = self.quantize("run", "--keep-hessians", "--refine", 0)
        self.assertEqual(self.outputs(save), {})

    def test_it_is_nearer_to_the_original(self):
        kl = {}
        for choice in ("none", "layer"):
            recipe = self.write_recipe(default={"wq": "int2", "group_size": 32}, gptq={"output_factor": choice})
            save, _ = self.quantize(choice, recipe=recipe, samples=64, length=0, threads=2)
            figures = self.directory / "figures.json"
            self.succeed("eval", "--model", EXAMPLE, "--tokens", EVALUATION, "--quantized", save, "--json", figures,
                         threads=2)
            kl[choice] = json.loads(figures.read_text())["kl"]
        self.assertLess(kl["layer"], 0.9 * kl["none"])


if __name__ == "__main__":
    unittest.main()
