"""The model card: README.md of a saved model, in the metadata format of the Hugging Face hub.

Its generated part is between two comments. Text that a user adds around it, and keys that a user adds to the metadata,
are kept when the model is saved again. A card whose generated part was edited, or that has none, is not overwritten.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from alm.common.errors import CheckpointError, UserError
from alm.common.files import open_regular, write_bytes_atomic
from alm.common.json_text import read_json_object
from alm.common.settings import parse_yaml
from alm.common.text import one_line

README = "README.md"

_BEGIN = "<!-- alm-toolkit {}: generated; text outside of these two comments is kept when the model is saved again -->"
_END = "<!-- alm-toolkit: end of the generated part -->"
_PARTS = re.compile(
    r"(?P<begin><!-- alm-toolkit (?P<digest>[0-9a-f]{12}): [^\n]*-->)\n(?P<body>.*?)\n" + re.escape(_END),
    re.DOTALL,
)
_FRONT = re.compile(r"\A---[ \t]*\n(?P<yaml>.*?)^---[ \t]*(\n|\Z)", re.DOTALL | re.MULTILINE)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SNAPSHOT = re.compile(r"/models--([\w.-]+)/snapshots/")
_LICENCE = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}")
_LARGEST = 1 << 20  # bytes of a card that are read

_TEMPLATE = """\
# {{ title }}

An audio-language model: an audio encoder, a projector and a causal LLM. It answers questions about audio with text.
Made with alm-toolkit {{ version }}.

## Parts

| part | made from | licence | parameters | adapters |
|---|---|---|---|---|
{% for row in parts %}
| {{ row | join(" | ") }} |
{% endfor %}

{% if unknown %}
The licence of {{ unknown }} is not stated where it was loaded from; ask its author before you share this model.

{% endif %}
{% if training %}
## Training

| stage | trained | steps | data | records |
|---|---|---|---|---|
{% for row in training %}
| {{ row | join(" | ") }} |
{% endfor %}

{% endif %}
{% if scores %}
## Scores

With 95 % intervals; accuracies in percent. `no_audio` and `other_clip` are controls: the same questions without audio,
and with the audio of another clip.

| benchmark | score | n | {{ conditions | join(" | ") }} |
|---|---|---|{{ "---|" * conditions | length }}
{% for row in scores %}
| {{ row | join(" | ") }} |
{% endfor %}

{% endif %}
## Use

`pip install alm-toolkit` first: this directory holds weights and settings, the toolkit holds the code.

```python
from transformers import AutoModelForMultimodalLM, AutoProcessor

source = "{{ source }}"{{ "  # this directory, or its id on the hub" if source == "." }}
processor = AutoProcessor.from_pretrained(source, trust_remote_code=True)
model = AutoModelForMultimodalLM.from_pretrained(source, trust_remote_code=True)
conversation = [
    {
        "role": "user",
        "content": [
            {"type": "audio", "path": "sound.wav"},
            {"type": "text", "text": "What is this sound?"},
        ],
    }
]
inputs = processor.apply_chat_template(
    conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])
```
{% if reference %}

The LLM's weights are not in this directory, it refers to {{ reference }}
{%- if bits %}, which is quantised to {{ bits }} bits while it is loaded{% endif %}.
{%- if local %} `alm export` writes a model that can be shared.{% endif %}

{% endif %}
"""


@dataclass(frozen=True)
class Score:
    """One score of an evaluation.

    Attributes:
        benchmark: The benchmark's name.
        name: The score's name, for example `qa/overall`.
        value: The model's own score, in the unit of the score's name.
        n: Number of questions or clips.
        values: The score with its interval as text by condition: `model`, and controls such as `no_audio`.
    """

    benchmark: str
    name: str
    value: float
    n: int
    values: Mapping[str, str] = field(default_factory=dict)


def base_models(**sources: str | os.PathLike[str] | None) -> dict[str, dict[str, str]]:
    """Names and licences of the models that another one is built from, as their own files state them.

    Args:
        **sources: Directory, file or hub id by part; None: unknown.

    Returns:
        By part `name`: the hub id, else the last part of the path; and `license`, where a card or config.json states
        one. Unknown sources are omitted.
    """
    return {part: _base_model(source) for part, source in sources.items() if source is not None}


def _base_model(source: str | os.PathLike[str]) -> dict[str, str]:
    path = Path(source)
    if not os.path.exists(path) and _HUB_ID.fullmatch(str(source)):
        return {"name": str(source), **_licence(_hub_card(str(source)), {})}
    folder = path if os.path.isdir(path) else path.parent
    values: dict[str, Any] = {}
    with suppress(UserError):
        values = read_json_object(folder / "config.json", constants=True)
    return {"name": _name(path, values), **_licence(folder / README, values)}


def _hub_card(repo_id: str) -> Path | None:
    """The card of a model on the hub; None where it cannot be obtained."""
    from huggingface_hub import hf_hub_download

    with suppress(Exception):  # the hub client raises a dozen unrelated types
        return Path(hf_hub_download(repo_id, README))
    return None


def _name(path: Path, values: Mapping[str, Any]) -> str:
    snapshot = _SNAPSHOT.search(f"{path.absolute()}/")
    if snapshot is not None:
        return snapshot[1].replace("--", "/", 1)
    stated = values.get("_name_or_path")
    if isinstance(stated, str) and _HUB_ID.fullmatch(stated) and not os.path.exists(stated):
        return stated
    return one_line(Path(os.path.abspath(path)).name) or "model"


def _licence(card: Path | None, values: Mapping[str, Any]) -> dict[str, str]:
    """The licence that a card, or else a config.json, states."""
    stated = [front_matter(read_card(card)).get("license")] if card is not None else []
    stated.append(values.get("license"))
    for one in stated:
        if isinstance(one, list) and len(one) == 1:
            one = one[0]
        if isinstance(one, str) and _LICENCE.fullmatch(one.strip()):
            return {"license": one.strip().lower()}
    return {}


def is_hub_id(name: str) -> bool:
    """Whether a base model's or data set's name is an id on the hub."""
    return _HUB_ID.fullmatch(name) is not None


def read_card(path: Path) -> str | None:
    """The text of a README.md; None if it is missing, not text, or too large."""
    try:
        with open_regular(path) as stream:
            content = stream.read(_LARGEST + 1)
        return content.decode("utf-8").replace("\r\n", "\n") if len(content) <= _LARGEST else None
    except (OSError, ValueError):
        return None


def front_matter(text: str | None) -> dict[str, Any]:
    """The metadata at the start of a card; empty if it is missing or broken."""
    return _metadata(text) or {}


def _metadata(text: str | None) -> dict[str, Any] | None:
    """The metadata at the start of a card; None where it is broken."""
    found = _FRONT.match(text or "")
    if found is None:
        return {}
    try:
        values = parse_yaml(found["yaml"], "metadata")
    except UserError:
        return None
    return values if isinstance(values, dict) else None


def is_ours(text: str | None) -> bool:
    """Whether a card has a generated part that nobody has edited, and metadata that can be read."""
    found = _PARTS.search(text or "")
    return found is not None and found["digest"] == _digest(found["body"]) and _metadata(text) is not None


def scores_in(text: str | None) -> list[Score]:
    """The scores in a generated card; none where the generated part was edited."""
    if text is None or not is_ours(text):
        return []
    section = re.search(r"^## Scores\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    rows = [
        [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in (section[1] if section else "").splitlines()
        if line.startswith("|")
    ]
    values: dict[tuple[str, str], float] = {}
    with suppress(KeyError, TypeError):  # its user has written other things there
        values = {
            (result["dataset"]["name"], metric["name"]): float(metric["value"])
            for entry in front_matter(text).get("model-index") or ()
            for result in entry["results"]
            for metric in result["metrics"]
        }
    return [
        Score(name, score, values.get((name, score), 0.0), int(n), dict(zip(rows[0][3:], cells, strict=True)))
        for name, score, n, *cells in rows[2:]
    ]


def write_card(
    folder: Path,
    model: Any,
    *,
    before: str | None = None,
    scores: Sequence[Score] = (),
    source: str = ".",
    tags: Sequence[str] = (),
) -> None:
    """Write or renew the card of a model in its directory.

    Args:
        folder: The directory. A README.md that was not generated, or whose generated part was edited, is not
            overwritten.
        model: An `alm.model.AudioLanguageModel`.
        before: The card that the model was loaded with; text that its user wrote is kept.
        scores: Scores of this model.
        source: The source that the card's example loads: the directory itself, or an id on the hub.
        tags: More tags.

    Raises:
        CheckpointError: The file cannot be written.
    """
    path = folder / README
    old = read_card(path) if path.exists() else before
    if path.exists() and (old is None or (old.strip() and not is_ours(old))):
        return
    title, front, body = _generated(model, scores, source)
    front["tags"] += [tag for tag in tags if tag not in front["tags"]]
    if not (old or "").strip():
        text = _with_front(front, _marked(body))
    elif is_ours(old):
        text = _renewed(str(old), title, front, body)
    else:
        text = str(old)
    write_bytes_atomic(path, text.encode("utf-8", "replace"), CheckpointError)


def _renewed(old: str, title: str, front: dict[str, Any], body: str) -> str:
    """A card with a new generated part; the user's text and metadata stay."""
    before = front_matter(old)
    kept = dict(before)
    if isinstance(index := kept.pop("model-index", None), list):
        theirs = [entry for entry in index if not isinstance(entry, dict) or entry.get("name") != title]
        kept |= {"model-index": theirs} if theirs else {}
    for key, value in front.items():
        if isinstance(value, list) and isinstance(kept.get(key), list):
            kept[key] = kept[key] + [one for one in value if one not in kept[key]]
        kept.setdefault(key, value)
    text = _FRONT.sub("", old, count=1)
    found = _PARTS.search(text)
    assert found is not None
    text = text[: found.start()] + _marked(body) + text[found.end() :]
    head = _FRONT.match(old)
    return head[0] + text if head is not None and kept == before else _with_front(kept, text)


def _with_front(front: Mapping[str, Any], text: str) -> str:
    dumped = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{dumped}---\n\n{text.lstrip()}".rstrip() + "\n"


def _marked(body: str) -> str:
    return f"{_BEGIN.format(_digest(body))}\n{body}\n{_END}"


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8", "replace")).hexdigest()[:12]


def _generated(model: Any, scores: Sequence[Score], source: str) -> tuple[str, dict[str, Any], str]:
    """The title, the metadata and the text of a model's card."""
    config = model.config
    bases = {part: dict((config.base_models or {}).get(part) or {}) for part in ("encoder", "llm")}
    kinds = {"encoder": config.encoder.get("model_class"), "llm": config.text_config.model_type}
    names = {part: str(base.get("name") or kinds[part]) for part, base in bases.items()}
    title = f"{names['llm'].rpartition('/')[2]} that hears with {names['encoder'].rpartition('/')[2]}"
    history = list(config.training or [])
    hub = [base["name"] for base in bases.values() if is_hub_id(base.get("name", ""))]
    data = [one["name"] for stage in history for one in stage.get("data", ()) if one.get("hub")]
    licences = {base.get("license") for base in bases.values()}
    front: dict[str, Any] = {
        **({"base_model": hub} if hub else {}),
        **({"license": licences.pop()} if len(licences) == 1 and None not in licences else {}),
        "library_name": "transformers",
        "pipeline_tag": "audio-text-to-text",
        "tags": ["audio-language-model", "alm-toolkit", "custom_code"],
        **({"datasets": list(dict.fromkeys(data))} if data else {}),
        **({"model-index": [_index_entry(title, scores)]} if scores else {}),
    }
    conditions = list(dict.fromkeys(name for row in scores for name in row.values))
    body = _environment().from_string(_TEMPLATE).render(
        title=_plain(title),
        version=_version(),
        parts=[_part_row(model, part, bases.get(part), kinds) for part in ("encoder", "projector", "llm")],
        unknown=_plain(" and ".join(names[part] for part in bases if "license" not in bases[part])),
        training=[_stage_row(stage) for stage in history],
        conditions=[_plain(name) for name in conditions],
        scores=[
            [_plain(row.benchmark), _plain(row.name), row.n, *(row.values.get(c, "") for c in conditions)]
            for row in scores
        ],
        source=source,
        reference=_plain(names["llm"]) if config.llm is not None else "",
        local=config.llm is not None and not is_hub_id(names["llm"]),
        bits=config.llm_bits,
    )  # fmt: skip
    return title, front, body.strip()


def _index_entry(title: str, scores: Sequence[Score]) -> dict[str, Any]:
    """Scores in the hub's own format, which knows neither intervals nor controls."""
    task = {"type": "audio-text-to-text"}
    benchmarks = dict.fromkeys(row.benchmark for row in scores)
    results = [
        {
            "task": task,
            "dataset": {"name": name, "type": name},
            "metrics": [
                {"type": row.name.rpartition("/")[2], "name": row.name, "value": round(row.value, 4)}
                for row in scores
                if row.benchmark == name
            ],
        }
        for name in benchmarks
    ]
    return {"name": title, "results": results}


def _part_row(model: Any, part: str, base: dict[str, str] | None, kinds: Mapping[str, str]) -> list[str]:
    """Name, origin, licence, number of parameters and adapters of a part."""
    component = model.components[part]
    total = sum(parameter_size(parameter) for parameter in component.parameters())
    lora = sum(parameter_size(value) for name, value in component.named_parameters() if ".lora_" in name)
    if base is None:
        origin, licence = f"{model.config.projector['name']}, new", ""
    else:
        origin = f"{_plain(base['name'])} ({kinds[part]})" if "name" in base else str(kinds[part])
        licence = base.get("license", "not stated")
    adapters = getattr(model.config, f"{part}_lora", None)
    return [
        "LLM" if part == "llm" else part,
        origin,
        licence,
        f"{total - lora:,}",
        f"LoRA, rank {adapters['r']}, {lora:,} parameters" if adapters else "",
    ]


def _stage_row(stage: Mapping[str, Any]) -> list[Any]:
    """Stage, what was trained, steps, data sources and their records."""
    trained = [
        f"{'LLM' if part == 'llm' else part}{' (LoRA)' if stage.get(part) == 'lora' else ''} "
        f"({stage.get('parameters', {}).get(part, 0):,} parameters)"
        for part in ("encoder", "projector", "llm")
        if stage.get(part, "frozen") != "frozen"
    ]
    data = stage.get("data", ())
    return [
        _plain(stage.get("stage", "")),
        ", ".join(trained) or "nothing",
        stage.get("steps", ""),
        ", ".join(_plain(one["name"]) for one in data),
        ", ".join(f"{one['records']:,}" for one in data),
    ]


def parameter_size(parameter: Any) -> int:
    """Number of values of a parameter, also of one that is packed in 4 bits or distributed over processes."""
    packed = 2 * parameter.element_size() if type(parameter).__name__ == "Params4bit" else 1
    return int(getattr(parameter, "ds_numel", parameter.numel())) * packed


def _plain(text: Any) -> str:
    """Text for a cell of a table: one line, with the characters of Markdown and HTML as they are."""
    line = one_line(str(text))
    return line if is_hub_id(line) else re.sub(r"([\\|`*_<>\[\]])", r"\\\1", line)


@functools.cache
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)


def _version() -> str:
    return str(importlib.import_module("alm").__version__)
