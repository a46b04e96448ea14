#!/usr/bin/env python3
"""Virtual environments of the libraries that aq-dist is compared with, one each: they want other releases of transformers.

    tools/peer_environments.py gptqmodel|llmcompressor

Prints the environment's Python. What is not there yet is installed from PyPI under build/, in the newest releases;
remove the directory to have newer ones. AQ_PEERS_VENV (gptqmodel, with all that reads exports) and
AQ_LLMCOMPRESSOR_VENV name environments to use as they are."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Variable, directory, packages, and those that may fail to install: they compile extensions where there is no wheel.
# torch of PyPI needs the libraries of CUDA to be imported, though nothing here runs on a GPU.
ENVIRONMENTS = {
    "gptqmodel": ("AQ_PEERS_VENV", "build/peers",
                  "torch transformers compressed-tensors safetensors numpy h5py pyarrow", "gptqmodel optimum"),
    "llmcompressor": ("AQ_LLMCOMPRESSOR_VENV", "build/peers-llmcompressor", "llmcompressor numpy h5py", ""),
}


def install(directory, packages, optional):
    print(f"Installing into {directory}: {packages} {optional}", file=sys.stderr, flush=True)
    subprocess.run(["python3", "-m", "venv", directory], check=True)
    pip = [directory / "bin" / "pip", "install", "--quiet"]
    subprocess.run([*pip, "--upgrade", "pip", "setuptools", "wheel"], check=True, stdout=sys.stderr)
    subprocess.run([*pip, *packages.split()], check=True, stdout=sys.stderr)
    if optional and subprocess.run([*pip, *optional.split(), "--no-build-isolation"], check=False, stdout=sys.stderr).returncode:
        print(f"could not be installed: {optional}", file=sys.stderr)
    (directory / ".complete").touch()


def python_of(library):
    """The Python that has the library; installs it where need be."""
    variable, directory, packages, optional = ENVIRONMENTS[library]
    given = os.environ.get(variable)
    directory = Path(given).absolute() if given else ROOT / directory
    if not given and not (directory / ".complete").is_file():
        install(directory, packages, optional)
    python = directory / "bin" / "python"
    if not python.is_file():
        sys.exit(f"{directory} is no virtual environment" + (f"; {variable} names it" if given else ""))
    return python


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=ENVIRONMENTS)
    print(python_of(parser.parse_args().library))


if __name__ == "__main__":
    main()
