"""`alm data get` against a local server: licence, hashes, resuming, and archives that must not leave their folder."""

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import alm.data.download as downloads
from alm.cli import main
from alm.data.corpora import CORPORA
from alm.data.download import Archive, DownloadError, download, unpack


def tar_gz(**files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


class Server:
    """Files by path; `cut` ends an answer after so many bytes, once for each number in it."""

    def __init__(self):
        self.files, self.cut, self.asked, self.status, self.ranges = {}, [], [], 200, True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_GET(self):
                data, asked = outer.files.get(self.path), self.headers.get("Range")
                outer.asked.append((self.path, asked))
                if outer.status != 200 or data is None:
                    return self.send_error(outer.status if outer.status != 200 else 404)
                start = int(asked[6:-1]) if asked and outer.ranges else 0
                if start >= len(data):
                    return self.send_error(416)
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(data) - start))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.end_headers()
                cut = outer.cut.pop(0) if outer.cut else len(data)
                self.wfile.write(data[start : start + cut])

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "_WAIT_S", 0.0)
    served = Server()
    thread = threading.Thread(target=served.server.serve_forever, daemon=True)
    thread.start()
    yield served
    served.server.shutdown()
    served.server.server_close()
    thread.join()


@pytest.fixture
def corpus(server, tmp_path, monkeypatch):
    """The corpus `songs` in a plug-in folder, whose two archives the server has."""
    server.files["/a/words.tar.gz"] = tar_gz(songs__said=b"one two" * 50_000, songs__more=b"x")
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr("songs/extra.txt", "extra")
    server.files["/a/extra.zip"] = buffer.getvalue()
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in server.files.items()}
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "songs.py").write_text(
        f'''
from alm.data.corpora import Corpus
from alm.data.download import Archive, Download

class Songs(Corpus):
    """Songs."""

    download = Download("CC0 1.0", "https://example.org/cc0", "https://example.org/songs", (
        Archive("{server.url}/a/words.tar.gz", "{sums["/a/words.tar.gz"]}"),
        Archive("{server.url}/a/extra.zip", "{sums["/a/extra.zip"]}", "more", default=False),
    ))

    def entries(self, audio, split=None):
        """None."""
        return iter(())

CORPUS = Songs
'''
    )
    monkeypatch.setenv("ALM_PLUGINS", str(tmp_path / "plugins"))
    return tmp_path / "out"


def get(out, *words):
    return main(["data", "get", "songs", "--out", str(out), "--accept-licence", *words])


def test_the_licence_is_shown_and_must_be_accepted(corpus, server, capsys):
    assert main(["data", "get", "songs", "--out", str(corpus)]) == 2
    out, error = capsys.readouterr()
    assert "licence CC0 1.0, https://example.org/cc0" in out and f"{server.url}/a/words.tar.gz" in out
    assert "accept it with --accept-licence" in error
    assert server.asked == [] and not corpus.exists()


def test_a_corpus_is_downloaded_unpacked_and_not_downloaded_again(corpus, server, capsys):
    assert get(corpus) == 0
    assert (corpus / "songs/said").read_bytes() == b"one two" * 50_000
    assert not (corpus / "more").exists()
    assert [path.name for path in (corpus / "archives").iterdir()] == ["words.tar.gz.unpacked"]
    assert get(corpus, "--parts", "words", "extra") == 0
    assert (corpus / "more/songs/extra.txt").read_text() == "extra"
    assert [path for path, _ in server.asked] == ["/a/words.tar.gz", "/a/extra.zip"]
    assert get(corpus, "--parts", "wrods") == 2
    assert "--parts: got 'wrods'; expected some of words, extra" in capsys.readouterr().err


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_resumed(corpus, server, ranges):
    server.ranges, server.cut = ranges, [100, 50, 0, 30]
    assert get(corpus) == 0
    assert (corpus / "songs/said").read_bytes() == b"one two" * 50_000
    asked = [asked for _, asked in server.asked]
    assert asked[:3] == ([None, "bytes=100-", "bytes=150-"] if ranges else [None, "bytes=100-", "bytes=50-"])


def test_a_later_command_resumes_what_an_earlier_one_left(corpus, server, capsys):
    server.cut = [100] + [0] * 5
    assert get(corpus) == 2
    assert "download failed" in (error := capsys.readouterr().err) and "the same command resumes it" in error
    assert (corpus / "archives/words.tar.gz.partial").stat().st_size == 100
    assert get(corpus) == 0
    assert server.asked[-1] == ("/a/words.tar.gz", "bytes=100-")
    assert (corpus / "songs/more").read_bytes() == b"x"


def test_another_file_than_the_published_one_is_refused_and_removed(corpus, server, capsys):
    good, server.files["/a/words.tar.gz"] = server.files["/a/words.tar.gz"], tar_gz(songs__said=b"no")
    assert get(corpus) == 2
    assert "the downloaded file is not the published one (SHA-256" in capsys.readouterr().err
    assert list((corpus / "archives").iterdir()) == [] and not (corpus / "songs").exists()
    server.files["/a/words.tar.gz"] = good
    assert get(corpus) == 0
    (corpus / "archives/words.tar.gz.unpacked").unlink()
    # The process is killed after the last byte, before the download is finished.
    (corpus / "archives/words.tar.gz.partial").write_bytes(good)
    assert get(corpus) == 0


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (403, 1), (503, 5)])
def test_answers_of_the_server_are_named(corpus, server, status, asked, capsys):
    server.status = status
    assert get(corpus) == 2
    assert str(status) in capsys.readouterr().err and len(server.asked) == asked


def test_archives_stay_in_their_folder(tmp_path):
    for number, name in enumerate(("../out.txt", "/tmp/out.txt", "a/../../out.txt")):
        path = tmp_path / f"{number}.tar.gz"
        path.write_bytes(tar_gz(**{name: b"x"}))
        folder = tmp_path / f"to{number}"
        try:
            unpack(path, folder)
        except DownloadError as error:
            assert "cannot be unpacked" in str(error)
    assert not (tmp_path / "out.txt").exists()
    (tmp_path / "b.tar.gz").write_bytes(tar_gz(a=b"x" * 5000)[:60])
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        unpack(tmp_path / "b.tar.gz", tmp_path / "b")


def test_corpora_without_a_public_source_say_so(tmp_path, capsys):
    assert main(["data", "get", "clotho", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "alm data get downloads" in error and "librispeech" in error and "speech_commands" in error


def test_shipped_sources_have_a_hash_and_a_licence():
    found = {name: CORPORA.get(name).download for name in CORPORA.names() if CORPORA.get(name).download}
    assert {"librispeech", "speech_commands"} <= set(found)
    for source in found.values():
        assert source.licence and source.chosen([])
        for archive in source.archives:
            assert isinstance(archive, Archive) and archive.url.startswith("https://")
            assert len(bytes.fromhex(archive.sha256)) == 32
            assert archive.part and "." not in archive.part.replace("v0.02", "")
    with pytest.raises(DownloadError, match="cannot be written"):
        download(found["librispeech"], Path(__file__))
