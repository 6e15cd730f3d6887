"""A worker for the fuzzer that goes wrong; in a separate module, so that it starts fast."""

import os
import time

from tests.fuzz import time_bound


def misbehave(connection) -> None:
    """Waits for ever at mutant 1, dies at mutant 2, computes for ever at mutant 3."""
    connection.send(None)
    for index in iter(connection.recv, None):
        connection.send((f"kind {index}", b"data"))
        if index == 1:
            time.sleep(1000)
        if index == 2:
            os._exit(9)
        if index == 3:
            with time_bound(0.5):
                while True:
                    pass
        connection.send("refused")
