"""What is kept between calls is made again as soon as a tensor that it was made of is another."""

import copy
import pickle

import pytest
import torch
from torch import nn

from epot.blocks import kept
from epot.blocks.kept import Kept


class Doubled(nn.Module):
    """Keeps two times its weights, and counts how often that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(20, 20)
        self.register_buffer("shift", torch.zeros(20))
        self.kept, self.made = Kept(), 0

    def make(self):
        self.made += 1
        return 2 * self.linear.weight + self.shift

    def forward(self, key=None):
        return self.kept.of(self, self.make, key)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Doubled()


def right(module, key=None):
    expected = 2 * module.linear.weight.detach() + module.shift
    return torch.equal(module(key), expected)


def test_made_once(module):
    assert module() is module()
    assert right(module)
    assert module.made == 1
    assert not module().requires_grad


def in_place(module):
    with torch.no_grad():
        module.linear.weight.mul_(3)


def by_an_optimizer(module):
    module.linear.weight.grad = torch.ones(20, 20)
    torch.optim.SGD(module.parameters(), lr=0.1).step()


def in_inference_mode(module):
    with torch.inference_mode():
        module.linear.weight.mul_(3)


def loaded(module):
    module.load_state_dict({k: torch.randn_like(v) for k, v in module.state_dict().items()})


def assigned(module):
    for _ in range(2):  # the second may get the memory that the first gave back
        module.load_state_dict({k: torch.randn_like(v) for k, v in module.state_dict().items()}, assign=True)


def another_parameter(module):
    module.linear.weight = nn.Parameter(torch.randn(20, 20))


def another_memory(module):
    for _ in range(2):
        module.linear.weight.data = torch.randn(20, 20)


def a_buffer(module):
    module.shift.add_(1)


def another_buffer(module):
    module.shift = torch.randn(20)


def another_precision(module):
    module.double()


CHANGES = [in_place, by_an_optimizer, in_inference_mode, loaded, assigned, another_parameter, another_memory, a_buffer,
           another_buffer, another_precision]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(module, change):
    """Many times, as memory is given out again by chance; the control is what was kept before."""
    for _ in range(1 if change is another_precision else 30):
        before = module()
        assert right(module)
        change(module)
        assert right(module)
        assert not torch.equal(before.double(), module().double()) or change is another_precision
        assert module() is module()
    assert module().dtype == module.linear.weight.dtype


def test_keys_are_kept_beside_each_other(module):
    a, b = module("a"), module("b")
    assert a is not b
    assert module("a") is a
    assert module("b") is b
    in_place(module)
    assert right(module, "a")
    assert right(module, "b")
    assert module.made == 4


def test_copies_keep_nothing(module):
    module()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.kept is not module.kept
        assert not other.kept._held
        in_place(other)
        assert right(other)
    assert right(module)
    assert module.made == 1


def test_is_in_no_file(module):
    module()
    assert set(module.state_dict()) == {"linear.weight", "linear.bias", "shift"}


def test_parameters_of_inference_mode_are_not_trusted():
    """They do not count their changes, so nothing is kept."""
    with torch.inference_mode():
        module = Doubled()
        module()
        module.linear.weight.mul_(3)
        assert right(module)
    assert module.made == 2


def test_made_in_inference_mode_serves_outside(module):
    """And may meet autograd there."""
    with torch.inference_mode():
        module()
    x = torch.randn(20, requires_grad=True)
    (module() @ x).sum().backward()
    assert x.grad is not None
    assert module.made == 1


def test_keys_do_not_gather(module):
    """The one that was not asked for longest goes first. Control: it is made again."""
    for key in range(3 * kept.MOST):
        module(key)
        module("always")
    assert len(module.kept._held) == kept.MOST
    made = module.made
    module("always")
    module(3 * kept.MOST - 1)
    assert module.made == made == 3 * kept.MOST + 1
    module(0)
    assert module.made == made + 1


def test_large_results_do_not_gather(module, monkeypatch):
    """Tables for many sets of elements, say. Control: with room for three, three stay."""
    one = kept._bytes(module())
    assert one > 0
    monkeypatch.setattr(kept, "LARGEST", 3 * one)
    for key in range(9):
        module(key)
    assert len(module.kept._held) == 3
    monkeypatch.setattr(kept, "LARGEST", one // 2)
    module(100)
    assert len(module.kept._held) == 1
    made = module.made
    module(100)  # the last stays, however large
    assert module.made == made
