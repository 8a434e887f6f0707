"""A client app for the tests of workers: does what the message asks, be it decent or not."""

from __future__ import annotations

import os
import time

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.federated.progress import LISTENER

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """`do`: echo, progress, raise, exit, die, or silent."""
    ask = message.content.config_records["ask"]
    match ask["do"]:
        case "progress":
            listener = LISTENER.get()
            assert listener is not None
            listener(3, 1, 2, 0.5)
            listener(3, 2, 2, None)
        case "raise":
            raise ValueError("as\nasked")
        case "exit":
            raise SystemExit(5)
        case "die":
            os._exit(7)
        case "silent":
            time.sleep(3600)
    seen = {
        "pid": os.getpid(),
        "partition": int(context.node_config["partition-id"]),
        "partitions": int(context.node_config["num-partitions"]),
        "greeting": str(context.run_config["greeting"]),
        "node": context.node_id,
    }
    content = RecordDict({"seen": ConfigRecord(seen)}) if not message.content.array_records else message.content
    return Message(content, reply_to=message)
