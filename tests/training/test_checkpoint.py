from __future__ import annotations

import builtins
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from holdtrue.errors import DataError, ResourceError
from holdtrue.rundir import RunDir
from holdtrue.training import checkpoint
from holdtrue.training.checkpoint import fault, folder_of, newest, prune, publish, read, save

HERE = Path(__file__).parent


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run", {})


def put(run: RunDir, step: int, *, keep: int = 2, protect: tuple[int, ...] = ()) -> Path:
    """Save a checkpoint whose content tells its step."""
    tensors = {
        "model": {"weight": torch.full((3, 2), float(step))},
        "optimizer": {"step": torch.tensor(step)},
    }
    return save(run, step, tensors, {"step": step}, keep=keep, protect=protect)


def steps(run: RunDir) -> list[int]:
    return sorted(int(path.name[5:]) for path in run.checkpoints.iterdir())


def newest_step(run: RunDir) -> int | None:
    """Step of the newest whole checkpoint, after seeing that it holds what was saved at that step."""
    found = newest(run)
    if found is None:
        return None
    step, path = found
    tensors, state = read(path)
    assert state == {"step": step}
    assert torch.equal(tensors["model"]["weight"], torch.full((3, 2), float(step)))
    assert torch.equal(tensors["optimizer"]["step"], torch.tensor(step))
    return step


def test_every_tensor_comes_back_with_its_bits_shape_and_type(run):
    base = torch.randn(4, 6)
    group = {
        "float": base,
        "transposed": base.t(),
        "tied": base,
        "part": base[1:3],
        "expanded": base[0].expand(5, 6),
        "parameter": torch.nn.Parameter(base),
        "bf16": base.bfloat16(),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
        "bool": torch.tensor([True, False]),
    }
    rng = {"cpu": torch.get_rng_state()}
    path = save(run, 3, {"model": group, "rng": rng, "nothing": {}}, {"epoch": 0.5, "none": None}, keep=1)
    tensors, state = read(path)
    assert state == {"epoch": 0.5, "none": None}
    assert tensors.keys() == {"model", "rng", "nothing"} and tensors["nothing"] == {}
    assert tensors["model"].keys() == group.keys()
    for name, saved in group.items():
        loaded = tensors["model"][name]
        assert loaded.dtype == saved.dtype and loaded.shape == saved.shape, name
        assert torch.equal(loaded.nan_to_num(), saved.detach().nan_to_num()), name
    torch.set_rng_state(tensors["rng"]["cpu"])


@linux
def test_what_was_read_does_not_hold_on_to_the_file(run):
    path = put(run, 1)
    tensors, _ = read(path)
    tensors["model"]["weight"].zero_()
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert newest_step(run) == 1


def test_the_newest_are_kept_and_the_protected_besides(run):
    for step in (10, 20, 30, 40, 50):
        put(run, step, keep=2, protect=(20,))
    assert steps(run) == [20, 40, 50]
    put(run, 60, keep=1)
    assert steps(run) == [60]


def test_one_of_a_given_step_can_be_asked_for(run):
    put(run, 10)
    put(run, 20)
    assert newest(run, at=10) == (10, folder_of(run, 10))
    assert newest(run, at=11) is None


def test_a_run_without_checkpoints_has_no_newest(run):
    assert newest(run) is None
    shutil.rmtree(run.checkpoints)
    assert newest(run) is None
    put(run, 1)
    assert newest_step(run) == 1


def test_saving_a_step_again_replaces_it(run):
    put(run, 10)
    save(run, 10, {"model": {"weight": torch.ones(1)}}, {"second": True}, keep=2)
    assert steps(run) == [10]
    assert read(folder_of(run, 10))[1] == {"second": True}


def test_a_kill_between_setting_aside_and_replacing_loses_nothing(run):
    put(run, 10)
    put(run, 20)
    aside = folder_of(run, 20).rename(run.checkpoints / "step-00000020.old")
    assert newest(run) == (20, aside)
    put(run, 20)
    assert steps(run) == [10, 20]


def test_broken_ones_are_passed_over_and_said_and_leave_when_the_run_goes_on(run):
    for step in (10, 20, 30):
        put(run, step, keep=3)
    (folder_of(run, 30) / "MANIFEST.json").unlink()
    (folder_of(run, 20) / "state.json").write_text("{}")
    said: list[str] = []
    assert newest(run, tell=said.append) == (10, folder_of(run, 10))
    assert len(said) == 2
    assert "step-00000030 is broken" in said[0] and "MANIFEST.json does not exist" in said[0]
    assert "step-00000020 is broken" in said[1] and "state.json has 2 bytes" in said[1]
    put(run, 15, keep=2)
    assert steps(run) == [10, 15]


def test_broken_ones_are_logged_when_nobody_listens(run, caplog):
    path = put(run, 10)
    (path / "model.safetensors").unlink()
    assert newest(run) is None
    assert "model.safetensors cannot be read: No such file" in caplog.text


def test_every_single_flipped_bit_is_found(run):
    path = put(run, 10)
    assert fault(path) is None
    for file in path.iterdir():
        whole = file.read_bytes()
        for index in range(len(whole)):
            flipped = bytearray(whole)
            flipped[index] ^= 1 << (index % 8)
            file.write_bytes(flipped)
            assert fault(path), f"{file.name} byte {index}"
        file.write_bytes(whole)
    assert fault(path) is None


def test_a_file_cut_at_any_length_or_grown_is_found(run):
    path = put(run, 10)
    for file in path.iterdir():
        whole = file.read_bytes()
        for length in range(len(whole) - (file.name == "MANIFEST.json")):  # but its last newline
            file.write_bytes(whole[:length])
            assert fault(path), f"{file.name} cut to {length} bytes"
        file.write_bytes(whole + b"x")
        assert fault(path), f"{file.name} grown"
        file.write_bytes(whole)


def test_a_whole_checkpoint_under_another_steps_name_is_broken(run):
    put(run, 10).rename(folder_of(run, 99))
    assert fault(folder_of(run, 99)) == "MANIFEST.json is not that of this step"


def test_reading_a_damaged_folder_names_the_file(run):
    path = put(run, 10)
    (path / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(DataError, match=r"model\.safetensors cannot be read"):
        read(path)


def test_state_that_is_not_finite_json_is_refused_and_nothing_is_left(run):
    put(run, 10)
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(run, 20, {}, {"loss": float("nan")}, keep=1)
    assert steps(run) == [10]


def test_a_folder_written_by_somebody_else_is_published_alike(run):
    with publish(run, 5) as folder:
        (folder / "shards").mkdir()
        (folder / "shards" / "__0_0.distcp").write_bytes(b"zero")
        (folder / ".metadata").write_bytes(b"meta")
        assert newest(run) is None
    assert newest(run) == (5, folder_of(run, 5))
    (folder_of(run, 5) / "shards" / "__0_0.distcp").write_bytes(b"zerO")
    assert fault(folder_of(run, 5)) == "shards/__0_0.distcp differs from its SHA-256 in the manifest"


def interrupted(run: RunDir) -> None:
    with publish(run, 20) as folder:
        (folder / "half").write_bytes(b"half")
        raise KeyboardInterrupt


def test_an_interrupt_while_writing_leaves_only_the_old(run):
    put(run, 10)
    with pytest.raises(KeyboardInterrupt):
        interrupted(run)
    assert steps(run) == [10]


def test_leftovers_of_dead_processes_are_removed_and_those_of_living_ones_are_not(run):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f".tmp-7-{dead.pid}", f".tmp-step-00000003-{dead.pid}", f".tmp-7-{os.getppid()}"):
        (run.checkpoints / name).mkdir()
        (run.checkpoints / name / "model.safetensors").write_bytes(b"half")
    put(run, 10)
    assert sorted(p.name for p in run.checkpoints.iterdir()) == [f".tmp-7-{os.getppid()}", "step-00000010"]


def test_pruning_after_publish_keeps_the_published_one(run):
    for step in (1, 2, 3):
        with publish(run, step) as folder:
            (folder / "data").write_bytes(b"x")
        prune(run, step, keep=1)
        assert steps(run) == [step]


@linux
def test_everything_is_on_the_disk_before_it_is_published_and_the_manifest_last(run, monkeypatch):
    events: list[str] = []
    fsync, rename, rmtree = os.fsync, os.rename, shutil.rmtree

    def recorded_fsync(descriptor: int) -> None:
        events.append("fsync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def recorded_rename(source: Path, target: Path) -> None:
        events.append(f"rename to {target.name}")
        rename(source, target)

    def recorded_rmtree(path: Path, **how: Any) -> None:
        if path.exists():
            events.append(f"remove {path.name}")
        rmtree(path, **how)

    put(run, 10)
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    monkeypatch.setattr(shutil, "rmtree", recorded_rmtree)
    put(run, 20, keep=1)
    pid = os.getpid()
    assert [event for event in events if "state.json" not in event] == [
        "fsync model.safetensors",
        "fsync optimizer.safetensors",
        f"fsync .MANIFEST.json.{pid}.tmp",
        f"fsync .tmp-20-{pid}",
        "rename to step-00000020",
        "fsync checkpoints",
        f"rename to .tmp-step-00000010-{pid}",
        f"remove .tmp-step-00000010-{pid}",
    ]
    assert events.index("fsync state.json") < events.index(f"fsync .MANIFEST.json.{pid}.tmp")


# A disk that fails


class FaultyDisk:
    """Lets the first ``after`` calls to the file system pass and fails the next one (or all from there)."""

    CALLS = ("open", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "scandir", "listdir")
    ALLOCATING = frozenset({"open for writing", "write", "save_file", "fsync", "rename", "replace", "mkdir"})

    def __init__(self, code: int, after: int, *, lasting: bool) -> None:
        self.code, self.after, self.lasting = code, after, lasting
        self.calls: list[str] = []
        self.failed = 0

    def step(self, name: str) -> None:
        if self.code == errno.ENOSPC and name not in self.ALLOCATING:
            return  # a full disk still reads, lists and deletes
        self.calls.append(name)
        if len(self.calls) - 1 == self.after or (self.lasting and len(self.calls) > self.after):
            self.failed += 1
            raise OSError(self.code, os.strerror(self.code))

    def guard(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.step(name)
            return real(*args, **kwargs)

        return call

    def open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            self.step("open for writing" if "w" in mode else "open")
            opened = real(file, mode, *args, **kwargs)
            if "w" in mode:
                opened.write = self.guard("write", opened.write)
            return opened

        return call

    def save_file(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            try:
                self.step("save_file")
            except OSError as error:  # as the Rust side says it
                raise SafetensorError(f"I/O error: {error.strerror} (os error {self.code})") from None
            return real(*args)

        return call

    @contextmanager
    def inserted(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in self.CALLS:
                patch.setattr(os, name, self.guard(name, getattr(os, name)))
            patch.setattr(builtins, "open", self.open(builtins.open))
            patch.setattr(checkpoint, "save_file", self.save_file(checkpoint.save_file))
            yield


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["disk full", "input/output error"])
@pytest.mark.parametrize("again", [False, True], ids=["next step", "same step again"])
def test_whichever_call_fails_a_whole_checkpoint_remains_and_saving_goes_on_later(
    tmp_path, again, code, lasting
):
    expected = ResourceError if code == errno.ENOSPC else DataError
    step = 20 if again else 30
    before = RunDir.create(tmp_path / "before", {})
    put(before, 10, keep=1)
    put(before, 20, keep=1)
    raised: list[str] = []
    for after in range(1000):
        run = RunDir(shutil.copytree(before.path, tmp_path / "run"))
        disk = FaultyDisk(code, after, lasting=lasting)
        with disk.inserted():
            try:
                put(run, step, keep=1)
            except expected as error:
                raised.append(str(error))
        if not disk.failed:
            break
        said: list[str] = []
        found = newest(run, tell=said.append)
        assert found is not None and found[0] in (20, step), disk.calls[-1]
        assert not said, "no half-written folder may stand under a published name"
        assert newest_step(run) in (20, step)
        put(run, 40, keep=1)
        assert steps(run) == [40], disk.calls[-1]
        shutil.rmtree(run.path)
    assert {"save_file", "fsync", "rename", "mkdir", "write", "replace"} <= set(disk.calls)
    assert len(raised) > 15 and all(str(run.checkpoints) in message for message in raised)


LIMITED = """
import resource, sys, torch
from holdtrue.rundir import RunDir
from holdtrue.training.checkpoint import save
run = RunDir(sys.argv[1])
save(run, 10, {"model": {"weight": torch.ones(100)}}, {}, keep=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
save(run, 20, {"model": {"weight": torch.ones(10_000)}}, {}, keep=1)
"""


def test_a_write_that_really_fails_inside_safetensors_keeps_the_old(run):
    done = subprocess.run([sys.executable, "-c", LIMITED, run.path], capture_output=True, text=True)
    assert "DataError: cannot write" in done.stderr and "File too large" in done.stderr
    assert steps(run) == [10]


FULL = """
import os, subprocess, sys, torch
from pathlib import Path
from holdtrue.errors import ResourceError
from holdtrue.rundir import RunDir
from holdtrue.training.checkpoint import newest, save
disk = Path(sys.argv[1])
met = set()
for pages in range(4, 40):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={pages * 4}k", "tmpfs", disk]).returncode:
        sys.exit(77)
    run = RunDir(disk / "run")
    try:
        for step in (1, 2, 3):
            save(run, step, {"model": {"weight": torch.full((6_000,), float(step))}}, {"step": step}, keep=1)
        met.add("whole")
    except ResourceError:
        found = newest(run, tell=sys.exit)
        assert (found[0] if found else 0) == step - 1, (pages, step, found)
        names = [path.name for path in run.checkpoints.iterdir()] if run.checkpoints.exists() else []
        assert names == ([f"step-{step - 1:08d}"] if step > 1 else []), names
        met.add(step)
    subprocess.run(["umount", disk], check=True)
assert met == {"whole", 1, 2}, met
"""


def test_disks_of_every_small_size_that_really_fill_up_keep_the_old(tmp_path):
    if not shutil.which("unshare"):
        pytest.skip("needs unshare to mount a small disk of its own")
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", FULL, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"may not mount a small disk here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


# A process that is killed


KILLED = """
import os, random, signal, sys, time, torch
from holdtrue.rundir import RunDir
from holdtrue.training.checkpoint import newest, read, save

def resume(run):
    found = newest(run, tell=sys.exit)
    if found is None:
        return 0
    step, path = found
    tensors, state = read(path)
    assert state["step"] == step
    assert torch.equal(tensors["model"]["weight"], torch.full((20_000,), float(step)))
    return step

def work(run, done):
    step = resume(run)
    while True:
        step += 1
        save(run, step, {"model": {"weight": torch.full((20_000,), float(step))}}, {"step": step}, keep=2)
        os.write(done, step.to_bytes(8, "little"))

torch.set_num_threads(1)
run = RunDir(sys.argv[1])
for kill in range(int(sys.argv[2])):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        work(run, writer)
    os.close(writer)
    saved = os.read(reader, 8) if kill % 2 else b""  # every other one gets at least one step done
    time.sleep(random.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "the child ended by itself"
    with os.fdopen(reader, "rb") as pipe:
        saved += pipe.read()
    last = int.from_bytes(saved[-8:], "little") if saved else 0
    step = resume(run)
    assert step >= last, f"saved {last}, resumed at {step}"
print(step, len(list(run.checkpoints.glob(".tmp-*"))))
"""


def kill_often(run: RunDir, kills: int) -> int:
    command = [sys.executable, "-c", KILLED, run.path, str(kills)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    step, leftovers = map(int, done.stdout.split())
    assert leftovers <= 2  # only of the last process
    return step


def test_twenty_kills_at_random_moments_never_lose_a_saved_step(run):
    assert kill_often(run, 20) >= 10


@pytest.mark.slow
def test_a_thousand_kills_at_random_moments_never_lose_a_saved_step(run):
    assert kill_often(run, 1000) >= 500
