"""Chats as the model was trained on them: rows of messages through the checkpoint's chat template."""

import datetime
import json
import pathlib
import sys

from . import BAD_DATA, Failure

FIELDS = ("messages", "conversations")
# ShareGPT's names of who speaks.
SPEAKERS = {"human": "user", "gpt": "assistant"}
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def message_of(entry):
    """{role, content, ...} of one entry of a row, without keys that hold null; None where it is no message."""
    if not isinstance(entry, dict):
        return None
    entry = {key: value for key, value in entry.items() if value is not None}
    if "role" not in entry and isinstance(entry.get("from"), str) and isinstance(entry.get("value"), str):
        return {"role": SPEAKERS.get(entry["from"], entry["from"]), "content": entry["value"]}
    has_words = isinstance(entry.get("content"), (str, list)) or entry.get("tool_calls")
    return entry if isinstance(entry.get("role"), str) and has_words else None


def messages_of(row, field):
    """The messages of a row, under `field` or the first of FIELDS that it has; None where it has none."""
    name = field or next((name for name in FIELDS if isinstance(row, dict) and row.get(name)), None)
    entries = row.get(name) if isinstance(row, dict) else None
    messages = [message_of(entry) for entry in entries] if isinstance(entries, list) else []
    return messages if messages and None not in messages else None


def read_json(path):
    """The object in a file beside the tokenizer; {} where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Failure(BAD_DATA, f"{path}: cannot be read as JSON ({error})") from None
    return value if isinstance(value, dict) else {}


def find_template(directory):
    """(template, name of its file). Files of their own win over tokenizer_config.json, as in transformers."""
    templates, source = {}, "tokenizer_config.json"
    configured = read_json(directory / source).get("chat_template")
    if isinstance(configured, str):
        templates = {"default": configured}
    elif isinstance(configured, list):
        templates = {entry.get("name"): entry.get("template") for entry in configured if isinstance(entry, dict)}
    own = {path.stem: path for path in sorted((directory / "additional_chat_templates").glob("*.jinja"))}
    if (directory / "chat_template.jinja").is_file():
        own["default"] = directory / "chat_template.jinja"
    if own:
        templates = {name: path.read_text(encoding="utf-8") for name, path in own.items()}
        source = own["default"].name if "default" in own else "additional_chat_templates"
    if not templates:
        raise Failure(BAD_DATA, f"{directory}: no chat template: neither chat_template.jinja nor a chat_template in "
                                "tokenizer_config.json; copy the file from the model that was trained on chats, or "
                                "leave out --chat")
    if not isinstance(templates.get("default"), str):
        raise Failure(BAD_DATA, f"{directory}: {source} holds chat templates ({', '.join(map(str, templates))}), but "
                                "none of the name default; write the one to use into chat_template.jinja")
    return templates["default"], source


def special_tokens(directory):
    """{bos_token: text, ...} of those that are named; templates write them by these names."""
    found = {**read_json(directory / "special_tokens_map.json"), **read_json(directory / "tokenizer_config.json")}
    texts = {name: value.get("content") if isinstance(value, dict) else value
             for name, value in found.items() if name in SPECIAL}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def compile_template(template, where):
    """The template in the environment that transformers gives it, in Jinja's sandbox: checkpoints come from others."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks what an assistant says; it changes no text."""
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller):
            return caller()

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise Failure(BAD_DATA, f"{where}: not a template that Jinja reads ({error})") from None


def load_template(tokenizer, has_token):
    """(render: messages -> text, name of the template's file) of the tokenizer file's directory.

    has_token says whether the tokenizer has a token of this text: what a template writes as a special token must be one.
    """
    if tokenizer.suffix == ".model":
        raise Failure(BAD_DATA, f"{tokenizer}: a SentencePiece model reads the special tokens of a chat template as "
                                "text; --chat needs the checkpoint's tokenizer.json")
    directory = tokenizer.parent
    text, source = find_template(directory)
    template, names = compile_template(text, directory / source), special_tokens(directory)
    unknown = sorted({token for token in names.values() if not has_token(token)})

    def render(messages):
        chat = template.render(messages=messages, tools=None, documents=None, add_generation_prompt=False, **names)
        chat.encode()  # half a surrogate pair is an error
        for token in unknown:
            if token in chat:
                raise Failure(BAD_DATA, f"{tokenizer}: the chat template writes {token}, which is no token of it; "
                                        "take the tokenizer.json of the same checkpoint")
        return chat

    return render, source


def render_rows(rows, render):
    """Yields the text of each (place, messages or None); says in the end what was left out, and why."""
    count = without = refused = 0
    first = ""
    for count, (place, messages) in enumerate(rows, start=1):
        if messages is None:
            without += 1
            continue
        try:
            yield render(messages)
        except Failure:
            raise
        except Exception as error:  # a template may fail in any way
            refused += 1
            first = first or f" (first: {place}: {error})"
    if without + refused == count:
        raise Failure(BAD_DATA, f"none of {count} rows is a chat that can be used: {without} without messages, "
                                f"{refused} refused by the chat template{first}; messages are lists of role and content "
                                f"under {' or '.join(FIELDS)}, or name the field with --field")
    if without + refused:
        print(f"note: {without + refused} of {count} rows were left out: {without} without messages, {refused} refused by "
              f"the chat template{first}", file=sys.stderr)
