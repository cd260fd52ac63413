"""Upload, against a hub on this machine: what is sent, and how every refusal reads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub.fake_hub import FakeHub, Repository
from hub.small_models import small_model, write_adapter, write_folder, write_run

from nano_gpt.checkpoint.folder import WEIGHTS
from nano_gpt.checkpoint.remote import hub_error
from nano_gpt.checkpoint.source import LoadedModel, load_model
from nano_gpt.cli.main import run
from nano_gpt.errors import CheckpointError, ConfigError, NetworkError
from nano_gpt.hub.export import EXPORT_FILES, RESULTS, export
from nano_gpt.hub.upload import upload
from nano_gpt.tokenizer import load_tokenizer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.chdir(tmp_path)
    with FakeHub() as running:
        running.use(monkeypatch, tmp_path)
        yield running


@pytest.fixture
def exported(hub: FakeHub) -> Path:
    """./export, in the folder of the test."""
    export(LoadedModel(small_model(), load_tokenizer("byte"), "a test"), Path("export"))
    return Path("export")


def test_an_export_goes_as_it_is(hub: FakeHub, exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (exported / "notes.txt").write_text("not for the world")
    (exported / ".env").write_text("HF_TOKEN=secret")
    (exported / RESULTS).parent.mkdir()
    (exported / RESULTS).write_text("[]")
    (exported / "README.md").write_text("---\nlicense: mit\n---\nmy own card\n")
    assert upload(exported, "user/name", message="first") == f"{hub.url}/user/name"
    repository = hub.repositories["user/name"]
    assert set(repository.files) == {*EXPORT_FILES, RESULTS}
    assert all(data == (exported / name).read_bytes() for name, data in repository.files.items())
    assert repository.commits == ["first"] and not repository.private
    assert "not part of the model, so not uploaded: .env, notes.txt" in caplog.text


def test_and_comes_back(hub: FakeHub, exported: Path) -> None:
    upload(exported, "user/name")
    loaded = load_model("user/name")
    assert loaded.repo_id == "user/name"
    state = small_model().state_dict()
    assert all(bool((tensor == state[name]).all()) for name, tensor in loaded.model.state_dict().items())


def test_again_sends_only_what_changed(hub: FakeHub, exported: Path) -> None:
    upload(exported, "user/name")
    (exported / "README.md").write_text("---\nlicense: mit\n---\n")
    upload(exported, "user/name", message="second")
    assert hub.repositories["user/name"].commits[1:] == ["second"]
    upload(exported, "user/name", message="nothing new")
    assert hub.repositories["user/name"].commits[1:] == ["second"]


@pytest.mark.parametrize(
    "name", ["runs/one", "runs/one/checkpoints/latest", "runs/one/checkpoints/step_000040", "model"]
)
def test_whatever_is_no_export_is_exported_on_the_way(hub: FakeHub, name: str) -> None:
    write_run(Path("runs/one"), 40, {"validation_loss": 3.25})
    write_folder(Path("model"))
    upload(Path(name), "user/name")
    files = hub.repositories["user/name"].files
    assert set(files) == set(EXPORT_FILES), "no optimizer, no logs, no config of the run"
    assert name == "model" or b"3.2500 nats per token" in files["README.md"]
    assert str(Path.cwd()).encode() not in files["README.md"]


def test_adapters_go_as_a_whole_model(hub: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    write_folder(Path("model"))
    write_adapter(Path("adapter"), "model")
    upload(Path("adapter"), "user/name")
    assert "adapters are merged for the upload, into a whole model: adapter on model" in caplog.text
    assert set(hub.repositories["user/name"].files) == set(EXPORT_FILES)


def test_a_card_that_the_hub_does_not_take(hub: FakeHub, exported: Path) -> None:
    (exported / "README.md").write_text("---\nlicense: to kill\n---\n")
    with pytest.raises(NetworkError, match=r'uploading to user/name: .*"license" must be one of'):
        upload(exported, "user/name")


def test_private(hub: FakeHub, exported: Path) -> None:
    upload(exported, "user/name", private=True)
    assert hub.repositories["user/name"].private
    upload(exported, "user/name", private=True)
    hub.repositories["user/open"] = Repository()
    with pytest.raises(ConfigError, match="user/open exists and is public"):
        upload(exported, "user/open", private=True)
    assert not hub.repositories["user/open"].files


@pytest.mark.parametrize(
    "name", ["name", "a/b/c", "user/na me", "user/-name", "user/na..me", "user/name.git", "user/", "/", ""]
)
def test_ids_that_cannot_be(hub: FakeHub, exported: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a hub id"):
        upload(exported, name)
    assert not hub.requests


def test_what_is_no_model(hub: FakeHub, exported: Path) -> None:
    Path("empty").mkdir()
    for path, message in (("empty", "is not a checkpoint"), ("nowhere", "there is no nowhere")):
        with pytest.raises(CheckpointError, match=message):
            upload(Path(path), "user/name")
    assert not hub.requests


def test_a_damaged_export(hub: FakeHub, exported: Path) -> None:
    data = bytearray((exported / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (exported / WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointError, match="sha256 differs"):
        upload(exported, "user/name")
    assert "user/name" not in hub.repositories


def test_sums_name_no_other_files(hub: FakeHub, exported: Path) -> None:
    (exported / "SHA256SUMS").write_text(f"{'0' * 64}  ../../.ssh/id_rsa\n")
    with pytest.raises(CheckpointError, match="which cannot be a file of the folder"):
        upload(exported, "user/name")


def test_nobody_is_logged_in(hub: FakeHub, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(NetworkError, match="nobody is logged in to the hub") as caught:
        upload(exported, "user/name")
    assert caught.value.hint is not None and "hf auth login" in caught.value.hint
    assert not hub.requests


def test_a_token_that_the_hub_does_not_know(hub: FakeHub, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_secret")
    with pytest.raises(NetworkError, match=r"does not accept the token.*HTTP 401") as caught:
        upload(exported, "user/name")
    assert "hf_wrong_secret" not in str(caught.value)
    assert hub.requests == ["GET /api/whoami-v2"]


def test_another_name_than_ones_own(hub: FakeHub, exported: Path) -> None:
    with pytest.raises(NetworkError, match=r"HTTP 403\): .*don't have the rights"):
        upload(exported, "openai-community/gpt2")


MESSAGES = {
    400: r"the hub refuses \(HTTP 400\)",
    401: r"does not accept the token, or wants one \(HTTP 401\)",
    403: r"does not allow this token to do that \(HTTP 403\)",
    404: r"has no such repository, or not for this token \(HTTP 404\)",
    409: r"somebody changed the repository meanwhile \(HTTP 409\)",
    429: r"has had too many requests \(HTTP 429\)",
    500: r"is out of order \(HTTP 500\)",
    503: r"is out of order \(HTTP 503\)",
    "cut": "the connection to http.* was cut",
    "html": "does not answer as a hub does",
}
STEPS = ("whoami", "/repos/create", "/preupload/", "/commit/")


# A 409 of create means that the repository exists, which is fine.
REFUSALS = [(step, failure) for step in STEPS for failure in MESSAGES if (step, failure) != ("/repos/create", 409)]


@pytest.mark.parametrize(("step", "failure"), REFUSALS)
def test_every_refusal_is_one_line(
    hub: FakeHub, exported: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: int | str
) -> None:
    check_refusal(hub, exported, monkeypatch, step, failure)


def check_refusal(hub: FakeHub, exported: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: int | str) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits half a minute before it gives up
    hub.failures[step] = failure
    with pytest.raises(NetworkError, match="^uploading to user/name: .*" + MESSAGES[failure]) as caught:
        upload(exported, "user/name")
    assert "\n" not in caught.value.message
    hub.failures.clear()
    assert upload(exported, "user/name"), "and the same command again goes through"
    assert set(hub.repositories["user/name"].files) == set(EXPORT_FILES)


@pytest.fixture
def large_files(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights go by Git LFS: what a hub takes from a machine without Xet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    hub.large_files = True


def test_large_files(hub: FakeHub, exported: Path, large_files: None) -> None:
    upload(exported, "user/name")
    assert list(hub.objects.values()) == [(exported / WEIGHTS).read_bytes()]
    assert hub.repositories["user/name"].files[WEIGHTS] == (exported / WEIGHTS).read_bytes()


# A page in place of the object storage's empty answer goes unnoticed until the commit.
LARGE_REFUSALS = [
    (step, failure)
    for step in ("/info/lfs/", "/storage/")
    for failure in MESSAGES
    if (step, failure) != ("/storage/", "html")
]


@pytest.mark.parametrize(("step", "failure"), LARGE_REFUSALS)
def test_every_refusal_of_weights_is_one_line(
    hub: FakeHub, exported: Path, monkeypatch: pytest.MonkeyPatch, large_files: None, step: str, failure: int | str
) -> None:
    check_refusal(hub, exported, monkeypatch, step, failure)


@pytest.mark.parametrize("failure", [401, 403, 404])
def test_every_refusal_of_xet_is_one_line(hub: FakeHub, exported: Path, failure: int) -> None:
    """The way of weights to the real hub. (It tries others again for minutes, so they are in the next test.)"""
    hub.large_files = True
    hub.failures["/xet-write-token/"] = failure
    with pytest.raises(NetworkError, match="^uploading to user/name: .*" + MESSAGES[failure]):
        upload(exported, "user/name")


@pytest.mark.parametrize(
    ("words", "failure"),
    [
        ("Request error: HTTP status client error (429 Too Many Requests), domain: http://hub/x", 429),
        ("Request error: HTTP status server error (500 Internal Server Error), domain: http://hub/x", 500),
        ("Request middleware error: error sending request for url (http://hub/x)", "cut"),
        ("Request error: error decoding response body, domain: no-url", "html"),
    ],
)
def test_what_xet_says(words: str, failure: int | str) -> None:
    error = hub_error(ConnectionError(f"Network error: {words}"), "uploading to user/name")
    assert re.match("uploading to user/name: .*" + MESSAGES[failure], error.message)


def test_what_has_arrived_is_not_sent_again(
    hub: FakeHub, exported: Path, monkeypatch: pytest.MonkeyPatch, large_files: None
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.failures["/commit/"] = "cut"
    with pytest.raises(NetworkError, match="was cut"):
        upload(exported, "user/name")
    hub.failures.clear()
    hub.requests.clear()
    upload(exported, "user/name")
    assert not [request for request in hub.requests if "/storage/" in request and request.startswith("PUT")]
    assert set(hub.repositories["user/name"].files) == set(EXPORT_FILES)


def test_no_network(hub: FakeHub, exported: Path) -> None:
    hub.__exit__()
    with pytest.raises(NetworkError, match=r"uploading to user/name: http.* cannot be reached"):
        upload(exported, "user/name")


def test_offline(hub: FakeHub, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkError, match="HF_HUB_OFFLINE is set"):
        upload(exported, "user/name")


def test_the_command(hub: FakeHub, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["upload", "export", "user/name", "--private"]) == 0
    captured = capsys.readouterr()
    assert f"uploaded: {hub.url}/user/name" in captured.out
    assert "nano-gpt sample --pretrained user/name" in captured.out
    assert "uploading to user/name as user: 9 files" in captured.err
    assert run(["upload", "export", "user/name", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"url": f"{hub.url}/user/name", "repo_id": "user/name"}
    prompt = ["--num-sequences", "1", "Once"]
    assert run(["sample", "--pretrained", "export", *prompt]) == 0
    before = capsys.readouterr().out
    assert run(["sample", "--pretrained", "user/name", *prompt]) == 0
    assert capsys.readouterr().out == before
    assert run(["upload", "export", "someone/else"]) == 1
    error = capsys.readouterr().err
    assert "error: uploading to someone/else: the hub does not allow" in error and "Traceback" not in error
    assert run(["upload", "export"]) == 2


def test_through_the_environment(hub: FakeHub, exported: Path, tmp_path: Path) -> None:
    """As a user does it: HF_ENDPOINT, a fresh process, there and back."""

    def nano_gpt(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nano_gpt", *arguments],
            env=hub.environment(tmp_path) | more,
            capture_output=True,
            text=True,
            timeout=120,
        )

    sent = nano_gpt("upload", str(exported), "user/name")
    assert sent.returncode == 0, sent.stderr
    back = nano_gpt("export", "--pretrained", "user/name", "--export-dir", "back", "--json")
    assert back.returncode == 0, back.stderr
    assert json.loads(back.stdout)["source"] == "user/name"
    assert Path("back", WEIGHTS).read_bytes() == (exported / WEIGHTS).read_bytes()
    offline = nano_gpt("upload", str(exported), "user/name", HF_HUB_OFFLINE="1")
    assert offline.returncode == 1 and "HF_HUB_OFFLINE is set" in offline.stderr and not offline.stdout
    assert "Traceback" not in offline.stderr
