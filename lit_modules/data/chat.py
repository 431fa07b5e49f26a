"""Conversations as text: a template that is filled in, and which parts of the text are the model's own."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mixers.checks import MissingFileError, UsageError

Message = dict[str, str]  # {"role": ..., "content": ...}
ROLES = ("system", "user", "assistant")
# "User:", the message, "Assistant:", the answer, a line each: plain text, since tokenizers need no tokens for it.
DEFAULT_TEMPLATE = """\
{% for message in messages -%}
{{ '' if loop.first else '\n' }}{{ message.role | capitalize }}:
{{ message.content }}
{%- endfor %}
{%- if add_generation_prompt %}

Assistant:
{% endif %}"""


class ChatTemplate:
    """A jinja2 template in the form of the field's chat templates, rendered in a sandbox.

    It is given `messages`, a list of {role, content}, and `add_generation_prompt`, whether to end with what precedes an
    answer. `bos_token` and `eos_token` are empty: the end token is added after each answer as an id.

    Args:
        source: The text of the template.

    Raises:
        UsageError: If it is not a template.
    """

    def __init__(self, source: str = DEFAULT_TEMPLATE) -> None:
        self.source = source
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise UsageError(f"template is not a jinja2 template ({error}): correct it, or leave it out.") from error

    def prompt(self, messages: list[Message]) -> str:
        """The text that comes before the answer to these messages."""
        return self._render(messages, before_answer=True)

    def parts(self, messages: list[Message]) -> Iterator[tuple[str, str]]:
        """Each answer of the assistant, with all text since the answer before it: (text before, answer)."""
        done = ""
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:index], before_answer=True)
            whole = self._render(messages[: index + 1], before_answer=False)
            if not (before.startswith(done) and whole.startswith(before)):
                raise UsageError(
                    "template renders the messages before an answer differently from how it renders them with it: "
                    "let it write each message after those before, and what comes before an answer where "
                    "add_generation_prompt is true."
                )
            yield before[len(done) :], whole[len(before) :]
            done = whole

    def _render(self, messages: list[Message], *, before_answer: bool) -> str:
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=before_answer, bos_token="", eos_token=""
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise UsageError(f"template cannot render a conversation ({error}): correct it.") from error


def read_template(path: str | None) -> ChatTemplate:
    """The template of a file; without one, that of lit-mixers."""
    if path is None:
        return ChatTemplate()
    if not Path(path).expanduser().is_file():
        raise MissingFileError(f"template={path!r} is no file: write the path of a jinja2 template, or leave it out.")
    return ChatTemplate(Path(path).expanduser().read_text(encoding="utf-8"))


def messages_of(row: Any, where: str) -> list[Message]:
    """The messages of a row {prompt, response} or {messages: [...]}; raises UsageError naming `where` for any other."""
    if isinstance(row, dict) and "messages" in row:
        messages = row["messages"]
    elif isinstance(row, dict) and {"prompt", "response"} <= row.keys():
        messages = [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["response"]},
        ]
    else:
        there = ", ".join(row) if isinstance(row, dict) and row else "none of them"
        raise UsageError(f"{where} has {there}: give it the fields prompt and response, or the field messages.")
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise UsageError(
            f"{where} has a message that is not {{role, content}}: write role as one of {', '.join(ROLES)}, and "
            "content as text."
        )
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers or not all(answer.strip() for answer in answers):
        what = "an empty response" if answers else "no message of the assistant"
        raise UsageError(f"{where} has {what}, and nothing to learn: fill it in, or remove the row.")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in ROLES and isinstance(message.get("content"), str)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    def raise_exception(message: str) -> NoReturn:  # what chat templates call
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.globals["raise_exception"] = raise_exception
    return environment
