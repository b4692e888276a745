"""A server of MCP as people write them; `python shop.py` speaks by standard input and output."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp_types import EmbeddedResource, ImageContent, TextContent, TextResourceContents, ToolAnnotations

PIXEL = base64.b64encode(b"\x89PNG").decode()


def make() -> MCPServer:
    server = MCPServer("shop", log_level="CRITICAL")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def price(of: str, count: int = 1) -> str:
        """Tell what things cost."""
        return f"{count} x {of}: {2.5 * count}"

    @server.tool()
    def buy(of: str) -> str:
        """Buy something."""
        with Path(os.environ["LEDGER"]).open("a") as ledger:
            ledger.write(f"{of}\n")
        return f"bought {of}"

    @server.tool(structured_output=False)
    def look() -> Any:
        """Show the shop."""
        inside = TextResourceContents(uri="file:///shelf.txt", text="tea, gold", mime_type="text/plain")
        return [
            TextContent(type="text", text="the shop"),
            ImageContent(type="image", data=PIXEL, mime_type="image/png"),
            EmbeddedResource(type="resource", resource=inside),
        ]

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    async def wait() -> str:
        """Never answer."""
        await anyio.sleep_forever()
        return "never"

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def echo_secret() -> str:
        """Say what should not be said."""
        return f"the token is {os.environ.get('SHOP_TOKEN')} and the other {os.environ.get('OTHER_TOKEN')}"

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def much() -> str:
        """Say a lot."""
        return "x" * 2_000_000

    return server


if __name__ == "__main__":
    make().run("stdio")
