"""The kit for the web: hosts that are named, addresses that are public, within bounds of time and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from orchestrator.contracts.permissions import HostText, Needs, Permissions, host_of
from orchestrator.errors import AgentError, PluginInvalid, ToolError
from worker.tools.addresses import Resolve
from worker.tools.decoding import text_of
from worker.tools.environment import filled, variables_of, without
from worker.tools.needs import ServiceLimit
from worker.tools.pages import readable
from worker.tools.tool import Tool, tool
from worker.tools.toolkit import Toolkit

if TYPE_CHECKING:
    from worker.tools.exchange import Asked, Fetched

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

_READING = frozenset({"GET", "HEAD"})
#: Headers that are secret whatever they hold.
_SECRET = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key", "api-key"})
_AGENT = "nightfleet"
#: What a name that hangs costs beside the time of the request: the system's own limits end it.
_SPARE_SECONDS = 5.0


@dataclass(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Http(Toolkit):
    """Pages and services of the web for models: `http_get`, and `http_request` where other methods are allowed.

    Asks `hosts` alone (`example.com`, `*.example.com`, `example.com:8080`, `*`); without any, those of the agent's
    `permissions`. Addresses are public ones, and with `private` also those of intranets and of this machine, for hosts that are
    named. An answer has at most `max_bytes`, unpacked, and `seconds` for everything; redirects are followed `redirects`
    times, each checked like the first.

    `headers` may hold `${NAME}` of the environment. No model sees any of them, and they go to the address that was asked, to
    none that it redirects to; secret ones go over https alone, unless `private`. A request other than GET is made at most once,
    with an `Idempotency-Key`; with `repeat`, one that a kill has interrupted is made again.
    """

    hosts: tuple[HostText, ...] = ()
    methods: tuple[Method, ...] = ("GET",)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    private: bool = False
    repeat: bool = False
    max_bytes: Annotated[int, Field(gt=0, le=50_000_000)] = 1_000_000
    seconds: Annotated[float, Field(gt=0, le=600)] = 30.0
    redirects: Annotated[int, Field(ge=0, le=20)] = 5
    limit: ServiceLimit | None = None
    #: What the names of its tools begin with: a second kit needs another one.
    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,40}$")] = "http"
    #: Gives the addresses of a host and port; by default the system does.
    resolve: Resolve | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        wide = any(host_of(each).name == "*" for each in self.hosts)
        if self.private and (wide or not self.hosts):
            raise PluginInvalid("Http(private=True) opens an intranet: name its hosts, hosts=('wiki.example.com',)")
        if self._secrets and (wide or not self.hosts):
            raise PluginInvalid("Http: headers with secrets would go to every host: name those that are to get them")

    @property
    def tools(self) -> Sequence[Tool]:
        others = [method for method in self.methods if method not in _READING]
        return (*((self._get(),) if "GET" in self.methods else ()), *((self._request(),) if others else ()))

    def permitted(self, permissions: Permissions) -> Http:
        """Give the kit with the hosts that the agent is permitted where it names none."""
        if self.hosts:
            return self
        return replace(self, hosts=permissions.network)

    @property
    def _secrets(self) -> frozenset[str]:
        """The names of the headers that are secret."""
        return frozenset(
            name for name, value in self.headers.items() if name.lower() in _SECRET or variables_of((value,))
        )

    def _get(self) -> Tool:
        def get(url: str, raw: bool = False) -> str:  # noqa: FBT001, FBT002 - the model gives it by its name
            """Read a page or a resource of the web; gives its status, its kind and its text.

            Args:
                url: The address, with https://.
                raw: Give the source of an HTML page in place of its text.
            """
            return self._ask("GET", url, {}, None, raw=raw)

        return self._tool(get, "get", at_most_once=False)

    def _request(self) -> Tool:
        def request(
            url: str, method: str, body: str = "", content_type: str = "application/json", idempotency_key: str = ""
        ) -> str:
            """Send a request to a service of the web; gives the status and the text of its answer.

            Args:
                url: The address, with https://.
                method: What is to be done with it.
                body: What is sent.
                content_type: The kind of the body.
            """
            headers = {"Content-Type": content_type, "Idempotency-Key": idempotency_key}
            return self._ask(method, url, {name: each for name, each in headers.items() if each}, body, raw=True)

        request.__annotations__["method"] = Literal[self.methods]
        return self._tool(request, "request", at_most_once=not self.repeat)

    def _tool(self, function: Any, name: str, *, at_most_once: bool) -> Tool:
        make = tool(
            name=f"{self.name}_{name}",
            at_most_once=at_most_once,
            timeout=self.seconds + _SPARE_SECONDS,
            limit=self.limit,
            needs=Needs(network=self.hosts, env=variables_of(self.headers.values())),
        )
        return make(function)

    def _ask(self, method: str, url: str, own: Mapping[str, str], body: str | None, *, raw: bool) -> str:
        try:
            from worker.tools.exchange import Exchange, url_of
        except ModuleNotFoundError as error:
            raise AgentError(f"Http needs the package {error.name}: pip install 'nightfleet[worker]'") from None

        asked = self._asked(method, url_of(url), own, body)
        hosts = [host_of(each) for each in self.hosts]
        exchange = Exchange(
            allows=lambda name, port: any(host.matches(name, port) for host in hosts),
            cure=self._cure,
            private=self.private,
            max_bytes=self.max_bytes,
            seconds=self.seconds,
            redirects=self.redirects,
            resolve=self.resolve,
        )
        try:
            fetched = exchange.send(asked)
        except ToolError as error:
            # The address was the model's; what it was answered may repeat what it was sent.
            raise type(error)(without(error.message, asked.secrets)) from None
        return without(_told(fetched, raw=raw), asked.secrets)

    def _asked(self, method: str, url: Any, own: Mapping[str, str], body: str | None) -> Asked:
        from worker.tools.exchange import Asked

        if any(not (value.isascii() and value.isprintable()) for value in own.values()):
            raise ToolError("a content type is plain text, such as application/json")
        given = {name: filled(value, what=f"the header {name} of {self.name}") for name, value in self.headers.items()}
        secrets = {name: given.pop(name) for name in self._secrets}
        content = body.encode() if body else None
        return Asked(method, url, {"User-Agent": _AGENT, "Accept": "*/*", **own, **given}, secrets, content)

    def _cure(self, host: str) -> str:
        return (
            f"{host} is not among the hosts that may be asked: it would need Http(hosts=({host!r},)), or "
            f"permissions = Permissions(network=({host!r},)) for a kit that names none"
        )


def _told(fetched: Fetched, *, raw: bool) -> str:
    """Give an answer as a model reads it."""
    kind = fetched.content_type.partition(";")[0].strip()[:100]
    head = f"HTTP {fetched.status}, {kind or 'of no kind'}, {fetched.url}"
    text = text_of(fetched.body, fetched.content_type)
    if text is None:
        return f"{head}\n[{len(fetched.body):,} bytes that are no text]"
    return f"{head}\n\n{readable(text) if kind.endswith('html') and not raw else text}"
