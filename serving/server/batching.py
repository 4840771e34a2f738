"""Batching of requests for one signature, so that the weights are read once for all of them."""

import bisect
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent import futures

import grpc
import numpy as np

from serving.server.configuration import BatchingParameters
from serving.server.errors import RequestError, cancelled
from serving.server.tensorflow_internals import CancellationManager
from serving.server.turns import Turns

Arrays = dict[str, np.ndarray]
# Computes outputs [b, …] from inputs [b, …], unless the manager cancels it.
Run = Callable[[Arrays, CancellationManager], Arrays]


class Call:
    """The client's side of a request.

    Args:
        client: The client's address, as gRPC names it.

    Attributes:
        client: As given.
        abandoned: Whether the client has gone or its deadline has passed.
    """

    def __init__(self, client: str = ""):
        self.client = client
        self.abandoned = False
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    def abandon(self) -> None:
        """Notes that nobody waits for the answer, and calls the callbacks."""
        with self._lock:
            self.abandoned = True
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def when_abandoned(self, callback: Callable[[], None]) -> None:
        """Calls `callback` when the call is abandoned, at once if it is already."""
        with self._lock:
            self._callbacks.append(callback)
            abandoned = self.abandoned
        if abandoned:
            callback()


class Task:
    """Examples of one request, at most as many as fit into a batch.

    Attributes:
        inputs: Arrays [b, …] by name.
        size: The number b of examples.
        pixels: The number of pixels that their images declare.
        call: The request's client.
        arrived: Time of arrival on the clock of `time.monotonic`.
        started: Time when its batch began; the time of arrival before.
        batch_size: Size of that batch.
        future: The outputs, arrays [b, …] by name.
    """

    def __init__(self, inputs: Arrays, pixels: int, call: Call):
        self.inputs = inputs
        self.size = len(next(iter(inputs.values())))
        self.pixels = pixels
        self.call = call
        self.arrived = time.monotonic()
        self.started = self.arrived
        self.batch_size = 0
        self.future: futures.Future[Arrays] = futures.Future()

    @property
    def keep_rows(self) -> int:
        """The fewest known rows of its examples; 0 for a signature without such an input."""
        rows = self.inputs.get("keep_rows")
        return 0 if rows is None else int(rows.min())

    def fail(self, error: Exception) -> None:
        # Both the client and the batch may end a task, which is done once.
        with contextlib.suppress(futures.InvalidStateError):
            self.future.set_exception(error)

    def finish(self, outputs: Arrays) -> None:
        with contextlib.suppress(futures.InvalidStateError):
            self.future.set_result(outputs)


class Batcher:
    """Runs the tasks of one signature in batches.

    A batch begins when it is full, or when `batch_timeout_micros` have passed since its oldest
    task arrived and since the thread became free. If more tasks wait than fit, the one whose
    client has waited longest (`Turns`) goes with those nearest to it in `keep_rows`: the rows
    that a whole batch knows cost one pass.

    Args:
        run: Runs a batch.
        parameters: Sizes and delays.
        observe: Called with the size of every batch.
        count_pixels: Counts the pixels that the images in some inputs declare.
        max_pixels: Most pixels of a batch of several tasks.
    """

    def __init__(
        self,
        run: Run,
        parameters: BatchingParameters,
        observe: Callable[[int], None],
        count_pixels: Callable[[Arrays], int],
        max_pixels: int,
    ):
        self._run_batch = run
        self._parameters = parameters
        self._observe = observe
        self._count_pixels, self._max_pixels = count_pixels, max_pixels
        self._turns = Turns()
        self._changed = threading.Condition()
        self._waiting: list[Task] = []
        self._threads: list[threading.Thread] = []
        self._closed = False

    def split(self, inputs: Arrays, call: Call) -> list[Task]:
        """Splits inputs [B, …], B at least 1, into tasks that hold the examples in order."""
        size, step = len(next(iter(inputs.values()))), self._parameters.batch_size
        parts = [
            {name: values[start : start + step] for name, values in inputs.items()}
            for start in range(0, size, step)
        ]
        return [Task(part, self._count_pixels(part), call) for part in parts]

    def submit(self, tasks: list[Task]) -> None:
        """Queues the tasks of one request.

        Raises:
            RequestError: RESOURCE_EXHAUSTED, the queue is full.
        """
        size = sum(task.size for task in tasks)
        with self._changed:
            self._drop_abandoned()
            if self._queued() + size > self._parameters.capacity:
                raise RequestError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    "The batch scheduling queue to which this task was submitted is full; "
                    f"task size is {size}; {self._queued()} of {self._parameters.capacity} "
                    "examples are waiting",
                )
            self._waiting.extend(tasks)
            self._start_threads()
            self._changed.notify_all()
        for task in tasks:
            task.call.when_abandoned(lambda task=task: task.fail(cancelled()))

    @property
    def queued(self) -> int:
        """The number of examples that wait."""
        with self._changed:
            return self._queued()

    def close(self) -> None:
        """Runs the tasks that wait, and returns."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _start_threads(self) -> None:
        while len(self._threads) < self._parameters.num_batch_threads:
            name = f"{self._parameters.thread_pool_name}-{len(self._threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _queued(self) -> int:
        return sum(task.size for task in self._waiting)

    def _drop_abandoned(self) -> None:
        self._waiting = [task for task in self._waiting if not task.call.abandoned]

    def _work(self) -> None:
        free_since = time.monotonic()
        while batch := self._next_batch(free_since):
            self._run(batch)
            with self._changed:
                clients = {task.call.client for task in batch}
                self._turns.served(clients, {task.call.client for task in self._waiting})
            # An idle thread would keep the batch's images in memory.
            del batch
            free_since = time.monotonic()

    def _next_batch(self, free_since: float) -> list[Task]:
        """Waits for the tasks that run next; none if the batcher is closed and nothing waits."""
        timeout = self._parameters.batch_timeout_micros / 1e6
        with self._changed:
            while True:
                self._drop_abandoned()
                if not self._waiting:
                    if self._closed:
                        return []
                    self._changed.wait()
                    continue
                due = max(self._waiting[0].arrived, free_since) + timeout
                left = due - time.monotonic()
                if left <= 0 or self._closed or self._queued() >= self._parameters.batch_size:
                    return self._take()
                self._changed.wait(left)

    def _take(self) -> list[Task]:
        """Removes and returns a batch around the task whose turn it is."""
        waiting = [(task.call.client, task.arrived) for task in self._waiting]
        first = self._waiting[self._turns.first(waiting)]
        near_first = sorted(
            self._waiting,
            key=lambda task: (task is not first, abs(task.keep_rows - first.keep_rows)),
        )
        batch, size, pixels = [], 0, 0
        for task in near_first:
            fits = size + task.size <= self._parameters.batch_size
            if task is first or fits and pixels + task.pixels <= self._max_pixels:
                batch.append(task)
                size += task.size
                pixels += task.pixels
        taken = set(map(id, batch))
        self._waiting = [task for task in self._waiting if id(task) not in taken]
        return batch

    def _run(self, tasks: list[Task]) -> None:
        """Runs tasks together; if that fails, in halves, so that only the bad one fails."""
        tasks = [task for task in tasks if not task.call.abandoned]
        if not tasks:
            return
        try:
            outputs = self._outputs(tasks)
        except Exception as error:
            if len(tasks) == 1:
                tasks[0].fail(error)
            else:
                self._run(tasks[: len(tasks) // 2])
                self._run(tasks[len(tasks) // 2 :])
            return
        start = 0
        for task in tasks:
            # A view would keep the outputs of the whole batch in memory.
            part = {
                name: values[start : start + task.size].copy() for name, values in outputs.items()
            }
            start += task.size
            task.finish(part)

    def _outputs(self, tasks: list[Task]) -> Arrays:
        size = sum(task.size for task in tasks)
        padding = self._padded(size) - size
        self._observe(size)
        for task in tasks:
            task.started, task.batch_size = time.monotonic(), size
        inputs = {
            name: np.concatenate(
                [task.inputs[name] for task in tasks] + [tasks[0].inputs[name][:1]] * padding
            )
            for name in tasks[0].inputs
        }
        return self._run_batch(inputs, _cancellation_of(tasks))

    def _padded(self, size: int) -> int:
        """Returns the smallest allowed size that holds `size` examples."""
        allowed = self._parameters.allowed_batch_sizes
        return allowed[bisect.bisect_left(allowed, size)] if allowed else size


def _cancellation_of(tasks: list[Task]) -> CancellationManager:
    """Returns a manager that cancels when the last of the tasks' clients has gone."""
    cancellation = CancellationManager()

    def check():
        if all(task.call.abandoned for task in tasks):
            cancellation.start_cancel()

    for task in tasks:
        task.call.when_abandoned(check)
    return cancellation
