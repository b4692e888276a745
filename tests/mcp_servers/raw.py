"""A server of MCP that says what a file tells it to, true or not: `python raw.py FILE`.

The file is JSON: `tools`, and `calls`, which says for each tool what becomes of a call: a result, `die` (after it was
written to the ledger), `die_once` or `hang`. Each start and each call is a line of the ledger beside the file.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(path: Path) -> None:
    told: dict[str, Any] = json.loads(path.read_text())
    note(path, "started")
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        match message["method"]:
            case "initialize" if not told.get("mute"):
                answer["result"] = {
                    "protocolVersion": message["params"]["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "raw", "version": "1"},
                }
            case "tools/list":
                answer["result"] = {"tools": told["tools"]}
            case "tools/call":
                name = message["params"]["name"]
                what = told["calls"][name]
                note(path, name)
                if what == "hang":
                    continue
                if what == "die" or (what == "die_once" and ledger(path).count(name) == 1):
                    os._exit(3)
                answer["result"] = {"content": [{"type": "text", "text": "alive"}]} if isinstance(what, str) else what
            case _ if told.get("mute"):
                continue
            case _:
                answer["error"] = {"code": -32601, "message": "no such method"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def note(path: Path, what: str) -> None:
    with path.with_suffix(".ledger").open("a") as file:
        file.write(f"{what}\n")


def ledger(path: Path) -> list[str]:
    return path.with_suffix(".ledger").read_text().split()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
