"""Scoring and comparing files of answers, from the command line as well, and judges."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import soundfile

from alm.cli import main
from eval.errors import EvaluationError
from eval.reports.compare import compare_runs
from eval.reports.comparison_page import write_comparison
from eval.reports.disagreements import disagreements
from eval.runner.score_file import score_file
from eval.scoring.judges import judged_accuracy, open_judge, read_verdict
from eval.scoring.predictions import prediction_key, read_predictions, records_of


def write(folder, right, n=40, **more):
    """Predictions of a run: the first `right` questions and captions are answered well."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(n):
        base = {"model": folder.name, "control": "none", "clip": f"c{i}", "duration_s": 3.0 + i, **more}
        good = i < right
        for line in (
            {"id": f"m{i}", "kind": "sound", "prediction": "(B)" if good else "A", "references": ["cat"],
             "choices": ["dog", "cat"], "groups": {"difficulty": "hard" if i % 2 else "easy"}},
            {"id": f"s{i}", "kind": "word", "prediction": "a puppy" if good else "rain", "references": ["dog", "puppy"],
             "question": f"what {i}"},
            {"id": f"t{i}", "kind": "caption", "caption": True, "prediction": f"a dog barks {i}" if good else "rain",
             "references": [f"a dog barks {i}", "a dog is barking"]},
        ):  # fmt: skip
            lines.append({**base, **line, "key": prediction_key(id=line["id"], run=folder.name)})
    path = folder / "predictions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_predictions_file_scores_itself(tmp_path, capsys):
    path = write(tmp_path / "a", 30)
    assert main(["score", str(path), "--official", "mmau", "--out", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    arm = scores["arms"]["none"]
    assert arm["scores"]["qa/word"]["value"] == arm["scores"]["qa/sound"]["value"] == 0.75
    assert {"caption/bleu_1", "caption/bleu_4", "caption/cider_d"} <= set(arm["scores"])
    assert "caption/spice" not in arm["scores"] and "ALM_SPICE_DIR" in str(scores["absent"])
    assert set(arm["groups"]) == {"difficulty", "length"} and arm["official"]["n_right"] == 0
    assert "over 30 s" in arm["groups"]["length"]
    assert "caption/cider_d" in capsys.readouterr().out
    assert score_file(path, official="mmau") == scores  # stable to compare


def test_a_required_metric_that_is_absent_fails(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no Java there
    path = write(tmp_path / "a", 30)
    assert main(["score", str(path), "--require", "meteor"]) == 2
    error = capsys.readouterr().err
    assert "--require meteor: needs Java" in error and error.count("\n") == 1


def test_unscorable_files_are_one_line(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"id": "a", "key": "k", "control": "none", "prediction": "x"}\n')
    for arguments, message in (
        ([str(tmp_path / "p.jsonl")], "holds no references"),
        ([str(tmp_path / "absent.jsonl")], "expected a predictions.jsonl"),
        ([str(tmp_path / "p.jsonl"), "--benchmark", "mmauu"], "did you mean 'mmau'"),
    ):
        assert main(["score", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_two_models_on_two_benchmarks_make_one_page(tmp_path, capsys):
    for model, right in (("good", 34), ("bad", 20)):
        write(tmp_path / model / "eval" / "first", right)
        write(tmp_path / model / "eval" / "second", 25)
    out = tmp_path / "page"
    assert main(["compare", str(tmp_path / "good"), str(tmp_path / "bad"), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "qa/overall" in text and "Holm" in text
    assert text.splitlines()[0] == f"good: {tmp_path / 'good'}"  # the models are named before their scores
    comparison = json.loads((out / "comparison.json").read_text())
    rows = {(row["set"], row["score"]): row for row in comparison["rows"]}
    row = rows["first", "qa/overall"]
    assert row["difference"]["value"] == pytest.approx(14 / 40) and row["difference"]["low"] > 0
    assert row["only"] == [28, 0] and row["p_permutation"] < 0.001 and row["p_mcnemar"] < 0.001
    assert row["p_permutation"] <= row["p_holm"] < 0.05
    same = rows["second", "caption/cider_d"]
    assert same["difference"]["value"] == 0.0 and same["p_permutation"] == same["p_holm"] == 1.0
    html = (out / "comparison.html").read_text()
    assert "<h2>first</h2>" in html and "<h2>second</h2>" in html and html.count("<figure>") == 4
    assert "http:" not in html and str(tmp_path) not in html and "good minus bad" in html
    assert "| first | qa/overall |" in (out / "comparison.md").read_text()
    assert compare_runs(tmp_path / "good", tmp_path / "bad")["rows"] == comparison["rows"]


def test_a_page_plays_what_only_one_model_gets_right(tmp_path):
    for model, right in (("good", 34), ("bad", 20)):
        write(tmp_path / model / "eval" / "manifest", right)
    lines = read_predictions(tmp_path / "good/eval/manifest/predictions.jsonl")
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000)
    soundfile.write(tmp_path / "a.wav", noise, 16000)
    manifest = tmp_path / "data.jsonl"
    asked = [
        {"id": line["id"], "audio": "a.wav", "question": "what", "answer": line["references"][0]}
        for line in lines
    ]
    manifest.write_text("".join(json.dumps(one) + "\n" for one in asked))
    told = {"run": {"benchmark": "manifest", "data": str(manifest), "split": ""}}
    (tmp_path / "good/eval/manifest/scores.json").write_text(json.dumps(told))
    comparison = compare_runs(tmp_path / "good", tmp_path / "bad")
    parted = comparison["sets"][0]["disagreements"]
    assert len({one["clip"] for one in parted}) == len(parted) == 6
    assert all(one["right"] == "first" and one["answers"][0] != one["answers"][1] for one in parted)
    html = write_comparison(tmp_path / "page", comparison).read_text()
    assert html.count("<audio") == 6 and "only good is right" in html
    manifest.unlink()  # then they are named, and not played
    html = write_comparison(tmp_path / "page", compare_runs(tmp_path / "good", tmp_path / "bad")).read_text()
    assert "<audio" not in html and parted[0]["id"] in html


def test_a_clip_whose_questions_all_differ_is_named_once():
    """Without a limit, one clip with many questions would fill the list; six clips of each model are listed."""

    def answers(wrong):
        ids = [(clip, f"{clip}{number}") for clip in "abcdefghijkl" for number in range(3)]
        return {
            name: {"id": name, "clip": clip, "references": ["cat"], "choices": ["dog", "cat"],
                   "prediction": "dog" if clip in wrong else "cat"}
            for clip, name in ids
        }  # fmt: skip

    first, second = answers("ab"), answers("cdefghijk")
    found = disagreements(records_of(first.values()), [first, second])
    assert [(one["clip"], one["right"]) for one in found] == [
        *((clip, "first") for clip in "cdefgh"),
        ("a", "second"),
        ("b", "second"),
    ]
    assert found[0]["answers"] == ["cat", "dog"] and found[0]["reference"] == "cat"


def test_what_cannot_be_compared_is_a_typed_error(tmp_path):
    a, b = write(tmp_path / "a", 30), write(tmp_path / "b", 30, n=39)
    with pytest.raises(EvaluationError, match="no answer to 'm39'"):
        compare_runs(a, b)
    with pytest.raises(EvaluationError, match="no predictions.jsonl there"):
        compare_runs(tmp_path / "nowhere", b)
    write(tmp_path / "c" / "one", 3), write(tmp_path / "c" / "two", 3), write(tmp_path / "d" / "three", 3)
    with pytest.raises(EvaluationError, match="no benchmark in common"):
        compare_runs(tmp_path / "c", tmp_path / "d")
    lines = a.read_text() + a.read_text().replace('"key": "', '"key": "x')
    a.write_text(lines)
    with pytest.raises(EvaluationError, match="two answers to"):
        compare_runs(a, b)


@pytest.fixture
def server():
    """A chat endpoint that says yes to puppies, fails on `what 3`, and mumbles on `what 4`."""

    class Handler(BaseHTTPRequestHandler):
        asked = []

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][0]["content"]
            self.asked.append((self.path, body["model"], prompt))
            if "what 3\n" in prompt:
                self.send_error(500)
                return
            said = (
                "Well, yes and no."
                if "what 4\n" in prompt
                else "Yes."
                if "judged: a puppy" in prompt
                else "no"
            )
            reply = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args):
            pass

    found = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{found.server_port}/v1", Handler
    found.shutdown()
    found.server_close()


def test_a_judge_is_cached_and_its_failures_are_not_scored(tmp_path, server, capsys):
    address, handler = server
    handler.asked.clear()
    path = write(tmp_path / "a", 5, n=8)
    scores = score_file(path, judge=f"{address}#stub")
    judged = scores["judge"]
    # Right: 0, 1, 2; failed: 3; mumbled: 4; wrong: 5, 6, 7.
    assert (judged["n"], judged["n_failed"], judged["value"]) == (8, 2, 0.5)
    assert judged["name"].startswith("stub@") and judged["prompt_version"]
    assert "2 without a clear verdict" in scores["notes"][-1]
    assert {(path, model) for path, model, _ in handler.asked} == {("/v1/chat/completions", "stub")}
    assert len(handler.asked) == 7 + 3  # the failed one three times
    before = len(handler.asked)
    assert score_file(path, judge=f"{address}#stub")["judge"] == judged
    assert len(handler.asked) == before + 3  # only what failed is asked again
    score_file(path, judge=f"{address}#other")  # another judge gives verdicts of its own
    assert len(handler.asked) == before + 3 + 7 + 3
    assert {model for _, model, _ in handler.asked[before + 3 :]} == {"other"}
    assert main(["score", str(path), "--judge", f"{address}#stub", "--out", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["judge"] == judged
    for option, name in (("--data", "data"), ("--split", "split")):  # nothing would read them
        assert main(["score", str(path), option, "x"]) == 2
        assert f"{name}: belongs to a benchmark; name it with --benchmark NAME" in capsys.readouterr().err
    with pytest.raises(EvaluationError, match="neither a URL nor the directory"):
        open_judge("gpt", tmp_path / "cache.jsonl")


def test_a_missing_answer_is_wrong_for_a_judge(tmp_path, server):
    """Right: 1, 2; missing: 0; failed: 3; mumbled: 4; wrong: 5, 6, 7: two of six."""
    lines = read_predictions(write(tmp_path / "a", 5, n=8))
    said = {line["id"]: line["prediction"] for line in lines if line["id"] != "s0"}
    judged = judged_accuracy(open_judge(f"{server[0]}#stub", tmp_path / "j.jsonl"), records_of(lines), said)
    assert (judged["n"], judged["n_failed"], judged["value"]) == (8, 2, pytest.approx(2 / 6))


def test_a_local_model_judges(tmp_path, llm_dir):
    judge = open_judge(str(llm_dir), tmp_path / "cache.jsonl")
    asked = {"question": "what", "references": ["a dog"], "answer": "a bell"}
    assert judge.verdicts([asked]) == judge.verdicts([asked])
    assert len((tmp_path / "cache.jsonl").read_text().splitlines()) == 1
    assert [read_verdict(text) for text in ("Yes", "no.", "yes or no", "", "noise")] == [
        True,
        False,
        None,
        None,
        None,
    ]


def transcripts(folder, n_errors, n=30):
    """Predictions of a transcription run, with their scores beside; `no_audio` says nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(n):
        line = {"id": f"t{i}", "kind": "transcript", "clip": f"c{i}", "references": ["one two three four"]}
        said = "one two three five" if i < n_errors else "one two three four"
        for control, prediction in (("none", said), ("no_audio", "")):
            key = prediction_key(id=line["id"], run=folder.name, control=control)
            lines.append({**line, "control": control, "prediction": prediction, "key": key})
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = {"run": {"benchmark": "transcription"}, "limited": True}
    (folder / "scores.json").write_text(json.dumps(told))


def test_transcripts_compare_by_their_errors(tmp_path, capsys):
    transcripts(tmp_path / "good" / "eval" / "transcription", 2)
    transcripts(tmp_path / "bad" / "eval" / "transcription", 20)
    comparison = compare_runs(tmp_path / "good", tmp_path / "bad")
    rows = {row["score"]: row for row in comparison["rows"]}
    wer = rows["answer/wer"]
    assert wer["first"]["value"] == pytest.approx(2 / 120) and wer["second"]["value"] == pytest.approx(
        20 / 120
    )
    assert wer["lower_is_better"] and wer["better"] == "first" and wer["p_permutation"] < 0.001
    assert wer["p_mcnemar"] is None and "answer/cer" in rows
    # All questions are of one kind, whose row would only say the same again.
    assert rows["qa/overall"]["better"] == "first" and "qa/transcript" not in rows
    controls = {row["score"]: row for row in comparison["sets"][0]["controls"]}
    assert controls["answer/wer"]["control"] == "no_audio" and controls["answer/wer"]["first"]["value"] == 1.0
    assert controls["answer/wer"]["first_gap"]["value"] == pytest.approx(2 / 120 - 1)
    out = tmp_path / "page"
    assert main(["compare", str(tmp_path / "good"), str(tmp_path / "bad"), "--out", str(out)]) == 0
    for text in (
        capsys.readouterr().out,
        (out / "comparison.md").read_text(),
        (out / "comparison.html").read_text(),
    ):
        assert "answer/wer (lower is better)" in text and "--limit" in text and "no audio" in text
    again = compare_runs(tmp_path / "bad", tmp_path / "good")
    assert {row["score"]: row["better"] for row in again["rows"]}["answer/wer"] == "second"
    same = compare_runs(tmp_path / "good", tmp_path / "good")
    assert all(row["better"] is None for row in same["rows"])


def test_answers_are_compared_by_the_rule_of_their_benchmark(tmp_path):
    """A list of events is right if it names the sounds, whatever the times; the page says that one run was limited."""
    for name, wrong in (("good", 0), ("bad", 12)):
        folder = tmp_path / name / "eval" / "sound_events"
        folder.mkdir(parents=True)
        lines = [
            {"id": f"e{i}", "kind": "sound_events", "clip": f"c{i}", "references": ["dog: 1.00 - 2.00"],
             "control": control, "key": prediction_key(id=i, run=name, control=control),
             "prediction": "cat: 1.00 - 2.00" if i < wrong or control != "none" else "dog: 4.00 - 5.00"}
            for i in range(20) for control in ("none", "other_clip")
        ]  # fmt: skip
        (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        told = {"run": {"benchmark": "sound_events"}, "limited": name == "bad"}
        (folder / "scores.json").write_text(json.dumps(told))
    comparison = compare_runs(tmp_path / "good", tmp_path / "bad")
    row = {row["score"]: row for row in comparison["rows"]}["qa/overall"]
    assert (row["first"]["value"], row["second"]["value"], row["only"]) == (1.0, 0.4, [12, 0])
    (found,) = comparison["sets"]
    control = next(one for one in found["controls"] if one["score"] == "qa/overall")
    assert control["first"]["value"] == 0.0 and control["first_gap"]["value"] == 1.0 and found["limited"]
    assert [one["right"] for one in found["disagreements"]] == ["first"] * 6


def test_two_evaluations_are_compared_under_the_name_of_their_benchmark(tmp_path):
    """Their folders may have any name; questions of one kind stand beside the published figures of that kind."""
    for name, right in (("mine", 20), ("theirs", 12)):
        (tmp_path / name).mkdir()
        lines = [
            {"id": f"q{i}", "kind": "sound", "clip": f"c{i}", "references": ["dog"], "choices": ["dog", "rain"],
             "control": "none", "prediction": "dog" if i < right else "rain",
             "key": prediction_key(id=f"q{i}", run=name)}
            for i in range(20)
        ]  # fmt: skip
        (tmp_path / name / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        told = {"run": {"benchmark": "mmau", "split": "test-mini"}}
        (tmp_path / name / "scores.json").write_text(json.dumps(told))
    comparison = compare_runs(tmp_path / "mine", tmp_path / "theirs")
    assert {row["set"] for row in comparison["rows"]} == {comparison["sets"][0]["name"]} == {"mmau"}
    page = write_comparison(tmp_path / "out", comparison).read_text()
    assert "On mmau mine is better" in page
    for name, value in (("mine", "100.0"), ("theirs", "60.0")):  # the first column is that of sound
        assert f'<th scope="row">{name}</th><td data-name="sound, mini"><span>{value}' in page
    told["run"]["benchmark"] = "manifest"  # this name says nothing about the questions
    (tmp_path / "mine" / "scores.json").write_text(json.dumps(told))
    assert compare_runs(tmp_path / "mine", tmp_path / "theirs")["sets"][0]["name"] == "mine"


@pytest.mark.parametrize("less", ["a", "b"])
@pytest.mark.parametrize("kept", [0, 29])
def test_a_control_that_one_model_was_not_fully_asked_under_is_left_out(tmp_path, less, kept):
    for name in "ab":
        transcripts(tmp_path / name, 2)
    path = tmp_path / less / "predictions.jsonl"
    lines = read_predictions(path)
    swapped = [line for line in lines if line["control"] == "no_audio"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line not in swapped[kept:]))
    (found,) = compare_runs(tmp_path / "a", tmp_path / "b")["sets"]
    assert found["controls"] == [] and found["n_records"] == 30


def test_classification_compares_by_label_embedding(tmp_path, bert_dir, monkeypatch):
    for model, right in (("good", 20), ("bad", 4)):
        folder = tmp_path / model / "eval" / "ltu"
        folder.mkdir(parents=True)
        lines = [
            {"id": f"t{i}", "kind": "esc50", "clip": f"c{i}", "references": ["dog"], "choices": ["dog", "rain"],
             "control": "none", "prediction": "dog" if i < right else "rain",
             "key": prediction_key(id=i, run=model)}
            for i in range(20)
        ]  # fmt: skip
        (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "scores.json").write_text(json.dumps({"run": {"benchmark": "ltu_classification"}}))
    monkeypatch.delenv("ALM_SBERT_MODEL", raising=False)
    absent = compare_runs(tmp_path / "good", tmp_path / "bad")
    assert "ALM_SBERT_MODEL" in absent["sets"][0]["absent"]["label_embedding"]
    monkeypatch.setenv("ALM_SBERT_MODEL", str(bert_dir / "sbert"))
    rows = {row["score"]: row for row in compare_runs(tmp_path / "good", tmp_path / "bad")["rows"]}
    found = rows["qa/label_embedding"]
    assert found["only"] == [16, 0] and found["p_mcnemar"] < 0.001 and found["better"] == "first"
    assert rows["ranking/label_embedding_map"]["difference"]["n"] == 20
