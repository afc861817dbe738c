"""The quickstart end to end at toy size: every step really runs, and a second run does only what is missing."""

import json

import pytest

from alm.cli import main
from encoders import load_encoder
from train.engine import parallel
from train.engine.parallel import run_side_by_side
from train.quickstart.workflow import load_quickstart, stage_settings

TOY = [
    "compose.n_train=24", "compose.n_validation=12", "compose.n_test=12",
    "text_llm.steps=3", "text_llm.n_test_scenes=2",
    "pretrain.optim.steps=2", "pretrain.optim.batch_size=8", "pretrain.optim.warmup_steps=1",
    "align.optim.steps=2", "instruct.optim.steps=2", "evaluate.max_new_tokens=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A finished toy quickstart."""
    out = tmp_path_factory.mktemp("toy") / "q"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "n_cores", lambda: 1)  # one process: fewer imports
        assert main(["quickstart", "--out", str(out), *TOY]) == 0
    return out


@pytest.mark.slow
def test_it_leaves_what_it_promises(toy):
    page = (toy / "report.html").read_text()
    assert page.count("<audio") == 12 and "http://" not in page.replace("http://www.w3.org", "")
    scores = json.loads((toy / "scores.json").read_text())
    assert set(scores["arms"]) == {"none", "no_audio", "other_clip", "untrained_encoder", "qformer"}
    assert all(arm["n_missing"] == 0 for arm in scores["arms"].values())
    lines = [json.loads(line) for line in (toy / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * scores["n_records"]
    assert main(["caption", str(toy / "instruct/model"), str(toy / "data/audio/test-00000.wav")]) == 0


@pytest.mark.slow
def test_a_second_run_does_only_what_is_missing(toy, capsys, monkeypatch):
    monkeypatch.setattr(parallel, "n_cores", lambda: 1)
    stamp = (toy / "align/finished.json").stat().st_mtime_ns
    (toy / "instruct/finished.json").unlink()  # as if killed while tuning
    (toy / "instruct/model/model.safetensors").write_bytes(b"half")
    assert main(["quickstart", "--out", str(toy), *TOY]) == 0
    said = capsys.readouterr().out
    for step in ("compose", "text_llm", "pretrain", "align", "untrained_encoder-align", "qformer-instruct"):
        assert f"\n{step}: already done" in said
    assert "\ninstruct: already done" not in said
    assert (toy / "align/finished.json").stat().st_mtime_ns == stamp
    assert main(["quickstart", "--out", str(toy), *TOY]) == 0
    assert "\ninstruct: already done" in capsys.readouterr().out


@pytest.mark.slow
def test_pretraining_moved_the_encoder(toy):
    trained = load_encoder(toy / "pretrain/encoder")
    fresh = load_encoder("audiomosaic", **load_quickstart(None, 0, []).pretrain["encoder_options"])
    assert trained.config.dim == fresh.config.dim
    facts = json.loads((toy / "pretrain/finished.json").read_text())
    assert 0 <= facts["view_retrieval"] <= 1 and facts["clips"] == 24


def test_a_data_folder_that_is_not_ours_is_left_alone(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("precious")
    assert main(["quickstart", "--out", str(tmp_path), *TOY]) == 2
    assert "data" in capsys.readouterr().err
    assert (tmp_path / "data" / "thesis.txt").read_text() == "precious"


def test_the_control_arm_differs_only_in_its_encoder(tmp_path):
    settings = load_quickstart(None, 0, [])
    ours = stage_settings(settings, tmp_path, "align", str(tmp_path / "pretrain/encoder"), "llm")
    control = stage_settings(settings, tmp_path, "align", settings.untrained, "llm", "untrained_encoder")
    assert (ours.optim, ours.policy, ours.data, ours.run) == (
        control.optim, control.policy, control.data, control.run,
    )  # fmt: skip
    assert (
        control.encoder == "audiomosaic" and control.encoder_options == settings.pretrain["encoder_options"]
    )


def fail(message):
    from alm.common.errors import UserError

    raise UserError(message)


def test_a_step_that_fails_beside_another_is_reported_once(monkeypatch):
    from alm.common.errors import UserError

    monkeypatch.setattr(parallel, "n_cores", lambda: 2)
    with pytest.raises(UserError, match="the disk is full"):
        run_side_by_side([(fail, ("the disk is full",)), (sum, ([1, 2],))])
