#!/usr/bin/env python3
"""Tests of tools/prepare_calibration.py with the tokenizer of the embedded example.

Needs python3-h5py and python3-numpy; what tokenizes is skipped where the Python package `tokenizers` is missing.
"""

import contextlib
import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "prepare_calibration.py"
TOKENIZER = ROOT / "examples" / "olmoe-tiny"
LINE = "The mero {} sees a lamp near Bado; 12+{}={}.\n"

sys.path.insert(0, str(SCRIPT.parent))
SPECIFICATION = importlib.util.spec_from_file_location("prepare_calibration", SCRIPT)
PREPARE = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(PREPARE)


def missing(*packages):
    """A reason to skip, or an empty string."""
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    return f"Python packages are missing: {', '.join(absent)}" if absent else ""


NO_HDF5 = missing("h5py", "numpy")
NO_PARQUET = missing("pyarrow")
NO_TOKENIZERS = missing("h5py", "numpy", "tokenizers")


class PrepareCalibration(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.directory = pathlib.Path(scratch.name)
        self.text = self.directory / "text.txt"
        self.text.write_text("".join(LINE.format(i, i, 12 + i) for i in range(300)), encoding="utf-8")
        self.out = self.directory / "tokens.h5"

    def run_script(self, *arguments, environment=None):
        command = [sys.executable, str(SCRIPT), "--out", str(self.out), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120,
                              env={**os.environ, **(environment or {})})

    def tokens(self):
        import h5py
        with h5py.File(self.out) as file:
            return file["tokens"][:], dict(file.attrs)

    def tokenize(self, *arguments):
        result = self.run_script("--tokenizer", TOKENIZER, "--text", self.text, *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    @unittest.skipIf(NO_TOKENIZERS, NO_TOKENIZERS)
    def test_windows_decode_to_the_text(self):
        import tokenizers
        self.tokenize("--nsamples", 8, "--seqlen", 64)
        tokens, attributes = self.tokens()
        self.assertEqual(tokens.dtype, "int32")
        self.assertEqual(tokens.shape, (8, 64))
        self.assertEqual(int(attributes["seed"]), 0)
        self.assertEqual(int(attributes["vocab_size"]), 512)
        self.assertEqual(bytes(attributes["source"]), b"text.txt")
        tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
        text = self.text.read_text(encoding="utf-8")
        decoded = [tokenizer.decode(row.tolist()) for row in tokens]
        self.assertTrue(all(window in text for window in decoded))
        self.assertEqual(len(set(decoded)), 8, "windows are drawn without replacement")

    @unittest.skipIf(NO_TOKENIZERS, NO_TOKENIZERS)
    def test_seed_decides(self):
        self.tokenize("--nsamples", 4, "--seqlen", 32, "--seed", 7)
        first = self.out.read_bytes()
        self.tokenize("--nsamples", 4, "--seqlen", 32, "--seed", 7)
        self.assertEqual(first, self.out.read_bytes())
        self.tokenize("--nsamples", 4, "--seqlen", 32, "--seed", 8)
        self.assertNotEqual(first, self.out.read_bytes())

    @unittest.skipIf(NO_TOKENIZERS, NO_TOKENIZERS)
    def test_little_text_gives_fewer_windows_with_a_warning(self):
        result = self.tokenize("--nsamples", 1000, "--seqlen", 1024)
        self.assertIn("warning", result.stderr)
        self.assertLess(self.tokens()[0].shape[0], 1000)

    @unittest.skipIf(NO_TOKENIZERS, NO_TOKENIZERS)
    def test_too_little_text_is_an_error_and_keeps_the_old_file(self):
        self.out.write_text("old")
        result = self.run_script("--tokenizer", TOKENIZER, "--text", self.text, "--seqlen", 1000000)
        self.assertEqual(result.returncode, 3)
        self.assertIn("--seqlen", result.stderr)
        self.assertEqual(self.out.read_text(), "old")
        self.assertEqual(sorted(p.name for p in self.directory.iterdir()), ["text.txt", "tokens.h5"])

    @unittest.skipIf(NO_TOKENIZERS, NO_TOKENIZERS)
    def test_text_that_is_not_utf8(self):
        self.text.write_bytes(b"good \xff bad")
        result = self.run_script("--tokenizer", TOKENIZER, "--text", self.text)
        self.assertEqual(result.returncode, 3)
        self.assertIn("not UTF-8 at byte 5", result.stderr)

    def test_json_is_no_text(self):
        """Without --field a file of JSON is refused, with it the field's texts come out as they are."""
        texts = ["first\nline \u00e4\u2028on", "[second]", "{third}"]
        rows = [{"id": number, "text": text} for number, text in enumerate(texts)]
        lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
        for name, content in (("a.jsonl", lines), ("b.txt", lines), ("c.json", json.dumps(rows)),
                              ("d.txt", " \n" + json.dumps(rows, indent=2)), ("e.json", "\ufeff" + json.dumps(rows))):
            file = self.directory / name
            file.write_text(content, encoding="utf-8")
            self.assertEqual(list(PREPARE.read_texts([file], "text")), texts, name)
            for field, words in ((None, ["--field", "text"]), ("id", ["record 1", "'id'", "text"]),
                                 ("texts", ["record 1", "'texts'"])):
                with self.assertRaises(PREPARE.Failure) as caught:
                    list(PREPARE.read_texts([file], field))
                self.assertEqual(caught.exception.code, 3)
                for word in [str(file), *words]:
                    self.assertIn(word, str(caught.exception))
        one = self.directory / "one.json"
        one.write_text(json.dumps(rows[0]), encoding="utf-8")
        self.assertEqual(list(PREPARE.read_texts([one], "text")), texts[:1])
        deep = "[" * 100000
        for name, content, field in (("cut.jsonl", lines[:30], None), ("cut.jsonl", lines[:30], "text"),
                                     ("cut.txt", lines.rstrip()[:-5], None), ("plain.txt", "plain", "text"),
                                     ("deep.json", deep, None), ("deep.json", deep, "text"),
                                     ("half.json", '{"text": "\\ud800"}', "text")):
            file = self.directory / name
            file.write_text(content, encoding="utf-8")
            with self.assertRaises(PREPARE.Failure):
                list(PREPARE.read_texts([file], field))
        for content in ("plain", "[a list?] no", "{braces} and text", "[1]\nand text", "12", "\n",
                        deep):
            self.text.write_text(content, encoding="utf-8")
            self.assertEqual(list(PREPARE.read_texts([self.text], None)), [content])

    @unittest.skipIf(NO_HDF5, NO_HDF5)
    def test_safetensors_holds_the_same(self):
        import numpy
        written, said = numpy.arange(6, dtype=numpy.int32).reshape(2, 3), {"source": "text \u00e4.txt", "seed": 3}
        PREPARE.write(self.out, written, said)
        tokens, attributes = self.tokens()
        path = self.directory / "tokens.safetensors"
        PREPARE.write(path, written, said)
        whole = path.read_bytes()
        begin = 8 + int.from_bytes(whole[:8], "little")
        self.assertEqual(begin % 8, 0)
        header = json.loads(whole[8:begin])
        self.assertEqual(header.pop("__metadata__"), {name: value.decode() if isinstance(value, bytes) else str(value)
                                                      for name, value in attributes.items()})
        self.assertEqual(header, {"tokens": {"dtype": "I32", "shape": [2, 3], "data_offsets": [0, 24]}})
        self.assertEqual(whole[begin:], tokens.tobytes())

    @unittest.skipIf(NO_HDF5, NO_HDF5)
    def test_where_the_file_goes(self):
        import numpy
        tokens = numpy.ones((2, 3), numpy.int32)
        link = self.directory / "link.h5"
        link.symlink_to("tokens.h5")
        for _ in range(2):  # it leads nowhere, then to a file
            PREPARE.write(link, tokens, {})
            self.assertTrue(link.is_symlink())
            self.assertEqual(self.tokens()[0].tolist(), tokens.tolist())
        pipe = self.directory / "pipe"
        os.mkfifo(pipe)
        for target in (pipe, self.directory):
            with self.assertRaises(PREPARE.Failure):
                PREPARE.write(target, tokens, {})
        self.assertTrue(pipe.is_fifo())
        self.assertEqual(len(list(self.directory.iterdir())), 4)

    @unittest.skipIf(NO_HDF5, NO_HDF5)
    def test_missing_package_names_the_command(self):
        hidden = self.directory / "hidden"
        hidden.mkdir()
        (hidden / "tokenizers.py").write_text("raise ImportError('hidden by the test')\n")
        result = self.run_script("--tokenizer", TOKENIZER, "--text", self.text, environment={"PYTHONPATH": str(hidden)})
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn("missing: tokenizers; run: python3 -m venv", result.stderr)
        self.assertIn("pip install numpy tokenizers h5py && ", result.stderr)
        self.assertIn(f"--text {self.text}", result.stderr.split("bin/python ")[1], "the whole command line")
        self.assertEqual(len(result.stderr.splitlines()), 1)

    @unittest.skipIf(NO_HDF5, NO_HDF5)
    def test_directory_without_tokenizer(self):
        result = self.run_script("--tokenizer", self.directory, "--text", self.text)
        self.assertEqual(result.returncode, 3)
        self.assertIn("neither tokenizer.json nor tokenizer.model", result.stderr)

    def test_command_line_errors(self):
        self.assertEqual(self.run_script("--tokenizer", TOKENIZER).returncode, 2)
        self.assertEqual(self.run_script("--tokenizer", TOKENIZER, "--dataset", "pile").returncode, 2)
        result = self.run_script("--tokenizer", TOKENIZER, "--text", self.text, "--nsamples", "0")
        self.assertEqual(result.returncode, 2)
        self.assertIn("1 or more", result.stderr)
        result = self.run_script("--tokenizer", TOKENIZER, "--dataset", "c4", "--field", "text")
        self.assertEqual(result.returncode, 2)
        self.assertIn("only with --text", result.stderr)

    def test_directories(self):
        """Files by kind and name, the text of each record; what is left out is counted."""
        folder = self.directory / "data"
        (folder / "b").mkdir(parents=True)
        (folder / "a.txt").write_text("one", encoding="utf-8")
        (folder / "b" / "c.jsonl").write_text('{"text": "two"}\n{"text": " "}\n', encoding="utf-8")
        (folder / "d.csv").write_text("x,y", encoding="utf-8")
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            self.assertEqual(list(PREPARE.read_directory(folder, PREPARE.text_readers("text"))), ["one", "two"])
        self.assertIn("1 empty documents and 1 files of other kinds were left out (d.csv)", said.getvalue())
        (folder / "a.txt").unlink()
        (folder / "b" / "c.jsonl").unlink()
        with self.assertRaises(PREPARE.Failure):
            list(PREPARE.read_directory(folder, PREPARE.text_readers("text")))

    @unittest.skipIf(NO_PARQUET, NO_PARQUET)
    def test_parquet(self):
        import pyarrow
        from pyarrow import parquet
        file = self.directory / "a.parquet"
        parquet.write_table(pyarrow.table({"text": ["one", "two"], "id": [1, 2]}), file)
        self.assertEqual(list(PREPARE.read_directory(self.directory, PREPARE.text_readers("text")))[:2], ["one", "two"])
        for field, word in (("texts", "'texts'"), ("id", "something else than text")):
            with self.assertRaises(PREPARE.Failure) as caught:
                list(PREPARE.text_readers(field)[".parquet"](file))
            self.assertIn(word, str(caught.exception))
        file.write_bytes(b"PAR1 cut")
        with self.assertRaises(PREPARE.Failure):
            list(PREPARE.text_readers("text")[".parquet"](file))

    @unittest.skipIf(NO_TOKENIZERS, NO_TOKENIZERS)
    def test_windows_begin_as_the_model_was_trained(self):
        import tokenizers
        folder = self.directory / "with_bos"
        folder.mkdir()
        tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
        tokenizer.add_special_tokens(["<s>"])
        bos = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", bos)])
        tokenizer.save(str(folder / "tokenizer.json"))
        sizes = ("--nsamples", 4, "--seqlen", 16)
        for option, config, begins in (((), None, True), (("--bos", "never"), None, False),
                                       ((), {"add_bos_token": False}, False)):
            if config:
                (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
            result = self.run_script("--tokenizer", folder, "--text", self.text, *sizes, *option)
            self.assertEqual(result.returncode, 0, result.stderr)
            tokens = self.tokens()[0]
            self.assertEqual(tokens.shape, (4, 16))
            self.assertEqual((tokens[:, 0] == bos).all(), begins)
            self.assertFalse((tokens[:, 1:] == bos).any())


if __name__ == "__main__":
    unittest.main()
