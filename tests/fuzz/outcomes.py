"""What became of a damaged or wrong input: one of the classes of `Outcome`, judged without the code under test."""

import contextlib
import io
import os
import signal
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

from modeling_lfm.scripts.common.console import run

SECONDS, LONGEST = 20, 1000  # of a case, and characters of what it says
TOLD = (ValueError, OSError, ImportError)  # what the library promises to raise


class Outcome(StrEnum):
    ERROR = "clear error"
    ANSWER = "good answer"
    BARE = "bare traceback"
    UNNAMED = "unnamed error"
    SILENT = "silent wrong value"
    HANG = "hang"
    MEMORY = "memory"


class Case(NamedTuple):
    """An input that is wrong, or may be.

    Attributes:
        name: which one it is, for the reader of a failure.
        call: gives an answer, or raises.
        named: words (in lower case), one of which an error has to name: the file, the key or the value that was given.
        judge: why an answer is wrong (`str`), or None; without it any answer is.
    """

    name: str
    call: Callable[[], Any]
    named: tuple[str, ...]
    judge: Callable[[Any], str | None] | None = None


class Hang(BaseException):
    """The time is up."""


@contextlib.contextmanager
def limit(seconds):
    """So much time of the processor, which other programs do not take, and six times as much of the clock."""

    def stop(*_):
        raise Hang

    before = [(name, signal.signal(name, stop)) for name in (signal.SIGALRM, signal.SIGPROF)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(6 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for name, handler in before:
            signal.signal(name, handler)


def program(main, *argv):
    """A program as its user starts it; what it does when it ends with an error is a `SystemExit`."""
    return run(lambda: main([str(word) for word in argv]))


def observe(case):
    """The outcome of a case and what it said (`tuple[Outcome, str]`)."""
    printed, told = io.StringIO(), io.StringIO()
    environment, folder, began = dict(os.environ), os.getcwd(), time.monotonic()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told), limit(SECONDS):
            answer = case.call()
            wrong = "an answer" if case.judge is None else case.judge(printed.getvalue() if answer is None else answer)
    except Hang:
        return Outcome.HANG, ""
    except SystemExit as stop:
        text = told.getvalue()
        if stop.code != 2 or "error: " not in text or "Traceback" in text:
            return Outcome.BARE, text[-LONGEST:]
        return _weigh(case, text[text.rindex("error: ") + 7 :])
    except MemoryError as error:
        return Outcome.MEMORY, str(error)
    except TOLD as error:
        return _weigh(case, str(error))
    except Exception as error:
        return Outcome.BARE, f"{type(error).__name__}: {error}"
    finally:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
    if time.monotonic() - began > 7 * SECONDS:  # somebody caught `Hang`
        return Outcome.HANG, ""
    return (Outcome.SILENT, wrong) if wrong else (Outcome.ANSWER, "")


def _weigh(case, text):
    if "MemoryError" in text or "allocate memory" in text or "bad_alloc" in text:
        return Outcome.MEMORY, text[:LONGEST]
    if "LFM_DEBUG=1 shows where" in text:  # of a kind that nobody foresaw
        return Outcome.BARE, text
    given = max(map(len, case.named))
    clear = len(text) <= LONGEST + given and any(word.lower() in text.lower() for word in case.named)
    return (Outcome.ERROR if clear else Outcome.UNNAMED), text
