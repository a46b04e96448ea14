#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["numpy", "h5py", "tokenizers", "sentencepiece", "pyarrow", "datasets"]
# ///
"""Turn text into a token file for calibration or evaluation.

    python3 tools/prepare_calibration.py --tokenizer CHECKPOINT_DIR --text FILE... --out tokens.safetensors
    python3 tools/prepare_calibration.py --tokenizer CHECKPOINT_DIR --text data.jsonl --field text --out tokens.h5
    python3 tools/prepare_calibration.py --tokenizer tokenizer.json --dataset wikitext2 --out tokens.h5
    python3 tools/prepare_calibration.py --tokenizer CHECKPOINT_DIR --dataset DIR --out tokens.safetensors

The text is cut into windows that do not overlap; where the tokenizer puts a token before a text (BOS), as most models
were trained, each window begins with it. --nsamples of them, chosen at random with --seed, are written as `tokens` int32 [nsamples, seqlen]: as a tensor of a safetensors file
where --out ends in .safetensors, otherwise as a dataset of an HDF5 file.

Exit codes: 0 written; 2 bad command line or missing Python package; 3 bad or too little input data.
"""

import argparse
import json
import os
import pathlib
import shlex
import sys
import tempfile

BAD_USE, BAD_DATA = 2, 3
HUB_DATASETS = ("wikitext2", "c4")
# Documents of c4 are read until this many times the wanted tokens are there, so that the windows are a choice.
C4_POOL = 4


class Failure(Exception):
    """Ends the program with a message and an exit code."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def needed_packages(arguments, tokenizer):
    """What this command line needs beside the standard library."""
    packages = ["numpy", "sentencepiece" if tokenizer.suffix == ".model" else "tokenizers"]
    if not is_safetensors(arguments.out):
        packages.append("h5py")
    if arguments.dataset in HUB_DATASETS:
        packages.append("datasets")
    elif arguments.dataset and any(pathlib.Path(arguments.dataset).rglob("*.parquet")):
        packages.append("pyarrow")
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
        there = shlex.quote(os.path.relpath(root / "build" / "calibration"))
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


def load_tokenizer(path):
    """(encode: text -> list of token ids without special tokens, vocabulary size, ids put before a text)."""
    try:
        if path.suffix == ".model":
            import sentencepiece
            processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
            has_bos = configured_bos(path) and processor.bos_id() >= 0
            return processor.encode, processor.vocab_size(), [processor.bos_id()] if has_bos else []
        import tokenizers
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        marked = tokenizer.encode("a")
        before = marked.ids[:marked.special_tokens_mask.index(0)] if 0 in marked.special_tokens_mask else []
        if configured_bos(path) is False:
            before = []
        return lambda text: tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.get_vocab_size(), before
    except Failure:
        raise
    except Exception as error:  # the tokenizer packages raise plain Exception and RuntimeError
        raise Failure(BAD_DATA, f"{path}: not a readable tokenizer ({error}); "
                                "expected tokenizer.json of Hugging Face or a SentencePiece *.model") from None


# ---------------------------------------------------------------- text

def load_json(text):
    """The JSON value that the text is, or None."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def parse_json(text):
    """A text that is a JSON object or list, or has one on every line, as a value or a list of them; else None."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    value = load_json(text)
    if value is not None:
        return value
    values = [load_json(line) for line in text.split("\n") if line.strip()]
    return None if None in values else values


def string_fields(records):
    """Names of the fields that hold text in the first record."""
    first = records[0] if isinstance(records, list) and records else records
    return [name for name, value in first.items() if isinstance(value, str)] if isinstance(first, dict) else []


def refuse_json(file, text):
    """JSON taken for text would calibrate on braces and field names."""
    records = parse_json(text)
    if records is None:
        named = pathlib.Path(file).suffix.lower() in (".json", ".jsonl", ".ndjson")
        if not named and not isinstance(load_json(text.lstrip().split("\n", 1)[0]), dict):
            return
        raise Failure(BAD_DATA, f"{file}: it is JSON by its name or first line, but cannot be read as such to its end; "
                                "mend it, or, if it is plain text, rename it")
    fields = string_fields(records)
    raise Failure(BAD_DATA, f"{file}: it is JSON, not text; name the field that holds the text with --field"
                            + (f" (fields with text: {', '.join(fields)})" if fields else ""))


def field_texts(file, text, field):
    """Yields `field` of every record of a JSON list, of lines of JSON, or of one object."""
    records = parse_json(text)
    if records is None:
        raise Failure(BAD_DATA, f"{file}: neither JSON nor one JSON object a line, but --field is given")
    for number, record in enumerate(records if isinstance(records, list) else [records], start=1):
        if not isinstance(record, dict) or not isinstance(record.get(field), str):
            fields = string_fields(record)
            raise Failure(BAD_DATA, f"{file}: record {number} has no text in a field '{field}'"
                                    + (f"; fields with text: {', '.join(fields)}" if fields else ""))
        try:
            record[field].encode()
        except UnicodeEncodeError as error:
            raise Failure(BAD_DATA, f"{file}: record {number}, field '{field}': half a surrogate pair at character "
                                    f"{error.start} is no Unicode text") from None
        yield record[field]


def read_texts(files, field):
    """Yields the content of each UTF-8 file or, with `field`, that field of each of its JSON records."""
    for file in files:
        try:
            text = pathlib.Path(file).read_bytes().decode("utf-8-sig" if field else "utf-8")
        except OSError as error:
            raise Failure(BAD_DATA, f"{file}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise Failure(BAD_DATA, f"{file}: not UTF-8 at byte {error.start}; "
                                    f"convert it with: iconv -f LATIN1 -t UTF-8 {file}") from None
        if field:
            yield from field_texts(file, text, field)
        else:
            refuse_json(file, text.removeprefix("\ufeff"))
            yield text


def read_directory(directory, field):
    """Yields the documents of all text, JSON and parquet files below, by name; says what was left."""
    files = sorted(path for path in pathlib.Path(directory).rglob("*") if path.is_file())
    left, empty = [], 0
    for file in files:
        kind = file.suffix.lower()
        if kind in (".txt", ".md"):
            documents = read_texts([file], None)
        elif kind in (".json", ".jsonl", ".ndjson"):
            documents = read_texts([file], field)
        elif kind == ".parquet":
            documents = read_parquet(file, field)
        else:
            left.append(file)
            continue
        for document in documents:
            empty += not document.strip()
            if document.strip():
                yield document
    if len(left) == len(files):
        raise Failure(BAD_DATA, f"{directory}: it holds no *.txt, *.md, *.json, *.jsonl, *.ndjson or *.parquet")
    if left or empty:
        names = ", ".join(file.name for file in left[:3]) + (", ..." if len(left) > 3 else "")
        print(f"note: {directory}: {empty} empty documents and {len(left)} files of other kinds were left out"
              + (f" ({names})" if left else ""), file=sys.stderr)


def read_parquet(file, field):
    """Yields a column of text, a batch of rows in memory."""
    from pyarrow import ArrowException, parquet
    try:
        table = parquet.ParquetFile(file)
        if field not in table.schema_arrow.names:
            raise Failure(BAD_DATA, f"{file}: it has no column '{field}', but {', '.join(table.schema_arrow.names)}; "
                                    "name the one that holds the text with --field")
        for batch in table.iter_batches(columns=[field]):
            for text in batch.column(0).to_pylist():
                if not isinstance(text, str):
                    raise Failure(BAD_DATA, f"{file}: column '{field}' holds something else than text")
                yield text
    except (ArrowException, OSError) as error:
        raise Failure(BAD_DATA, f"{file}: not a readable parquet file ({error})") from None


def read_dataset(name):
    """Yields documents of a public dataset, downloaded by Hugging Face `datasets`."""
    import datasets
    try:
        if name == "wikitext2":
            rows = datasets.load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split="train")
            yield "\n\n".join(rows["text"])
        else:
            rows = datasets.load_dataset("allenai/c4", data_files={"train": "en/c4-train.00000-of-01024.json.gz"},
                                         split="train", streaming=True)
            for row in rows:
                yield row["text"]
    except Exception as error:  # many kinds: no network, proxy, hub, cache
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Failure(BAD_DATA, f"dataset {name}: cannot be loaded ({reason}); without a network, copy its text here "
                                "and use --text FILE or --dataset DIR, or fill the cache of `datasets` on another machine "
                                "and set HF_HOME") from None


def tokenize(documents, encode, enough):
    """All token ids of the documents, one after the other, stopping once there are `enough` (None: take all)."""
    ids = []
    for document in documents:
        ids += encode(document)
        if enough is not None and len(ids) >= enough:
            break
    return ids


# ---------------------------------------------------------------- windows and file

def choose_windows(ids, nsamples, seqlen, seed, before=()):
    """int32 [at most nsamples, seqlen]: windows without overlap, at a random offset, in random order; each begins with
    the ids `before`."""
    import numpy
    whole, seqlen = seqlen, seqlen - len(before)
    if seqlen < 1:
        raise Failure(BAD_USE, f"--seqlen {whole} has no room beside what each window begins with")
    available = len(ids) // seqlen
    if available == 0:
        raise Failure(BAD_DATA, f"the text has {len(ids)} tokens, less than one window of {seqlen}; "
                                "give more text or a smaller --seqlen")
    if available < nsamples:
        print(f"warning: the text has {len(ids)} tokens, enough for {available} windows of {seqlen}, "
              f"not for {nsamples}; writing {available}", file=sys.stderr)
    generator = numpy.random.default_rng(seed)
    offset = int(generator.integers(0, len(ids) - available * seqlen + 1))
    chosen = generator.permutation(available)[:nsamples]
    windows = numpy.asarray(ids[offset:offset + available * seqlen], dtype=numpy.int32).reshape(available, seqlen)
    begin = numpy.tile(numpy.asarray(before, dtype=numpy.int32), (len(chosen), 1))
    return numpy.concatenate([begin, windows[chosen]], axis=1)


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
                        "with --dataset DIR the field or column with the text (default text)")
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
    return arguments


def run(arguments):
    tokenizer = find_tokenizer(arguments.tokenizer)
    require_packages(needed_packages(arguments, tokenizer))
    encode, vocab_size, before = load_tokenizer(tokenizer)
    if arguments.bos == "never":
        before = []
    if arguments.text:
        documents, enough = read_texts(arguments.text, arguments.field), None
        source = ", ".join(pathlib.Path(file).name for file in arguments.text)
    elif arguments.dataset not in HUB_DATASETS:
        documents, enough = read_directory(arguments.dataset, arguments.field or "text"), None
        source = pathlib.Path(arguments.dataset).resolve().name
    else:
        documents, source = read_dataset(arguments.dataset), arguments.dataset
        enough = C4_POOL * arguments.nsamples * arguments.seqlen
    ids = tokenize(documents, encode, enough)
    tokens = choose_windows(ids, arguments.nsamples, arguments.seqlen, arguments.seed, before)
    write(arguments.out, tokens, {"tokenizer": tokenizer.name, "source": source, "seed": arguments.seed,
                                  "vocab_size": vocab_size})
    print(f"{arguments.out}: tokens int32 {list(tokens.shape)} of {len(ids)} tokens from {source}, "
          f"vocabulary {vocab_size}"
          + (f", each window begins with {before}" if before else ""))


def main():
    try:
        run(parse_arguments())
    except Failure as failure:
        print(f"prepare_calibration: {failure}", file=sys.stderr)
        return failure.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
