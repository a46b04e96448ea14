#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["numpy", "h5py", "tokenizers", "sentencepiece", "pyarrow", "datasets", "jinja2"]
# ///
"""Turn text into a token file for calibration or evaluation.

    python3 tools/prepare_calibration.py --tokenizer CHECKPOINT_DIR --text FILE... --out tokens.safetensors
    python3 tools/prepare_calibration.py --tokenizer CHECKPOINT_DIR --text data.jsonl --field text --out tokens.h5
    python3 tools/prepare_calibration.py --tokenizer tokenizer.json --dataset wikitext2 --out tokens.h5
    python3 tools/prepare_calibration.py --tokenizer CHECKPOINT_DIR --dataset DIR --out tokens.safetensors
    python3 tools/prepare_calibration.py --tokenizer CHECKPOINT_DIR --chat --dataset DIR --out tokens.safetensors

The text is cut into windows that do not overlap; where the tokenizer puts a token before a text (BOS), as most models
were trained, each window begins with it. With --chat, rows of messages go through the checkpoint's chat template, and a
window holds whole chats, the last one cut: it begins as the template begins a chat. --nsamples windows, chosen at random
with --seed, are written as `tokens` int32 [nsamples, seqlen]: as a tensor of a safetensors file where --out ends in
.safetensors, otherwise as a dataset of an HDF5 file.

Exit codes: 0 written; 2 bad command line or missing Python package; 3 bad or too little input data.
"""

import argparse
import json
import os
import pathlib
import shlex
import sys
import tempfile
import typing

from calibration import BAD_DATA, BAD_USE, Failure
from calibration.chat import FIELDS, load_template, render_rows
from calibration.texts import (HUB_DATASETS, chat_readers, read_chats, read_dataset, read_directory, read_texts,
                               text_readers)

# Documents of c4 are read until this many times the wanted tokens are there, so that the windows are a choice.
C4_POOL = 4


def needed_packages(arguments, tokenizer):
    """What this command line needs beside the standard library."""
    packages = ["numpy", "sentencepiece" if tokenizer.suffix == ".model" else "tokenizers"]
    if not is_safetensors(arguments.out):
        packages.append("h5py")
    if arguments.dataset in HUB_DATASETS:
        packages.append("datasets")
    elif arguments.dataset and any(pathlib.Path(arguments.dataset).rglob("*.parquet")):
        packages.append("pyarrow")
    if arguments.chat:
        packages.append("jinja2")
    return packages


def require_packages(packages):
    """One command installs all that are missing in an environment of their own, and goes on."""
    missing = []
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            missing.append(package)
    if missing:
        root = pathlib.Path(__file__).resolve().parents[1]
        is_source = (root / "CMakeLists.txt").is_file() and os.access(root, os.W_OK)
        there = shlex.quote(os.path.relpath(root / "build" / "calibration" if is_source else "calibration-packages"))
        raise Failure(BAD_USE, f"Python packages are missing: {', '.join(missing)}; run: python3 -m venv {there} && "
                               f"{there}/bin/pip install {' '.join(packages)} && "
                               f"{there}/bin/python {' '.join(map(shlex.quote, sys.argv))}")


# ---------------------------------------------------------------- tokenizer

def find_tokenizer(path):
    """The tokenizer file behind --tokenizer: a file, or a directory that holds tokenizer.json or tokenizer.model."""
    path = pathlib.Path(path)
    if path.is_dir():
        for name in ("tokenizer.json", "tokenizer.model"):
            if (path / name).is_file():
                return path / name
        raise Failure(BAD_DATA, f"{path}: directory holds neither tokenizer.json nor tokenizer.model; "
                                "copy one of them from the original checkpoint")
    if not path.is_file():
        raise Failure(BAD_DATA, f"{path}: no such file or directory; --tokenizer takes a checkpoint directory, "
                                "a tokenizer.json or a SentencePiece *.model")
    return path


def configured_bos(path):
    """add_bos_token of tokenizer_config.json beside the tokenizer; None where it says nothing."""
    try:
        return json.loads((path.parent / "tokenizer_config.json").read_text(encoding="utf-8")).get("add_bos_token")
    except (OSError, ValueError, AttributeError):
        return None


class Tokenizer(typing.NamedTuple):
    encode: typing.Callable    # text -> list of token ids, without special tokens that the text does not hold
    size: int                  # of the vocabulary
    before: list               # ids put before a text
    has: typing.Callable = None  # text -> whether it is a token; tokenizer.json alone tells


def load_tokenizer(path):
    """The Tokenizer in a file."""
    try:
        if path.suffix == ".model":
            import sentencepiece
            processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
            has_bos = configured_bos(path) and processor.bos_id() >= 0
            return Tokenizer(processor.encode, processor.vocab_size(), [processor.bos_id()] if has_bos else [])
        import tokenizers
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        marked = tokenizer.encode("a")
        before = marked.ids[:marked.special_tokens_mask.index(0)] if 0 in marked.special_tokens_mask else []
        if configured_bos(path) is False:
            before = []
        return Tokenizer(lambda text: tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.get_vocab_size(),
                         before, lambda text: tokenizer.token_to_id(text) is not None)
    except Failure:
        raise
    except Exception as error:  # the tokenizer packages raise plain Exception and RuntimeError
        raise Failure(BAD_DATA, f"{path}: not a readable tokenizer ({error}); "
                                "expected tokenizer.json of Hugging Face or a SentencePiece *.model") from None


def tokenize(documents, encode, enough):
    """All token ids of the documents, one after the other, stopping once there are `enough` (None: take all)."""
    ids = []
    for document in documents:
        ids += encode(document)
        if enough is not None and len(ids) >= enough:
            break
    return ids


# ---------------------------------------------------------------- windows and file

def enough_windows(available, nsamples, seqlen, count, what):
    """No window is an error, fewer than asked for a warning."""
    if available == 0:
        raise Failure(BAD_DATA, f"{what} {count} tokens, less than one window of {seqlen}; "
                                "give more text or a smaller --seqlen")
    if available < nsamples:
        print(f"warning: {what} {count} tokens, enough for {available} windows of {seqlen}, "
              f"not for {nsamples}; writing {available}", file=sys.stderr)


def choose_windows(ids, nsamples, seqlen, seed, before=()):
    """int32 [at most nsamples, seqlen]: windows without overlap, at a random offset, in random order; each begins with
    the ids `before`."""
    import numpy
    whole, seqlen = seqlen, seqlen - len(before)
    if seqlen < 1:
        raise Failure(BAD_USE, f"--seqlen {whole} has no room beside what each window begins with")
    available = len(ids) // seqlen
    enough_windows(available, nsamples, seqlen, len(ids), "the text has")
    generator = numpy.random.default_rng(seed)
    offset = int(generator.integers(0, len(ids) - available * seqlen + 1))
    chosen = generator.permutation(available)[:nsamples]
    windows = numpy.asarray(ids[offset:offset + available * seqlen], dtype=numpy.int32).reshape(available, seqlen)
    begin = numpy.tile(numpy.asarray(before, dtype=numpy.int32), (len(chosen), 1))
    return numpy.concatenate([begin, windows[chosen]], axis=1)


def fill_windows(chats, seqlen):
    """(int32 [windows, seqlen], tokens): each window begins with the beginning of a chat and is filled with the next
    ones; what is left of the last one is not used."""
    import numpy
    windows, window, tokens = [], [], 0
    for ids in chats:
        tokens += len(ids)
        window += ids[:seqlen - len(window)]
        if len(window) == seqlen:
            windows.append(numpy.asarray(window, dtype=numpy.int32))
            window = []
    return numpy.asarray(windows, dtype=numpy.int32).reshape(len(windows), seqlen), tokens


def is_safetensors(path):
    return str(path).endswith(".safetensors")


def write_safetensors(path, tokens, attributes):
    """A file with one tensor, as safetensors lays it out; attributes become texts of its metadata."""
    tensor = {"dtype": "I32", "shape": list(tokens.shape), "data_offsets": [0, tokens.nbytes]}
    header = json.dumps({"__metadata__": {name: str(value) for name, value in attributes.items()}, "tokens": tensor})
    header += " " * (-len(header) % 8)  # the data are aligned
    pathlib.Path(path).write_bytes(len(header).to_bytes(8, "little") + header.encode() + tokens.astype("<i4").tobytes())


def write_hdf5(path, tokens, attributes):
    import h5py
    import numpy
    with h5py.File(path, "w") as file:
        file.create_dataset("tokens", data=tokens)
        for name, value in attributes.items():
            file.attrs[name] = numpy.bytes_(value.encode()) if isinstance(value, str) else value


def write(path, tokens, attributes):
    """Write the file beside its place and rename it, so that a file of that name is always whole."""
    write_content = write_safetensors if is_safetensors(path) else write_hdf5
    path = pathlib.Path(os.path.realpath(path))  # a link stays, the file that it names is replaced
    if path.exists() and not path.is_file():
        raise Failure(BAD_DATA, f"{path}: it is no regular file; name a file")
    try:
        handle, temporary = tempfile.mkstemp(prefix=path.name + ".", suffix=".partial", dir=path.parent)
        os.close(handle)
        try:
            write_content(temporary, tokens, attributes)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise Failure(BAD_DATA, f"{path}: cannot be written: {error.strerror or error}; "
                                "check that the directory exists and has space") from None


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     epilog="Exit codes: 0 written; 2 bad command line or missing package; 3 bad data.")
    parser.add_argument("--tokenizer", required=True, metavar="PATH",
                        help="checkpoint directory, tokenizer.json or SentencePiece *.model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", nargs="+", metavar="FILE", help="UTF-8 text files, used in this order")
    parser.add_argument("--field", metavar="NAME", help="the files of --text are JSON or JSON lines: take this field; "
                        "with --dataset DIR the field or column with the text (default text); with --chat the one with "
                        f"the messages (default {' or '.join(FIELDS)})")
    parser.add_argument("--chat", action="store_true", help="records are chats, lists of messages of role and content (or "
                        "from and value): they go through the checkpoint's chat template")
    source.add_argument("--dataset", metavar="NAME|DIR", help="training text of wikitext2 or c4, or all text, JSON and "
                        "parquet files below a directory")
    parser.add_argument("--bos", choices=("auto", "never"), default="auto", help="begin each window with the token that "
                        "the tokenizer puts before a text (default auto: where it does)")
    parser.add_argument("--nsamples", type=positive, default=128, help="windows to write (default 128)")
    parser.add_argument("--seqlen", type=positive, default=2048, help="tokens in a window (default 2048)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of windows (default 0)")
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write: *.safetensors, or HDF5")
    arguments = parser.parse_args()
    if arguments.seed < 0:
        parser.error("argument --seed: must be 0 or more")
    if arguments.dataset and arguments.dataset not in HUB_DATASETS and not pathlib.Path(arguments.dataset).is_dir():
        parser.error(f"argument --dataset: '{arguments.dataset}' is neither {' nor '.join(HUB_DATASETS)} nor a directory")
    if arguments.field and arguments.dataset in HUB_DATASETS:
        parser.error("argument --field: only with --text or --dataset DIR")
    if arguments.chat and arguments.dataset in HUB_DATASETS:
        parser.error("argument --chat: only with --text or --dataset DIR")
    if arguments.chat and arguments.bos == "never":
        parser.error("argument --bos: with --chat the chat template decides")
    return arguments


def name_source(arguments):
    """What the file says that its tokens come from."""
    if arguments.text:
        return ", ".join(pathlib.Path(file).name for file in arguments.text)
    return arguments.dataset if arguments.dataset in HUB_DATASETS else pathlib.Path(arguments.dataset).resolve().name


def text_tokens(arguments, tokenizer):
    """(windows int32 [n, seqlen], tokens that there were, what a window begins with) of texts."""
    before, enough = [] if arguments.bos == "never" else tokenizer.before, None
    if arguments.text:
        documents = read_texts(arguments.text, arguments.field)
    elif arguments.dataset not in HUB_DATASETS:
        documents = read_directory(arguments.dataset, text_readers(arguments.field or "text"))
    else:
        documents, enough = read_dataset(arguments.dataset), C4_POOL * arguments.nsamples * arguments.seqlen
    ids = tokenize(documents, tokenizer.encode, enough)
    windows = choose_windows(ids, arguments.nsamples, arguments.seqlen, arguments.seed, before)
    return windows, len(ids), str(before) if before else ""


def chat_tokens(arguments, tokenizer, path):
    """The same of chats, and the file of the template."""
    import numpy
    render, template = load_template(path, tokenizer.has)
    if arguments.text:
        rows = read_chats(arguments.text, arguments.field)
    else:
        rows = read_directory(arguments.dataset, chat_readers(arguments.field))
    windows, count = fill_windows(map(tokenizer.encode, render_rows(rows, render)), arguments.seqlen)
    enough_windows(len(windows), arguments.nsamples, arguments.seqlen, count, "the chats have")
    chosen = numpy.random.default_rng(arguments.seed).permutation(len(windows))[:arguments.nsamples]
    return windows[chosen], count, f"a chat as {template} of {path.parent} writes it", template


def run(arguments):
    path = find_tokenizer(arguments.tokenizer)
    require_packages(needed_packages(arguments, path))
    tokenizer, source = load_tokenizer(path), name_source(arguments)
    said = {"tokenizer": path.name, "source": source, "seed": arguments.seed, "vocab_size": tokenizer.size}
    if arguments.chat:
        tokens, count, begin, said["chat_template"] = chat_tokens(arguments, tokenizer, path)
    else:
        tokens, count, begin = text_tokens(arguments, tokenizer)
    write(arguments.out, tokens, said)
    print(f"{arguments.out}: tokens int32 {list(tokens.shape)} of {count} tokens from {source}, "
          f"vocabulary {tokenizer.size}" + (f", each window begins with {begin}" if begin else ""))


def main():
    try:
        run(parse_arguments())
    except Failure as failure:
        print(f"prepare_calibration: {failure}", file=sys.stderr)
        return failure.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
