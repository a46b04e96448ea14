"""Every command line, recipe and Python snippet of the documents is run on the example, as far as it can be.

A block that is indented, or fenced as sh or without a language and with a line that begins with `$ `, holds command lines.
They are run in order, a directory for each document, where the names that the documents use (DIR, TOKENS.h5, olmoe, ...)
are small files. What cannot be run here is named in CANNOT with the reason. Whatever is in neither way understood fails.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np

from program import CALIBRATION, EXAMPLE, PROGRAM, RECIPE, SOURCE, environment, run
from matrix_file import dequantize

DOCUMENTS = [SOURCE / "README.md", *sorted((SOURCE / "docs").glob("*.md")), SOURCE / "slurm" / "README.md"]
# Command lines that are not run, by how they begin, and why. Their options are looked up where the script is ours.
CANNOT = {
    "tools/quickstart.sh": "it builds what is tested here",
    "tools/test.sh": "it runs this test",
    "tools/make_example.py": "it needs torch and 15 minutes",
    "tools/measure_fidelity.py": "it takes many minutes",
    "tools/bench_peers.py": "it needs the libraries that it compares; e2e.bench_peers runs it without",
    "build/release/tests/": "e2e.benches runs it, in tiny shapes",
    "mpirun -n 2 build/release/tests/": "e2e.benches runs it, in tiny shapes",
    "cmake ": "it makes what is tested here; e2e.install installs it",
    "cpack ": "e2e.package runs it",
    "T=$(python3 -c 'import torch": "it needs the wheel of torch",
    "sudo apt-get install ./": "it needs root",
    "docker build ": "it needs docker; e2e.package reads the text",
    "apptainer build ": "it needs apptainer; e2e.package reads the text",
    "hf download ": "it needs the network",
    "vllm serve ": "it needs vLLM and a GPU",
}
# What starts ranks elsewhere is replaced by what starts them here, sizes and paths by those of the example.
REPLACED = [(r"^docker run .*? aq-dist (?=mpirun )", ""), (r"apptainer exec aq-dist\.sif (?=aq-dist )", ""),
            (r"/usr/share/aq-dist(?=[ /])", "."),
            (r"^(\S*prepare_calibration\.py .*)--nsamples \d+ --seqlen \d+", r"\1--nsamples 4 --seqlen 32")]
NO_TOKENIZERS = [name for name in ("tokenizers", "jinja2") if importlib.util.find_spec(name) is None]
COMMANDS = re.findall(r"^  ([a-z]+) ", run("--help", threads=0).stdout.split("Subcommands:")[1], re.MULTILINE)

MPIRUN = """#!/bin/bash
if [ "$1" = -n ]; then shift 2; set -- -n 2 "$@"; fi
exec {mpirun} "$@"
"""
# As Slurm starts a script, on one node: what it says goes to stderr, the job's number to stdout.
SBATCH = """#!/bin/bash
array=
while [[ $1 == --* ]]; do
    if [[ $1 == --array=* ]]; then array=${1#*=}; fi
    shift
done
export SLURM_JOB_ID=1 SLURM_SUBMIT_DIR=$PWD SLURM_JOB_NODELIST=localhost AQ_GUARD_SECONDS=1
for task in $([[ -z $array ]] || seq "${array%-*}" "${array#*-}"); do
    SLURM_ARRAY_JOB_ID=1 SLURM_ARRAY_TASK_ID=$task bash "$@" >&2 || exit
done
if [[ -z $array ]]; then bash "$@" >&2 || exit; fi
echo 1
"""
TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}"


class Block:
    """Lines of a document that are no prose. kind: json, python, sh, console, text."""

    def __init__(self, kind, line, lines):
        self.kind, self.line, self.lines = kind, line, lines

    def text(self):
        return "\n".join(self.lines) + "\n"

    def commands(self):
        """(number of its line, command), without comments, with continued lines as one."""
        found, begun = [], None
        for number, line in enumerate(self.lines, start=self.line):
            if self.kind == "console":
                if not line.startswith("$ "):
                    continue
                line = line[2:]
            line = re.sub(r"\s+# .*$", "", line).strip()
            if begun:
                number, line = begun[0], f"{begun[1]} {line}"
            begun = (number, line[:-1].strip()) if line.endswith("\\") else None
            if line and not begun:
                found.append((number, line))
        return found


def read_blocks(document):
    """The blocks of a document, in order; and its prose."""
    blocks, prose, fence = [], [], None
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("```"):
            if fence is None:
                fence = Block(line[3:].strip(), number + 1, [])
            else:
                if not fence.kind:
                    fence.kind = "console" if any(text.startswith("$ ") for text in fence.lines) else "text"
                blocks.append(fence)
                fence = None
        elif fence is not None:
            fence.lines.append(line)
        elif line.startswith("    "):
            if not blocks or blocks[-1].kind != "sh" or blocks[-1].line + len(blocks[-1].lines) != number:
                blocks.append(Block("sh", number, []))
            blocks[-1].lines.append(line[4:])
        else:
            prose.append(line)
    return blocks, "\n".join(prose)


def reason_not_to_run(command):
    reason = next((reason for begin, reason in CANNOT.items() if (command + " ").startswith(begin)), "")
    if "prepare_calibration.py" in command and NO_TOKENIZERS:
        reason = f"Python packages are missing: {', '.join(NO_TOKENIZERS)}"
    return reason


def options(text):
    return re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)


class Documents(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory(prefix="aq-dist-docs-")
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = Path(scratch.name)
        cls.tokens = cls.folder / "tokens.h5"
        with h5py.File(CALIBRATION) as source, h5py.File(cls.tokens, "w") as file:
            file["tokens"] = source["tokens"][:4, :32]
        cls.finished = cls.folder / "finished"
        done = run("quantize", "--model", EXAMPLE, "--config", RECIPE, "--calib", cls.tokens, "--save", cls.finished)
        assert done.returncode == 0, done.stderr
        cls.bin = cls.folder / "bin"
        cls.bin.mkdir()
        for name, text in (("mpirun", MPIRUN.replace("{mpirun}", shutil.which("mpirun"))), ("sbatch", SBATCH),
                           ("python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')):
            (cls.bin / name).write_text(text)
            (cls.bin / name).chmod(0o755)
        (cls.bin / "aq-dist").symlink_to(Path(PROGRAM).resolve())
        cls.environment = environment({
            "PATH": f"{cls.bin}:{os.environ['PATH']}", "AQ_DIST": "aq-dist", "OMPI_MCA_rmaps_base_oversubscribe": "1",
            "OMPI_MCA_hwloc_base_binding_policy": "none", "OMPI_MCA_mpi_yield_when_idle": "1", "OMP_WAIT_POLICY": "passive"})
        cls.help = {name: run(name, "--help", threads=0).stdout for name in COMMANDS}

    def place(self, name):
        """A directory in which the names of the documents are what the example has."""
        place = self.folder / name
        place.mkdir()
        for path in ("configs", "docs", "examples", "slurm", "tests", "tools"):
            (place / path).symlink_to(SOURCE / path)
        for path, target in {"DIR": EXAMPLE, "RECIPE": RECIPE, "build/release/bin/aq-dist": Path(PROGRAM).resolve(),
                             "MODEL": EXAMPLE, "CALIB": self.tokens}.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).symlink_to(target)
        for path in ("TOKENS.h5", "calib.safetensors", "eval.safetensors"):  # the content decides, not the name
            shutil.copy(self.tokens, place / path)
        for path in ("corpus.txt", "held-out.txt"):
            (place / path).write_text("The mero sees a lamp near Bado; 12+5=17.\n" * 100)
        shutil.copytree(EXAMPLE, place / "olmoe")
        (place / "olmoe" / "chat_template.jinja").write_text(TEMPLATE)
        (place / "ultrachat").mkdir()
        (place / "ultrachat" / "train_sft.jsonl").write_text(
            (json.dumps({"messages": [{"role": "user", "content": "12+5?"}, {"role": "assistant", "content": "17"}]}) + "\n") * 60)
        return place

    def run_line(self, command, place):
        for path in ("RUN", "build/quickstart/run"):  # one that the document takes as finished
            is_read = re.search(rf"(?<!--save )(?<!\S){re.escape(path)}(?!\S)", command)
            if is_read and not (place / path).exists():
                shutil.copytree(self.finished, place / path)
        for pattern, text in REPLACED:
            command = re.sub(pattern, text, command)
        return subprocess.run(["bash", "-c", command], cwd=place, env=self.environment, capture_output=True, text=True,
                              timeout=300, check=False)

    def check_document(self, document):
        place = self.place(f"{document.parent.name}-{document.name}")
        for block in read_blocks(document)[0]:
            if block.kind == "json" and "cores" in block.text():  # the machine of the lines behind it
                (place / "node.json").write_text(block.text())
            for number, command in block.commands() if block.kind in ("sh", "console") else []:
                with self.subTest(line=f"{document.name}:{number}: {command}"):
                    self.check_line(block, command, place)

    def check_line(self, block, command, place):
        if reason_not_to_run(command):
            self.check_options(command)
            return
        done = self.run_line(command, place)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        if block.kind == "console":
            shown = block.text().split(command + "\n")[1].split("\n$ ")[0].splitlines()
            for line in shown:
                self.assertIn(line, [*done.stdout.splitlines(), "  ..."])

    def check_options(self, command):
        """What is not run still names files that there are, and options of our scripts."""
        for path in re.findall(r"(?<!\S)tools/\S+", command):
            self.assertTrue((SOURCE / path).is_file(), path)
        script = SOURCE / command.split()[0]
        if script.suffix == ".py":
            self.assertTrue(os.access(script, os.X_OK), f"{script} is to be run")
            known = set(re.findall(r'"(--[a-z-]+)"', script.read_text(encoding="utf-8")))
            self.assertFalse(set(options(command)) - known)

    def test_json(self):
        """A recipe is understood, a machine is planned for, a description fits the model that it is of."""
        place = self.place("json")
        renamed = Path("tests/golden/models/renamed")
        for document in DOCUMENTS:
            for block in read_blocks(document)[0]:
                if block.kind != "json":
                    continue
                with self.subTest(block=f"{document.name}:{block.line}"):
                    is_whole = block.lines[0].startswith("{")
                    value = json.loads(block.text() if is_whole else '{"default": {"wq": "int4"}, ' + block.text() + "}")
                    arguments = "inspect DIR --recipe block.json"
                    if "cores" in value:
                        arguments = f"plan --model DIR --config RECIPE --calib CALIB --machine block.json --ranks {value['cores']}"
                    elif "tensors" in value:  # some of its keys
                        whole = json.loads((SOURCE / renamed / "architecture.json").read_text())
                        value = {key: {**whole.get(key, {}), **part} if isinstance(part, dict) else part
                                 for key, part in {**whole, **value}.items()}
                        arguments = f"inspect {renamed} --architecture block.json --assume-unused n_expert"
                    (place / "block.json").write_text(json.dumps(value))
                    done = self.run_line(f"aq-dist {arguments}", place)
                    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_python(self):
        """The reader of model.h5 gives what the tests' own reader gives."""
        place = self.place("python")
        shutil.copytree(self.finished, place / "RUN")
        snippets = [block for document in DOCUMENTS for block in read_blocks(document)[0] if block.kind == "python"]
        self.assertTrue(snippets)
        for block in snippets:
            done = subprocess.run([sys.executable, "-c", block.text() + "np.save('weight.npy', weight), print(group.name)"],
                                  cwd=place, capture_output=True, text=True, check=False, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)
            with h5py.File(self.finished / "model.h5") as file:
                np.testing.assert_array_equal(np.load(place / "weight.npy"), dequantize(file[done.stdout.strip()]))

    def test_blocks_are_understood(self):
        """Each block is of a known kind; each reason not to run a line is that of some line."""
        used = set()
        for document in DOCUMENTS:
            for block in read_blocks(document)[0]:
                self.assertIn(block.kind, ("json", "python", "sh", "console", "text"), f"{document.name}:{block.line}")
                if block.kind == "text":
                    for line in block.lines:
                        self.assertNotRegex(line, r"^(aq-dist|mpirun|sbatch|tools/\S+\.(py|sh)|python3) ",
                                            f"{document.name}:{block.line}: a command line in a block of output")
                elif block.kind in ("sh", "console"):
                    used |= {begin for _, command in block.commands() for begin in CANNOT if (command + " ").startswith(begin)}
        self.assertEqual(used, set(CANNOT))

    def test_options_in_the_text(self):
        """`COMMAND ... --option` in prose names options that the command has."""
        checked = 0
        for document in DOCUMENTS:
            for span in re.findall(r"`([^`]+)`", read_blocks(document)[1]):
                words = re.match(r"(?:aq-dist )?([a-z]+)\b(.*)", " ".join(span.split()))
                if words is None or words[1] not in self.help:
                    continue
                for option in options(words[2]):
                    checked += 1
                    self.assertIn(option, options(self.help[words[1]]), f"{document.name}: `{span}`")
        self.assertGreater(checked, 10)

    def test_links(self):
        """Links within the tree lead to files and headings."""
        for document in DOCUMENTS:
            for target in re.findall(r"\]\(([^)\s]+)\)", read_blocks(document)[1]):
                if re.match(r"[a-z]+:", target):
                    continue
                path, _, anchor = target.partition("#")
                file = (document.parent / path).resolve() if path else document
                self.assertTrue(file.exists(), f"{document.name}: {target}")
                if anchor:
                    heads = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                    slugs = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
                    self.assertIn(anchor, slugs, f"{document.name}: {target}")


def add_test(document):
    name = re.sub(r"\W", "_", str(document.relative_to(SOURCE).with_suffix("")).lower())
    setattr(Documents, f"test_lines_of_{name}", lambda self: self.check_document(document))


for path in DOCUMENTS:
    add_test(path)

if __name__ == "__main__":
    unittest.main()
