"""Logs: what a thread warns of stands in its own log."""

import threading
import warnings

from salcore.logs import Log
from salcore.storage import Store


def test_warnings_are_written_to_the_log_of_the_thread_that_warns(tmp_path):
    store = Store(tmp_path)

    def warn(name):
        Log(store, name).hear_warnings()
        warnings.warn(f"{name} runs\nmore slowly", stacklevel=1)

    with warnings.catch_warnings():  # which puts back where they are shown
        warnings.simplefilter("always")
        threads = [threading.Thread(target=warn, args=(name,)) for name in ("slot-0", "slot-1")]
        for thread in threads:
            thread.start()
            thread.join()
        warnings.warn("of a thread without a log", stacklevel=1)
    for name in ("slot-0", "slot-1"):
        (line,) = store.read(f"logs/{name}.log").decode().splitlines()
        assert line.partition(" ")[2] == f"UserWarning: {name} runs more slowly"
