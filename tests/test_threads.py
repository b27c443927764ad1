"""Work side by side: in order, with the caller's settings, and no threads inside threads."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from vggsfm_cli.threads import at_most, available_cores, limit_cores, map_threads, one_thread_each, side_by_side


@pytest.fixture(autouse=True)
def two_cores() -> Iterator[None]:
    limit_cores(2)
    yield
    limit_cores(None)


def test_results_come_in_the_order_of_the_items_however_long_each_takes() -> None:
    def late(item: int) -> int:
        time.sleep(0.02 * (item == 0))
        return item * item

    assert list(map_threads(late, range(6))) == [0, 1, 4, 9, 16, 25]
    assert list(map_threads(late, iter([]))) == []


def test_two_pieces_run_at_the_same_time() -> None:
    both = threading.Barrier(2)
    list(map_threads(lambda _: both.wait(timeout=10), range(2)))  # one after the other, the first waits in vain


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_threads_take_gradients_and_autocast_from_the_caller(gradients: bool, autocast: bool) -> None:
    weight = torch.ones(4, 4, requires_grad=True)

    def product(_: int) -> tuple[bool, torch.dtype, bool]:
        result = weight @ weight
        return result.requires_grad, result.dtype, threading.current_thread() is threading.main_thread()

    with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = list(map_threads(product, range(2)))
    assert found == [(gradients, torch.bfloat16 if autocast else torch.float32, False)] * 2


def test_gradients_reach_through_the_threads() -> None:
    weight = torch.tensor([2.0, 3.0], requires_grad=True)
    total = torch.stack(list(map_threads(lambda item: weight[item] ** 2, range(2)))).sum()
    total.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [4.0, 6.0]


def test_work_inside_work_stays_on_its_thread() -> None:
    def inner(_: int) -> int:
        return threading.get_ident()

    def outer(_: int) -> tuple[int, list[int], int]:
        return threading.get_ident(), list(map_threads(inner, range(4))), torch.get_num_threads()

    for thread, inside, operation_threads in map_threads(outer, range(4)):
        assert thread != threading.get_ident()
        assert inside == [thread] * 4
        assert operation_threads == 1
    # and the caller's thread is as free as before
    assert threading.get_ident() not in set(map_threads(inner, range(4)))


def test_one_core_and_an_accelerator_use_no_threads() -> None:
    here = threading.get_ident()
    assert set(map_threads(lambda _: threading.get_ident(), range(3), "cuda")) == {here}
    limit_cores(1)
    assert available_cores() == 1
    assert set(map_threads(lambda _: threading.get_ident(), range(3))) == {here}
    limit_cores(None)
    assert available_cores() >= 1


def test_fewer_cores_within_a_block() -> None:
    here = threading.get_ident()
    with at_most(1):
        assert available_cores() == side_by_side() == 1
        with at_most(5):  # never more than outside
            assert set(map_threads(lambda _: threading.get_ident(), range(3))) == {here}
    with at_most(5):
        assert available_cores() == side_by_side() == 2
    assert side_by_side("cuda") == 1
    assert list(map_threads(lambda _: side_by_side(), range(2))) == [1, 1]


@pytest.mark.parametrize("cores", [1, 2])
def test_a_failure_reaches_the_caller(cores: int) -> None:
    limit_cores(cores)

    def fail(item: int) -> int:
        if item == 1:
            raise KeyError("the second")
        return item

    found = map_threads(fail, range(3))
    assert next(found) == 0
    with pytest.raises(KeyError, match="the second"):
        list(found)


def test_one_thread_for_each_operation_and_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyError), one_thread_each():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
