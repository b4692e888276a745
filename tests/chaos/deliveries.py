"""A broker at its worst: every message comes twice, one in twenty three times, and none in the order of its sending."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from random import Random

from orchestrator.broker.message import TaskMessage
from orchestrator.broker.publisher import Publisher

_MOST_DELAY_SECONDS = 0.3
_THREE_TIMES = 0.05


def multiply_and_mix(seed: int) -> None:
    """Let every publisher of this process send so from now on; what is delayed is sent by threads."""
    chance = Random(seed)
    send = Publisher.publish

    def publish(self: Publisher, messages: Sequence[TaskMessage]) -> None:
        copies = [message for message in messages for _ in range(3 if chance.random() < _THREE_TIMES else 2)]
        chance.shuffle(copies)
        later = [message for message in copies if chance.random() < 0.5]
        send(self, [message for message in copies if message not in later])
        for message in later:
            timer = threading.Timer(chance.uniform(0, _MOST_DELAY_SECONDS), send, (self, [message]))
            timer.daemon = True
            timer.start()

    Publisher.publish = publish
