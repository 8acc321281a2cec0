"""Who may talk to the page: one token, one host, no other site."""

import hmac
import secrets
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.responses import JSONResponse

TOKEN_HEADER = "x-trmml-token"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # the address has the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def new_token() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(16)


class Guard:
    """Lets through what has the token and comes from the page itself; 403 for all else.

    Pictures carry the token in their address, everything that changes something in a header, which no
    other site can set. The name of the host is checked, so that a foreign name that leads to this
    machine (DNS rebinding) does not pass for it.
    """

    def __init__(self, app: Any, token: str, hosts: tuple[str, ...]) -> None:
        """Stand before an ASGI app.

        Args:
            app: What is guarded.
            token: What must come along.
            hosts: `name:port` of the page; what a browser may have in its address bar.
        """
        self.app, self.token, self.hosts = app, token, hosts

    async def __call__(
        self, scope: Any, receive: Callable[..., Any], send: Callable[..., Any]
    ) -> None:
        """Answer a request, or let it through."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        reason = self._refusal(
            scope["method"], Headers(scope=scope), QueryParams(scope["query_string"])
        )
        if reason is not None:
            await JSONResponse({"error": reason}, 403, HEADERS)(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                new = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *new]
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers, query: QueryParams) -> str | None:
        if headers.get("host", "") not in self.hosts:
            return "This is not the address of the page."
        is_reading = method in ("GET", "HEAD")
        given = headers.get(TOKEN_HEADER) or (query.get("token", "") if is_reading else "")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return "The token is missing or wrong; open the address that the command printed."
        origin = headers.get("origin")
        if origin is not None and origin not in {f"http://{host}" for host in self.hosts}:
            return "Another site may not ask."
        # A link or a typed address comes as `none` or from elsewhere; it can only read the page.
        if not is_reading and headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return "Another site may not ask."
        return None
