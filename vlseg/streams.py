"""Streams of items that are worked on in batches and given back in their order."""

import collections
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

READ_AHEAD = 4
"""Items that wait for others of their key, in batches."""


class _Waiting(Generic[Item]):
    """An item of a stream: its key, and what was made of it."""

    def __init__(self, item: Item, key: Hashable | None) -> None:
        self.item, self.key, self.results = item, key, list[Any]()


def in_order(
    items: Iterable[Item], key: Callable[[Item], Hashable | None], run: Callable[[list[Item]], list[Any]], size: int
) -> Iterator[tuple[Item, Any]]:
    """What `run` makes of items in batches of equal key and at most `size`, in the order of the items.

    An item whose key is None is alone in its batch. At most `READ_AHEAD` * `size` items are read ahead of the first
    without a result, whose batch then runs as it is.
    """
    queue: collections.deque[_Waiting[Item]] = collections.deque()

    def run_batch_of(waiting: _Waiting[Item]) -> None:
        batch = [waiting] if waiting.key is None else [w for w in queue if not w.results and w.key == waiting.key]
        for one, result in zip(batch, run([one.item for one in batch]), strict=True):
            one.results.append(result)

    for item in items:
        last = _Waiting(item, key(item))
        queue.append(last)
        if last.key is None or sum(not w.results and w.key == last.key for w in queue) == size:
            run_batch_of(last)
        if len(queue) >= READ_AHEAD * size and not queue[0].results:
            run_batch_of(queue[0])
        while queue and queue[0].results:
            done = queue.popleft()
            yield done.item, done.results[0]
    while queue:
        if not queue[0].results:
            run_batch_of(queue[0])
        done = queue.popleft()
        yield done.item, done.results[0]
