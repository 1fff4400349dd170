"""Flower's SuperLink, of which other machines reach what sites need, and nothing else.

Flower serves on one port what nodes need (``/v1/fleet``, where each call is signed by a registered
key), what its own processes need, and what starts runs and registers keys, for which it has no
accounts. The latter two are here for callers on this machine alone. ``python -m`` this module takes
the arguments of ``flower-superlink``.
"""

import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

FLEET = "/v1/fleet/"
CLOSED = {"detail": "for callers on the server's own machine alone"}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class FleetAlone:
    """Answer callers from other machines with 403, unless they call what nodes need.

    Parameters
    ----------
    app : ASGI application
        What answers all other calls.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call."""
        if scope["type"] == "lifespan" or _may(scope):
            await self.app(scope, receive, send)
        else:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps(CLOSED).encode()})


def _may(scope: Scope) -> bool:
    """Return whether a call is one of a node, or comes from this machine."""
    if scope["type"] == "http" and scope["path"].startswith(FLEET):
        return True
    try:
        return ipaddress.ip_address(scope["client"][0]).is_loopback
    except (ValueError, TypeError):  # no address at all
        return False


def main() -> None:
    """Be Flower's SuperLink."""
    from flwr.superlink import extensions
    from flwr.superlink.cli import flower_superlink
    from starlette.middleware import Middleware

    # Where Flower asks for what is to stand before its own middleware. Whoever starts this checks
    # that it does: see `_answer` in server.py.
    extensions.get_middleware = lambda: (Middleware(FleetAlone),)
    flower_superlink()


if __name__ == "__main__":
    main()
