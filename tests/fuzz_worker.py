"""A worker for the fuzzer that goes wrong; in a module of its own, so that it starts fast."""

import os
import time


def misbehave(connection) -> None:
    """Hangs at mutant 1, dies at mutant 2."""
    connection.send(None)
    for index in iter(connection.recv, None):
        connection.send((f"kind {index}", b"data"))
        if index == 1:
            time.sleep(1000)
        if index == 2:
            os._exit(9)
        connection.send("refused")
