"""Libraries that know nothing of this toolkit: peft, the Trainer, accelerate, torch.compile, trl."""

import copy
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    Trainer,
    TrainingArguments,
)

from alm.common.errors import UserError
from alm.llm import load_llm
from alm.model import AudioLanguageModel
from alm.processor import build_processor
from encoders import encoder_class

WORDS = ("a bell", "a dog barks", "what is this", "a sound")


@pytest.fixture(scope="module")
def saved(llm_dir, tmp_path_factory):
    """A saved model that refers to its LLM."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    llm = load_llm(str(llm_dir))
    with torch.no_grad():
        for parameter in llm.parameters():
            parameter.mul_(3.0)  # answers differ from clip to clip
    shutil.copytree(llm_dir, folder / "llm")
    llm.save_pretrained(folder / "llm")
    llm = load_llm(str(folder / "llm"))
    encoder = encoder_class("audiomosaic").tiny()
    model = AudioLanguageModel.assemble(encoder, llm, "mlp", llm_source=str(folder / "llm"))
    processor = build_processor(AutoTokenizer.from_pretrained(llm_dir), model)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture
def loaded(saved):
    return AutoModelForMultimodalLM.from_pretrained(saved), AutoProcessor.from_pretrained(saved)


def conversations(clips):
    """A question about each clip, with its answer."""
    return [
        [
            {"role": "user", "content": [{"type": "audio", "audio": clip}, {"type": "text", "text": "what"}]},
            {"role": "assistant", "content": [{"type": "text", "text": word}]},
        ]
        for clip, word in zip(clips, WORDS, strict=True)
    ]


class Collate:
    """Conversations as a labelled batch, with the processor alone."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, rows):
        return dict(
            self.processor.apply_chat_template(
                [row["messages"] for row in rows],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"output_labels": True},
            )
        )


def rows_of(clips):
    return [{"messages": conversation} for conversation in conversations(clips)]


def answers(model, processor, clips):
    """The logits of the first new token, and greedy answers."""
    inputs = processor.apply_chat_template(
        [conversation[:1] for conversation in conversations(clips)],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    with torch.no_grad():
        logits = model(**inputs).logits[:, -1]
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    return logits, out[:, inputs["input_ids"].shape[1] :].tolist()


def same(found, expected, **tolerance):
    torch.testing.assert_close(found[0], expected[0], **tolerance)
    assert found[1] == expected[1]


def arguments(folder, **more):
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "learning_rate": 5e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "remove_unused_columns": False,
        "report_to": [],
        "use_cpu": True,
        "dataloader_pin_memory": False,
        **more,
    }


@pytest.mark.parametrize("targets", ["all-linear", r"llm\..*\.(q|v)_proj", ["down_proj"]], ids=str)
def test_adapters_of_peft(saved, loaded, clips, tmp_path, targets):
    model, processor = loaded
    before = answers(model, processor, clips)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    same(answers(adapted, processor, clips), before)  # a new adapter changes nothing
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    expected = answers(adapted, processor, clips)
    assert expected[1] != before[1]
    adapted.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(AutoModelForMultimodalLM.from_pretrained(saved), tmp_path / "adapter")
    same(answers(again, processor, clips), expected)
    merged = again.merge_and_unload()
    assert type(merged) is AudioLanguageModel
    same(answers(merged, processor, clips), expected, atol=1e-3, rtol=1e-3)
    merged.save_pretrained(tmp_path / "merged")  # its LLM is no longer the one that the model referred to
    reloaded = AutoModelForMultimodalLM.from_pretrained(tmp_path / "merged")
    same(answers(reloaded, processor, clips), expected, atol=1e-3, rtol=1e-3)


def test_adapters_of_peft_are_not_saved_as_weights(loaded, tmp_path):
    model, _ = loaded
    get_peft_model(model, LoraConfig(r=4, target_modules=["down_proj"]))
    with pytest.raises(UserError, match=r"PeftModel.save_pretrained, or merge"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_llm_that_peft_changed_is_not_lost(wide_llm_dir, clips, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    config = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4)
    llm = load_llm(str(wide_llm_dir))
    encoder = encoder_class("audiomosaic").tiny()
    model = AudioLanguageModel.assemble(encoder, llm, "mlp", llm_source=str(wide_llm_dir))
    processor = build_processor(AutoTokenizer.from_pretrained(wide_llm_dir), model)
    model.save_pretrained(tmp_path / "model")
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path / "model", quantization_config=config)
    answers(model, processor, clips)
    model.save_pretrained(tmp_path / "same")  # the reference still says what the LLM is
    targets = r"llm\..*\.(q|v)_proj"
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    merged = adapted.merge_and_unload()
    with pytest.raises(UserError, match="the quantised LLM has changed since it was loaded"):
        merged.save_pretrained(tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("trained", ["projector", "all"])
def test_the_trainer_of_transformers(loaded, clips, tmp_path, trained):
    model, processor = loaded
    before = answers(model, processor, clips)
    if trained == "all":
        model.requires_grad_(True)
    frozen = copy.deepcopy(model.llm.state_dict())
    trainer = Trainer(
        model,
        TrainingArguments(**arguments(tmp_path / "run", max_steps=3)),
        data_collator=Collate(processor),
        train_dataset=rows_of(clips),
        processing_class=processor,
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 3 and losses[2] < losses[1] < losses[0]
    changed = [key for key, value in model.llm.state_dict().items() if not torch.equal(value, frozen[key])]
    assert bool(changed) == (trained == "all")
    expected = answers(model.eval(), processor, clips)
    assert not torch.equal(expected[0], before[0])
    trainer.save_model(tmp_path / "saved")
    again = AutoModelForMultimodalLM.from_pretrained(tmp_path / "saved")
    same(answers(again, AutoProcessor.from_pretrained(tmp_path / "saved"), clips), expected)


def test_accelerate(loaded, clips, tmp_path):
    from accelerate import Accelerator

    model, processor = loaded
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-3)
    batches = torch.utils.data.DataLoader(rows_of(clips), batch_size=4, collate_fn=Collate(processor))
    prepared, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    losses = []
    for _ in range(3):
        for batch in batches:
            loss = prepared(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
    plain = accelerator.unwrap_model(prepared)
    plain.save_pretrained(
        tmp_path,
        is_main_process=accelerator.is_main_process,
        save_function=accelerator.save,
        state_dict=accelerator.get_state_dict(prepared),
    )
    expected = answers(plain.eval(), processor, clips)
    same(answers(AutoModelForMultimodalLM.from_pretrained(tmp_path), processor, clips), expected)


def test_a_compiled_forward_pass_equals_the_eager_one(loaded, clips):
    model, processor = loaded
    batch = Collate(processor)(rows_of(clips))
    labels = batch.pop("labels")
    real = batch["attention_mask"].bool()
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(**batch).logits[real], model(**batch).logits[real])
    for one in (model, compiled):
        model.zero_grad()
        one(**batch, labels=labels).loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        if one is model:
            expected = gradients
    assert expected
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_step_of_the_sft_trainer(loaded, clips, tmp_path):
    trl = pytest.importorskip("trl", reason="trl is not installed (pip install alm-toolkit[trl])")
    from datasets import Dataset

    model, processor = loaded
    before = [p.detach().clone() for p in model.projector.parameters()]
    rows = rows_of(clips)
    collate = Collate(processor)
    expected = model(**collate(rows)).loss.item()
    config = trl.SFTConfig(
        **arguments(tmp_path, max_steps=3, bf16=False),
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
    )
    trainer = trl.SFTTrainer(
        model,
        config,
        train_dataset=Dataset.from_list([{"number": number} for number in range(len(rows))]),
        data_collator=lambda chosen: collate([rows[one["number"]] for one in chosen]),
        processing_class=processor,
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert lines[0]["loss"] == pytest.approx(expected, abs=1e-3)
    assert lines[2]["loss"] < lines[1]["loss"] < lines[0]["loss"]
    assert all(0 <= line["mean_token_accuracy"] <= 1 and line["entropy"] > 0 for line in lines)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.projector.parameters(), strict=True))
