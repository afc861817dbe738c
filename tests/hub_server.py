"""A local stand-in of the Hugging Face hub's HTTP interface: repositories, commits, downloads."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_local"


class Hub:
    """What was uploaded: files by repository and branch; `private`, `messages` and `commits` by repository.

    A private repository is found with the token alone. `failures` holds the status, and the hub's code for it, with
    which downloads of a file name are answered.
    """

    def __init__(self):
        self.files, self.private, self.messages, self.commits, self.failures = {}, {}, {}, {}, {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def branch(self, repo, name="main"):
        return self.files[repo][name]


@contextmanager
def local_hub():
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()


def _commit(files):
    return hashlib.sha1(
        json.dumps({k: hashlib.sha1(v).hexdigest() for k, v in files.items()}).encode()
    ).hexdigest()


def _pull_request(repo):
    return {
        "title": "-", "num": 1, "createdAt": "2026-01-01T00:00:00.000Z", "status": "draft", "events": [],
        "repo": {"name": repo, "type": "model"}, "isPullRequest": True, "filesWithConflicts": [],
        "changes": {"base": "refs/heads/main"},
    }  # fmt: skip


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def answer(self, code=200, body=b"", **headers):
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_POST(self):
            path = unquote(urlsplit(self.path).path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if path == "/api/validate-yaml":
                return self.answer(200, {"errors": [], "warnings": []})
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer(401, {"error": "Invalid credentials"})
            if path == "/api/repos/create":
                values = json.loads(body)
                repo = f"{values.get('organization') or 'me'}/{values['name']}"
                if repo in hub.files:
                    return self.answer(409, {"url": f"{hub.url}/{repo}"})
                hub.files[repo], hub.private[repo] = (
                    {"main": {}},
                    "private" in (values.get("visibility"), *values),
                )
                return self.answer(200, {"url": f"{hub.url}/{repo}", "name": repo})
            _, _, _, owner, name, action, *more = path.split("/", 6)
            repo = f"{owner}/{name}"
            if action == "discussions":  # a pull request
                hub.files[repo]["refs/pr/1"] = dict(hub.files[repo]["main"])
                return self.answer(200, {"num": 1})
            revision = unquote(*more)
            if action == "branch":
                if revision in hub.files[repo]:
                    return self.answer(409, {"error": "Reference already exists"})
                hub.files[repo][revision] = dict(hub.files[repo]["main"])
                return self.answer(200, {})
            if action == "preupload":
                wanted = [one["path"] for one in json.loads(body)["files"]]
                modes = {"uploadMode": "regular", "shouldIgnore": False}
                return self.answer(200, {"files": [{"path": one, **modes} for one in wanted]})
            assert action == "commit", path
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    hub.messages.setdefault(repo, []).append(value["summary"])
                    hub.commits.setdefault(repo, []).append((revision, value["description"]))
                else:
                    hub.files[repo][revision][value["path"]] = base64.b64decode(value["content"])
            oid = _commit(hub.files[repo][revision])
            return self.answer(200, {"commitUrl": f"{hub.url}/{repo}/commit/{oid}", "commitOid": oid})

        def do_GET(self):
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[0] == "api":
                repo, revision = "/".join(parts[2:4]), (parts[5] if len(parts) > 5 else "main")
                if parts[4:] == ["discussions", "1"]:
                    return self.answer(200, _pull_request(repo))
                files = self.found(repo, revision)
                if files is not None:
                    siblings = [{"rfilename": name} for name in sorted(files)]
                    entries = [
                        {"type": "file", "path": k, "size": len(v), "oid": hashlib.sha1(v).hexdigest()}
                        for k, v in sorted(files.items())
                    ]
                    info = {"id": repo, "sha": _commit(files), "siblings": siblings}
                    if "tree" in parts and len(parts) > 6:  # a folder; all repositories here are flat
                        return self.answer(404, b"", X_Error_Code="EntryNotFound")
                    self.answer(200, entries if "tree" in parts else info)
                return
            repo, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
            if name in hub.failures:
                status, code = hub.failures[name]
                return self.answer(status, b"", **({"X_Error_Code": code} if code else {}))
            files = self.found(repo, revision)
            if files is None:
                return
            commit = {"X_Repo_Commit": _commit(files)}
            if name not in files:
                return self.answer(404, b"", X_Error_Code="EntryNotFound", **commit)
            self.answer(200, files[name], ETag=f'"{hashlib.sha1(files[name]).hexdigest()}"', **commit)

        do_HEAD = do_GET

        def found(self, repo, revision):
            """The files of a branch or commit; answers with an error where there are none."""
            branches = hub.files.get(repo)
            hidden = hub.private.get(repo) and self.headers.get("Authorization") != f"Bearer {TOKEN}"
            if branches is None or hidden:
                return self.answer(404, b"", X_Error_Code="RepoNotFound")
            by_commit = {_commit(files): files for files in branches.values()}
            files = branches.get(revision, by_commit.get(revision))
            return self.answer(404, b"", X_Error_Code="RevisionNotFound") if files is None else files

    return Handler
