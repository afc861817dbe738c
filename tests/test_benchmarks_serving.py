"""The bench that compares vLLM's answers with ours: its own side, and how it shows a difference."""

import numpy as np
import pytest
import torch

from alm.generation import generate_answers
from benchmarks.serving import Own, assemble, differences, mixed_lengths, noises, shortest_s
from encoders import encoder_class


@pytest.fixture(scope="module")
def own(llm_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    encoder_class("audiomosaic").tiny().save_pretrained(folder / "encoder")
    return Own(assemble(str(llm_dir), str(folder / "encoder"), "mlp", 4.0, folder / "model"), 2)


def test_tokens_are_those_of_generate_answers(own):
    first, second, third = noises(3, 16000)
    prompts = [
        own.ask("What?", first),
        own.ask("What?", second, third),
        own.ask("What?"),
        own.ask("Say", third),
    ]
    found = own.answer(prompts, 8)
    turns, clips = [one.turns for one in prompts], [one.clips for one in prompts]
    texts = [text for _, text in sorted(generate_answers(own.model, own.processor, turns, clips, 8, 2))]
    decode = own.processor.tokenizer.decode
    assert [decode(ids, skip_special_tokens=True).strip() for ids in found] == texts
    assert len(set(texts)) > 2 and all(0 < len(ids) <= 8 for ids in found)
    assert differences(own, prompts, found, found) == []
    other = [list(ids) for ids in found]
    logits = own.logits(prompts[1], found[1][:3])
    assert int(logits.argmax()) == found[1][3]  # of the whole prompt and the answer so far
    second_best = int(np.argsort(logits.numpy())[-2])
    other[1][3], other[2] = second_best, found[2][:-1]
    shown = differences(own, prompts, found, other)
    assert [line.partition(":")[0] for line in shown] == [
        "prompt 1, token 3",
        f"prompt 2, token {len(other[2])}",
    ]
    assert f"{found[1][3]} by us, {second_best} by vLLM" in shown[0] and "number 2 of ours" in shown[0]
    assert f"{len(found[2])} tokens by us, {len(other[2])} by vLLM" in shown[1]


@torch.no_grad()
def test_the_projected_tokens_have_the_size_that_was_asked_for(own):
    embeddings = own.model.llm.get_input_embeddings().weight
    clip = noises(3, 16000)[0]
    batch = own._inputs([own.ask("x", clip)])
    out = own.model.encode(batch["input_values"])
    tokens, mask = own.model.projector(out.tokens, out.mask, out.grid)
    assert float(tokens[mask].std() / embeddings.std()) == pytest.approx(4.0, rel=0.01)


def test_recordings_become_as_long_as_the_tones(own):
    clips = [np.full(100 * n, n, np.float32) for n in range(1, 9)]
    shortest = shortest_s(own.processor)
    assert (
        own.ask("x", np.zeros(round(16000 * shortest), np.float32)).ids.count(own.processor.audio_token_id)
        == 1
    )
    found = mixed_lengths(clips, 1000, shortest)
    assert sorted(map(len, found))[:: len(found) - 1] == [round(1000 * shortest), 20_000]
    assert [clip[0] for clip in found] == list(range(1, 9)) and len(set(map(len, found))) == 8
