"""How Orbax finishes a step that it has written: with checksums of its files, and then by a rename or a last file."""

import asyncio
import time
from typing import Any

from etils import epath
from orbax.checkpoint import path as orbax_path

from vlseg.checkpoints import checksums, runs


class _Summed:
    """For a temporary path of Orbax: process 0 finishes it when all processes have written.

    The parts of a step are finished before it, in the same way.
    """

    async def finalize(self: Any) -> None:
        """Writes the checksums, after the last change of a file that they count, and makes the step one."""
        folder: epath.Path = self.get()
        if self.get_final().name.isdecimal():
            if store := self._checkpoint_metadata_store:
                await asyncio.to_thread(store.wait_until_finished)
                path, now = folder / runs.METADATA_FILE, time.time_ns()
                await asyncio.to_thread(store.update, file_path=path, commit_timestamp_nsecs=now)
                await asyncio.to_thread(store.wait_until_finished)
                self._checkpoint_metadata_store = None  # which would be changed once more
            await asyncio.to_thread(checksums.write, folder)
        await super().finalize()  # type: ignore[misc]


class Renamed(_Summed, orbax_path.atomicity.AtomicRenameTemporaryPath):
    """Of a local step."""


class Marked(_Summed, orbax_path.atomicity.CommitFileTemporaryPath):
    """Of a step in a bucket, where nothing can be renamed."""
