"""The program that optimises a shard in a process of its own: see `home.optimised_copy`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bge_m3_integrations.stores.edge.shard.shard import Layout, Shard

if __name__ == "__main__":
    path, layout, vacuum = sys.argv[1:]
    shard = Shard(Path(path), Layout(**json.loads(layout)), vacuum=vacuum == "vacuum")
    shard.optimize()
    shard.flush()
    shard.close()
