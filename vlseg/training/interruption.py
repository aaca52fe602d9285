"""Being told to stop: SIGTERM, which Cloud TPU, Kubernetes and Slurm send before they take a machine away."""

import signal
from types import TracebackType

import jax
from jax.experimental import multihost_utils


class Interruption:
    """While the block runs, SIGTERM does not end the process but is noticed between two steps.

    Of several processes all notice it after the same step, whichever of them got the signal. Each may get one of its
    own then, so what must not be cut short, such as writing the last checkpoint, belongs into the block too.

    Attributes:
        received: whether this process got the signal; told where it works alone.
    """

    def __init__(self) -> None:
        # JAX's own handler tells the other processes, so it must stay.
        self._together = jax.distributed.is_initialized()
        self.received = False
        self._stopping = False
        self._previous: object = None

    def __enter__(self) -> "Interruption":
        if not self._together:
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # What comes after the block does not ask whether to stop, or does nothing but leave the others in good order.
        alone = signal.SIG_IGN if self._stopping else signal.SIG_DFL
        signal.signal(signal.SIGTERM, alone if self._together else self._previous)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: object) -> None:
        del number, frame
        self.received = True

    def reached(self, step: int) -> bool:
        """Whether to stop after this step; to be asked after every step."""
        together = self._together and multihost_utils.reached_preemption_sync_point(step)
        self._stopping = together or self.received
        return self._stopping
