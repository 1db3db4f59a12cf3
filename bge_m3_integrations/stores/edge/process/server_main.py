"""The program that holds an index for another process: see `host`."""

from __future__ import annotations

import sys

from bge_m3_integrations.stores.edge.process.server import main

if __name__ == "__main__":
    main(*sys.argv[1:])
