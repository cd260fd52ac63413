"""Trackers, with packages that record what they are told in place of the real ones; tensorboard itself where it is."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from nano_gpt.errors import ConfigError
from nano_gpt.training.metrics import Event, Listener
from nano_gpt.training.trackers import make_tracker, run_id

CONFIG = {"training": {"max_steps": 10}}
Calls = list[tuple[Any, ...]]


def follow(tracker: Listener, steps: range) -> None:
    """What a run tells of these steps."""
    for step in steps:
        fields = {"loss": 4.0 - step, "grad_norm": float("nan"), "mfu": None, "eta": 9.0}
        tracker(Event("train", step, 512 * step, fields))
        tracker(Event("val", step + 1, 512 * step + 512, {"loss": 3.5 - step}))
        tracker(Event("checkpoint", step, 512 * step, {"path": "x", "best": True, "seconds": 0.5}))
        tracker(Event("sample", step + 1, 512 * step + 512, {"index": 0, "text": "a < b\n```"}))
    tracker.close()


class FakeWandbRun:
    """The signatures of wandb 0.31's Run."""

    def __init__(self, calls: Calls, starting_step: int) -> None:
        self._calls = calls
        self.starting_step = starting_step

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        self._calls.append(("log", step, data))

    def finish(self, exit_code: int | None = None) -> None:
        self._calls.append(("finish",))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`wandb.fail` is raised by the next start that is not offline; `wandb.starting_step` is where a run goes on."""
    module: Any = ModuleType("wandb")
    module.calls, module.fail, module.starting_step = [], None, 0
    module.errors = SimpleNamespace(Error=type("Error", (Exception,), {}))
    module.Settings = lambda *, init_timeout, login_timeout, finish_timeout, console: {"finish": finish_timeout}
    module.Html = lambda data, inject=True: ("html", data)
    module.teardown = lambda exit_code=None: module.calls.append(("teardown",))

    def init(
        *, project: str, dir: Path, id: str, name: str, config: dict[str, Any], settings: Any,
        mode: str | None = None, resume: str | None = None,
    ) -> FakeWandbRun:  # fmt: skip
        module.calls.append(("init", project, id, name, config, mode, resume))
        if module.fail is not None and mode != "offline":
            raise module.fail
        return FakeWandbRun(module.calls, module.starting_step)

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    yield module


def test_wandb(wandb: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    follow(make_tracker("wandb", run_dir=tmp_path, config=CONFIG), range(1))
    assert wandb.calls == [
        ("init", "nano-gpt", run_id(tmp_path), tmp_path.name, CONFIG, None, "allow"),
        ("log", 0, {"train/tokens": 0, "train/loss": 4.0}),
        ("log", 1, {"val/tokens": 512, "val/loss": 3.5}),
        ("log", 1, {"sample/0": ("html", "<pre>a &lt; b\n```</pre>")}),
        ("finish",),
    ]
    assert not caplog.records


def test_wandb_goes_on_where_it_was(wandb: Any, tmp_path: Path) -> None:
    """Resumed from step 2, where wandb has steps 0 to 3: it takes no step twice."""
    follow(make_tracker("wandb", run_dir=tmp_path, config=CONFIG), range(4))
    wandb.calls.clear()
    wandb.starting_step = 4
    follow(make_tracker("wandb", run_dir=tmp_path, config=CONFIG), range(2, 6))
    assert wandb.calls[0][2] == run_id(tmp_path)
    assert [call[1] for call in wandb.calls if call[0] == "log"] == [4, 4, 4, 5, 5, 5, 6, 6]


def test_wandb_without_login_or_network_keeps_the_run_here(
    wandb: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.fail = wandb.errors.Error("No API key configured.\nmore")
    follow(make_tracker("wandb", run_dir=tmp_path, config=CONFIG), range(1))
    assert [call[0] for call in wandb.calls] == ["init", "teardown", "init", "log", "log", "log", "finish"]
    assert wandb.calls[2][5:] == ("offline", None)
    (record,) = caplog.records
    assert record.getMessage().endswith("for `wandb sync`, since No API key configured.")


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The signatures of trackio 0.43. It prints, as the real one does."""
    module: Any = ModuleType("trackio")
    module.calls = []

    def init(
        project: str, name: str | None = None, *, config: dict[str, Any] | None = None, resume: str = "never",
        embed: bool = True,
    ) -> Any:  # fmt: skip
        print("* Trackio project initialized")
        module.calls.append(("init", project, name, config, resume))
        return SimpleNamespace(log=lambda metrics, step=None: module.calls.append(("log", step, metrics)))

    def finish() -> None:
        print("* Run finished")
        module.calls.append(("finish",))

    module.init, module.finish, module.Markdown = init, finish, lambda text="": ("markdown", text)
    monkeypatch.setitem(sys.modules, "trackio", module)
    yield module


def test_trackio(trackio: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "myrun"
    run_dir.mkdir()
    for _ in range(2):  # the second is a resumed run
        follow(make_tracker("trackio", run_dir=run_dir, config=CONFIG), range(1))
        assert trackio.calls == [
            ("init", "nano-gpt", f"myrun-{run_id(run_dir)}", CONFIG, "allow"),
            ("log", 0, {"train/tokens": 0, "train/loss": 4.0}),
            ("log", 1, {"val/tokens": 512, "val/loss": 3.5}),
            ("log", 1, {"sample/0": ("markdown", "    a < b\n    ```\n")}),
            ("finish",),
        ]
        trackio.calls.clear()
    assert capsys.readouterr().out == "", "stdout is for results"


@pytest.fixture
def summary_writers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Those of torch.utils.tensorboard, which cannot be imported without tensorboard."""
    writers: list[Any] = []

    class SummaryWriter:
        def __init__(self, log_dir: str | None = None, comment: str = "", purge_step: int | None = None) -> None:
            self.log_dir, self.purge_step, self.calls = log_dir, purge_step, []
            writers.append(self)

        def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
            self.calls.append((tag, scalar_value, global_step))

        def add_text(self, tag: str, text_string: str, global_step: int | None = None) -> None:
            self.calls.append((tag, text_string, global_step))

        def close(self) -> None:
            self.calls.append("closed")

    module: Any = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    yield writers


def test_tensorboard(summary_writers: list[Any], tmp_path: Path) -> None:
    follow(make_tracker("tensorboard", run_dir=tmp_path, config=CONFIG), range(3, 4))
    (writer,) = summary_writers
    assert writer.log_dir == str(tmp_path / "tensorboard")
    assert writer.purge_step == 4, "later steps are from before a restart; the validation at 3 stays"
    config, *calls = writer.calls
    assert config[0] == "config"
    assert '"max_steps": 10' in config[1]
    assert calls == [
        ("train/tokens", 1536, 3), ("train/loss", 1.0, 3), ("val/tokens", 2048, 4), ("val/loss", 0.5, 4),
        ("sample/0", "    a < b\n    ```\n", 4), "closed",
    ]  # fmt: skip


def test_real_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: script/setup test track")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    follow(make_tracker("tensorboard", run_dir=tmp_path, config=CONFIG), range(4))
    follow(make_tracker("tensorboard", run_dir=tmp_path, config=CONFIG), range(2, 6))
    written = EventAccumulator(str(tmp_path / "tensorboard"))
    written.Reload()
    assert sorted({event.step for event in written.Scalars("train/loss")}) == list(range(6))
    assert [event.step for event in written.Scalars("val/loss")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "trackio"])
def test_a_missing_package_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    follow(make_tracker(name, run_dir=tmp_path, config=CONFIG), range(3))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"pip install {name};" in record.getMessage()


def test_a_failure_is_told_once_and_ends_the_tracker_not_the_run(
    wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def log(self: FakeWandbRun, data: dict[str, Any], step: int | None = None) -> None:
        raise OSError("no space left\non device")

    monkeypatch.setattr(FakeWandbRun, "log", log)
    follow(make_tracker("wandb", run_dir=tmp_path, config=CONFIG), range(5))
    (record,) = caplog.records
    assert record.getMessage() == "wandb: off from here on, since it failed: no space left on device"


@pytest.mark.parametrize("where", ["init", "finish"])
def test_a_failure_at_either_end(
    where: str, trackio: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(trackio, where, fail)
    follow(make_tracker("trackio", run_dir=tmp_path, config=CONFIG), range(2))
    (record,) = caplog.records
    assert record.getMessage().endswith("since it failed: RuntimeError")


def test_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown tracker 'wandbb'") as caught:
        make_tracker("wandbb", run_dir=tmp_path, config=CONFIG)
    assert caught.value.hint == "did you mean 'wandb'?"


def test_runs_of_one_name_in_two_folders_differ(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place / "run").mkdir(parents=True)
    ids = [run_id(tmp_path / place / "run") for place in ("a", "b", "a")]
    assert ids[0] == ids[2] != ids[1]
