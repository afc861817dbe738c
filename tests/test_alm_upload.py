"""Uploading models to a local stand-in of the hub, and loading them from there."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hub_server import TOKEN, local_hub
from transformers import AutoTokenizer

import alm
from alm.cli import main
from alm.common.errors import UserError
from alm.export import export_model
from alm.llm import load_llm
from alm.model import AudioLanguageModel
from alm.processor import build_processor
from encoders import encoder_class


@pytest.fixture(scope="module")
def folders(llm_dir, tmp_path_factory):
    """A model that refers to its LLM, and a self-contained one with an evaluation in its folder."""
    root = tmp_path_factory.mktemp("models")
    llm = load_llm(str(llm_dir))
    model = AudioLanguageModel.assemble(encoder_class("audiomosaic").tiny(), llm, llm_source=str(llm_dir))
    processor = build_processor(AutoTokenizer.from_pretrained(llm_dir), model)
    model.save_pretrained(root / "refers")
    processor.save_pretrained(root / "refers")
    export_model(root / "refers", root / "whole")
    (root / "whole" / "eval" / "mmau").mkdir(parents=True)
    (root / "whole" / "eval" / "mmau" / "scores.json").write_text("{}")
    return root


@pytest.fixture
def hub(monkeypatch):
    with local_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(
            "huggingface_hub.utils._http.time.sleep", lambda seconds: None
        )  # before it tries again
        yield hub


ANSWER = """
    import json, sys
    import numpy as np
    from transformers import AutoModelForMultimodalLM, AutoProcessor
    clip = np.sin(np.arange(16000) / 9).astype(np.float32)
    turns = [{"role": "user", "content": [{"type": "audio", "audio": clip}, {"type": "text", "text": "what is this"}]}]
    told = []
    for source, options in ((sys.argv[1], {"revision": "v2"}), (sys.argv[2], {})):
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=True, **options)
        model = AutoModelForMultimodalLM.from_pretrained(source, trust_remote_code=True, **options)
        inputs = processor.apply_chat_template(turns, tokenize=True, return_dict=True, add_generation_prompt=True)
        told.append(model.generate(**inputs, max_new_tokens=8, do_sample=False).tolist())
    print(json.dumps(told))
"""


def test_a_pushed_model_answers_from_the_hub(hub, folders, tmp_path, capsys):
    whole = folders / "whole"
    assert main(["push", str(whole), "some-org/hears", "--private", "--revision", "v2"]) == 0
    assert f"{hub.url}/some-org/hears/commit/" in capsys.readouterr().out
    assert hub.private == {"some-org/hears": True}
    names = {str(file.relative_to(whole)) for file in whole.rglob("*") if file.is_file()}
    assert set(hub.branch("some-org/hears", "v2")) == names - {"eval/mmau/scores.json"}
    assert hub.branch("some-org/hears") == {} and hub.messages == {"some-org/hears": ["Upload model"]}
    for name, content in hub.branch("some-org/hears", "v2").items():
        assert content == (whole / name).read_bytes()
    found = subprocess.run(  # the client reads the hub's address when it is imported
        [sys.executable, "-c", textwrap.dedent(ANSWER), "some-org/hears", str(whole)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(alm.__file__).parents[1]),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "0",
        },
    )
    assert found.returncode == 0, found.stderr
    of_hub, local = json.loads(found.stdout.splitlines()[-1])
    assert of_hub == local and len(local[0]) > 8


def test_methods_push_as_in_transformers(hub, folders, tmp_path):
    model, processor = alm.load(folders / "whole", device="cpu")
    assert model.push_to_hub("me/m", commit_message="first", tags=["bells"]).startswith(
        f"{hub.url}/me/m/commit/"
    )
    processor.push_to_hub("me/m", revision="main")
    files = hub.branch("me/m")
    same = {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "processor_config.json",
        "chat_template.jinja",
    }
    assert {name for name in same if files[name] == (folders / "whole" / name).read_bytes()} == same
    card = files["README.md"].decode()
    assert 'source = "me/m"' in card and "- bells\n" in card and str(folders) not in card
    # What its owner writes into the card on the hub stays there.
    edited = card.replace("tags:\n", "license: mit\ntags:\n", 1) + "\nMy words.\n"
    files["README.md"] = edited.encode()
    model.save_pretrained(tmp_path / "m", push_to_hub=True, repo_id="me/m", commit_message="again")
    card = files["README.md"].decode()
    assert card.endswith("\nMy words.\n") and "license: mit\n" in card and 'source = "me/m"' in card
    files["README.md"] = b"# By hand\n"
    model.push_to_hub("me/m")
    assert files["README.md"] == b"# By hand\n"
    assert hub.messages["me/m"] == ["first", "Upload processor", "again", "Upload model"]
    with pytest.raises(UserError, match="max_shard_size is not supported"):
        model.push_to_hub("me/m", max_shard_size="1MB")


@pytest.mark.parametrize(
    "what, failure, words",
    [
        ("model", (500, None), "check the connection"),
        ("model", (429, None), "check the connection"),
        ("model", (401, "RepoNotFound"), "log in with `hf auth login`"),
        ("model", (403, "GatedRepo"), "may not write there"),
        ("processor", (403, None), "check the connection"),
        # An answer without the hub's headers, such as a proxy's page.
        ("processor", (200, None), "check the connection"),
    ],
    ids=str,
)
def test_a_card_that_cannot_be_read_is_not_replaced(hub, folders, what, failure, words):
    """A missing file or repository counts as empty; any other failure ends the upload before anything is written."""
    pushed = dict(zip(("model", "processor"), alm.load(folders / "whole", device="cpu"), strict=True))[what]
    hub.files["me/m"] = {"main": {"README.md": b"# By hand\n"}}
    hub.failures["README.md"] = failure
    with pytest.raises(UserError, match=f"me/m: was not uploaded .*{words}"):
        pushed.push_to_hub("me/m")
    assert hub.files["me/m"] == {"main": {"README.md": b"# By hand\n"}} and not hub.messages
    hub.failures["README.md"] = 404, "EntryNotFound"
    pushed.push_to_hub("me/m")
    assert hub.messages["me/m"] == [f"Upload {what}"]


def test_a_new_branch_keeps_the_card_of_main(hub, folders):
    model, _ = alm.load(folders / "whole", device="cpu")
    hub.files["me/m"] = {"main": {"README.md": b"# By hand\n"}}
    model.push_to_hub("me/m", revision="v2")
    branch = hub.branch("me/m", "v2")
    assert branch["README.md"] == b"# By hand\n" and "model.safetensors" in branch


@pytest.mark.parametrize("what", ["model", "processor"])
def test_every_argument_of_a_push_reaches_the_hub(hub, folders, what, tmp_path, monkeypatch):
    pushed = dict(zip(("model", "processor"), alm.load(folders / "whole", device="cpu"), strict=True))[what]
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    address = pushed.push_to_hub(
        "org/m", commit_message="first", commit_description="Further lines.", private=True, token=TOKEN,
        create_pr=True,
    )  # fmt: skip
    assert address == f"{hub.url}/org/m/discussions/1" and hub.private == {"org/m": True}
    assert hub.messages == {"org/m": ["first"]}
    assert hub.commits == {"org/m": [("refs/pr/1", "Further lines.")]} and hub.branch("org/m") == {}
    # The card of a private repository is read with the token, and the card of a branch from that branch.
    hub.files["org/m"] = {"main": {"README.md": b"# Of main\n"}, "v2": {"README.md": b"# By hand\n"}}
    pushed.push_to_hub("org/m", token=TOKEN, revision="v2")
    assert hub.branch("org/m", "v2")["README.md"] == b"# By hand\n"
    assert hub.commits["org/m"][1:] == [("v2", "")]


@pytest.mark.parametrize(
    "case, words",
    [
        ("no token", ["log in with `hf auth login`", "401"]),
        ("unreachable", ["check the connection"]),
        ("refers", ["alm export"]),
        ("no model", ["config.json is missing"]),
        ("no processor", ["processor_config.json is missing"]),
        ("damaged", ["is not the file that was saved"]),
        ("bad name", ["organisation/name"]),
    ],
)
def test_what_cannot_be_pushed_is_one_line(hub, folders, tmp_path, case, words, monkeypatch, capsys):
    folder, repo = folders / "whole", "me/m"
    if case == "unreachable":  # the discard port: nobody listens
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    if case in ("refers", "no model"):
        folder = folders / "refers" if case == "refers" else tmp_path
    if case in ("no processor", "damaged"):
        folder = Path(shutil.copytree(folder, tmp_path / "m"))
        if case == "damaged":
            shutil.copy(folders / "refers" / "model.safetensors", folder)
        else:
            (folder / "processor_config.json").unlink()
    if case == "bad name":
        repo = "a/b/c d"
    if case == "no token":
        monkeypatch.setenv("HF_TOKEN", "")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main(["push", str(folder), repo]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and all(word in told for word in words), told
    assert not hub.files
