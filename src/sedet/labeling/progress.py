"""How far a long run is: a bar on a terminal, lines elsewhere (a log file, another process)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 30.0
"""Seconds between two lines."""


def progress_line(done: int, total: int, seconds: float, fresh: int) -> str:
    """Images done of all, how many a second, and the time left; ``fresh`` of them were done in ``seconds``."""
    rate = fresh / seconds if seconds > 0 else 0.0
    left = f", {duration((total - done) / rate)} left" if rate > 0 else ""
    return f"{done:,} of {total:,} images, {rate:.1f} images/s{left}"


def duration(seconds: float) -> str:
    """3725 -> 1 h 02 min; 95 -> 1 min 35 s."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours:,} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@contextmanager
def progress(show: bool, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Gives what is told of every few images done. ``done`` of ``total`` were before the start."""
    if not show:
        yield lambda _: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        with Progress(
            BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True), transient=True
        ) as bar:
            task = bar.add_task("", total=total, completed=done)
            start, state = time.monotonic(), [done]

            def advance(n: int) -> None:
                state[0] += n
                text = progress_line(state[0], total, time.monotonic() - start, state[0] - done)
                bar.update(task, completed=state[0], description=text)

            yield advance
    else:
        begun = last = time.monotonic()
        count = done

        def tell(n: int) -> None:
            nonlocal last, count
            count += n
            now = time.monotonic()
            if now - last >= EVERY:
                last = now
                print(progress_line(count, total, now - begun, count - done), file=sys.stderr, flush=True)

        yield tell
