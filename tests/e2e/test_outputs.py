"""Where output goes that is no plain file, and what the system's limits say: nothing is replaced or lost in silence."""

import json
import os
import resource
import stat
import subprocess
import threading
import unittest

import h5py
import numpy as np

from program import (CALIBRATION, EVALUATION, EXAMPLE, RECIPE, ProgramTest, command, environment, quantize_arguments,
                     results, run)

EVAL = ["eval", "--model", EXAMPLE, "--tokens", EVALUATION, "--max-windows", 1]
PLAN = ["plan", "--model", EXAMPLE, "--config", RECIPE, "--calib", CALIBRATION]


def started(*arguments, threads=1, **keywords):
    """run() with keywords of subprocess."""
    return subprocess.run(command(*arguments, threads=threads), env=environment(), text=True, timeout=300, check=False,
                          **{"capture_output": True, **keywords})


class Outputs(ProgramTest):
    def refuse(self, words, *arguments, code=3):
        done = run(*arguments)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)

    def writers(self, target):
        """Every command that writes a file of the user's choice, with that file."""
        save = self.directory / "run"
        return {"eval": [*EVAL, "--json", target],
                "plan": [*PLAN, "--json", target],
                "quantize": [*quantize_arguments(save, samples=4), "--json", target],
                "doctor": ["doctor", "--json", target],
                "inspect": ["inspect", EXAMPLE, "--json", target],
                "recipe": ["inspect", EXAMPLE, "--recipe", RECIPE, "--recipe-out", target],
                "architecture": ["inspect", EXAMPLE, "--architecture-out", target]}

    def test_links_stay(self):
        target = self.directory / "below" / "real.json"
        target.parent.mkdir()
        link = self.directory / "link.json"
        link.symlink_to("below/real.json")
        for name, arguments in self.writers(link).items():
            target.unlink(missing_ok=True)
            for _ in range(2):  # the link leads nowhere, then to a file
                self.succeed(*arguments)
                self.assertTrue(link.is_symlink(), name)
                self.assertIsInstance(json.loads(target.read_text()), dict, name)
        self.assertEqual([p.name for p in target.parent.iterdir()], ["real.json"])

    def test_pipes_are_written(self):
        pipe = self.directory / "pipe"
        os.mkfifo(pipe)
        for name, arguments in self.writers(pipe).items():
            arrived = []
            reader = threading.Thread(target=lambda: arrived.append(pipe.read_text()))
            reader.start()
            done = run(*arguments)
            if done.returncode:  # lets the reader go
                os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            reader.join()
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertTrue(stat.S_ISFIFO(pipe.lstat().st_mode), name)
            self.assertIsInstance(json.loads(arrived[0]), dict, name)

    def test_a_pipe_without_reader_is_an_error_after_a_while(self):
        pipe = self.directory / "pipe"
        os.mkfifo(pipe)
        self.refuse([str(pipe), "waiting", "no process reads"], *PLAN, "--json", pipe)

    def test_a_reader_that_leaves_is_an_error(self):
        """SIGPIPE would end the program without a word."""
        pipe = self.directory / "pipe"
        os.mkfifo(pipe)
        reader = threading.Thread(target=lambda: os.close(os.open(pipe, os.O_RDONLY)))
        reader.start()
        # Without annotations the plan fits into the pipe before the reader has left.
        recipe = self.write_recipe(default={"wq": "int4", "group_size": 32, "comment": "x" * 1000})
        done = run("inspect", EXAMPLE, "--recipe", recipe, "--recipe-out", pipe)
        reader.join()
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("Broken pipe", done.stderr)

    def test_devices_stay(self):
        for name, minor in (("null", 3), ("full", 7)):
            try:  # of its own: the system's are in use
                os.mknod(self.directory / name, 0o600 | stat.S_IFCHR, os.makedev(1, minor))
                os.close(os.open(self.directory / name, os.O_WRONLY))
            except PermissionError:
                self.skipTest("no right to make or use a device")
        for name, arguments in self.writers(self.directory / "null").items():
            self.succeed(*arguments)
        for name, arguments in self.writers(self.directory / "full").items():
            self.refuse(["full", "No space left"], *arguments)
        self.refuse(["null", "no regular file"], *EVAL, "--trace", self.directory / "null")
        for name in ("null", "full"):
            self.assertTrue(stat.S_ISCHR((self.directory / name).lstat().st_mode), name)

    def test_standard_output_as_a_file(self):
        out = self.directory / "out.txt"
        for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
            with out.open("w") as file:
                done = started(*EVAL, "--json", name, stdout=file, stderr=subprocess.PIPE, capture_output=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            line, figures = out.read_text().split("\n", 1)
            self.assertIn("perplexity", line)
            self.assertEqual(json.loads(figures)["windows"], 1)
        printed = self.succeed(*EVAL, "--json", "/dev/stdout", ranks=2).stdout
        self.assertEqual(json.loads(printed[printed.index("{"):])["windows"], 1)

    def test_directories_are_refused(self):
        (self.directory / "link").symlink_to(".")
        for target in (self.directory, self.directory / "link"):
            self.refuse([str(target), "Is a directory"], *EVAL, "--json", target)
            self.refuse([str(target), "Is a directory"], *EVAL, "--trace", target)

    def test_hdf5_through_links(self):
        link = self.directory / "trace.h5"
        link.symlink_to("real.h5")
        self.succeed(*EVAL, "--trace", link)
        self.assertTrue(link.is_symlink())
        with h5py.File(self.directory / "real.h5") as file:
            self.assertEqual(file["logits"].shape[0], 1)

    def test_what_is_printed_arrives_or_the_program_fails(self):
        save = self.directory / "run"
        self.succeed(*quantize_arguments(save, samples=4))
        printers = [["--help"], ["--version"], ["quantize", "--help"], EVAL, PLAN, ["doctor"], ["inspect", EXAMPLE],
                    ["inspect", save], ["inspect", EXAMPLE, "--tokens", CALIBRATION], ["inspect", CALIBRATION],
                    ["status", save], ["merge", save]]
        for arguments in printers:
            with open("/dev/full", "w", encoding="utf-8") as full:
                done = started(*arguments, threads=0, stdout=full, stderr=subprocess.PIPE, capture_output=False)
            self.assertEqual(done.returncode, 3, f"{arguments}: {done.stderr}")
            self.assertIn("standard output", done.stderr)

    def test_closed_streams_get_no_file(self):
        """The first file that is opened would get the number of the closed stream, and what is printed."""
        save = self.directory / "run"
        line = [str(part) for part in command(*quantize_arguments(save, samples=4))]
        subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *line], env=environment(), timeout=300, check=True)
        self.succeed(*quantize_arguments(self.directory / "plain", samples=4))
        self.assertEqual(results(save), results(self.directory / "plain"))


class Limits(ProgramTest):
    def limited(self, limit, soft, *arguments, hard=None):
        def lower():
            resource.setrlimit(limit, (soft, resource.getrlimit(limit)[1] if hard is None else hard))
        return started(*arguments, preexec_fn=lower)

    def test_the_size_of_a_file(self):
        done = self.limited(resource.RLIMIT_FSIZE, 20_000, *quantize_arguments(self.directory / "run"))
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("File too large", done.stderr)
        self.assertIn("ulimit -f", done.stderr)
        done = self.limited(resource.RLIMIT_FSIZE, 20_000, *EVAL, "--trace", self.directory / "trace.h5")
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("ulimit -f", done.stderr)
        self.assertEqual([p.name for p in self.directory.iterdir()], ["run"])

    def split_model(self):
        """The example with every tensor in a file of its own."""
        model = self.directory / "model"
        model.mkdir()
        (model / "config.json").write_bytes((EXAMPLE / "config.json").read_bytes())
        whole = (EXAMPLE / "model.safetensors").read_bytes()
        size = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8:8 + size])
        header.pop("__metadata__", None)
        weight_map = {}
        for number, (name, entry) in enumerate(header.items()):
            begin, end = entry["data_offsets"]
            own = json.dumps({name: {**entry, "data_offsets": [0, end - begin]}}).encode()
            weight_map[name] = f"part-{number:05}.safetensors"
            (model / weight_map[name]).write_bytes(len(own).to_bytes(8, "little") + own
                                                   + whole[8 + size + begin:8 + size + end])
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return model, len(weight_map)

    def test_open_files(self):
        model, files = self.split_model()
        arguments = ["eval", "--model", model, "--tokens", EVALUATION, "--max-windows", 1]
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if hard != resource.RLIM_INFINITY and hard < files + 100:
            self.skipTest("the hard limit is too low here")
        done = self.limited(resource.RLIMIT_NOFILE, 50, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        done = self.limited(resource.RLIMIT_NOFILE, 50, *arguments, hard=50)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("Too many open files", done.stderr)
        self.assertIn("ulimit -n", done.stderr)


class Filters(ProgramTest):
    def test_a_filter_that_the_library_lacks_is_named(self):
        for number, name in ((32015, "zstd"), (32001, "blosc"), (40000, "unknown")):
            tokens = self.directory / "tokens.h5"
            with h5py.File(tokens, "w") as file:
                creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                creation.set_chunk((4, 64))
                creation.set_filter(number, h5py.h5z.FLAG_OPTIONAL, ())
                space = h5py.h5s.create_simple((4, 64))
                dataset = h5py.h5d.create(file.id, b"tokens", h5py.h5t.NATIVE_INT32, space, creation)
                dataset.write_direct_chunk((0, 0), np.ones((4, 64), np.int32).tobytes(), 0)
            for arguments in (["eval", "--model", EXAMPLE, "--tokens", tokens], ["inspect", tokens],
                              quantize_arguments(self.directory / "run", calibration=tokens, samples=0, length=0)):
                done = run(*arguments)
                self.assertEqual(done.returncode, 3, done.stderr)
                for word in (str(tokens), str(number), name, "HDF5_PLUGIN_PATH"):
                    self.assertIn(word, done.stderr)


if __name__ == "__main__":
    unittest.main()
