"""Futures and tasks: a result that comes later, and a function or coroutine that an executor runs step by step."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Generator
from typing import Any


class Future:
    """The outcome of something that is not over yet.

    Callbacks run in the executor that the future belongs to, or at once in the thread that ends it where there is none.
    """

    def __init__(self, *, executor: Any = None) -> None:
        self._lock = threading.Condition()
        self._done = self._cancelled = False
        self._result: Any = None
        self._exception: BaseException | None = None
        self._callbacks: list[Callable[[Future], Any]] = []
        self._executor = executor

    def __await__(self) -> Generator[Future, None, Any]:
        while not self._done and not self._cancelled:
            yield self
        return self.result()

    def _set_executor(self, executor: Any) -> None:
        self._executor = executor

    def cancel(self) -> None:
        """End it without a result, unless it is over."""
        with self._lock:
            if self._done or self._cancelled:
                return
            self._cancelled = True
        self._over()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled

    def done(self) -> bool:
        """Whether a result or an exception has been set."""
        return self._done

    def result(self) -> Any:
        """Return the result, None while there is none; raises the exception if that was set."""
        if self._exception is not None:
            raise self._exception
        return self._result

    def exception(self) -> BaseException | None:
        """Return the exception that was set, None for none."""
        return self._exception

    def set_result(self, result: Any) -> None:
        """End it with a result."""
        with self._lock:
            self._result, self._done = result, True
        self._over()

    def set_exception(self, exception: BaseException) -> None:
        """End it with an exception, which ``result()`` raises."""
        with self._lock:
            self._exception, self._done = exception, True
        self._over()

    def add_done_callback(self, callback: Callable[[Future], Any]) -> None:
        """Have ``callback(self)`` called once it is over; at once where it is already."""
        with self._lock:
            if not (self._done or self._cancelled):
                self._callbacks.append(callback)
                return
        self._call(callback)

    def remove_done_callback(self, callback: Callable[[Future], Any]) -> bool:
        """Take a callback back; returns whether it was there."""
        with self._lock:
            if callback not in self._callbacks:
                return False
            self._callbacks.remove(callback)
            return True

    def _over(self) -> None:
        with self._lock:
            callbacks, self._callbacks = self._callbacks, []
            self._lock.notify_all()
        for callback in callbacks:
            self._call(callback)
        if self._executor is not None:
            self._executor.wake()

    def _call(self, callback: Callable[[Future], Any]) -> None:
        if self._executor is not None:
            self._executor.create_task(callback, self)
        else:
            callback(self)

    def _wait(self, timeout: float | None) -> bool:
        """Block until it is over; for threads that do not spin themselves. Returns whether it is."""
        with self._lock:
            return self._lock.wait_for(lambda: self._done or self._cancelled, timeout)


class Task(Future):
    """A function or coroutine and its arguments; every call runs it to its end or to the next thing that it awaits."""

    def __init__(self, handler: Callable[..., Any], args: Any = None, kwargs: Any = None, executor: Any = None) -> None:
        super().__init__(executor=executor)
        self._running = threading.Lock()
        #: What it is waiting for: an unfinished Future, or None when it can be called.
        self.waiting_on: Future | None = None
        self._coroutine = handler if inspect.iscoroutine(handler) else None
        self._handler, self._args, self._kwargs = handler, tuple(args or ()), dict(kwargs or {})

    def executing(self) -> bool:
        """Whether some thread is running it now."""
        return self._running.locked()

    def ready(self) -> bool:
        """Whether calling it now would get on."""
        held = self.waiting_on
        return not self._done and not self._cancelled and (held is None or held.done() or held.cancelled())

    def __call__(self) -> None:
        """Run it to its end or to the next thing that it awaits; nothing if it is over or running."""
        if self._done or self._cancelled or not self._running.acquire(blocking=False):
            return
        try:
            self.waiting_on = None
            if self._coroutine is None:
                outcome = self._handler(*self._args, **self._kwargs)
                if not inspect.iscoroutine(outcome):
                    self.set_result(outcome)
                    return
                self._coroutine = outcome
            awaited = self._coroutine.send(None)
            self.waiting_on = awaited if isinstance(awaited, Future) else None
        except StopIteration as end:
            self.set_result(end.value)
        except Exception as error:  # the caller of a task reads it from the task
            self.set_exception(error)
        finally:
            self._running.release()
        if self.waiting_on is not None and self._executor is not None:
            self.waiting_on.add_done_callback(lambda _: self._executor.wake())

    def cancel(self) -> None:
        """End it where it stands; what runs now runs on to where it next awaits."""
        super().cancel()
        if self._coroutine is not None and not self.executing():
            self._coroutine.close()
