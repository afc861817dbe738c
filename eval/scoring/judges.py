"""Judges short answers by a language model: an OpenAI-compatible endpoint, or a local model.

A judge is asked whether an answer says the same as a reference. Its verdicts are cached by everything they depend
on, its prompt has a version, and an answer without a clear verdict is counted as not judged, never as right or wrong.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alm.data.records import Record
from eval.errors import EvaluationError
from eval.models._requests import Busy, Refused, endpoint_judge
from eval.scoring.correctness import answers_of
from eval.scoring.predictions import HEADLINE, PredictionsFile, prediction_key
from eval.scoring.stats import mean_interval

PROMPT_VERSION = "1"
PROMPT = (
    "You compare an answer with the reference answers to a question about a recording.\n"
    "Question: {question}\nReference answers: {references}\nAnswer to be judged: {answer}\n"
    "Does the answer say the same as one of the references? Reply with one word: yes or no."
)

Ask = Callable[[str], str]


class Judge:
    """A language model with a cache of its verdicts.

    Attributes:
        name: The judge, as reports name it.
    """

    def __init__(self, name: str, ask: Ask, cache: str | os.PathLike[str]) -> None:
        """Use `ask` for what `cache`, a file of verdicts, does not hold."""
        self.name = name
        self._ask = ask
        self._cache = Path(cache)

    def verdicts(self, asked: Sequence[Mapping[str, Any]]) -> list[bool | None]:
        """Judge answers.

        Args:
            asked: Per answer `question`, `references` and `answer`.

        Returns:
            Per answer whether it says the same as a reference; None where the judge failed or was not clear.
        """
        found: list[bool | None] = []
        with PredictionsFile(self._cache) as file:
            known = {line["key"]: line["prediction"] for line in file.lines}
            for number, one in enumerate(asked):
                key = prediction_key(judge=self.name, prompt=PROMPT_VERSION, **one)
                if key not in known:
                    prompt = PROMPT
                    for name in ("question", "references", "answer"):
                        value = one[name]
                        prompt = prompt.replace(
                            f"{{{name}}}",
                            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
                        )
                    try:
                        reply = self._ask(prompt)
                    except (Busy, Refused, ValueError, LookupError):
                        found.append(None)  # not cached: the next run asks again
                        continue
                    known[key] = reply
                    file.append([{"id": str(number), "key": key, "control": HEADLINE, "prediction": reply}])
                found.append(read_verdict(known[key]))
        return found


def read_verdict(reply: str) -> bool | None:
    """A judge's yes or no; None where it says neither or both."""
    said = set(re.findall(r"\b(yes|no)\b", reply.lower()))
    return said == {"yes"} if len(said) == 1 else None


def open_judge(source: str, cache: str | os.PathLike[str]) -> Judge:
    """The judge at a URL (`http://host/v1#model-name`, key in OPENAI_API_KEY) or in a model directory.

    Raises:
        EvaluationError: Neither a URL nor a directory.
    """
    if source.startswith(("http://", "https://")):
        address, _, model = source.partition("#")
        model = model or "default"
        return Judge(f"{model}@{address}", endpoint_judge(address, model, max_tokens=8), cache)
    if os.path.isdir(source):
        return Judge(Path(source).name, _local(source), cache)
    raise EvaluationError(f"judge {source!r} is neither a URL nor the directory of a causal language model")


def judged_accuracy(judge: Judge, records: Sequence[Record], said: Mapping[str, str]) -> dict[str, Any]:
    """Share of short answers that a judge considers right, among those with a verdict.

    Args:
        judge: The judge.
        records: The questions; those with choices or captions are not judged.
        said: Answers by id; a missing one is wrong.

    Returns:
        `name`, `prompt_version`, `n`, `n_failed`, the interval's fields where there are verdicts, and a `note`.
    """
    asked = [record for record in records if not record.choices and not record.captions]
    given = [
        {"question": record.question, "references": list(answers_of(record)), "answer": said[record.id]}
        for record in asked
        if record.id in said
    ]
    verdicts = iter(judge.verdicts(given))
    found = [(record, next(verdicts) if record.id in said else False) for record in asked]
    clear = [(record, verdict) for record, verdict in found if verdict is not None]
    result: dict[str, Any] = {
        "name": judge.name,
        "prompt_version": PROMPT_VERSION,
        "n": len(asked),
        "n_failed": len(found) - len(clear),
    }
    text = "no verdict"
    if clear:
        values, clips = [float(verdict) for _, verdict in clear], [record.clip for record, _ in clear]
        interval = asdict(mean_interval(values, clips, proportion=True))
        result |= {key: interval[key] for key in ("value", "low", "high", "n_clips")}
        text = f"{100 * result['value']:.1f} % right"
    result["note"] = (
        f"Judge {judge.name} (prompt {PROMPT_VERSION}): {text} of {len(clear)} judged, {result['n_failed']} without a "
        "clear verdict, which are not scored."
    )
    return result


def _local(source: str) -> Ask:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from alm.common.pretrained import from_pretrained
    from encoders.devices import pick_device

    tokenizer = from_pretrained(AutoTokenizer, source, role="judge")
    model = from_pretrained(AutoModelForCausalLM, source, role="judge").to(pick_device()).eval()

    def ask(prompt: str) -> str:
        text: Any = prompt
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
        inputs = tokenizer(text, return_tensors="pt").to(model.device)
        out = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=8,
            do_sample=False,
        )
        return str(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    return ask
