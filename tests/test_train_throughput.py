"""What a run says about its speed: tokens, audio, operations, memory, waiting; and where its backends write."""

import itertools
import json
import os

import pytest
import torch
from survival import assert_bit_equal, of_stage
from torch.utils.flop_counter import FlopCounterMode

from alm.checkpoint import load_model
from alm.policy import Policy
from alm.processor import AudioLanguageProcessor
from train.engine import throughput
from train.engine.throughput import FIGURES, Throughput, n_llm_tokens, peak_flops, step_flops, summary
from train.engine.trainer import StageTrainer
from train.pipeline.runner import run_stage
from train.tune.conversations import ConversationCollator

CLIP_S = 11000 / 16000


class Clock:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self):
        self.ticks = itertools.count()

    def perf_counter(self):
        return float(next(self.ticks))


def lines_of(run):
    return [json.loads(line) for line in open(os.path.join(run.out, "metrics.jsonl"))]


def test_tokens_and_audio_are_those_of_the_batches(data, parts, tmp_path, monkeypatch):
    """Counted by the test itself, with a clock of which it knows how often it is read."""
    monkeypatch.setattr(throughput, "time", Clock())
    batches, collate = [], ConversationCollator.__call__

    def kept(self, samples):
        batch = collate(self, samples)
        batches.append({key: value.clone() for key, value in batch.items()} | {"clips": len(samples)})
        return batch

    monkeypatch.setattr(ConversationCollator, "__call__", kept)
    run = of_stage("instruct", data, tmp_path / "run", parts, optim={"steps": 4}, data={"augment": {}})
    run_stage(run)
    *lines, last = lines_of(run)
    tokens = [int(batch["attention_mask"].sum()) for batch in batches]
    labels = [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches]
    assert [line["step"] for line in lines] == [3] and last["step"] == 4
    # a step reads the clock when it starts, when its batches are there and when it ends; and the first one around the
    # counting of its operations, of which the time between the two readings is left out
    first_three_s, all_s, n_batches = 3 + 2 + 2, 3 + 2 + 2 + 2, 3 * 2
    assert lines[0]["tokens_per_s"] == pytest.approx(sum(tokens[:n_batches]) / first_three_s, rel=1e-3)
    assert lines[0]["supervised_tokens_per_s"] == pytest.approx(
        sum(labels[:n_batches]) / first_three_s, rel=1e-3
    )
    clips = [batch["clips"] for batch in batches[:n_batches]]
    assert len(set(clips)) == 2, "a pass of one clip is among them"
    assert lines[0]["audio_hours_per_hour"] == pytest.approx(sum(clips) * CLIP_S / first_three_s, rel=1e-3)
    assert lines[0]["loader_wait"] == pytest.approx(3 / first_three_s, rel=1e-3)
    assert last["tokens_per_s"] == pytest.approx(sum(tokens[:8]) / all_s, rel=1e-3)
    assert 0 < last["mfu"] and last["memory_gb"] > 0.05
    assert not {"train_samples_per_second", "train_steps_per_second", "total_flos"} & last.keys()


def test_cached_and_pretraining_clips_count_as_audio(data, parts, tmp_path, monkeypatch, capsys):
    """Cached tokens are of clips, too; pretraining has audio but no LLM; the run ends with the figures in words."""
    monkeypatch.setattr(throughput, "time", Clock())
    for stage, seconds in (("align", 3), ("pretrain", 2)):  # pretraining's operations are not counted
        run = of_stage(stage, data, tmp_path / stage, parts, optim={"steps": 1}, data={"augment": {}})
        run_stage(run)
        last = lines_of(run)[-1]
        assert last["audio_hours_per_hour"] == pytest.approx(4 * CLIP_S / seconds, rel=1e-3), stage
        assert ("tokens_per_s" in last, "mfu" in last) == (stage == "align",) * 2
        assert f"{stage}: {summary(last)}" in capsys.readouterr().out.splitlines()


def test_a_shared_clip_counts_once(data, parts, tmp_path, monkeypatch):
    rows = [json.loads(line) for line in (data / "train.jsonl").open()]
    same = [{"id": row["id"], "audio": str(data / "audio/0.wav"), "question": f"{n}?", "answer": "x"}
            for n, row in enumerate(rows[:2])]  # fmt: skip
    (tmp_path / "same.jsonl").write_text("".join(json.dumps(row) + "\n" for row in same))
    monkeypatch.setattr(throughput, "time", Clock())
    run = of_stage("instruct", data, tmp_path / "run", parts, optim={"steps": 1, "accumulation": 1},
                   data={"train": [str(tmp_path / "same.jsonl")], "augment": {}})  # fmt: skip
    run_stage(run)
    assert lines_of(run)[-1]["audio_hours_per_hour"] == pytest.approx(CLIP_S / 3, rel=1e-3)


def test_counting_operations_changes_no_bit(data, parts, tmp_path, monkeypatch):
    """It runs a forward pass more, in a model full of dropout; frozen parts keep their modes."""
    runs = [
        of_stage("instruct", data, tmp_path / name, parts, optim={"steps": 3}) for name in ("with", "without")
    ]
    run_stage(runs[0])
    monkeypatch.setattr(StageTrainer, "_count_flops", lambda *_: None)
    run_stage(runs[1])
    assert "mfu" in lines_of(runs[0])[-1] and "mfu" not in lines_of(runs[1])[-1]
    assert_bit_equal(*runs)


POLICIES = {
    "projector": Policy(),
    "llm-lora": Policy(llm="lora"),
    "llm": Policy(llm="full"),
    "encoder": Policy(encoder="full", llm="full"),
    "encoder-lora": Policy(encoder="lora"),
    "llm-alone": Policy(projector="frozen", llm="full"),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_operations_are_those_of_forward_and_backward(policy, parts, clips):
    """PyTorch's own count of a whole pass with gradients; attention's backward pass is taken for simpler than it is."""
    model = load_model(parts["aligned"])
    model.set_policy(policy)
    model.train()
    modes = [module.training for module in model.modules()]
    processor = AudioLanguageProcessor.from_pretrained(parts["aligned"])
    chat = [{"role": "user", "content": [{"type": "audio", "audio": clips[2]}, {"type": "text", "text": "what?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "a tone that is long and low"}]}]  # fmt: skip
    batch = processor.apply_chat_template(
        [chat, chat], tokenize=True, return_dict=True, return_tensors="pt", output_labels=True
    )
    counted = step_flops(model, batch, model.components.values())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    with FlopCounterMode(display=False) as exact:
        model(**batch).loss.backward()
    assert counted == pytest.approx(exact.get_total_flops(), rel=0.08)


def test_figures_of_several_processes(monkeypatch):
    """What all have done, in the time of the slowest; the memory of the largest; the peaks of all together."""
    monkeypatch.setattr(throughput, "time", Clock())
    monkeypatch.setattr(throughput, "peak_flops", lambda precision: 1000.0)
    other = {"seconds": 4.0, "waited_s": 3.0, "tokens": 30.0, "supervised": 6.0, "audio_s": 8.0, "memory_gb": 1e6,
             "peak": 1000.0}  # fmt: skip
    monkeypatch.setattr(throughput, "gather_objects", lambda mine: [mine, other])
    meter = Throughput("fp32")
    meter.flops_per_token = 10.0
    meter.start_step()
    labels = torch.tensor([[1, 2, -100, 4]])
    meter.batches_are_here(
        [{"input_ids": labels, "attention_mask": torch.tensor([[0, 1, 1, 1]]), "labels": labels}]
        + [
            {
                "input_ids": torch.zeros(1, 7),
                "labels": torch.full((1, 7), -100),
                "audio_s": torch.tensor([2.0]),
            }
        ]
    )
    meter.end_step()
    line = meter.take_line()
    assert line == {
        "memory_gb": 1e6, "audio_hours_per_hour": 10 / 4, "tokens_per_s": 40 / 4, "supervised_tokens_per_s": 8 / 4,
        "mfu": 40 * 10 / 4 / 2000, "loader_wait": round(4 / 6, 4),
    }  # fmt: skip
    assert set(line) == set(FIGURES) and meter.whole_run()["tokens_per_s"] == 10
    monkeypatch.setattr(throughput, "gather_objects", lambda mine: [mine])
    assert Throughput("fp32").take_line().keys() == {"memory_gb"}, "before the first step"


def test_tokens_of_a_batch():
    ids = torch.zeros(2, 5, dtype=torch.long)
    assert n_llm_tokens({"losses": ids}) is None and int(n_llm_tokens({"input_ids": ids})) == 10
    assert (
        int(n_llm_tokens({"input_ids": ids, "attention_mask": torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])})) == 8
    )
    additive = torch.zeros(2, 1, 5, 5).masked_fill(
        torch.ones(5, 5).triu(1).bool(), torch.finfo(torch.float32).min
    )
    assert int(n_llm_tokens({"input_ids": ids, "attention_mask": additive})) == 10


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_peak_is_that_of_a_product(precision):
    assert 1e8 < peak_flops(precision) < 1e14 and peak_flops(precision) is peak_flops(precision)


def test_backends_write_into_the_run_directory(data, parts, tmp_path, monkeypatch):
    """What they wrote before an interruption stays; a folder that the user has named is used instead."""
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    given = {"run": {"report_to": ["tensorboard"], "save_every": 1, "log_every": 1}}
    run = of_stage("align", data, tmp_path / "run", parts, optim={"steps": 2}, **given)
    step, seen = StageTrainer.training_step, []

    def stopped(self, *args, **kwargs):
        seen.append(self.state.global_step)
        if self.state.global_step == 1:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_stage(run)
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
    before = set((tmp_path / "run/logs").iterdir())
    monkeypatch.setattr(StageTrainer, "training_step", step)
    run_stage(run)
    assert before and before < set((tmp_path / "run/logs").iterdir())
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "mine"))
    run_stage(of_stage("align", data, tmp_path / "other", parts, optim={"steps": 1}, **given))
    assert list((tmp_path / "mine").iterdir()) and not (tmp_path / "other/logs").exists()
