"""Chat templates: rendered as `transformers` renders them, inside limits; each named one in a file of its own."""

import time

import pytest
from transformers import AutoTokenizer

from alm.common.errors import ConfigError, UserError
from alm.processing.feature_extraction import AudioLanguageFeatureExtractor
from alm.processor import AudioLanguageProcessor
from alm.templates import CHAT_TEMPLATES, chat_template
from alm.templates.render import render
from encoders import encoder_class
from projectors import build_projector

MESSAGES = [
    {"role": "system", "content": "be brief\n"},
    {"role": "user", "content": '<|audio|>what\'s <that> & "why"?'},
    {"role": "assistant", "content": " a béll "},
    {"role": "user", "content": "sure"},
]

# constructs of published templates: ChatML, Llama 3, Mistral, Gemma, Phi, Qwen, SmolLM
TEMPLATES = {
    **{name: CHAT_TEMPLATES.get(name) for name in CHAT_TEMPLATES.names()},
    "whitespace": "{%- for m in messages -%}\n  {{- '<|' + m.role + '|>\\n' + m['content'] | trim -}}\n{%- endfor %}\n",
    "namespace": (
        "{%- set ns = namespace(found=false, n=0) %}{% for m in messages %}{% set ns.n = ns.n + loop.index0 %}"
        "{% if loop.first and m.role == 'system' %}{% set ns.found = true %}{% endif %}{% if not loop.last %}"
        "{{ m.content }}|{% endif %}{% endfor %}{{ ns.found }}{{ ns.n }}{{ loop is defined }}"
    ),
    "system first": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set s = messages[0]['content'] %}"
        "{% else %}{% set loop_messages = messages %}{% endif %}{% for m in loop_messages %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{{ s ~ '::' ~ m['content'].strip() ~ eos_token }}{% endfor %}"
    ),
    "tools": (
        "{% if tools %}{{ tools | tojson }}{% endif %}{{ documents is none }}{{ tools is defined }}"
        "{{ enable_thinking }}"
        "{{ messages | tojson(indent=2) }}{{ messages | map(attribute='role') | join(', ') }}{{ [1, 2] | join }}"
    ),
    # Llama 3.1 and 3.2: tools that are not given must be None, as the prompt would announce an empty list.
    "tools that are none": (
        "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
        "{%- endif %}{%- if not tools is defined %}{%- set tools = none %}{%- endif %}"
        "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}"
        "{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}"
        "{{- '<|im_start|>system\n\n' }}{%- if tools is not none %}{{- 'Environment: ipython\n' }}{%- endif %}"
        "{{- 'Today Date: ' + date_string + '\n\n' }}{%- if tools is not none %}"
        "{%- for t in tools %}{{- t | tojson(indent=4) }}{%- endfor %}{%- endif %}{{- system }}{{- '<|im_end|>' }}"
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n\n' + m.content | trim + '<|im_end|>' }}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n\n' }}{%- endif %}"
    ),
    # Command R, Granite: documents before the conversation
    "documents": (
        "{% if documents is not none %}{% for d in documents %}{{ d.title }}: {{ d.text | tojson }}\n{% endfor %}"
        "{% elif documents %}no{% endif %}{% for m in messages %}{% if m.role == 'tool' %}"
        "{{ raise_exception('no tools') }}{% elif m.role == 'system' %}{% continue %}{% endif %}"
        "{{ strftime_now('%Y') }}{{ m | tojson }}{% if loop.index0 == 2 %}{% break %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    ),
    "generation tag": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% continue %}{% endif %}{{ '%s: %s' % (m.role, m.content) }}{% if loop.index > 3 %}{% break %}{% endif %}"
        "{% endfor %}{{ bos_token if add_generation_prompt else 'x' * 3 }}"
    ),
    "macro": (
        "{% macro turn(role, text='') %}[{{ role | upper }}]{{ text | replace('a', 'b') | default('none') }}"
        "{% endmacro %}"
        "{% for m in messages | selectattr('role', 'ne', 'system') %}{{ turn(m.role, m.content) }}{% endfor %}"
        "{% for k, v in messages[0].items() %}{{ k }}={{ v }}{% endfor %}{{ 'abc'[::-1] }}{{ 7 // 2 ** 1 }}"
        "{% set parts = messages[1].content.split('>') %}{{ parts[-1].lstrip('w') }}{{ dict(a=1).a }}"
        "{% for i in range(3) recursive %}{{ i }}{% endfor %}{% set block %}"
        "{{ parts | length }}{% endset %}{{ block ~ 1 }}"
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_the_text_is_that_of_transformers(llm_dir, name, add_generation_prompt):
    tokenizer = AutoTokenizer.from_pretrained(llm_dir)
    documents = [{"title": "bells", "text": "<b>é</b>"}] if name == "documents" else None
    expected = tokenizer.apply_chat_template(
        MESSAGES,
        chat_template=TEMPLATES[name],
        documents=documents,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        enable_thinking=False,
    )
    found = render(
        TEMPLATES[name],
        messages=MESSAGES,
        tools=None,
        documents=documents,
        add_generation_prompt=add_generation_prompt,
        enable_thinking=False,
        **tokenizer.special_tokens_map,
    )
    assert found == expected


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_the_processor_shows_a_template_what_transformers_does(llm_dir, name, add_generation_prompt):
    tokenizer = AutoTokenizer.from_pretrained(llm_dir)
    encoder = encoder_class("audiomosaic").tiny()
    projector = build_projector("mlp", encoder, 8).config.to_dict()
    template = TEMPLATES[name]
    extractor = AudioLanguageFeatureExtractor(encoder.config.to_dict(), projector)
    processor = AudioLanguageProcessor(extractor, tokenizer, template)
    turns = [MESSAGES[0], MESSAGES[1]]  # no answer, so that the parts are the text as it was rendered
    parts = processor.template().parts(turns, add_generation_prompt)
    assert "".join(text for text, _ in parts) == tokenizer.apply_chat_template(
        turns,
        chat_template=template,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        enable_thinking=False,
    )


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
BOMBS = {
    "loops": LOOP,
    "many loops": "{% for a in range(99999) %}x{% endfor %}" * 5,
    "calls": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "power": "{{ 9 ** 99999999 }}",
    "powers": "{{ 9 ** 60 ** 60 }}",
    "factors": "{% set n = namespace(x=10) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
    "repeated text": "{{ 'a' * 9000000000 }}",
    "repeated list": "{{ (9000000000 * [1]) | length }}",
    "doubled text": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubled sum": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "block": "{% set x %}{% for i in range(9999) %}{{ 'a' * 99999 }}{% endfor %}{% endset %}",
    "output": "{% set a = 'a' * 999999 %}{% for i in range(9999) %}{{ a }}{% endfor %}",
    "width": "{{ '%999999999d' % 1 }}",
    "format": "{{ '{:999999999}'.format(1) }}",
    "format argument": "{{ '{:{}}'.format(1, 999999999) }}",
    "format filter": "{{ '%999999999d' | format(1) }}",
    "star": "{{ '%*d' % (999999999, 1) }}",
    "center": "{{ 'a'.center(9999999999) }}",
    "center filter": "{{ 'a' | center(9999999999) }}",
    "indent": "{{ 'a\n' | indent(9999999999) }}",
    "zfill": "{{ 'a'.zfill(9999999999) }}",
    "replace": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "replace filter": "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
    "join": "{{ (['a' * 99999] * 99999) | join('b') }}",
    "join method": "{{ ('b' * 99999).join(['a'] * 99999) }}",
    "batch": "{{ [1] | batch(9999999999, 1) | list }}",
    "lipsum": "{{ lipsum(n=99999) }}",
    "range": "{% for a in range(10000000) %}x{% endfor %}",
    "long": " " * 3_000_000 + "{{ 1 }}",
    "nested": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_at_once_in_one_line(name):
    started = time.process_time()  # of this process: others may be busy
    with pytest.raises(UserError, match="the chat template ") as caught:
        render(BOMBS[name], messages=MESSAGES)
    assert time.process_time() - started < 5 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
        "{{ raise_exception.__globals__['os'].system('touch ran') }}",
        "{{ dict.__mro__[1] }}",
        "{% set n = namespace(__class__=1) %}",
        "{% set _ = messages.append(1) %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ 1 / 0 }}",
        "{% for %}",
        "{{ messages[99]['content'].x.y }}",
        "{{ raise_exception('System role not supported') }}",
    ],
)
def test_an_escape_or_error_is_one_line(template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="the chat template ") as caught:
        render(template, messages=MESSAGES)
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_a_template_cannot_change_the_messages():
    before = [dict(message) for message in MESSAGES]
    render("{{ messages | length }}{% for m in messages %}{% set m = 1 %}{% endfor %}", messages=MESSAGES)
    assert MESSAGES == before


def test_named_templates_are_files(tmp_path, monkeypatch):
    assert chat_template("alpaca-short") == CHAT_TEMPLATES.get("alpaca_short")
    with pytest.raises(ConfigError, match="did you mean 'plain'"):
        chat_template("plane")
    (tmp_path / "shouting.py").write_text("CHAT_TEMPLATE = '{{ messages[0].content | upper }}'\n")
    monkeypatch.setenv("ALM_PLUGINS", str(tmp_path))
    assert render(chat_template("shouting"), messages=MESSAGES[1:]) == MESSAGES[1]["content"].upper()
