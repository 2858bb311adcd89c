"""Root causes of errors that Ray raises."""

from collections.abc import Iterator

_SHORT_OF_MEMORY = "the node running low on memory"
"""Message of Ray about a worker that its memory monitor has killed."""


class MemoryShort(RuntimeError):
    """Ray killed workers of the study for want of memory; the message is Ray's."""


def behind(error: BaseException | None) -> Iterator[BaseException]:
    """An error and, each once, those that it names as its causes; nothing for None."""
    left, seen = [error], set()
    while left:
        found = left.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        if is_of_ray(found):
            # A task's, a Train controller's, and those of a Train run's workers.
            left += [getattr(found, "cause", None), getattr(found, "controller_failure", None)]
            left += getattr(found, "worker_failures", {}).values()
        left += [found.__cause__, found.__context__]


def is_of_ray(error: BaseException) -> bool:
    """Whether an error is one of Ray's own: from another process it brings nothing but a text."""
    return type(error).__module__.partition(".")[0] == "ray"


def is_memory_short(error: BaseException | None) -> bool:
    """Whether Ray has killed a worker because a node was short of memory, whoever used it."""
    return any(
        isinstance(found, MemoryShort) or (is_of_ray(found) and _SHORT_OF_MEMORY in str(found))
        for found in behind(error)
    )
