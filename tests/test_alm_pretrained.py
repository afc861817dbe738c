"""The one door to `transformers`: no foreign code, no prompt, one typed error; permissions of what is written."""

import io
import json
import os
import pickle
import shutil
import stat
import sys

import numpy as np
import pytest
import torch
from calls import model_inputs
from safetensors import safe_open
from tiny_model import save_tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import alm
from alm.auto import AUTO_MAP as OURS
from alm.checkpoint import load_llm, load_model
from alm.cli import main
from alm.common.errors import CheckpointError, ConfigError, UserError
from alm.common.files import apply_umask, make_folder
from alm.common.pretrained import from_pretrained, typed_errors
from alm.common.settings import parse_settings
from alm.data.manifest import write_manifest
from encoders import encoder_class, load_encoder
from encoders.audio import save_wav
from encoders.checkpoint import read_weights, write_weights
from train.pipeline.recipe import load_recipe, run_recipe
from train.pipeline.runner import run_stage
from train.settings import TrainSettings

AUTO_MAP = {
    name: f"evil.{name}"
    for name in ("AutoConfig", "AutoModelForCausalLM", "AutoModel", "AutoTokenizer", "AutoFeatureExtractor")
}


@pytest.fixture
def stranger(llm_dir, tmp_path, monkeypatch):
    """An LLM directory with Python code of its own, and a user whose stdin says yes to everything."""
    folder = tmp_path / "llm"
    shutil.copytree(llm_dir, folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    for name in ("config.json", "tokenizer_config.json"):
        values = json.loads((folder / name).read_text())
        values |= {"auto_map": AUTO_MAP, "model_type": "of_a_stranger"}
        values.pop("tokenizer_class", None)
        (folder / name).write_text(json.dumps(values))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"auto_map": AUTO_MAP, "feature_extractor_type": "Unknown"})
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    yield folder
    assert not (tmp_path / "ran").exists(), "a stranger's code was run"
    assert sys.stdin.read() == "y\n" * 100, "stdin was read"


@pytest.mark.parametrize("loader", [AutoTokenizer, AutoConfig, AutoModelForCausalLM])
def test_code_of_a_stranger_is_refused_in_one_line(stranger, loader):
    with pytest.raises(
        CheckpointError, match=r"judge: cannot load .*auto_map.*trust_remote_code: true"
    ) as caught:
        from_pretrained(loader, stranger, role="judge")
    assert "\n" not in str(caught.value)


def test_every_place_that_loads_uses_the_door(stranger):
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        load_llm(str(stranger))
    from eval.errors import MetricUnavailable
    from eval.metrics._encoder import load_text_model
    from eval.scoring.judges import _local

    with pytest.raises(MetricUnavailable, match="trust_remote_code"):
        load_text_model(str(stranger))
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        _local(str(stranger))
    config = json.loads((stranger / "config.json").read_text())
    (stranger / "config.json").write_text(json.dumps({**config, "model_type": "wav2vec2"}))
    with pytest.raises(UserError):
        load_encoder(stranger)


def test_code_is_run_where_the_user_says_so(tmp_path, llm_dir):
    folder = tmp_path / "llm"
    shutil.copytree(llm_dir, folder)
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig\nclass Own(LlamaConfig):\n    model_type = 'own_llama'\n"
    )
    values = json.loads((folder / "config.json").read_text())
    values |= {"auto_map": {"AutoConfig": "own.Own"}, "model_type": "own_llama"}
    (folder / "config.json").write_text(json.dumps(values))
    config = from_pretrained(AutoConfig, folder, role="llm", trust_remote_code=True)
    assert type(config).__name__ == "Own"


@pytest.fixture
def own_model(llm_dir, tmp_path):
    """An aligned model whose LLM has a config and a model class of its own, and one clip with a question."""
    folder = tmp_path / "llm"
    shutil.copytree(llm_dir, folder)
    (folder / "configuration_own.py").write_text(
        "from transformers import LlamaConfig\nclass OwnConfig(LlamaConfig):\n    model_type = 'own_llama'\n"
    )
    (folder / "modeling_own.py").write_text(
        "from transformers import LlamaForCausalLM\nfrom .configuration_own import OwnConfig\n"
        "class OwnLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    values = json.loads((folder / "config.json").read_text())
    values |= {
        "model_type": "own_llama",
        "auto_map": {
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(values))
    encoder_class("audiomosaic").tiny().save_pretrained(tmp_path / "encoder")
    save_wav(tmp_path / "a.wav", np.full(16000, 0.1, dtype=np.float32), 16000)
    write_manifest(
        tmp_path / "a.jsonl", [{"id": "a", "audio": "a.wav", "question": "what is this", "answer": "a bell"}]
    )
    return tmp_path, run_stage(stage(tmp_path, "align", encoder=str(tmp_path / "encoder"), llm=str(folder)))


def stage(folder, name, **values):
    values = {"stage": name, "out": str(folder / name), "trust_remote_code": True, **values}
    data = {"train": [str(folder / "a.jsonl")]}
    return parse_settings(
        TrainSettings,
        {**values, "data": data, "optim": {"steps": 1, "batch_size": 1, "warmup_steps": 0}},
    )


def test_a_model_of_custom_code_is_used_where_the_user_says_so(own_model, capsys):
    folder, aligned = own_model
    ask = ["ask", str(aligned), str(folder / "a.wav"), "what is this", "--max-new-tokens", "2"]
    assert main(ask) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "own_llama" in error and "--trust-remote-code" in error
    assert main([*ask, "--trust-remote-code"]) == 0
    model, processor = alm.load(aligned, device="cpu", trust_remote_code=True)
    assert type(model.llm).__name__ == "OwnLM" and processor.context_length == 512
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        run_stage(stage(folder, "instruct", model=str(aligned), trust_remote_code=False))
    instructed = run_stage(stage(folder, "instruct", model=str(aligned)))
    assert type(load_model(instructed, trust_remote_code=True).llm).__name__ == "OwnLM"
    run = ["eval", "manifest", "--model", str(aligned), "--data", str(folder / "a.jsonl"), "max_new_tokens=2"]
    run += ["controls=[none]", "--out", str(folder / "scores")]
    assert main(run) == 2
    assert main([*run, "trust_remote_code=true"]) == 0


def test_an_export_of_a_model_of_custom_code_holds_the_code(own_model, monkeypatch, capsys):
    folder, aligned = own_model
    out = folder / "out"
    for command in (["inspect", str(aligned)], ["export", str(aligned), "--out", str(out)]):
        assert main(command) == 2 and "--trust-remote-code" in capsys.readouterr().err
        assert main([*command, "--trust-remote-code"]) == 0
    shutil.rmtree(folder / "llm")  # no file of the LLM's directory is needed any more
    assert {"configuration_own.py", "modeling_own.py"} <= {path.name for path in out.iterdir()}
    ask = ["ask", str(out), str(folder / "a.wav"), "what is this", "--max-new-tokens", "2"]
    embed = ["embed", str(out), str(folder / "a.wav"), "--out", str(folder / "x.npz")]
    for command in (ask, embed):
        capsys.readouterr()
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "own_llama" in error and "--trust-remote-code" in error
        assert main([*command, "--trust-remote-code"]) == 0
    model = load_model(out, trust_remote_code=True)
    assert type(model.llm).__name__ == "OwnLM" and type(model.config.text_config).__name__ == "OwnConfig"
    model.save_pretrained(folder / "again")
    assert (folder / "again/modeling_own.py").read_text() == (out / "modeling_own.py").read_text()


def test_a_recipe_scores_a_model_of_custom_code_that_its_stage_trusts(own_model):
    folder, aligned = own_model
    (folder / "recipe.yaml").write_text(
        f"out: {folder}/run\nstages:\n"
        f"- {{name: more, stage: instruct, model: {aligned}, trust_remote_code: true, data: {{train: "
        f"[{folder}/a.jsonl]}}, optim: {{steps: 1, batch_size: 1, warmup_steps: 0}}, evaluate: {{data: "
        f"{folder}/a.jsonl, max_new_tokens: 2, controls: [none]}}}}\n"
    )
    run_recipe(load_recipe(folder / "recipe.yaml"))
    assert (folder / "run/more-scores/scores.json").is_file()


@pytest.mark.parametrize(
    "text", ["[]", "null", "5", '"x"', "", "{", "\0", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"]
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_broken_file_is_named(llm_dir, tmp_path, name, text):
    shutil.copytree(llm_dir, tmp_path / "llm")
    (tmp_path / "llm" / name).write_text(text)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_llm(str(tmp_path / "llm"))


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_pickled_weights_of_an_llm_run_nothing(llm_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(llm_dir, tmp_path / "llm")
    (tmp_path / "llm/model.safetensors").unlink()
    for data in (pickle.dumps(Evil()), b"not a pickle"):
        (tmp_path / "llm/pytorch_model.bin").write_bytes(data)
        with pytest.raises(CheckpointError, match="llm: cannot load"):
            load_llm(str(tmp_path / "llm"))
    torch.save({"lm_head.weight": Evil()}, tmp_path / "llm/pytorch_model.bin")
    with pytest.raises(CheckpointError, match="llm: cannot load"):
        load_llm(str(tmp_path / "llm"))
    with pytest.raises(CheckpointError, match="plain state dict"):
        read_weights(tmp_path / "llm/pytorch_model.bin")
    assert not (tmp_path / "ran").exists()


def test_any_exception_of_a_library_is_one_line():
    class PanicException(BaseException):
        pass

    for error in (KeyError("a"), AttributeError("x\ny"), RecursionError("deep"), PanicException("rust")):
        with (
            pytest.raises(ConfigError, match="^tokenizer: ") as caught,
            typed_errors("tokenizer", ConfigError),
        ):
            raise error
        assert "\n" not in str(caught.value) and caught.value.__cause__ is error
    with pytest.raises(KeyboardInterrupt), typed_errors("tokenizer"):
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def tiny_model_dir(llm_dir, tmp_path_factory):

    folder = tmp_path_factory.mktemp("tiny") / "model"
    return save_tiny_model(llm_dir, folder)


@pytest.mark.parametrize("role", ["llm", "model"])
def test_a_generation_config_that_transformers_would_ignore_is_refused(
    llm_dir, tmp_path, tiny_model_dir, role
):
    """Transformers takes a file with a byte order mark for a missing one, and sets stop tokens of its own."""
    folder = tmp_path / "copy"
    shutil.copytree(llm_dir if role == "llm" else tiny_model_dir, folder)
    load = load_llm if role == "llm" else load_model
    (folder / "generation_config.json").write_text("\ufeff{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"generation_config\.json: begins with a byte order mark"):
        load(str(folder))


@pytest.mark.parametrize(
    "values",
    [{"num_return_sequences": 4}, {"watermarking_config": {"x": 1}}, {"cache_implementation": "nope"}],
)
def test_wrong_generation_settings_name_their_file(tmp_path, tiny_model_dir, values):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "generation_config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"^generation_config\.json: cannot load '.*copy'"):
        load_model(str(folder))


ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target_modules": "(([a-z_.0-9]+)*)*!"}, "target_modules holds .*, not a pattern"),
        ({"rank_pattern": {"((a+)*)*$": 3}}, "rank_pattern holds .*, not a pattern"),
        ({"r": 10**9}, "r is 1000000000, expected a whole number"),
        ({"base_model_name_or_path": "someone/model"}, "'someone/model', is not a directory here; merge"),
        ({"base_model_name_or_path": None}, "None, is not a directory here; merge"),
    ],
)
def test_an_adapter_of_a_stranger_is_checked_before_it_is_loaded(
    llm_dir, tmp_path, monkeypatch, change, said
):
    """Its patterns would run for years; its base model would be asked of the Hub."""
    import socket

    def refuse(*_):
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    folder = tmp_path / "llm"
    shutil.copytree(llm_dir, folder)
    if "base_model_name_or_path" in change:
        (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | change))
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json: .*{said}"):
        load_llm(str(folder))


@pytest.mark.parametrize("place", ["../outside.safetensors", "/dev/zero", ".", "", 1, "missing", "ABSOLUTE"])
def test_an_index_of_weights_stays_in_its_directory(llm_dir, tmp_path, place):
    folder = tmp_path / "llm"
    shutil.copytree(llm_dir, folder)
    names = list(safe_open(folder / "model.safetensors", "pt").keys())
    shutil.move(folder / "model.safetensors", tmp_path / "outside.safetensors")
    place = str(tmp_path / "outside.safetensors") if place == "ABSOLUTE" else place
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, place)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index\.json: .* is not a file of this directory"):
        load_llm(str(folder))
    for broken in ({"weight_map": None}, {"weight_map": {}}, {}):
        (folder / "model.safetensors.index.json").write_text(json.dumps(broken))
        with pytest.raises(CheckpointError, match=r"index\.json: weight_map is"):
            load_llm(str(folder))


def test_weights_in_shards_are_loaded(llm_dir, tmp_path):
    model = load_llm(str(llm_dir))
    shutil.copytree(llm_dir, tmp_path / "llm")
    (tmp_path / "llm/model.safetensors").unlink()
    model.save_pretrained(tmp_path / "llm", max_shard_size="40KB")
    assert (tmp_path / "llm/model.safetensors.index.json").is_file()
    again = load_llm(str(tmp_path / "llm"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [1e-300, 3, True, ["float32"]])
def test_a_dtype_that_is_no_name_is_refused(llm_dir, tmp_path, tiny_model_dir, dtype):
    for source, load in ((llm_dir, load_llm), (tiny_model_dir, load_model)):
        folder = tmp_path / source.name
        shutil.copytree(source, folder)
        values = json.loads((folder / "config.json").read_text())
        values.pop("config_sha256", None)
        (values["text_config"] if "text_config" in values else values)["dtype"] = dtype
        (folder / "config.json").write_text(json.dumps(values))
        with pytest.raises(CheckpointError, match=r"config\.json: dtype is .*, expected the name of a dtype"):
            load(str(folder))


def test_names_longer_than_the_system_takes_are_refused_in_one_line(tmp_path):
    from eval.models import open_model

    for name in ("x" * 300, "/".join(["y" * 200] * 30)):
        for load in (load_llm, load_model, load_encoder, open_model):
            with pytest.raises(UserError) as caught:
                load(name)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_written_files_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        folder = make_folder(tmp_path / "m")
        write_weights(folder / "model.safetensors", {"a": torch.zeros(2)})
        (folder / "private").touch(0o600)
        (folder / "script").touch(0o700)
        apply_umask(folder)
        (folder / "opened").open("w").close()
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    finally:
        os.umask(before)
    assert modes["model.safetensors"] == modes["private"] == modes["opened"] == 0o666 & ~umask
    assert modes["script"] == 0o700 & ~umask


def test_a_tokenizer_pattern_that_gives_up_is_one_line(llm_dir):
    from tokenizers import Regex, pre_tokenizers

    from alm.model import AudioLanguageModel
    from alm.processor import build_processor
    from encoders import encoder_class

    tokenizer = AutoTokenizer.from_pretrained(llm_dir)
    model = AudioLanguageModel.assemble(encoder_class("audiomosaic").tiny(), load_llm(str(llm_dir)))
    processor = build_processor(tokenizer, model)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"(a+)+$"), "isolated"), pre_tokenizers.ByteLevel()]
    )
    with pytest.raises(UserError, match="the tokenizer cannot read"):
        model_inputs(processor, [[{"role": "user", "content": "a" * 40 + "!"}]], add_generation_prompt=True)


def test_a_directory_of_ours_that_fails_to_load_says_the_real_reason(tmp_path):
    config = tmp_path / "processor_config.json"
    config.write_text(json.dumps({"auto_map": {"AutoProcessor": OURS["AutoProcessor"]}}))
    with pytest.raises(CheckpointError, match="cannot load: the real reason"):
        with typed_errors("cannot load", folder=tmp_path):
            raise ValueError("the real reason")
    config.write_text(json.dumps({"auto_map": {"AutoProcessor": "evil.Processor"}}))
    with pytest.raises(CheckpointError, match="names Python code of its own"):
        with typed_errors("cannot load", folder=tmp_path):
            raise ValueError("the real reason")
