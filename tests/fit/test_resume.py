"""A fit that was killed and repeated gives the numbers of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from epot.errors import FitError
from epot.fit import checkpoint
from epot.fit import journal as journals

TOY = Path(__file__).parent / "toys" / "run_toy.py"


@pytest.fixture
def start(spawn):
    """``start(folder, seed, pause)``: the toy fit in a process of its own."""

    def toy(folder, seed=0, pause=0.0):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "EPOT_PROGRESS": "0"}
        command = [sys.executable, str(TOY), str(folder), str(seed), str(pause)]
        return spawn(command, env=environment, stderr=subprocess.PIPE)

    return toy


def finish(process):
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


def numbers(folder):
    """The journal without times."""
    lines = journals.read(folder / "journal.jsonl")
    return [{k: v for k, v in line.items() if k not in ("time", "seconds")} for line in lines]


def kill_in_epoch(start, folder, epoch):
    """Run slowly, and kill -9 in the middle of that epoch, or of a later one where the machine is too busy to see it;
    returns the checkpoint's position."""
    process = start(folder, pause=0.03)
    path = folder / "checkpoints" / "stage1.safetensors"
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists():
            position = checkpoint.load(path)[1]["position"]
            if position["epoch"] >= epoch and position["batch"] >= 1:
                break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return checkpoint.load(path)[1]["position"]


def in_process(folder, seed=0):
    sys.path.insert(0, str(TOY.parent))
    try:
        import run_toy

        run_toy.fit_toy(folder, seed)
    finally:
        sys.path.remove(str(TOY.parent))


def test_killed_and_repeated_equals_uninterrupted(tmp_path, toynet, start):
    """Witness: the uninterrupted run, bit for bit. Control: another seed."""
    whole, killed, other = tmp_path / "whole", tmp_path / "killed", tmp_path / "other"
    running = start(whole)
    in_process(other, seed=1)
    at = kill_in_epoch(start, killed, 3)
    assert at["epoch"] >= 3
    assert at["batch"] > 0
    with (killed / "journal.jsonl").open("a") as out:
        out.write('{"event": "epoch", "torn')  # a line torn by the kill
    finish(start(killed))
    finish(running)
    weights = [safetensors.torch.load_file(f / "model.epot") for f in (whole, killed, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
    assert any(not torch.equal(t, weights[2][k]) for k, t in weights[0].items())
    assert numbers(whole) == numbers(killed)
    assert [line["epoch"] for line in numbers(whole) if line["event"] == "epoch"] == [1, 2, 3, 4, 5, 6]
    before = (killed / "journal.jsonl").read_text(), (killed / "model.epot").read_bytes()
    in_process(killed)  # a finished fit repeated is itself
    assert numbers(killed) == numbers(whole)
    assert json.loads(before[0].splitlines()[0])["event"] == "fit"
    assert before[1] == (killed / "model.epot").read_bytes()


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"x": torch.ones(3)}, {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FitError, match="previous checkpoint"):
        checkpoint.save(path, {"x": torch.zeros(3)}, {"step": 2})
    tensors, facts = checkpoint.load(path)
    assert facts == {"step": 1}
    assert tensors["x"].tolist() == [1.0] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"x": torch.ones(300)}, {"step": 1})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FitError, match=r"c\.safetensors is not a complete checkpoint"):
        checkpoint.load(path)
    assert checkpoint.load(tmp_path / "none") is None
    safetensors.torch.save_file({"x": torch.ones(1)}, path)
    with pytest.raises(FitError, match="not a complete checkpoint"):
        checkpoint.load(path)


def test_a_checkpoint_that_is_replaced_while_it_is_read(tmp_path, monkeypatch):
    """A fit replaces it many times a second; control: safetensors' own reader, which opens the file twice."""
    path = tmp_path / "c.safetensors"
    opened = torch.UntypedStorage.from_file

    def replaced(*args, **options):
        checkpoint.save(path, {"x": torch.ones(3)}, {"step": 2})
        return opened(*args, **options)

    monkeypatch.setattr(torch.UntypedStorage, "from_file", replaced)
    checkpoint.save(path, {"x": torch.ones(3000)}, {"step": 1})
    tensors, facts = checkpoint.load(path)
    assert (len(tensors["x"]), facts) == (3000, {"step": 1})
    with pytest.raises(RuntimeError, match="smaller"), safetensors.safe_open(path, framework="pt") as file:
        file.get_tensor("x")


def test_restore_keeps_what_is_trained_and_takes_other_sizes():
    module = torch.nn.Linear(2, 3)
    module.register_buffer("points", torch.zeros(0, 2))
    module.bias.requires_grad_(False)
    tensors = {"weight": torch.ones(5, 2), "bias": torch.ones(3), "points": torch.ones(4, 2)}
    checkpoint.restore(module, tensors)
    assert module.weight.shape == (5, 2)
    assert module.weight.requires_grad
    assert not module.bias.requires_grad
    assert module.points.shape == (4, 2)
    with pytest.raises(FitError, match="points"):
        checkpoint.restore(module, {"weight": torch.ones(5, 2), "bias": torch.ones(3)})
