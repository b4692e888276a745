"""An agent of the chaos scenarios that has a long conversation with a model."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from hashlib import sha256
from random import Random
from typing import Any

from worker.agent import AsyncContext, BaseAgent


class Talker(BaseAgent):
    """Says so many things of so many characters, and each time has a model answer to all that was said so far.

    Before those that have a gate it waits until a file appears.
    """

    model = "openai:gpt-5-mini"

    async def execute(self, data: Any, ctx: AsyncContext) -> dict[str, Any]:
        said: list[dict[str, str]] = []
        for number in range(ctx.run_input["calls"]):
            gate = ctx.run_input["gates"].get(str(number))
            while gate and not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240, PTH110 - another process makes it
                await asyncio.sleep(0.05)
            said.append({"role": "user", "content": noise(ctx.random, ctx.run_input["characters"])})
            said.append({"role": "assistant", "content": await ctx.llm(said)})
        texts = "".join(turn["content"] for turn in said)
        return {"characters": len(texts), "digest": sha256(texts.encode()).hexdigest()}


def noise(random: Random, characters: int) -> str:
    """Give words that nobody has said before, and that no compression makes much shorter."""
    return b64encode(random.randbytes(characters * 3 // 4), b"  ").decode()
