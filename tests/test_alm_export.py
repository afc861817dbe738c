"""Self-contained exports: merged, reloaded in a fresh process, inspected, pushed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from calls import model_inputs
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaForCausalLM

import alm
from alm.checkpoint import load_llm
from alm.cli import main
from alm.common.errors import CheckpointError, UserError
from alm.export import export_model, merge_lora
from alm.model import AudioLanguageModel
from alm.policy import LoraOptions, Policy
from alm.processor import build_processor
from encoders import encoder_class

POLICIES = {
    "frozen": Policy(),
    "lora-encoder": Policy(encoder="lora", encoder_lora=LoraOptions(r=2)),
    "lora-llm": Policy(llm="lora", llm_lora=LoraOptions(r=2)),
    "full": Policy(llm="full"),
}
TURNS = [[{"role": "user", "content": "<|audio|>what is this sound"}]]


@pytest.fixture()
def bf16_llm_dir(llm_dir, tmp_path):
    """The same LLM, stored in bfloat16 as most published ones are."""
    shutil.copytree(llm_dir, tmp_path / "llm")
    LlamaForCausalLM.from_pretrained(llm_dir).bfloat16().save_pretrained(tmp_path / "llm")
    return tmp_path / "llm"


def trained(llm_dir, policy):
    """A model whose trainable parameters are no longer what they were."""
    torch.manual_seed(0)
    model = AudioLanguageModel.assemble(
        encoder_class("audiomosaic").tiny(), load_llm(str(llm_dir)), "mlp", llm_source=str(llm_dir)
    )
    processor = build_processor(AutoTokenizer.from_pretrained(llm_dir), model)
    model.set_policy(policy)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval(), processor


def test_a_fresh_process_computes_the_same(llm_dir, clips, tmp_path):
    expected = {}
    for name, policy in POLICIES.items():
        model, processor = trained(llm_dir, policy)
        batch = model_inputs(processor, TURNS, [[clips[0]]], add_generation_prompt=True)
        with torch.no_grad():
            expected[name] = model(**batch).logits
        model.generation_config.max_new_tokens = 7
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        assert export_model(tmp_path / name, tmp_path / "first")["reload"] <= 1e-6
        shutil.move(tmp_path / "first", tmp_path / f"{name}-out")  # nothing may point to where it was made
    torch.save(dict(batch), tmp_path / "batch.pt")
    code = (
        "import torch, alm.model, alm.processor, pathlib\n"
        "from transformers import AutoModelForCausalLM, AutoProcessor\n"
        "batch = torch.load('batch.pt')\n"
        "for folder in [p for p in pathlib.Path().iterdir() if p.is_dir()]:\n"
        "    model = AutoModelForCausalLM.from_pretrained(folder)\n"
        "    assert AutoProcessor.from_pretrained(folder).sample_rate == 16000\n"
        "    with torch.no_grad(): torch.save(model(**batch).logits, f'{folder}.pt')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(alm.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=environment)
    for name in POLICIES:
        torch.testing.assert_close(torch.load(tmp_path / f"{name}.pt"), expected[name], atol=1e-6, rtol=0)
        merged = torch.load(tmp_path / f"{name}-out.pt")
        torch.testing.assert_close(merged, expected[name], atol=1e-4, rtol=1e-4)
        stored = load_file(tmp_path / f"{name}-out/model.safetensors")
        text = (tmp_path / f"{name}-out/config.json").read_text()
        config = json.loads(text)
        assert any(key.startswith("llm.") for key in stored) and not any("lora" in key for key in stored)
        assert config["llm"] is config["llm_lora"] is config["encoder_lora"] is None
        assert str(llm_dir) not in text
    # stored with its own LLM, and so with its own generation settings
    assert alm.load(tmp_path / "full", device="cpu")[0].generation_config.max_new_tokens == 7


def test_merging_is_exact_and_leaves_no_adapter(llm_dir, clips):
    model, processor = trained(llm_dir, Policy(encoder="lora", llm="lora"))
    batch = model_inputs(processor, TURNS, [[clips[0]]], add_generation_prompt=True)
    with torch.no_grad():
        before = model(**batch).logits
        assert (before - trained(llm_dir, Policy())[0](**batch).logits).abs().max() > 1e-3
        after = merge_lora(model)(**batch).logits
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    assert not [key for key in model.state_dict() if "lora" in key or "base_layer" in key]


def test_an_export_that_computes_something_else_is_refused(llm_dir, tmp_path, monkeypatch):
    model, processor = trained(llm_dir, Policy())
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    save = AudioLanguageModel.save_pretrained

    def corrupting(self, folder, **options):
        save(self, folder, **options)
        tensors = load_file(folder / "model.safetensors")
        tensors["projector.norm.bias"] += 0.01
        save_file(tensors, folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        del config["weights_header_sha256"]  # the fault is in the weights themselves
        (folder / "config.json").write_text(json.dumps(config))

    monkeypatch.setattr(AudioLanguageModel, "save_pretrained", corrupting)
    with pytest.raises(CheckpointError, match="after the reload step"):
        export_model(tmp_path / "m", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]  # nothing half done is left
    monkeypatch.undo()
    (tmp_path / ".out.partial-12ab").mkdir()  # of a killed export
    export_model(tmp_path / "m", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out"]
    with pytest.raises(UserError, match="not an empty directory"):
        export_model(tmp_path / "m", tmp_path / "out")


@pytest.mark.parametrize("policy", ["lora-llm", "full"])
def test_what_was_trained_in_float32_on_an_llm_in_16_bits_is_loaded_in_float32(
    bf16_llm_dir, clips, tmp_path, policy
):
    model, processor = trained(bf16_llm_dir, POLICIES[policy])
    model.save_pretrained(tmp_path / "m")
    loaded = AudioLanguageModel.from_pretrained(tmp_path / "m")
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {name: parameter.dtype for name, parameter in loaded.named_parameters()} == dtypes
    batch = model_inputs(processor, TURNS, [[clips[0]]], add_generation_prompt=True)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_an_llm_in_16_bits_is_merged_in_float32_and_stored_in_16(bf16_llm_dir, tmp_path):
    model, processor = trained(bf16_llm_dir, Policy(llm="lora", llm_lora=LoraOptions(r=2)))
    assert model.llm.get_input_embeddings().weight.dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    found = export_model(tmp_path / "m", tmp_path / "out", merge=True)
    assert found["merge"] <= 1e-4 and found["reload"] <= 1e-6
    stored = load_file(tmp_path / "out/model.safetensors")
    dtypes = {value.dtype for key, value in stored.items() if key.startswith("llm.")}
    assert dtypes == {torch.bfloat16}
    # what is stored is the float32 sum of weight and adapter, rounded once
    layer = model.llm.model.layers[0].self_attn.q_proj
    exact = layer.base_layer.weight.float() + layer.get_delta_weight("default")
    assert torch.equal(stored["llm.model.layers.0.self_attn.q_proj.weight"], exact.bfloat16())


def test_commands(llm_dir, tmp_path, capsys):
    model, processor = trained(llm_dir, Policy(llm="lora"))
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    assert main(["inspect", str(tmp_path / "m")]) == 0
    shown = capsys.readouterr().out
    for words in ("mlp, 12.5 LLM tokens/s", "referenced", "r 8, alpha 16", "audioset_train", "<|audio|>"):
        assert words in shown
    assert main(["export", str(tmp_path / "m"), "--merge", "--out", str(tmp_path / "out")]) == 0
    assert "after loading it back" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "stored here" in shown and "LoRA" not in shown
    assert main(["inspect", str(tmp_path)]) == 2


def test_a_model_whose_llm_is_a_local_directory_is_not_pushed(llm_dir):
    with pytest.raises(UserError, match="alm export"):
        trained(llm_dir, Policy())[0].push_to_hub("someone/model")
