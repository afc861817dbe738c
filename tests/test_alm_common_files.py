"""Reading and writing files of strangers and for strangers: tables, JSON, names, atomic writes, child processes."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from alm.common import files
from alm.common.errors import ManifestError, UserError
from alm.common.files import new_file, new_folder, read_bytes, write_text_atomic
from alm.common.json_text import parse_json, read_json, read_log
from alm.common.names import check_file_name
from alm.common.tables import read_csv
from encoders.zoo.labels import read_label_table
from eval.scoring.predictions import read_foreign_predictions, read_predictions


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../victim/x", "/abs", "a/b", "a\\b", "a\0b", "a\nb", " a", "a ", ".hidden", "x" * 201]
    + ["\ud800", "a\u202eb", "é" * 101],
)
def test_a_name_that_must_not_become_a_file_is_refused(name):
    with pytest.raises(ManifestError, match=r"^t\.csv:3: split is .*choose another name") as caught:
        check_file_name(name, "t.csv:3: split")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["train", "fold 1", "val-2", "a.b", "Ünïcode", "日本", "x" * 200, "a..b"])
def test_an_ordinary_name_is_returned_unchanged(name):
    assert check_file_name(name, "split") == name


def rows(tmp_path, text, *columns, **options):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [(where.rpartition(":")[2], row) for where, row in read_csv(path, columns, **options)]


def test_a_table_gives_its_rows_with_the_line_they_begin_at(tmp_path):
    text = '\ufeff a , b,\r\n1, "x, y" ,\r\n\r\n2,"two\nlines"\n3,z,,\n'
    with pytest.raises(ManifestError, match="not a CSV row"):
        rows(tmp_path, text, "a")  # a quote that is followed by a blank
    text = text.replace('" ,', '",')
    found = [
        ("2", {"a": "1", "b": "x, y"}),
        ("4", {"a": "2", "b": "two\nlines"}),
        ("6", {"a": "3", "b": "z"}),
    ]
    assert rows(tmp_path, text, "a") == found


def test_blanks_around_cells_are_kept_on_request(tmp_path):
    assert rows(tmp_path, "a,b\n x.wav, y \n", keep_spaces=True) == [("2", {"a": " x.wav", "b": " y "})]
    assert rows(tmp_path, "a,b\n x.wav, y \n") == [("2", {"a": "x.wav", "b": "y"})]


def test_a_table_without_header_takes_the_given_names_and_skips_comments(tmp_path):
    text = '# YTID, start, labels\n--Pj, 30.0, "/m/1,/t/2"\n'
    found = rows(tmp_path, text, "id", "start", "labels", header=False, comment="#")
    assert found == [("2", {"id": "--Pj", "start": "30.0", "labels": "/m/1,/t/2"})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1\n", r"t\.csv:2: the row has 1 cells; expected 2 \(a, b\)"),
        ("a,b\n1,2,3\n", r"t\.csv:2: the row has 3 cells; expected 2"),
        ("b,c\n", r"t\.csv:1: no column 'a' among b, c; add it"),
        ("aa,c\n", r"rename 'aa'"),
        ("a,b,a\n", "two columns are named 'a'"),
        ("", "is empty; expected a header with a"),
        ('a,b\n1,"2\n3,4\n', r"t\.csv:2: not a CSV row"),  # a quote that never ends swallows no rows
        ("a\n1\n2\0\n", r"t\.csv:3: holds a NUL"),
        (b"a\n\xff\n", r"byte 2 is not UTF-8"),
        ("a\n1\n".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_a_table_that_is_not_whole_is_an_error_with_its_line(tmp_path, text, message):
    with pytest.raises(ManifestError, match=message):
        rows(tmp_path, text, "a")


def test_a_cell_of_a_megabyte_is_read(tmp_path):
    assert rows(tmp_path, "a\n" + "x" * 1_000_000 + "\n")[0][1]["a"] == "x" * 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a":1,"a":2}',
        "NaN",
        "[1e400]",
        "9" * 400,
        "9" * 5000,
        "[" * 100_000,
        r'"\ud800"',
        r'["\uDC00x"]',
    ],
)
def test_hostile_json_is_a_typed_error(text):
    with pytest.raises(ManifestError, match="^m:1: "):
        parse_json(text, "m:1")


def test_ordinary_json_keeps_its_values(tmp_path):
    (tmp_path / "x.json").write_text(
        '\ufeff{"a": [1, -2.5, 1e300, null, "\\ud83d\\ude00"], "b": 9007199254740993}'
    )
    assert read_json(tmp_path / "x.json") == {"a": [1, -2.5, 1e300, None, "😀"], "b": 9007199254740993}


@pytest.mark.parametrize(
    "kind", ["pipe", "device", "folder", "socket", "missing", "nul", "long", "loop", "surrogate"]
)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    path: str | Path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = "/dev/zero"
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        import socket

        os.chdir(tmp_path)  # the path of a socket may have at most 107 bytes
        socket.socket(socket.AF_UNIX).bind("x")
    elif kind == "loop":
        path.symlink_to("x")
    else:
        path = {"missing": path, "nul": "a\0b", "long": "x" * 5000, "surrogate": "\ud800"}[kind]
    with pytest.raises(ManifestError, match="cannot be read .*expected a table"):
        read_bytes(path, "a table")


def test_a_written_file_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text_atomic(tmp_path / "x.txt", "é")
    finally:
        os.umask(before)
    assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


def test_a_text_that_no_file_can_hold_is_a_typed_error(tmp_path):
    with pytest.raises(ManifestError, match=r"which UTF-8 cannot hold"):
        write_text_atomic(tmp_path / "x.txt", "caf\udce9")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "x.txt").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(ManifestError, match="No space left on device.*has room"):
        write_text_atomic(tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_long_file_name_can_be_written_where_the_file_system_takes_it(tmp_path):
    write_text_atomic(tmp_path / ("x" * 255), "a")
    with pytest.raises(ManifestError, match="File name too long"):
        write_text_atomic(tmp_path / ("x" * 256), "a")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "new" / "out"
    with new_folder(out) as folder:
        (folder / "a").write_text("a")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["a"]
    with pytest.raises(RuntimeError), new_folder(tmp_path / "other") as folder:
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    with pytest.raises(UserError, match="exists already"), new_folder(out):
        pass


def test_two_writers_of_one_folder_never_mix(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="Directory not empty"), new_folder(out) as first:
        (first / "first").touch()
        # The second one would remove the folder of the first if the first did not lock it.
        with new_folder(out) as second:
            (second / "second").touch()
        assert first.is_dir()
    assert [path.name for path in out.iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    out = tmp_path / "out"
    script = (
        "import os, signal, sys; from pathlib import Path; from alm.common.files import new_folder\n"
        "with new_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(out)]).returncode == -signal.SIGKILL
    (tmp_path / ".out.partial").mkdir()  # of older versions
    (tmp_path / ".out.partial-12ab").touch()
    (tmp_path / ".other.partial-12ab").touch()
    assert len(list(tmp_path.iterdir())) == 4
    with new_folder(out) as folder:
        assert not list(folder.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.partial-12ab", "out"]


@pytest.mark.parametrize("library", ["safetensors", "numpy"])
def test_what_a_killed_library_left_of_a_file_is_removed_by_the_next(library, tmp_path):
    file = tmp_path / "weights"
    write = {
        "safetensors": "from encoders.checkpoint import write_weights\nimport torch\n"
        "import encoders.checkpoint as c\nsave = c.save_file\n"
        "c.save_file = lambda *a, **k: (save(*a, **k), os.kill(os.getpid(), signal.SIGKILL))\n"
        "write_weights(sys.argv[1], {'a': torch.ones(2)})\n",
        "numpy": "from alm.common.files import new_file\nfrom pathlib import Path\n"
        "with new_file(Path(sys.argv[1])) as place:\n"
        "    place.touch(); place.with_name('.of-its-own').touch(); os.kill(os.getpid(), signal.SIGKILL)\n",
    }[library]
    done = subprocess.run([sys.executable, "-c", "import os, signal, sys\n" + write, str(file)])
    assert done.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 1
    with new_file(file) as place:
        place.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["weights"] and file.read_text() == "whole"
    with pytest.raises(ZeroDivisionError), new_file(file) as place:
        place.write_text(str(1 / 0))
    assert [path.name for path in tmp_path.iterdir()] == ["weights"] and file.read_text() == "whole"


def _child(queue):
    from alm.common.processes import end_with_parent

    end_with_parent()
    queue.put(os.getpid())
    time.sleep(60)


def _parent(pipe):
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    context.Process(target=_child, args=(queue,)).start()
    pipe.send(queue.get())
    time.sleep(60)


def test_a_child_ends_with_a_killed_parent():
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    parent = context.Process(target=_parent, args=(there,))
    parent.start()
    child = here.recv()
    assert _alive(child)
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    deadline = time.monotonic() + 10
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(child)


SLOW = """
import multiprocessing, os, pathlib, time
if multiprocessing.parent_process() is not None:
    pathlib.Path(os.environ["PID_FILE"]).write_text(str(os.getpid()))
    time.sleep(60)
def work():
    pass
"""
START = """
import multiprocessing
if __name__ == "__main__":
    import slow
    from alm.common.processes import tied_call
    call, argument = tied_call(slow.work)
    child = multiprocessing.get_context("spawn").Process(target=call, args=(argument,))
    child.start()
    child.join()
"""


def test_a_child_that_still_imports_ends_with_a_killed_parent(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "start.py").write_text(START)
    file = tmp_path / "pid"
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "start.py"], env={**os.environ, "PYTHONPATH": path, "PID_FILE": str(file)}
    )
    deadline = time.monotonic() + 60
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while _alive(int(file.read_text())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(int(file.read_text()))


def _alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_writer_in_another_thread_is_not_taken_for_a_leftover(tmp_path):
    failed = []

    def write(text):
        try:
            write_text_atomic(tmp_path / "x", text)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(f"{number}" * 100_000,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    text = (tmp_path / "x").read_text()
    assert len(text) == 100_000 and len(set(text)) == 1 and len(list(tmp_path.iterdir())) == 1


def test_a_file_that_another_process_locked_first_is_left_to_it(tmp_path, monkeypatch):
    tried = []

    def flock(handle, operation):
        tried.append(handle)
        if len(tried) == 1:
            raise BlockingIOError

    monkeypatch.setattr(files.fcntl, "flock", flock)
    name, stream = files.locked_file(tmp_path / "x")
    stream.close()
    assert len(tried) == 2 and len(list(tmp_path.iterdir())) == 2 and name.exists()


BAD_JSON = {
    "deep": ("[" * 100_000, "nested too deeply"),
    "surrogate": ('{"id": "\\ud800"}', "half of a surrogate pair"),
    "digits": ('{"id": ' + "9" * 400 + "}", "400 digits is too large"),
    "twice": ('{"id": "a", "id": "b"}', "key 'id' given twice"),
}
READERS = {
    "predictions": read_predictions,
    "answers of a benchmark": read_foreign_predictions,
    "labels": lambda path: read_label_table(str(path), 16000),
    "JSON": read_json,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("bad", BAD_JSON)
def test_json_of_strangers_is_refused_in_one_line(tmp_path, reader, bad):
    text, said = BAD_JSON[bad]
    (tmp_path / "x.json").write_text(text + "\n")
    with pytest.raises(UserError, match=rf"x\.json(:1)?: .*{said}"):
        READERS[reader](tmp_path / "x.json")


def test_a_log_is_read_without_its_broken_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + "[" * 100_000 + '\n3\n{"step": 2, "loss": NaN}\n{"step": 3, "lo')
    steps = [line["step"] for line in read_log(path)]
    assert steps == [1, 2] and not list(read_log(tmp_path / "absent"))


def test_json_and_yaml_are_read_in_one_place_each():
    """Only values that this program has just written itself go through the plain parsers."""
    root = Path(files.__file__).parents[2]
    own = {"alm/common/json_text.py", "alm/common/settings.py"}
    plain = re.compile(r"json\.loads?\((?!json\.dumps\()|yaml\.\w*load\w*\(")
    found = [
        f"{name}:{number}"
        for package in ("alm", "encoders", "eval", "projectors", "train")
        for file in sorted((root / package).rglob("*.py"))
        if (name := file.relative_to(root).as_posix()) not in own
        for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1)
        if plain.search(line)
    ]
    assert not found, f"{found}: use alm.common.json_text or alm.common.settings.read_yaml"
