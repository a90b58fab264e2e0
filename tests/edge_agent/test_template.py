"""Chat templates: the same prompt as their authors meant, and no way out of time, memory or the sandbox."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from edge_agent import template_meter
from edge_agent.errors import BundleError, RequestError
from edge_agent.template import ChatTemplate

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
TALK = [
    {"role": "system", "content": "Be <brief> & 'kind'."},
    {"role": "user", "content": '  Hello,\n"world"  '},
    {"role": "assistant", "content": "Hi ü 🎉"},
    {"role": "user", "content": "Bye"},
]


def render(source: str, messages: list[dict[str, str]] = QUESTION) -> str:
    return ChatTemplate(source, "template").render(messages, bos_token="<s>", eos_token="</s>")


CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nDefault.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
QWEN_3 = """{%- set ns = namespace(multi_step_tool=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role in ["user", "system"] %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- else %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
        {%- generation %}{{- '<|im_start|>' ~ message.role ~ '\\n' ~ content|trim ~ '<|im_end|>\\n' }}
        {%- endgeneration %}
    {%- endif %}
{%- endfor %}
{%- if tools %}{{ tools|tojson }}{% endif %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
ODDS = """{%- macro shout(text, times=2) -%}
{%- for i in range(times) %}{{ text|upper }}{% if not loop.last %} {% endif %}
{%- endfor %}{%- endmacro -%}
{% set roles = messages|map(attribute='role')|unique|list -%}
{{ roles|join(', ') }} | {{ shout(bos_token) }} | {{ messages|selectattr('role', 'equalto', 'user')|list|length }} |
{% for key, value in messages[0].items() %}{{ key }}={{ value|tojson }};{% endfor %}
{% for message in messages %}
    {% if loop.index > 2 %}{% break %}{% endif %}
{{ loop.index }}: {{ message.content.replace('l', 'L')|replace('o', '0')|trim }}
{{ '-'.join(['a', 'b']) }} {{ 'even' if loop.index % 2 == 0 else 'odd' }}
{% endfor %}
{% set text %}<{{ messages|length * 2 }}>{% endset %}{{ text }}{{ "-" * 3 }}{{ [1, 2] + [3] }}{{ {'a': 1} }}
{{ 'x{}y{}'.format(1, 'z') }} {{ documents is none }} {{ missing is defined }} {{ 7 // 2 }}{{ -3|abs }} {{ (1, 2)[0] }}
{{ messages[0].content[:5] }} {{ "a,b,c".split(",")[-1] }} {{ messages|tojson(indent=2) }} {{ 'a\nb'|indent(2) }}"""


@pytest.mark.parametrize("source", [CHATML, LLAMA_2, QWEN_3, ODDS], ids=["chatml", "llama-2", "qwen-3", "odds"])
@pytest.mark.parametrize("messages", [QUESTION, TALK, TALK[1:]], ids=["question", "system", "talk"])
def test_a_prompt_is_what_plain_jinja_gives(source: str, messages: list[dict[str, str]]) -> None:
    """The meter changes nothing: prompts equal those of an unmetered sandbox with the same settings."""
    assert render(source, messages) == unmetered(source, messages)


def unmetered(source: str, messages: list[dict[str, str]]) -> str:
    """What the usual sandbox for chat templates renders, without our bounds."""
    import json

    from jinja2.ext import Extension, LoopControlExtension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, Generation]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return environment.from_string(source).render(
        messages=messages,
        tools=None,
        documents=None,
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
    )


def test_a_template_may_ask_for_the_date() -> None:
    """`strftime_now` gives today in the form asked for."""
    assert len(render("{{ strftime_now('%Y-%m-%d') }}")) == 10


def test_a_template_says_why_it_refuses() -> None:
    """`raise_exception` becomes an `invalid` failure with the template's words."""
    with pytest.raises(RequestError, match="roles must alternate") as refusal:
        render(LLAMA_2, [TALK[2], TALK[1]])
    assert refusal.value.code == "invalid"


TOO_LONG = {
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops that drop all": "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "a condition that searches": "{% set b = range(99999)|list %}{% for i in range(99999) if -1 in b %}{% endfor %}",
    "a filter that finds nothing": "{% set b = range(99999)|list %}{{ range(-99999, 0)|select('in', b)|list }}",
    "a search in each turn": "{% set b = range(99999)|list %}{% for i in range(99999) %}{{ -1 in b }}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
}


@pytest.mark.parametrize("name", TOO_LONG)
def test_a_template_that_runs_too_long_is_stopped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No loop passes the bound; the end comes soon after it is reached."""
    monkeypatch.setattr(template_meter, "BUDGET_S", 0.1)
    monkeypatch.setattr(template_meter, "BUDGET_UNITS", 10**12)
    started = time.monotonic()
    with pytest.raises(RequestError, match=r"was stopped: it runs for more than 0\.1 s") as refusal:
        render(TOO_LONG[name])
    assert refusal.value.code == "too_large"
    assert time.monotonic() - started < 30  # unbounded, each of these takes minutes to centuries


GROW = "{% set n = namespace(s='aa') %}{% for i in range(28) %}{% set n.s = "
TOO_LARGE = {
    "doubling by ~": GROW + "n.s ~ n.s %}{% endfor %}",
    "doubling by +": GROW + "n.s + n.s %}{% endfor %}",
    "doubling by *": GROW + "n.s * 2 %}{% endfor %}",
    "doubling by a list": GROW + "[n.s, n.s] %}{% endfor %}{{ n.s }}",
    "doubling by a tuple": GROW + "(n.s, n.s) %}{% endfor %}{{ n.s }}",
    "doubling by a dict": GROW + "{'a': n.s, 'b': n.s} %}{% endfor %}{{ n.s }}",
    "doubling by dict()": GROW + "dict(a=n.s, b=n.s) %}{% endfor %}{{ n.s }}",
    "doubling by a filter": GROW + "[n.s, n.s]|join %}{% endfor %}",
    "doubling by a method": GROW + "n.s.replace('a', 'aa') %}{% endfor %}",
    "doubling by a block": "{% set n = namespace(s='aa') %}{% for i in range(28) %}"
    "{% set t %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = t %}{% endfor %}",
    "doubling by a macro": "{% macro two(s) %}{{ s }}{{ s }}{% endmacro %}" + GROW + "two(n.s) %}{% endfor %}",
    "doubling that is only compared": "{% set n = namespace(s=1, t=1) %}{% for i in range(22) %}"
    "{% set n.s = dict(a=n.s, b=n.s) %}{% set n.t = dict(a=n.t, b=n.t) %}{% endfor %}{{ n.s == n.t }}",
    "slices": "{% set s = 'a' * 99999 %}{% for i in range(9999) %}{% set t = s[1:] %}{% endfor %}",
    "squaring": "{% set n = namespace(i=3) %}{% for i in range(32) %}{% set n.i = n.i * n.i %}{% endfor %}{{ n.i }}",
    "times": "{{ 'a' * 1000000000 }}",
    "times from the left": "{{ 1000000000 * 'a' }}",
    "a list times": "{{ [1, 2] * 100000000 }}",
    "replace": "{{ ('a' * 9999).replace('a', 'b' * 99999) }}",
    "replace nothing": "{{ ('a' * 9999).replace('', 'b' * 99999) }}",
    "replace filter": "{{ ('a' * 9999)|replace('a', 'b' * 99999) }}",
    "join": "{{ ('x' * 99999).join(range(9999)|map('string')) }}",
    "join filter": "{{ range(9999)|join('x' * 99999) }}",
    "map": "{{ range(99999)|map('replace', '', 'x' * 9999)|list }}",
    "output": "{% for i in range(99999) %}" + "y" * 9999 + "{% endfor %}",
    "output in a block": "{% set x %}{% for i in range(99999) %}" + "y" * 9999 + "{% endfor %}{% endset %}",
    "tojson": "{% set b = range(9999)|list %}{% set c = [b, b, b] %}{{ [c, c, c, c, c, c, c]|tojson(indent=8) }}",
    "indent": "{{ ('\n' * 99999)|indent(8, blank=true) }}",
    "nesting": "{% set n = namespace(s=[]) %}{% for i in range(99) %}{% set n.s = [n.s] %}{% endfor %}{{ n.s }}",
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_template_that_builds_too_much_is_stopped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No growth passes the bound, and what would be too large is never held in memory."""
    monkeypatch.setattr(template_meter, "BUDGET_S", 60)
    monkeypatch.setattr(template_meter, "BUDGET_UNITS", 700_000)
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match=r"was stopped: it (builds|computes|nests)") as refusal:
            render(TOO_LARGE[name])
        assert tracemalloc.get_traced_memory()[1] < 50e6  # unbounded, each of these takes 500 MB and more
    finally:
        tracemalloc.stop()
    assert refusal.value.code == "too_large"


NOT_THERE = {
    "width": "{{ '{:>1000000000}'.format(1) }}",
    "nested width": "{{ '{:{w}}'.format(1, w=1000000000) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "zfill": "{{ 'a'.zfill(1000000000) }}",
    "expandtabs": "{{ '\t'.expandtabs(1000000000) }}",
    "to_bytes": "{{ (1).to_bytes(1000000000) }}",
    "a wide range": "{{ range(1000000000)|list }}",
    "a wide indent": "{{ 'a'|indent(1000000000) }}",
    "a wide json indent": "{{ [[1]]|tojson(indent=1000000000) }}",
    "lipsum": "{{ lipsum(1000000) }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "classes by filter": "{{ messages|map(attribute='__class__')|map(attribute='__mro__')|list|first|length + 1 }}",
    "globals": "{{ raise_exception.__globals__['x'].y }}",
    "mutation": "{{ messages.append(1) }}",
    "clearing": "{{ messages[0].clear() }}",
    "the meter itself": "{{ spend(1) }}",
    "hidden names": "{% set n = namespace(__class__=1) %}{{ n }}",
    "endless macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "division": "{{ 1 / 0 }}",
    "unknown name": "{{ unknown.thing }}",
    "a long date": "{{ strftime_now('%Y' * 1000) }}",
}


@pytest.mark.parametrize("name", NOT_THERE)
def test_what_a_template_must_not_reach_is_not_there(name: str) -> None:
    """A template that tries fails as our failure, in one line, without memory or Python being touched."""
    with pytest.raises(RequestError, match=r"the model's chat template failed: .+") as refusal:
        render(NOT_THERE[name])
    assert refusal.value.code == "internal"
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for %}", "not taken"),
        ("{{ 2 ** 100000000 }}", "Pow is not available to chat templates"),
        ("{% include 'other' %}", "Include is not available"),
        ("{% import 'other' as o %}", "Import is not available"),
        ("{% extends 'other' %}", "Extends is not available"),
        ("{% block a %}{% endblock %}", "Block is not available"),
        ("{% filter upper %}a{% endfilter %}", "FilterBlock is not available"),
        ("{% set x | upper %}a{% endset %}", "filters over blocks"),
        ("{{ 'a'|center(1000000000) }}", "No filter named 'center'"),
        ("{% set n = namespace() %}{% set n.__class__ = 1 %}", "'__class__' is not available"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "not taken"),
        ("x" * 300_000, "300000 characters of template"),
    ],
)
def test_what_cannot_be_bounded_is_refused_when_it_is_opened(source: str, words: str) -> None:
    """Syntax beyond the list is a BundleError that names the template."""
    with pytest.raises(BundleError, match=words) as refusal:
        ChatTemplate(source, "tokenizer/chat_template.jinja")
    assert str(refusal.value).startswith("tokenizer/chat_template.jinja: ")


def test_each_render_has_a_budget_of_its_own() -> None:
    """What one conversation used is not missing in the next."""
    template = ChatTemplate("{{ messages[0].content * 1000 }}", "template")
    for _ in range(3):
        prompt = template.render([{"role": "user", "content": "x" * 5000}], bos_token=None, eos_token=None)
        assert len(prompt) == 5_000_000


@pytest.mark.model
def test_the_prompt_equals_that_of_transformers(bundle: Path) -> None:
    """The real template gives what transformers renders from it."""
    rendering = pytest.importorskip("transformers.utils.chat_template_utils")

    source = (bundle / "tokenizer" / "chat_template.jinja").read_text()
    for messages in (QUESTION, TALK):
        rendered, _ = rendering.render_jinja_template([messages], chat_template=source, add_generation_prompt=True)
        assert render(source, messages) == rendered[0]
