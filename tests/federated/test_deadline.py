"""A client's own clock."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from fedsim.federated.deadline import Late, deadline


def test_what_takes_too_long_is_interrupted_where_it_stands() -> None:
    with pytest.raises(Late, match=r"not done within 0\.05 s"), deadline(0.05):
        time.sleep(3600)


def test_it_is_no_error_of_the_disk() -> None:
    assert not issubclass(Late, OSError)


def test_what_is_in_time_hears_nothing_and_the_clock_stops() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with deadline(3600):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


def test_an_error_inside_is_its_own_and_stops_the_clock() -> None:
    with pytest.raises(KeyError), deadline(3600):
        raise KeyError
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_in_another_thread_there_is_no_clock() -> None:
    done: list[bool] = []

    def work() -> None:
        with deadline(0.001):
            done.append(signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
