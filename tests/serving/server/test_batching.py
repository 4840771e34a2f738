import threading

import grpc
import numpy as np
import pytest

from serving.server import Server
from serving.server.batching import Batcher, Call
from serving.server.configuration import BatchingParameters
from serving.server.errors import RequestError
from tests.serving.server.conftest import count_request, counted, ran_with, refused


class Doubler:
    """Doubles; keeps the batches it was given, and can be held up."""

    def __init__(self):
        self.batches = []
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Semaphore(0)

    def __call__(self, inputs, cancellation):
        self.batches.append(inputs)
        self.begun.release()
        while not self.open.wait(0.005):
            if cancellation.is_cancelled:
                raise RequestError(grpc.StatusCode.CANCELLED, "stopped")
        if (inputs["x"] < 0).any():
            raise RequestError(grpc.StatusCode.INVALID_ARGUMENT, "negative")
        return {"y": inputs["x"] * 2}


def arrays(*values, keep_rows=None):
    inputs = {"x": np.array(values)}
    return inputs if keep_rows is None else {**inputs, "keep_rows": np.array(keep_rows)}


@pytest.fixture
def make_batcher():
    batchers = []

    def make(run, observe=lambda size: None, count_pixels=len, max_pixels=100, **parameters):
        settings = BatchingParameters(**{"max_batch_size": 4, **parameters})
        batcher = Batcher(run, settings, observe, count_pixels, max_pixels)
        batchers.append((batcher, run))
        return batcher

    yield make
    for batcher, run in batchers:
        run.open.set()
        batcher.close()


def submit(batcher, inputs, call):
    tasks = batcher.split(inputs, call)
    batcher.submit(tasks)
    return tasks


def hold(run, batcher):
    """Has the batcher's thread busy, so that what follows waits."""
    run.open.clear()
    (task,) = submit(batcher, arrays(0), Call())
    assert run.begun.acquire(timeout=30)
    return task


def values(tasks):
    return [task.future.result(timeout=30)["y"].tolist() for task in tasks]


def test_each_request_gets_its_own_rows(make_batcher):
    run = Doubler()
    batcher = make_batcher(run)
    hold(run, batcher)
    tasks = [submit(batcher, arrays(*row), Call())[0] for row in ([1, 2], [3], [4])]
    run.open.set()
    assert values(tasks) == [[2, 4], [6], [8]]
    assert [batch["x"].tolist() for batch in run.batches] == [[0], [1, 2, 3, 4]]
    assert [task.batch_size for task in tasks] == [4, 4, 4]


def test_a_batch_waits_for_others_up_to_the_timeout(make_batcher):
    run = Doubler()
    patient = make_batcher(run, batch_timeout_micros=10**9, max_batch_size=2)
    first = submit(patient, arrays(1), Call())
    # Another batcher, which does not wait, has an answer meanwhile.
    assert values(submit(make_batcher(run, batch_timeout_micros=0), arrays(3), Call())) == [[6]]
    assert patient.queued == 1
    assert values(first + submit(patient, arrays(2), Call())) == [[2], [4]]
    assert [batch["x"].tolist() for batch in run.batches] == [[3], [1, 2]]


def test_a_batch_holds_at_most_its_size(make_batcher):
    run = Doubler()
    sizes = []
    batcher = make_batcher(run, sizes.append)
    hold(run, batcher)
    tasks = [submit(batcher, arrays(n, n, n), Call())[0] for n in range(3)]
    run.open.set()
    assert values(tasks) == [[0] * 3, [2] * 3, [4] * 3]
    assert sizes == [1, 3, 3, 3]


def test_a_large_request_runs_in_parts(make_batcher):
    run = Doubler()
    batcher = make_batcher(
        run, max_batch_size=100, enable_large_batch_splitting=True, max_execution_batch_size=4
    )
    tasks = submit(batcher, arrays(*range(10)), Call())
    assert sum(values(tasks), []) == [2 * n for n in range(10)]
    assert max(len(batch["x"]) for batch in run.batches) == 4


def test_batches_are_filled_up_to_an_allowed_size(make_batcher):
    run = Doubler()
    batcher = make_batcher(run, allowed_batch_sizes=(2, 4))
    for row, padded in ([1], [1, 1]), ([1, 2], [1, 2]), ([1, 2, 3], [1, 2, 3, 1]):
        assert values(submit(batcher, arrays(*row), Call())) == [[2 * n for n in row]]
        assert run.batches[-1]["x"].tolist() == padded


def test_the_oldest_goes_with_those_that_keep_about_as_many_rows(make_batcher):
    run = Doubler()
    batcher = make_batcher(run, max_batch_size=2)
    hold_inputs = arrays(0, keep_rows=[0])
    run.open.clear()
    held = submit(batcher, hold_inputs, Call())
    assert run.begun.acquire(timeout=30)
    tasks = [submit(batcher, arrays(rows, keep_rows=[rows]), Call())[0] for rows in (16, 2, 15, 3)]
    run.open.set()
    values(held + tasks)
    assert [batch["x"].tolist() for batch in run.batches[1:]] == [[16, 15], [2, 3]]


def test_clients_take_turns(make_batcher):
    run = Doubler()
    batcher = make_batcher(run, max_batch_size=1)
    held = hold(run, batcher)
    many, one = "ipv4:10.0.0.1:5000", "ipv4:10.0.0.2:5000"
    tasks = [submit(batcher, arrays(n), Call(many))[0] for n in (1, 2, 3)]
    tasks += [submit(batcher, arrays(n), Call(one))[0] for n in (4, 5)]
    run.open.set()
    values([held, *tasks])
    assert [batch["x"].tolist() for batch in run.batches[1:]] == [[1], [4], [2], [5], [3]]


def test_a_batch_holds_at_most_its_pixels_or_one_task(make_batcher):
    run = Doubler()
    batcher = make_batcher(
        run, count_pixels=lambda inputs: int(inputs["x"].sum()), max_pixels=10, max_batch_size=8
    )
    held = hold(run, batcher)
    tasks = [submit(batcher, arrays(n), Call())[0] for n in (20, 4, 5, 6, 1)]
    run.open.set()
    values([held, *tasks])
    assert [batch["x"].tolist() for batch in run.batches[1:]] == [[20], [4, 5, 1], [6]]


def test_a_bad_request_fails_alone(make_batcher):
    run = Doubler()
    batcher = make_batcher(run, max_batch_size=8)
    hold(run, batcher)
    tasks = [submit(batcher, arrays(n), Call())[0] for n in (1, 2, 3, -4, 5, 6, 7)]
    run.open.set()
    bad = tasks.pop(3)
    assert values(tasks) == [[2 * n] for n in (1, 2, 3, 5, 6, 7)]
    with pytest.raises(RequestError, match="negative"):
        bad.future.result(timeout=30)


def test_a_full_queue_refuses_until_there_is_room(make_batcher):
    run = Doubler()
    batcher = make_batcher(run, max_enqueued_batches=2)
    hold(run, batcher)
    gone = Call()
    tasks = submit(batcher, arrays(1, 1, 1, 1), Call()) + submit(batcher, arrays(2, 2, 2), gone)
    assert batcher.queued == 7
    with pytest.raises(RequestError, match="queue .* is full") as caught:
        submit(batcher, arrays(3, 3), Call())
    assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    gone.abandon()
    tasks += submit(batcher, arrays(3, 3), Call())
    run.open.set()
    assert values([tasks[0], tasks[2]]) == [[2] * 4, [6] * 2]
    assert all(2 not in batch["x"] for batch in run.batches)


def test_those_that_nobody_waits_for_do_not_run(make_batcher):
    run = Doubler()
    batcher = make_batcher(run)
    hold(run, batcher)
    calls = [Call(), Call(), Call()]
    tasks = [submit(batcher, arrays(n), call)[0] for n, call in enumerate(calls, 1)]
    calls[0].abandon()
    with pytest.raises(RequestError, match="client has gone"):
        tasks[0].future.result(timeout=30)
    calls[1].abandon()
    run.open.set()
    assert values(tasks[2:]) == [[6]]
    assert run.batches[-1]["x"].tolist() == [3]


def test_a_running_batch_is_cancelled_with_its_last_client(make_batcher):
    run = Doubler()
    batcher = make_batcher(run, batch_timeout_micros=10**6, max_batch_size=2)
    run.open.clear()
    calls = [Call(), Call()]
    tasks = [submit(batcher, arrays(n), call)[0] for n, call in enumerate(calls)]
    assert run.begun.acquire(timeout=30)
    assert len(run.batches[0]["x"]) == 2
    calls[0].abandon()
    calls[1].abandon()
    for task in tasks:
        with pytest.raises(RequestError):
            task.future.result(timeout=30)
    # The run has ended although nobody opened it: the thread is free again.
    later = submit(batcher, arrays(1, 2), Call())
    assert run.begun.acquire(timeout=30)
    run.open.set()
    assert values(later) == [[2, 4]]


def test_a_closed_batcher_finishes_what_waits():
    run = Doubler()
    parameters = BatchingParameters(batch_timeout_micros=10**9)
    batcher = Batcher(run, parameters, lambda size: None, len, 100)
    tasks = submit(batcher, arrays(1), Call())
    batcher.close()
    assert values(tasks) == [[2]]


PATIENT = BatchingParameters(max_batch_size=4, batch_timeout_micros=10**8)


def test_requests_at_the_same_time_run_together(counting, connect):
    with Server(counting, batching=PATIENT) as server:
        stub = connect(server)
        calls = [stub.Predict.future(count_request(n), timeout=30) for n in range(4)]
        responses = [call.result() for call in calls]
    assert [counted(response) for response in responses] == [[n + 1] for n in range(4)]
    assert [ran_with(response) for response in responses] == [[4]] * 4


def test_a_refused_request_does_not_hurt_those_it_ran_with(counting, connect):
    with Server(counting, batching=PATIENT) as server:
        stub = connect(server)
        calls = [stub.Predict.future(count_request(n), timeout=30) for n in (1, -2, 3)]
        code, message = refused(stub.Predict, count_request(-4))
        assert (calls[1].code(), calls[1].exception().details()[:20]) == (code, message[:20])
        assert [counted(calls[index].result()) for index in (0, 2)] == [[2], [4]]
    assert code == grpc.StatusCode.INVALID_ARGUMENT


def test_a_request_above_the_batch_size_is_refused_or_cut(counting, connect):
    with Server(counting, batching=BatchingParameters(max_batch_size=2)) as server:
        code, message = refused(connect(server).Predict, count_request(1, 2, 3))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message == "Task size 3 is larger than maximum input batch size 2"
    cut = BatchingParameters(
        max_batch_size=8, enable_large_batch_splitting=True, max_execution_batch_size=2
    )
    with Server(counting, batching=cut) as server:
        response = connect(server).Predict(count_request(1, 2, 3), timeout=30)
    assert counted(response) == [2, 3, 4]
    assert ran_with(response) == [2, 2, 1]
