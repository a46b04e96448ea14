"""The same model under other names and inside other configurations gives the same figures as the plain one."""

import json
import unittest

from program import FIXTURES, ProgramTest, run

PLAIN = FIXTURES / "qwen3_moe"
TOKENS = PLAIN / "golden.h5"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

# What stands for "model." and for "lm_head".
PREFIXES = [
    ("", "lm_head"),
    ("language_model.", "language_model.lm_head"),
    ("language_model.model.", "language_model.lm_head"),
    ("model.language_model.", "lm_head"),
    ("_orig_mod.model.", "_orig_mod.lm_head"),
    ("module.model.", "module.lm_head"),
    ("module._orig_mod.model.language_model.", "module._orig_mod.lm_head"),
    ("thinker.model.", "thinker.lm_head"),
]


def read(path):
    whole = (path / "model.safetensors").read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"], whole[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]])
            for name, entry in header.items()}


def write(path, tensors, config):
    path.mkdir(parents=True)
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (path / "config.json").write_text(json.dumps(config))


def renamed(tensors, prefix, head):
    return {head + name[len("lm_head"):] if name.startswith("lm_head") else prefix + name[len("model."):]: tensor
            for name, tensor in tensors.items()}


class Wrapped(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tensors, cls.config = read(PLAIN), json.loads((PLAIN / "config.json").read_text())

    def perplexity(self, model, *more):
        figures = self.directory / "figures.json"
        self.succeed("eval", "--model", model, "--tokens", TOKENS, "--json", figures, *more)
        return json.loads(figures.read_text())["mean_nll"]

    def inspect(self, model, *more):
        figures = self.directory / "inspect.json"
        done = self.succeed("inspect", model, "--json", figures, *more)
        return json.loads(figures.read_text()), done.stdout

    def write(self, name, tensors, **changes):
        write(self.directory / name, tensors, {**self.config, **changes})
        return self.directory / name

    def test_every_prefix_names_the_matrices_and_patterns_of_plain_names_match(self):
        recipe = self.directory / "recipe.json"
        recipe.write_text(json.dumps({"default": {"wq": "bf16"}, "overrides": [
            {"pattern": "model.layers.0.*", "wq": "int4"}, {"pattern": "lm_head", "wq": "int8"}]}))
        plain = {name for name, what in self.inspect(PLAIN, "--recipe", recipe)[0]["linears"].items() if "int" in what}
        self.assertIn("lm_head", plain)
        for number, (prefix, head) in enumerate(PREFIXES):
            with self.subTest(prefix=prefix):
                model = self.write(str(number), renamed(self.tensors, prefix, head))
                figures, text = self.inspect(model, "--recipe", recipe)
                quantized = {name for name, what in figures["linears"].items() if "int" in what}
                self.assertEqual(quantized, {head if name == "lm_head" else prefix + name[len("model."):] for name in plain})
                self.assertEqual(figures["extra_tensors"], [])
                self.assertNotIn("matches no linear", text)

    def test_nested_configurations_give_the_same_figures(self):
        expected = self.perplexity(PLAIN)
        model = self.write("prefixed", renamed(self.tensors, "module.model.", "module.lm_head"))
        self.assertEqual(self.perplexity(model), expected)
        text = {key: value for key, value in self.config.items() if key != "tie_word_embeddings"}
        tensors = renamed(self.tensors, "model.language_model.", "lm_head")
        tensors["model.visual.patch_embed.weight"] = ("F32", [2], bytes(8))
        for key in ("text_config", "llm_config", "language_config", "thinker_config.text_config"):
            with self.subTest(key=key):
                outer = {"architectures": ["Other"], "model_type": "other", "image_token_id": 9, "vision_config": {"depth": 1}}
                inside = text
                for part in reversed(key.split(".")):
                    inside = {part: inside}
                model = self.directory / key
                write(model, tensors, {**outer, **inside, "tie_word_embeddings": False})
                self.assertEqual(self.perplexity(model), expected)
                figures, shown = self.inspect(model)
                self.assertEqual(figures["extra_tensors"], ["model.visual.patch_embed.weight"])
                for word in (key, "vision_config", "model.visual"):
                    self.assertIn(word, shown)

    def test_errors_of_a_nested_configuration_name_its_key(self):
        write(self.directory / "bad", renamed(self.tensors, "model.language_model.", "lm_head"),
              {"text_config": {**self.config, "num_attention_heads": "many"}})
        done = run("inspect", self.directory / "bad")
        self.assertEqual(done.returncode, 3)
        self.assertIn("text_config", done.stderr)

    def test_a_head_of_its_own_counts_although_config_ties(self):
        expected = self.perplexity(PLAIN)
        model = self.write("own", self.tensors, tie_word_embeddings=True)
        self.assertEqual(self.perplexity(model), expected)
        self.assertIn("tie_word_embeddings", self.inspect(model)[1])

    def test_one_of_the_two_serves_as_both_only_where_config_ties(self):
        shared = self.tensors[EMBEDDING]
        both = self.perplexity(self.write("both", {**self.tensors, HEAD: shared}))
        copy = self.write("copy", {**self.tensors, HEAD: shared}, tie_word_embeddings=True)
        self.assertEqual(self.perplexity(copy), both)
        self.assertEqual(self.inspect(copy)[0]["remarks"], [])
        for kept, gone in ((EMBEDDING, HEAD), (HEAD, EMBEDDING)):
            tensors = {name: tensor for name, tensor in self.tensors.items() if name != gone}
            tensors[kept] = shared
            self.assertEqual(self.perplexity(self.write(f"tied {kept}", tensors, tie_word_embeddings=True)), both)
            done = run("inspect", self.write(f"untied {kept}", tensors, tie_word_embeddings=False))
            self.assertEqual(done.returncode, 3)
            for word in ("tie_word_embeddings", kept, gone, "config.json"):
                self.assertIn(word, done.stderr)

    def test_a_missing_tensor_names_the_nearest(self):
        name = "model.layers.1.mlp.gate.weight"
        tensors = dict(self.tensors)
        tensors["model.layers.1.mlp.gatee.weight"] = tensors.pop(name)
        done = run("inspect", self.write("missing", tensors))
        self.assertEqual(done.returncode, 3)
        for word in (name, "nearest", "mlp.gatee.weight"):
            self.assertIn(word, done.stderr)


    def test_unused_tensors_are_named_by_kind(self):
        extra = ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.self_attn.k_scale", "mtp.fc.weight",
                 "vision_tower.a.weight"]
        model = self.write("extra", {**self.tensors, **{name: ("F32", [1], bytes(4)) for name in extra}})
        figures, text = self.inspect(model)
        self.assertEqual(sorted(figures["extra_tensors"]), sorted(extra))
        for word in (*extra, "MTP", "rotary", "scales", "vision_tower"):
            self.assertIn(word, text)


if __name__ == "__main__":
    unittest.main()
