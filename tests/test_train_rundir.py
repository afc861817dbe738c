"""Run directories: only a whole, unchanged result counts as finished, and one process at a time runs in one."""

import errno
import json
import multiprocessing
import os
import shutil

import pytest

from alm.cli import main
from alm.common.errors import ConfigError, UserError
from alm.common.settings import parse_settings
from train.pipeline import rundir
from train.pipeline.rundir import begin, damage, facts_of, is_attempt, run_lock
from train.pipeline.runner import run_step
from train.settings import RunSettings
from train.settings.optim import OptimSettings
from train.stages.training import check_report_to


def step(folder, calls=None, text="weights", value=1, **more):
    """A run that writes `artifact/a.bin`, `artifact/sub/b.wav` and `scores.json`."""

    def work(_):
        if calls is not None:
            calls.append(1)
        (folder / "artifact" / "sub").mkdir(parents=True)
        (folder / "artifact" / "a.bin").write_text(text)
        (folder / "artifact" / "sub" / "b.wav").write_text("sound")
        (folder / "scores.json").write_text("{}")
        return {"loss": float("nan"), "value": value}

    return run_step(folder, {"value": value}, [], work, folder / "artifact", ("scores.json",), **more)


def truncate(folder):
    (folder / "artifact" / "a.bin").write_text("wei")


def change(folder):
    (folder / "artifact" / "a.bin").write_text("weightz")


def cut_sound(folder):
    (folder / "artifact" / "sub" / "b.wav").write_text("")


def remove(folder):
    (folder / "artifact" / "sub" / "b.wav").unlink()


def remove_scores(folder):
    (folder / "scores.json").unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (truncate, "artifact/a.bin has 3 of 7 bytes"),
        (change, "artifact/a.bin has changed"),
        (cut_sound, "artifact/sub/b.wav has 0 of 5 bytes"),
        (remove, "artifact/sub/b.wav is missing"),
        (remove_scores, "scores.json is missing"),
    ],
)
def test_a_changed_result_is_named_and_kept(harm, said, tmp_path, capsys):
    calls, run = [], tmp_path / "run"
    first = step(run, calls)
    assert step(run, calls) == pytest.approx(first, nan_ok=True) and len(calls) == 1
    assert "run: already done, reused" in capsys.readouterr().out
    harm(run)
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    message = rf"run: its finished result has changed \({said}\); restore it, or .*finished.json"
    with pytest.raises(UserError, match=message):
        step(run, calls)
    assert len(calls) == 1 and {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == kept
    (run / "finished.json").unlink()  # as the message says
    step(run, calls)
    assert len(calls) == 2 and damage(run) is None
    assert (run / "artifact" / "a.bin").read_text() == "weights" and (run / "scores.json").exists()


def test_a_result_that_was_removed_is_made_again(tmp_path):
    calls = []
    step(tmp_path, calls)
    shutil.rmtree(tmp_path / "artifact")
    step(tmp_path, calls)
    assert len(calls) == 2 and damage(tmp_path) is None


BROKEN = [
    "[]", '["fingerprint"]', "7", "null", '"x"', "{", "", "\x00", '{"fingerprint": []}', '{"files": {}}',
    "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("name", ["finished.json", "attempt.json"])
def test_a_broken_marker_is_no_traceback(name, text, tmp_path):
    calls = []
    step(tmp_path, calls)
    (tmp_path / name).write_text(text)
    step(tmp_path, calls)
    assert len(calls) == (2 if name == "finished.json" else 1) and damage(tmp_path) is None


@pytest.mark.parametrize("files", [[], {}, 3, {"artifact/a.bin": 7}, {"artifact/a.bin": {"bytes": "7"}}])
def test_a_marker_with_a_wrong_list_of_files_is_not_finished(files, tmp_path):
    calls = []
    step(tmp_path, calls)
    marker = json.loads((tmp_path / "finished.json").read_text())
    (tmp_path / "finished.json").write_text(json.dumps(marker | {"files": files}))
    with pytest.raises(
        UserError, match="finished.json (lists no files|does not give the size of artifact/a.bin)"
    ):
        step(tmp_path, calls)
    assert len(calls) == 1


def test_the_facts_are_kept_without_the_list_of_files(tmp_path):
    facts = step(tmp_path)
    assert facts["value"] == 1 and "files" not in facts and facts["seconds"] >= 0
    assert facts_of(tmp_path)["fingerprint"] == facts["fingerprint"]
    files = json.loads((tmp_path / "finished.json").read_text())["files"]
    assert set(files) == {"artifact/a.bin", "artifact/sub/b.wav", "scores.json"}
    assert files["artifact/a.bin"]["bytes"] == 7 and "sha256" not in files["artifact/sub/b.wav"]


def test_a_run_without_result_is_an_error(tmp_path):
    with pytest.raises(UserError, match="the stage did not write it"):
        run_step(tmp_path, {}, [], lambda _: {}, tmp_path / "artifact")
    assert not (tmp_path / "finished.json").exists()


def test_an_unfinished_run_keeps_what_it_resumes_from_and_a_changed_one_does_not(tmp_path):
    def left():
        return sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".json")

    for name in ("checkpoints", "artifact", "llm"):
        (tmp_path / name).mkdir()
    (tmp_path / "attempt.json").write_text('{"fingerprint": "a"}')
    begin(tmp_path, "a", tmp_path / "artifact", ("llm",), ("checkpoints",))
    assert left() == ["checkpoints"] and is_attempt(tmp_path, "a")
    (tmp_path / "llm").mkdir()
    begin(tmp_path, "b", tmp_path / "other", (), ("checkpoints",))  # another stage: `llm` is the old one's
    assert left() == [] and is_attempt(tmp_path, "b") and not is_attempt(tmp_path, "a")


def test_a_kill_while_old_results_are_removed_leaves_no_marker(tmp_path, monkeypatch):
    def killed(path):
        if path.name == "artifact":
            raise KeyboardInterrupt
        remove_one(path)

    step(tmp_path)
    remove_one = rundir._remove
    monkeypatch.setattr(rundir, "_remove", killed)
    with pytest.raises(KeyboardInterrupt):
        step(tmp_path, value=2)
    assert not (tmp_path / "finished.json").exists()


def test_files_of_others_are_kept(tmp_path):
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="holds files that no run of alm train wrote"):
        step(tmp_path)
    assert (tmp_path / "artifact" / "thesis.txt").read_text() == "precious"


def test_an_attempt_can_only_name_files_that_a_stage_writes(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for path in (tmp_path / "precious", run / "thesis.tex", run / "llm"):
        path.write_text("x")
    names = ["../precious", "thesis.tex", "llm", ["llm"], 3, "", ".", "..", "a\0"]
    (run / "attempt.json").write_text(json.dumps({"fingerprint": "a", "leaves": names}))
    step(run)
    assert (tmp_path / "precious").exists() and (run / "thesis.tex").exists() and not (run / "llm").exists()


def hold(folder, held, end):
    with run_lock(folder):
        held.set()
        end.wait(60)


def test_two_runs_in_one_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir, "_LOCK_S", 0.3)
    context = multiprocessing.get_context("fork")
    held, end = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, held, end))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(UserError, match="another process is running in it"):
            step(tmp_path)
        assert list(tmp_path.iterdir()) == []  # no lock file, nothing begun
        other.kill()  # however it ends, its lock ends with it
        other.join()
        step(tmp_path)
    finally:
        other.kill()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.bin"),
        OSError(errno.EROFS, os.strerror(errno.EROFS)),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_line(error, tmp_path):
    def work(_):
        raise error

    with pytest.raises(
        UserError, match="cannot be written .*(No space left|Read-only).*run the same command again"
    ):
        run_step(tmp_path, {}, [], work, tmp_path / "artifact")
    assert not (tmp_path / "finished.json").exists()


def test_other_errors_stay_as_they_are(tmp_path):
    def work(_):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="^a bug$"):
        run_step(tmp_path, {}, [], work, tmp_path / "artifact")


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        (RunSettings, {"seed": -1}, "seed.*-1; expected a seed of 0 to 4294967295"),
        (RunSettings, {"seed": 2**32}, "seed.*4294967296"),
        (RunSettings, {"keep_checkpoints": 0}, "run.keep_checkpoints: got 0, expected 1 or more"),
        (RunSettings, {"patience": 2}, "set run.eval_every too"),
        (RunSettings, {"on_nan": "go"}, "run.on_nan: got 'go', expected one of stop, skip"),
        (OptimSettings, {"lr": float("nan")}, "lr. is nan; expected a finite number"),
        (OptimSettings, {"lr": float("inf")}, "lr. is inf"),
        (OptimSettings, {"lr": 0.0}, "expected lr > 0"),
        (OptimSettings, {"beta2": 1.5}, "optim.beta2: got 1.5, expected 0 to 1"),
        (OptimSettings, {"warmup_steps": -1}, "optim.warmup_steps: got -1, expected 0 or more"),
        (OptimSettings, {"weight_decay": float("nan")}, "weight_decay. is nan"),
        (OptimSettings, {"min_lr_ratio": 1.1}, "optim.min_lr_ratio: got 1.1"),
        (OptimSettings, {"max_grad_norm": -1.0}, "optim.max_grad_norm: got -1.0"),
    ],
)  # fmt: skip
def test_numbers_outside_their_range_are_refused(section, values, said):
    with pytest.raises(ConfigError, match=said):
        parse_settings(section, values)


def test_logging_backends_are_checked_before_anything_is_loaded(monkeypatch):
    import transformers.integrations

    check_report_to([])
    with pytest.raises(ConfigError, match="run.report_to: got 'wandbb', expected one of .*wandb"):
        check_report_to(["wandbb"])
    monkeypatch.setattr(
        transformers.integrations, "get_available_reporting_integrations", lambda: ["tensorboard"]
    )
    check_report_to(["tensorboard"])
    with pytest.raises(ConfigError, match="the package of 'wandb' is not installed; run pip install wandb"):
        check_report_to(["wandb"])


def config(tmp_path, out):
    (tmp_path / "c.yaml").write_text(f"stage: compose\nout: {out}\nn_train: 1\nn_validation: 1\nn_test: 1\n")
    return str(tmp_path / "c.yaml")


def test_out_that_cannot_be_a_directory(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below", "/proc/version/x"):
        assert main(["train", config(tmp_path, out)]) == 2
        assert "choose another out directory" in capsys.readouterr().err


def test_a_rank_without_its_launcher_is_named(tmp_path, monkeypatch, capsys):
    values = {
        "stage": "align",
        "out": str(tmp_path / "run"),
        "encoder": "logmel",
        "llm": "x",
        "data": {"train": ["x"]},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(values))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert main(["train", str(tmp_path / "c.yaml")]) == 2
    assert "without MASTER_ADDR, MASTER_PORT" in capsys.readouterr().err
