"""Texts of files: plain text, fields of JSON, columns of parquet, public datasets; and rows of chats."""

import json
import pathlib
import sys

from . import BAD_DATA, Failure
from .chat import FIELDS, messages_of

HUB_DATASETS = ("wikitext2", "c4")
JSON_KINDS = (".json", ".jsonl", ".ndjson")


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
        named = pathlib.Path(file).suffix.lower() in JSON_KINDS
        if not named and not isinstance(load_json(text.lstrip().split("\n", 1)[0]), dict):
            return
        raise Failure(BAD_DATA, f"{file}: it is JSON by its name or first line, but cannot be read as such to its end; "
                                "mend it, or, if it is plain text, rename it")
    fields = string_fields(records)
    raise Failure(BAD_DATA, f"{file}: it is JSON, not text; name the field that holds the text with --field"
                            + (f" (fields with text: {', '.join(fields)})" if fields else "") + chat_hint(records))


def chat_hint(records):
    """What to say where the first record is a chat."""
    first = records[0] if isinstance(records, list) and records else records
    return "; its records are chats: give --chat" if messages_of(first, None) else ""


def field_texts(file, text, field):
    """Yields `field` of every record of a JSON list, of lines of JSON, or of one object."""
    records = parse_json(text)
    if records is None:
        raise Failure(BAD_DATA, f"{file}: neither JSON nor one JSON object a line, but --field is given")
    for number, record in enumerate(records if isinstance(records, list) else [records], start=1):
        if not isinstance(record, dict) or not isinstance(record.get(field), str):
            fields = string_fields(record)
            raise Failure(BAD_DATA, f"{file}: record {number} has no text in a field '{field}'"
                                    + (f"; fields with text: {', '.join(fields)}" if fields else "")
                                    + chat_hint(record))
        try:
            record[field].encode()
        except UnicodeEncodeError as error:
            raise Failure(BAD_DATA, f"{file}: record {number}, field '{field}': half a surrogate pair at character "
                                    f"{error.start} is no Unicode text") from None
        yield record[field]


def read_file(file, encoding):
    """The file's text; what is not UTF-8 is an error."""
    try:
        return pathlib.Path(file).read_bytes().decode(encoding)
    except OSError as error:
        raise Failure(BAD_DATA, f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise Failure(BAD_DATA, f"{file}: not UTF-8 at byte {error.start}; "
                                f"convert it with: iconv -f LATIN1 -t UTF-8 {file}") from None


def read_texts(files, field):
    """Yields the content of each UTF-8 file or, with `field`, that field of each of its JSON records."""
    for file in files:
        text = read_file(file, "utf-8-sig" if field else "utf-8")
        if field:
            yield from field_texts(file, text, field)
        else:
            refuse_json(file, text.removeprefix("\ufeff"))
            yield text


def read_chats(files, field):
    """Yields (place, messages or None) of each record of JSON files."""
    for file in files:
        records = parse_json(read_file(file, "utf-8-sig"))
        if records is None:
            raise Failure(BAD_DATA, f"{file}: neither JSON nor one JSON object a line, but --chat is given")
        for number, record in enumerate(records if isinstance(records, list) else [records], start=1):
            yield f"{file}: record {number}", messages_of(record, field)


def text_readers(field):
    """kind of file -> function that yields its documents."""
    plain, records = (lambda file: read_texts([file], None)), (lambda file: read_texts([file], field))
    return {".txt": plain, ".md": plain, **dict.fromkeys(JSON_KINDS, records),
            ".parquet": lambda file: read_parquet(file, field)}


def chat_readers(field):
    """kind of file -> function that yields (place, messages or None) of its rows."""
    return {**dict.fromkeys(JSON_KINDS, lambda file: read_chats([file], field)),
            ".parquet": lambda file: read_parquet_chats(file, field)}


def read_directory(directory, readers):
    """Yields what the readers make of all files of their kinds below, by name; says what was left."""
    files = sorted(path for path in pathlib.Path(directory).rglob("*") if path.is_file())
    left, empty = [file for file in files if file.suffix.lower() not in readers], 0
    if len(left) == len(files):
        raise Failure(BAD_DATA, f"{directory}: it holds no *{', *'.join(readers)}")
    for file in files:
        for document in readers.get(file.suffix.lower(), lambda file: ())(file):
            if isinstance(document, str) and not document.strip():
                empty += 1
            else:
                yield document
    if left or empty:
        names = ", ".join(file.name for file in left[:3]) + (", ..." if len(left) > 3 else "")
        print(f"note: {directory}: {empty} empty documents and {len(left)} files of other kinds were left out"
              + (f" ({names})" if left else ""), file=sys.stderr)


def read_column(file, names, option):
    """Yields the values of the first of the named columns, a batch of rows in memory."""
    from pyarrow import ArrowException, parquet
    try:
        table = parquet.ParquetFile(file)
        there = table.schema_arrow.names
        name = next((name for name in names if name in there), None)
        if name is None:
            raise Failure(BAD_DATA, f"{file}: it has no column {' or '.join(map(repr, names))}, but {', '.join(there)}; "
                                    f"name the one that holds the {option} with --field")
        for batch in table.iter_batches(columns=[name]):
            yield from batch.column(0).to_pylist()
    except (ArrowException, OSError) as error:
        raise Failure(BAD_DATA, f"{file}: not a readable parquet file ({error})") from None


def read_parquet(file, field):
    """Yields a column of text."""
    for text in read_column(file, [field], "text"):
        if not isinstance(text, str):
            raise Failure(BAD_DATA, f"{file}: column '{field}' holds something else than text")
        yield text


def read_parquet_chats(file, field):
    """Yields (place, messages or None) of each row."""
    for number, value in enumerate(read_column(file, [field] if field else FIELDS, "chats"), start=1):
        yield f"{file}: row {number}", messages_of({"messages": value}, "messages")


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
