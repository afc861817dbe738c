"""Several encoders at once: tokens side by side at one frame rate, each trained by itself, up to a saved model."""

import pytest
import torch
from torch.nn import functional

from alm import load as load_model_and_processor
from alm.common.errors import AudioError, ConfigError, UserError
from alm.common.settings import parse_settings
from alm.model import AudioLanguageModel
from alm.policy import LoraOptions, Policy
from alm.processor import build_processor
from encoders import AudioTokens, encoder_class, load_encoder
from encoders.registry import encoder_sources
from encoders.zoo.fusion import FusionConfig, FusionEncoder, _at_rate
from train.settings import TrainSettings


@pytest.fixture(scope="module")
def dirs(tmp_path_factory):
    """A tiny Whisper and a tiny BEATs with the weights of another seed, saved."""
    folder = tmp_path_factory.mktemp("parts")
    for name in ("whisper", "beats"):
        encoder_class(name).tiny(seed=3).save_pretrained(folder / name)
    return folder


def fusion_of(dirs):
    return {"fusion": "concat", "parts": [str(dirs / "whisper"), {"encoder": str(dirs / "beats")}]}


@torch.no_grad()
def test_each_moment_holds_what_the_parts_say_about_it(dirs):
    """Whisper at 50 Hz sets the frame rate; one step of BEATs (12.5 Hz, 4 rows) covers four of Whisper's."""
    encoder = load_encoder(fusion_of(dirs))
    whisper, beats = load_encoder(dirs / "whisper"), load_encoder(dirs / "beats")
    lengths = torch.tensor([20000, 9000])
    wave = 0.1 * torch.randn(2, 20000, generator=torch.Generator().manual_seed(0))
    out = encoder(wave, lengths)
    first, second = whisper(wave, lengths), beats(wave, lengths)
    assert (whisper.config.frame_rate_hz, beats.config.frame_rate_hz) == (50.0, 12.5)
    assert out.grid == (first.grid[0], 1) and torch.equal(out.mask, first.mask)
    assert encoder.config.dim == 32 + 4 * 32 and encoder.config.n_freq == 1
    for row, n in enumerate((20000, 9000)):
        n_beats = beats.config.n_time_for(n)
        for step in range(whisper.config.n_time_for(n)):
            place = min(step // 4, n_beats - 1)
            rows = second.tokens[row, place * 4 : place * 4 + 4]
            wanted = torch.cat([functional.layer_norm(first.tokens[row, step], (32,)),
                                functional.layer_norm(rows, (32,)).flatten()])  # fmt: skip
            torch.testing.assert_close(out.tokens[row, step], wanted)
    torch.testing.assert_close(out.pooled, torch.cat([first.clip_features(), second.clip_features()], dim=1))


@pytest.mark.parametrize("ratio", [0.125, 0.4, 1.0, 1.5, 2.7])
def test_resampling_is_the_mean_by_overlap(ratio):
    n_part, n_time = 30, int(30 / ratio)
    tokens = torch.randn(2, n_part, 8, generator=torch.Generator().manual_seed(1))
    valid = torch.arange(n_part)[None] < torch.tensor([[n_part], [17]])
    tokens = tokens * valid[..., None]
    got = _at_rate(AudioTokens(tokens, valid, (n_part, 1)), ratio, n_time)
    steps = functional.layer_norm(tokens, (8,))
    fine = 1000  # the same by brute force: points of time, each in one step of the part
    for row, n_valid in ((0, n_part), (1, 17)):
        for step in range(n_time):
            moments = (step + (torch.arange(fine) + 0.5) / fine) * ratio
            wanted = steps[row, moments.long().clamp(max=n_valid - 1)].mean(0)
            assert (got[row, step] - wanted).abs().max() < 0.01, (row, step)


def test_windows_are_common_ones():
    tiny = FusionEncoder.tiny()
    assert tiny.config.clip_s == 1.0  # of 1 s and 0.5 s
    assert FusionConfig().clip_s == float("inf")  # 30 s and 10.24 s start together after an hour
    with pytest.raises(AudioError, match=r"parts\[0\]: clip of 100 samples"):
        tiny.config.n_time_for(100)


def test_saved_and_loaded_strictly(dirs, tmp_path):
    encoder = load_encoder(fusion_of(dirs))
    encoder.save_pretrained(tmp_path / "fused")
    again = load_encoder(tmp_path / "fused")
    assert again.config == encoder.config
    assert all(
        torch.equal(a, b)
        for a, b in zip(encoder.state_dict().values(), again.state_dict().values(), strict=True)
    )
    loaded = load_encoder(dirs / "whisper").state_dict()
    assert all(torch.equal(again.state_dict()[f"parts.0.{key}"], value) for key, value in loaded.items())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fusion": "mean"}, "encoder.fusion is 'mean'; expected concat"),
        ({"parts": ["whisper"]}, "encoder.parts is .* expected a list of at least two encoders"),
        ({"parts": ["whisper", 3]}, r"encoder.parts\[1\] is 3; expected a name"),
        ({"part": []}, "encoder: unknown key 'part'"),
    ],
)
def test_mistakes_are_named(changes, says):
    with pytest.raises(ConfigError, match=says):
        encoder_sources({"fusion": "concat", "parts": ["whisper", "beats"], **changes})


def test_parts_that_do_not_fit(dirs):
    with pytest.raises(
        ConfigError, match="sample_rate is 48000, that of the parts 16000, 16000; expected one"
    ):
        FusionConfig(sample_rate=48000)
    with pytest.raises(ConfigError, match="encoder: layer given for a fusion|does not offer"):
        load_encoder(fusion_of(dirs), layer="1")
    with pytest.raises(ConfigError, match="encoder: stage finetune takes one encoder"):
        parse_settings(
            TrainSettings,
            {"stage": "finetune", "out": "x", "encoder": fusion_of(dirs), "data": {"train": ["a"]}},
        )


@pytest.fixture
def model_of(dirs, llm_dir):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llm = AutoModelForCausalLM.from_pretrained(llm_dir)
    model = AudioLanguageModel.assemble(load_encoder(fusion_of(dirs)), llm, "mlp", {"stack": 4})
    return model, build_processor(AutoTokenizer.from_pretrained(llm_dir), model)


def test_each_part_is_frozen_adapted_or_trained_by_itself(model_of):
    model, _ = model_of
    table = model.set_policy(Policy(encoder="lora", encoder_parts=("frozen", "lora")))
    assert "frozen+lora" in table
    learns = {name for name, parameter in model.encoder.named_parameters() if parameter.requires_grad}
    assert learns and all(name.startswith("parts.1.") and "lora_" in name for name in learns)
    assert not any("lora_" in name for name, _ in model.encoder.parts[0].named_parameters())
    model.train()
    assert model.encoder.parts[1].training and not model.encoder.parts[0].training
    model.set_policy(Policy(encoder="full", encoder_parts=("full", "frozen")))
    learns = {name for name, parameter in model.encoder.named_parameters() if parameter.requires_grad}
    assert learns == {f"parts.0.{name}" for name, _ in model.encoder.parts[0].named_parameters()}


def test_wrong_choices_are_named(model_of):
    model, _ = model_of
    with pytest.raises(ConfigError, match="encoder_parts: got 'lroa', expected one of frozen, lora, full"):
        Policy(encoder_parts=("lroa", "frozen"))
    with pytest.raises(
        ConfigError, match="encoder: got 'frozen' with encoder_parts frozen, lora; expected 'lora'"
    ):
        Policy(encoder_parts=("frozen", "lora"))
    with pytest.raises(UserError, match="encoder_parts: got 3 choices, the encoder has 2 parts"):
        model.set_policy(Policy(encoder_parts=("frozen",) * 3))
    with pytest.raises(
        UserError, match=r"encoder_lora.targets=\['qq'\] matches no linear layer of a part with lora"
    ):
        model.set_policy(
            Policy(
                encoder="lora", encoder_parts=("frozen", "lora"), encoder_lora=LoraOptions(targets=("qq",))
            )
        )


def test_a_model_with_a_fused_encoder_survives_saving(model_of, clips, tmp_path):
    from alm.generation import generate_answers

    model, processor = model_of
    model.set_policy(Policy(encoder="lora", encoder_parts=("frozen", "lora")))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, its_processor = load_model_and_processor(tmp_path)
    question = [{"role": "user", "content": "<|audio|>what is this sound"}]

    def answers(one, its):
        return [text for _, text in generate_answers(one, its, [question] * 2, [[clips[0]], [clips[1]]])]

    assert answers(model, processor) == answers(again, its_processor)
    inputs = processor.apply_chat_template([question], audio=[[clips[2]]], tokenize=True, return_dict=True)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, again(**inputs).logits)


def test_a_model_with_a_fused_encoder_is_exported(model_of, clips, tmp_path):
    """Adapters of one part are folded in; the export needs neither the parts nor peft's layers."""
    from alm.export import export_model

    model, processor = model_of
    model.set_policy(Policy(encoder="lora", encoder_parts=("frozen", "lora"), llm="lora"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.eval().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    found = export_model(tmp_path / "model", tmp_path / "export")
    assert found["merge"] < 1e-4 and found["reload"] < 1e-6
    again, its_processor = load_model_and_processor(tmp_path / "export")
    assert isinstance(again.encoder, FusionEncoder)
    assert again.config.encoder_lora is None and not any("lora" in name for name in again.state_dict())
    question = [{"role": "user", "content": "<|audio|>what is this sound"}]
    words = {"audio": [[clips[2]]], "tokenize": True, "return_dict": True}
    with torch.no_grad():
        expected = model(**processor.apply_chat_template([question], **words)).logits
        exported = again(**its_processor.apply_chat_template([question], **words)).logits
    torch.testing.assert_close(exported, expected, atol=1e-4, rtol=1e-4)
