"""Opening the page: a free port, an address with a token, and a server until somebody stops it."""

import socket
from collections.abc import Callable
from typing import Any

from trmml.errors import ConfigError, DependencyError

LOCAL = "127.0.0.1"


def serve(
    make_app: Callable[[str, tuple[str, ...]], Callable[..., Any]],
    announce: Callable[[str], object],
    host: str = LOCAL,
    port: int = 0,
) -> None:
    """Serve an app until it is interrupted.

    Args:
        make_app: Takes the token and the hosts that the page may have, and returns the app.
        announce: Called with the page's address, once it can be opened.
        host: Where to listen; this machine alone by default.
        port: Port; a free one by default.

    Raises:
        DependencyError: If the packages of the extra `app` are missing.
        ConfigError: If nothing can listen there.
    """
    require_packages()
    import uvicorn

    from trmml.app.guarding import new_token

    try:
        listening = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise ConfigError(f"Cannot listen on {host}:{port}: {error}.") from error
    with listening:
        number = listening.getsockname()[1]
        names = dict.fromkeys((host, *((LOCAL, "localhost") if host == LOCAL else ())))
        token = new_token()
        app = make_app(token, tuple(f"{name}:{number}" for name in names))
        config = uvicorn.Config(
            app, log_level="warning", server_header=False, timeout_graceful_shutdown=5
        )
        announce(f"http://{host}:{number}/?token={token}")
        uvicorn.Server(config).run(sockets=[listening])


def require_packages() -> None:
    """Check that the page's packages are there.

    Raises:
        DependencyError: If they are not.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"The page needs {error.name}; install it with pip install 'trmml[app]'."
        ) from error
