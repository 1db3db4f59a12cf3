"""An optimized copy of a shard, made in a process of its own, that takes the shard's place.

Run as a program, it is that process.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from bge_m3_integrations._internal.subprocesses import command, environment
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.folder.checksums import forget
from bge_m3_integrations.stores.edge.folder.disk_space import check_room
from bge_m3_integrations.stores.edge.folder.files import (
    copy_folder,
    reason_of,
    size_on_disk,
    sync_files,
)
from bge_m3_integrations.stores.edge.folder.folder import Folder
from bge_m3_integrations.stores.edge.folder.manifest import Manifest
from bge_m3_integrations.stores.edge.shard.checked import CheckedShard
from bge_m3_integrations.stores.edge.shard.shard import Shard

_PROGRAM = "bge_m3_integrations.stores.edge.optimize"


def optimized_copy(
    folder: Folder, manifest: Manifest, tell: Callable[[str], None], *, vacuum: bool
) -> Path:
    """Copy a shard and optimize the copy in another process; return its place, for `switched`.

    The folder is held, nothing writes to its shard meanwhile, and all of it is on disk. `tell` is
    told each step; `vacuum` as in `Shard`. It raises `StoreError` where the disk has no room or the
    process failed; the index is as before.
    """
    old, new = folder.path / manifest.shard, folder.place_for(manifest.next())
    size = size_on_disk(old)
    check_room(folder.path, 3 * size, "an optimized copy")
    try:
        tell(f"copying {size / 2**20:,.0f} MiB")
        copy_folder(old, new)
        forget(new)
        _optimize_in_child(new, manifest, tell, vacuum=vacuum)
        sync_files(new)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise StoreError(
            f"no optimized copy: {reason_of(error)}; the index is as before"
        ) from error
    return new


def switched(folder: Folder, made: Path, manifest: Manifest) -> tuple[CheckedShard, Manifest]:
    """Make a copy the index's; return its shard, loaded, and the manifest that names it.

    Where that fails, the old shard counts as before; nobody writes to it meanwhile.
    """
    following, shard = manifest.next(), None
    try:
        folder.switch(made, following)
        shard = CheckedShard(folder.path / following.shard, following)
        folder.name(following)
    except BaseException as error:
        if shard is not None:
            shard.close()
        # or writes to the old shard would be lost with the next open
        folder.write(manifest)
        shutil.rmtree(folder.path / following.shard, ignore_errors=True)
        shutil.rmtree(made, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise StoreError(f"no optimized copy: {error}; the index is as before") from error
    return shard, following


def _optimize_in_child(
    shard: Path, manifest: Manifest, tell: Callable[[str], None], *, vacuum: bool
) -> None:
    # of the filter fields there may be more than an argument holds
    layout = asdict(replace(manifest, filter_fields=None, encoder=None))
    given = [str(shard), json.dumps(layout), "vacuum" if vacuum else "keep"]
    start = time.monotonic()
    # not this process' own input: where that is a pipe being read, Windows' Python waits for it
    with subprocess.Popen(
        command(_PROGRAM, *given),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            while True:
                tell(f"building, {time.monotonic() - start:.0f} s")
                try:
                    _, said = child.communicate(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise StoreError(
            f"the process that optimized the index ended with {child.returncode}: "
            f"{said.strip()[-500:]}; the index is as before"
        )


if __name__ == "__main__":
    place, given, room = sys.argv[1:]
    shard = Shard(Path(place), Manifest(**json.loads(given)), vacuum=room == "vacuum")
    shard.optimize()
    shard.flush()
    shard.close()
