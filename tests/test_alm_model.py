"""The audio-language model: splicing, padding, freezing, LoRA, saving."""

import json
import random
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from calls import model_inputs
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, EsmTokenizer

import alm
import encoders.checkpoint
from alm.checkpoint import load_llm, load_model, load_processor, model_id_of
from alm.common.errors import AudioError, CheckpointError, UserError
from alm.common.files import sha256_of
from alm.export import export_model
from alm.generation import generate_answers
from alm.model import AudioLanguageModel
from alm.policy import LoraOptions, Policy
from alm.processor import AudioLanguageProcessor, build_processor
from encoders import encoder_class
from eval.models.likelihood import rank_choices
from projectors import list_projectors

QUESTIONS = ["what is this sound", "is there a bell", "describe the audio please", "how many"]


def talk(question, answer=None, n=1):
    messages = [{"role": "user", "content": "<|audio|>" * n + question}]
    return messages + ([{"role": "assistant", "content": answer}] if answer else [])


@pytest.fixture
def make(llm_dir):
    def build(projector="mlp", encoder="audiomosaic", **options):
        torch.manual_seed(0)
        model = AudioLanguageModel.assemble(
            encoder_class(encoder).tiny(), load_llm(str(llm_dir)), projector, options, llm_source=str(llm_dir)
        ).eval()
        return model, build_processor(AutoTokenizer.from_pretrained(llm_dir), model)

    return build


@pytest.mark.parametrize("projector", list_projectors())
def test_a_sample_gives_the_same_logits_alone_and_in_a_padded_batch(make, clips, projector):
    model, processor = make(projector)
    conversations = [talk(q) for q in QUESTIONS]
    for side in ("left", "right"):
        batch = model_inputs(
            processor, conversations, [[c] for c in clips], add_generation_prompt=True, padding_side=side
        )
        together = model(**batch).logits
        for i, (conversation, clip) in enumerate(zip(conversations, clips, strict=True)):
            one = model_inputs(processor, [conversation], [[clip]], add_generation_prompt=True)
            alone = model(**one).logits[0]
            kept = together[i][batch["attention_mask"][i].bool()]
            torch.testing.assert_close(kept, alone, atol=1e-4, rtol=1e-4)


def test_greedy_answers_do_not_depend_on_the_batch(make, clips):
    model, processor = make()
    conversations = [talk(q) for q in QUESTIONS] + [talk(q) for q in reversed(QUESTIONS)]
    audios = [[c] for c in clips] * 2
    answers = {
        size: dict(generate_answers(model, processor, conversations, audios, 12, batch_size=size))
        for size in (1, 3, 8)
    }
    assert answers[1] == answers[3] == answers[8] and set(answers[1]) == set(range(8))


def test_several_clips_and_no_clip_share_a_batch(make, clips):
    model, processor = make()
    conversations = [talk("same or different", n=2), talk("hello", n=0), talk("what")]
    batch = model_inputs(
        processor, conversations, [[clips[0], clips[1]], [], [clips[0]]], add_generation_prompt=True
    )
    assert batch["input_values"].shape[0] == 2 and batch["audio_index"].tolist() == [0, 1, 0]
    together = model(**batch).logits[:, -1]
    for i, audio in enumerate([[clips[0], clips[1]], [], [clips[0]]]):
        one = model_inputs(processor, [conversations[i]], [audio], add_generation_prompt=True)
        torch.testing.assert_close(together[i], model(**one).logits[0, -1], atol=1e-4, rtol=1e-4)


def test_the_answer_depends_on_the_audio(make, clips):
    model, processor = make()
    logits = [
        model(**model_inputs(processor, [talk("what")], [[c]], add_generation_prompt=True)).logits[0, -1]
        for c in clips
    ]
    assert (logits[0] - logits[2]).abs().max() > 1e-3


def test_clips_are_padded_on_the_right(make, clips):
    model, processor = make()
    batch = model_inputs(processor, [talk("what")] * 2, [[c] for c in clips[:2]], add_generation_prompt=True)
    for moved in (batch["padding_mask"].flip(1), batch["padding_mask"].long().flip(1)):
        with pytest.raises(UserError, match="padding_mask: a clip has padding before its end"):
            model(**{**batch, "padding_mask": moved})


def test_cached_features_equal_waveforms(make, clips):
    model, processor = make()
    batch = model_inputs(
        processor, [talk(q) for q in QUESTIONS], [[c] for c in clips], add_generation_prompt=True
    )
    expected = model(**batch).logits
    tokens = model.encode(batch.pop("input_values"), batch.pop("padding_mask"))
    torch.testing.assert_close(
        model(**batch, features=tokens.tokens, features_mask=tokens.mask).logits, expected
    )


def test_only_answers_and_their_end_are_supervised(make, clips):
    _, processor = make()
    conversation = [
        *talk("what", "a bell"),
        {"role": "user", "content": "sure"},
        {"role": "assistant", "content": "yes"},
    ]
    batch = model_inputs(processor, [conversation], [[clips[0]]], output_labels=True)
    labels = batch["labels"][0]
    kept = processor.tokenizer.decode(labels[labels != -100])
    assert kept == "a bell<|im_end|>yes<|im_end|>"
    assert (labels[batch["input_ids"][0] == processor.audio_token_id] == -100).all()
    # The prompt of generation is the beginning of the training sample.
    prompt = model_inputs(processor, [conversation[:1]], [[clips[0]]], add_generation_prompt=True)[
        "input_ids"
    ][0]
    assert batch["input_ids"][0][: len(prompt)].tolist() == prompt.tolist()


def test_a_tokenizer_without_template_gets_the_plain_one(make, clips, llm_dir):
    from transformers import AutoTokenizer

    model, _ = make()
    tokenizer = AutoTokenizer.from_pretrained(llm_dir)
    tokenizer.chat_template = None
    processor = build_processor(tokenizer, model)
    batch = model_inputs(processor, [talk("what", "a bell")], [[clips[0]]], output_labels=True)
    labels = batch["labels"][0]
    assert processor.tokenizer.decode(labels[labels != -100]) == " a bell<|im_end|>"


def test_markers_and_clips_must_agree(make, clips):
    model, processor = make()
    with pytest.raises(UserError, match="2 <|audio|> markers for 1 clips".replace("|", r"\|")):
        model_inputs(processor, [talk("what", n=2)], [[clips[0]]])
    batch = model_inputs(processor, [talk("what")], [[clips[0]]], add_generation_prompt=True)
    batch["input_ids"][0, -1] = processor.audio_token_id
    with pytest.raises(UserError, match="placeholders but the clips give"):
        model(**batch)


@pytest.mark.parametrize("encoder", ["frozen", "lora", "full"])
@pytest.mark.parametrize("llm", ["frozen", "lora", "full"])
def test_policy_decides_what_trains(make, clips, encoder, llm):
    model, processor = make()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.components.items()}
    table = model.set_policy(
        Policy(encoder=encoder, llm=llm, llm_lora=LoraOptions(r=2), encoder_lora=LoraOptions(r=2))
    )
    counts = {
        name: sum(p.numel() for p in part.parameters() if p.requires_grad)
        for name, part in model.components.items()
    }
    assert counts["projector"] == sizes["projector"]
    for name, choice in (("encoder", encoder), ("llm", llm)):
        if choice == "frozen":
            assert counts[name] == 0
        elif choice == "full":
            assert counts[name] == sizes[name]
        else:
            total = sum(p.numel() for p in model.components[name].parameters())
            assert 0 < counts[name] == total - sizes[name]
    assert f"{counts['llm']:,}" in table
    batch = model_inputs(
        processor, [talk(q, "a bell") for q in QUESTIONS], [[c] for c in clips], output_labels=True
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        model.train()
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    after = model.state_dict()
    moved = {
        name: any(
            not torch.equal(
                value, after[key.replace(".weight", ".base_layer.weight")] if key not in after else after[key]
            )
            for key, value in before.items()
            if key.startswith(f"{name}.") and (key in after or key.endswith(".weight"))
        )
        for name in ("encoder", "llm")
    }
    assert moved == {"encoder": encoder == "full", "llm": llm == "full"}


def test_a_frozen_part_stays_in_eval_mode_inside_a_training_run(make):
    model, _ = make()
    model.set_policy(Policy())
    model.train()
    assert model.projector.training and not model.llm.training and not model.encoder.training
    assert not any(m.training for m in model.encoder.modules())


@pytest.mark.parametrize(
    "policy", [Policy(), Policy(encoder="lora", llm="lora"), Policy(llm="full", encoder="full")]
)
def test_saving_and_loading_keeps_the_logits(make, clips, tmp_path, policy):
    model, processor = make()
    model.set_policy(policy)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.eval()
    batch = model_inputs(
        processor, [talk(q) for q in QUESTIONS], [[c] for c in clips], add_generation_prompt=True
    )
    expected = model(**batch).logits
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    assert any(k.startswith("llm.") for k in load_file(tmp_path / "m/model.safetensors")) == (
        policy.llm != "frozen"
    )
    again, processor_again = alm.load(tmp_path / "m", device="cpu")
    torch.testing.assert_close(again(**batch).logits, expected, atol=1e-6, rtol=0)
    new = model_inputs(
        processor_again, [talk(q) for q in QUESTIONS], [[c] for c in clips], add_generation_prompt=True
    )
    assert torch.equal(new["input_ids"], batch["input_ids"]) and torch.equal(
        new["input_values"], batch["input_values"]
    )
    from transformers import AutoModelForCausalLM, AutoProcessor

    auto = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    torch.testing.assert_close(auto(**batch).logits, expected, atol=1e-6, rtol=0)
    assert type(AutoProcessor.from_pretrained(tmp_path / "m")) is type(processor)


@pytest.fixture
def saved(make, tmp_path):
    model, processor = make()
    model.set_policy(Policy(llm="lora"))
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("fault", ["missing", "misshaped", "unexpected"])
def test_a_bad_tensor_is_named(saved, fault):
    tensors = load_file(saved / "model.safetensors")
    key = sorted(k for k in tensors if "lora_A" in k)[0]
    if fault == "missing":
        del tensors[key]
    elif fault == "misshaped":
        tensors[key] = tensors[key][:, :-1].contiguous()
    else:
        key = "projector.extra"
        tensors[key] = torch.zeros(1)
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        load_model(saved)


def test_a_model_that_cannot_be_loaded_says_why(saved, tmp_path, llm_dir):
    with pytest.raises(CheckpointError, match="no such directory"):
        load_model(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="model_type is 'llama'"):
        load_model(llm_dir)
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "llm_sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="has changed since training"):
        load_model(saved)
    (saved / "config.json").write_text(json.dumps({**config, "llm": "../gone"}))
    missing = re.escape(str(tmp_path / "gone"))
    with pytest.raises(
        CheckpointError, match=rf"its LLM is not at {missing} .*config\.json is '\.\./gone'.*set 'llm'"
    ):
        load_model(saved)
    (saved / "config.json").write_text("{broken")
    with pytest.raises(CheckpointError, match=r"config\.json: broken JSON"):
        load_model(saved)
    (saved / "model.safetensors").write_bytes(b"\x00" * 20)
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(saved)
    (saved / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="processor"):
        load_processor(saved)


def stored_with_llm(make, folder):
    """A self-contained model: its LLM's weights are in its own file."""
    model, processor = make()
    model.set_policy(Policy(llm="full"))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_change_of_some_rows_of_a_referenced_llm_is_saved(make, tmp_path):
    model, _ = make()
    head = model.llm.get_output_embeddings().weight
    with torch.no_grad():
        head[len(head) // 2 :] += 1
    model.save_pretrained(tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert again.config.llm is None and torch.equal(again.llm.get_output_embeddings().weight, head)


def test_large_adapters_stored_with_a_small_llm_can_be_loaded(make, tmp_path):
    model, processor = make()
    model.set_policy(Policy(llm="lora", llm_lora=LoraOptions(r=64)))
    model.config.forget_llm()  # as `alm export` without merging
    model.save_pretrained(tmp_path / "m")
    sizes = {key: value.numel() for key, value in load_file(tmp_path / "m/model.safetensors").items()}
    adapters = sum(size for key, size in sizes.items() if key.startswith("llm.") and "lora_" in key)
    assert adapters > sum(size for key, size in sizes.items() if key.startswith("llm.")) / 2
    assert load_model(tmp_path / "m").config.llm_lora["r"] == 64


def test_loading_reads_all_weights_once(make, tmp_path, monkeypatch):
    folder = stored_with_llm(make, tmp_path / "m")
    scanned, hashed = [], []
    check = encoders.checkpoint.is_finite
    monkeypatch.setattr("encoders.checkpoint.is_finite", lambda value: scanned.append(1) or check(value))
    monkeypatch.setattr("alm.loading.files.sha256_of", lambda path: hashed.append(path))
    model = load_model(folder)
    floats = [value for value in model.state_dict().values() if value.is_floating_point()]
    assert 10 < len(scanned) <= len(floats) and not hashed


@pytest.mark.parametrize("removed", ["all", "one"])
def test_a_self_contained_model_without_its_llm_is_refused(make, tmp_path, removed):
    folder = stored_with_llm(make, tmp_path / "m")
    load_model(folder)
    tensors = load_file(folder / "model.safetensors")
    keys = sorted(key for key in tensors if key.startswith("llm."))
    assert len(keys) > 10
    for key in keys if removed == "all" else keys[3:4]:
        del tensors[key]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds 0" if removed == "all" else f"missing {keys[3]}"):
        load_model(folder)


FAULTS = {
    "nan": lambda value: torch.where(torch.arange(value.numel()).view_as(value) == 1, torch.nan, value),
    "inf": lambda value: value.index_fill(0, torch.tensor([0]), torch.inf),
    "int8": lambda value: value.to(torch.int8),
    "int64": lambda value: value.to(torch.int64),
    "float8": lambda value: value.to(torch.float8_e4m3fn),
    "bool": lambda value: value.bool(),
    "complex": lambda value: value.to(torch.complex64),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("part", ["encoder.blocks", "projector.", "llm.model.layers"])
def test_weights_that_are_not_finite_floats_are_refused_and_named(make, tmp_path_factory, fault, part):
    folder = tmp_path_factory.mktemp("m")
    stored_with_llm(make, folder)
    tensors = load_file(folder / "model.safetensors")
    key = next(key for key in sorted(tensors) if key.startswith(part) and tensors[key].ndim == 2)
    tensors[key] = FAULTS[fault](tensors[key])
    save_file(tensors, folder / "model.safetensors")
    words = "holds NaN or Infinity" if fault in ("nan", "inf") else "has dtype .*expected a float"
    with pytest.raises(CheckpointError, match=rf"{re.escape(key)}: {words}"):
        load_model(folder)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_referenced_llm_with_unusable_weights_is_refused(llm_dir, tmp_path, fault):
    shutil.copytree(llm_dir, tmp_path / "llm")
    tensors = load_file(tmp_path / "llm/model.safetensors")
    key = "model.layers.0.mlp.up_proj.weight"
    tensors[key] = FAULTS[fault](tensors[key])
    save_file(tensors, tmp_path / "llm/model.safetensors", metadata={"format": "pt"})
    if fault in ("nan", "inf"):
        with pytest.raises(CheckpointError, match=rf"{re.escape(key)} holds NaN or Infinity"):
            load_llm(str(tmp_path / "llm"))
    else:
        try:  # transformers converts some of them to the config's dtype, which is no error of ours
            llm = load_llm(str(tmp_path / "llm"))
        except CheckpointError as error:
            assert "llm: " in str(error)
        else:
            assert {parameter.dtype for parameter in llm.parameters()} <= {torch.float32}


def test_a_longer_prompt_than_the_context_is_refused_with_numbers(make, clips):
    model, processor = make()
    assert processor.context_length == 512 and processor.vocab_size == len(processor.tokenizer) - 1
    minute = np.resize(clips[0], 30 * 16000)  # 375 audio tokens
    text = "what " * 100
    for build in (
        lambda: model_inputs(processor, [talk(text)], [[minute]], add_generation_prompt=True),
        lambda: model_inputs(processor, [talk(text, "a bell")], [[minute]], output_labels=True),
        lambda: list(generate_answers(model, processor, [talk(text)], [[minute]], 4)),
        lambda: list(rank_choices(model, processor, [talk(text)], [[minute]], [["a", "b"]])),
    ):
        with pytest.raises(UserError, match=r"375 audio tokens, \d\d+ text tokens.*context of 512 tokens"):
            build()
    with pytest.raises(UserError, match="an answer of up to 500 are more"):
        list(generate_answers(model, processor, [talk("what")], [[clips[0]]], 500))
    with pytest.raises(AudioError, match="60.0 s takes 750 audio tokens.*context has 512"):
        processor.n_audio_tokens(60 * 16000)
    processor.vocab_size = 100
    with pytest.raises(UserError, match=r"token '.*' has id \d+, the LLM has 100 token embeddings"):
        model_inputs(processor, [talk("what")], [[clips[0]]])


def test_a_gpt2_prompt_that_is_too_long_is_refused(llm_dir, clips, tmp_path):
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(llm_dir)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=48)
    model = AudioLanguageModel.assemble(encoder_class("audiomosaic").tiny(), GPT2LMHeadModel(config).eval())
    processor = build_processor(tokenizer, model)
    assert processor.context_length == 48
    assert list(generate_answers(model, processor, [talk("w")], [[clips[1][:8000]]], 4))
    with pytest.raises(UserError, match="context of 48 tokens"):
        list(generate_answers(model, processor, [talk("xyz " * 20)], [[clips[1]]], 4))
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    assert load_processor(tmp_path / "m").context_length == 48


def test_importing_alm_loads_neither_torch_nor_transformers():
    code = "import alm, encoders, sys; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("choice", ["full", "lora"])
def test_what_trains_of_a_bfloat16_llm_is_float32(make, clips, choice):
    model, processor = make()
    model.llm.to(torch.bfloat16)
    model.set_policy(Policy(llm=choice, llm_lora=LoraOptions(r=2)))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    batch = model_inputs(processor, [talk("what", "a bell")], [[clips[0]]], output_labels=True)
    model.train()(**batch).loss.backward()


def test_under_zero_3_every_process_runs_the_head_once(make, clips, monkeypatch):
    model, processor = make()
    batch = model_inputs(
        processor, [talk(q, "a bell") for q in QUESTIONS], [[c] for c in clips], output_labels=True
    )
    model.config.loss_chunk = 2
    calls = []
    monkeypatch.setattr("alm.head._summed", lambda llm, rows, words: calls.append(len(rows)) or rows.sum())
    model(**batch)
    assert len(calls) > 1
    calls.clear()
    monkeypatch.setattr("alm.head.is_deepspeed_zero3_enabled", lambda: True)
    model(**batch)
    assert calls == [int((batch["labels"] != -100).sum())]


def test_a_changed_config_or_weight_is_refused_though_all_shapes_fit(make, tmp_path):
    folder = stored_with_llm(make, tmp_path / "m")
    text = (folder / "config.json").read_text()
    for part, key, value in (
        ("encoder", "attn_drop_rate", 0.4),
        ("text_config", "rms_norm_eps", 0.1),
        ("text_config", "rope_parameters", None),
    ):
        config = json.loads(text)
        assert key in config[part]
        config[part][key] = value
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="was changed after the weights were saved"):
            load_model(folder)
    for value in (True, "\0", None, 0):
        (folder / "config.json").write_text(json.dumps(json.loads(text) | {"is_encoder_decoder": value}))
        with pytest.raises(CheckpointError, match="is_encoder_decoder is .*, expected false"):
            load_model(folder)
    (folder / "config.json").write_text(json.dumps(json.loads(text) | {"loss_chunk": 7}))
    assert load_model(folder).config.loss_chunk == 7
    tensors = load_file(folder / "model.safetensors")
    tensors["projector.norm.bias"] += 0.01
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for use in (load_model, lambda folder: export_model(folder, tmp_path / "out")):
        with pytest.raises(CheckpointError, match=r"model\.safetensors: is not the file that was saved"):
            use(folder)
    assert not (tmp_path / "out").exists()
    config = json.loads(text)
    # The form of an earlier version, or a deliberate edit.
    del config["weights_header_sha256"], config["config_sha256"]
    (folder / "config.json").write_text(json.dumps(config))
    load_model(folder)
    model_id_of(folder)
    config["weights_sha256"] = sha256_of(folder / "model.safetensors")  # of the version before
    (folder / "config.json").write_text(json.dumps(config))
    load_model(folder)
    (folder / "config.json").write_text(json.dumps(config | {"weights_sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match=r"is not the file that was saved with .*\(weights_sha256\)"):
        load_model(folder)


@pytest.mark.parametrize("part", ["encoder.", "projector.", "llm."])
def test_one_flipped_bit_in_the_weights_is_refused_and_the_tensor_named(make, tmp_path, part):
    file = stored_with_llm(make, tmp_path / "m") / "model.safetensors"
    data = bytearray(file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    places = {key: value for key, value in json.loads(data[8 : 8 + length]).items() if key.startswith(part)}
    key = random.Random(part).choice(sorted(places))
    data[8 + length + places[key]["data_offsets"][0]] ^= (
        1  # the lowest bit of a float32 differs: the weights are finite and as useful as before
    )
    file.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=rf"the values of {re.escape(key)} are not those that were saved"
    ):
        load_model(tmp_path / "m")


def test_a_changed_config_of_the_referenced_llm_is_refused(make, llm_dir, tmp_path):
    shutil.copytree(llm_dir, tmp_path / "llm")
    model = AudioLanguageModel.assemble(
        encoder_class("audiomosaic").tiny(), load_llm(str(llm_dir)), "mlp", llm_source=str(tmp_path / "llm")
    )
    processor = build_processor(AutoTokenizer.from_pretrained(llm_dir), model)
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    file = tmp_path / "llm/config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"use_cache": False, "transformers_version": "5.0.0"}))
    load_model(tmp_path / "m")  # no answer depends on these files
    file.write_text(json.dumps(values | {"rms_norm_eps": 0.1}))
    with pytest.raises(CheckpointError, match=r"llm/config\.json: was changed after .*llm_config_sha256"):
        load_model(tmp_path / "m")
    own = json.loads((tmp_path / "m/config.json").read_text())
    del own["llm_config_sha256"]  # the form of an earlier version, or a deliberate change
    (tmp_path / "m/config.json").write_text(json.dumps(own))
    assert load_model(tmp_path / "m").llm.config.rms_norm_eps == 0.1


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_changed_tokenizer_file_is_refused_until_its_entry_is_removed(make, tmp_path, name):
    folder = stored_with_llm(make, tmp_path / "m")
    text = (folder / name).read_text()
    if name == "tokenizer.json":
        values = json.loads(text)
        values["model"]["merges"] = values["model"]["merges"][:-1]  # valid, and other tokens
        text = json.dumps(values)
    (folder / name).write_text(text + " ")
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)} has .* since the processor was saved"):
        load_processor(folder)
    path = folder / "processor_config.json"
    values = json.loads(path.read_text())
    del values["files"][name]
    path.write_text(json.dumps(values))
    load_processor(folder)
    del values["files"]  # as earlier versions saved it
    path.write_text(json.dumps(values))
    load_processor(folder)


def test_a_changed_vocabulary_of_a_tokenizer_in_python_is_refused(make, tmp_path):
    """Its LLM has no tokenizer.json; a file with a name of its own holds the vocabulary."""
    words = ["<cls>", "<pad>", "<eos>", "<unk>", "<mask>", "What", "is", "this?"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = EsmTokenizer(str(tmp_path / "vocab.txt"))
    folder = tmp_path / "p"
    AudioLanguageProcessor(make()[1].feature_extractor, tokenizer, "plain").save_pretrained(folder)
    assert not (folder / "tokenizer.json").exists()
    AudioLanguageProcessor.from_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join([*words[:5], *reversed(words[5:])]))
    with pytest.raises(CheckpointError, match=r"vocab\.txt has .* since the processor was saved"):
        AudioLanguageProcessor.from_pretrained(folder)


def test_a_tokenizer_without_one_of_its_tokens_is_refused_also_without_hashes(make, tmp_path):
    folder = stored_with_llm(make, tmp_path / "m")
    path = folder / "processor_config.json"
    values = json.loads(path.read_text())
    del values["files"]  # as earlier versions saved it
    path.write_text(json.dumps(values))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    del tokenizer["model"]["vocab"]["ó"]  # the library then gives added tokens the ids of others
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="restore the tokenizer of this model"):
        load_processor(folder)


def test_a_short_fuzz_of_model_directories(tmp_path):
    from fuzz_model import case_for
    from fuzzing import fuzz

    outcome = fuzz("model directories", case_for(tmp_path), n=60, seed=1)
    assert not outcome.findings, "\n".join(outcome.findings)
    assert outcome.counts["refused"] > 15 and outcome.counts["accepted"] > 5


@pytest.mark.parametrize("changed", [{"r": 4, "alpha": 8}, {"r": 2, "alpha": 16}])
def test_a_policy_keeps_the_adapters_that_the_model_has(make, changed):
    model, _ = make()
    kept = Policy(llm="lora", encoder="lora", llm_lora=LoraOptions(2, 8), encoder_lora=LoraOptions(2, 8))
    model.set_policy(kept)
    model.set_policy(kept)
    for name in ("llm", "encoder"):
        with pytest.raises(UserError, match=f"policy.{name}_lora: the model has adapters with r=2, alpha=8"):
            model.set_policy(Policy(**{name: "lora", f"{name}_lora": LoraOptions(**changed)}))
