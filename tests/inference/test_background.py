"""Items made in a thread: order, bound, errors, leaving early."""

import contextlib
import threading

import pytest

from skipsr_jax.inference.background import Background, prefetch


def test_all_items_in_order_from_another_thread():
    threads = set()

    def numbers():
        for i in range(50):
            threads.add(threading.get_ident())
            yield i

    assert list(prefetch(numbers(), 3)) == list(range(50))
    assert threads and threading.get_ident() not in threads


def test_no_more_than_count_are_made_before_they_are_asked_for():
    made, third = [], threading.Event()

    def numbers():
        for i in range(10):
            made.append(i)
            if i == 3:
                third.set()
            yield i

    with contextlib.closing(prefetch(numbers(), 2)) as items:
        assert next(items) == 0
        assert third.wait(5)  # 1 and 2 wait in the queue, 3 at its door
        assert not threading.Event().wait(0.2) and made == [0, 1, 2, 3]


def test_errors_come_after_the_items_before_them():
    def numbers():
        yield 1
        raise ValueError("no more")

    items = prefetch(numbers(), 4)
    assert next(items) == 1
    with pytest.raises(ValueError, match="no more"):
        next(items)


def test_leaving_early_ends_the_thread():
    before = threading.active_count()

    def numbers():
        i = 0
        while True:
            yield i
            i += 1

    with contextlib.closing(prefetch(numbers(), 2)) as items:
        assert next(items) == 0
    assert threading.active_count() == before


def test_calls_run_in_order_in_one_thread_and_leaving_waits_for_them():
    calls = []
    with Background(2) as background:
        for i in range(20):
            background.submit(lambda i: calls.append((i, threading.get_ident())), i)
    assert [i for i, _ in calls] == list(range(20))
    threads = {thread for _, thread in calls}
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_no_more_than_count_calls_wait():
    door, submitted = threading.Event(), []
    with Background(1) as background:

        def submit():
            for i in range(5):
                background.submit(door.wait)
                submitted.append(i)

        thread = threading.Thread(target=submit)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and submitted == [0, 1]  # one runs, one waits
        door.set()
        thread.join()


def test_the_error_of_a_call_reaches_the_caller():
    def fails():
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"), Background(4) as background:
        background.submit(fails)


def test_calls_that_have_not_begun_are_dropped_after_an_error():
    door, ran = threading.Event(), []
    with pytest.raises(KeyError), Background(4) as background:
        background.submit(door.wait)
        background.submit(ran.append, 1)
        threading.Timer(0.2, door.set).start()
        raise KeyError
    assert not ran
