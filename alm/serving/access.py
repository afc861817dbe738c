"""Access to a server: addresses and keys. Uses the standard library only."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from alm.common.errors import ConfigError
from alm.common.files import open_regular

KEY_VARIABLE = "ALM_API_KEY"
"""Environment variable: the key that callers of the server send, and that our clients send."""

_SHORTEST_KEY = 16


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        host: Name or address.
        port: Port; 0 takes a free one.
    """

    host: str = "127.0.0.1"
    port: int = 8000

    @property
    def own_host_only(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def check_installed(extra: str, modules: tuple[str, ...]) -> None:
    """Check that the packages of an extra are installed.

    Raises:
        ConfigError: One is missing.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} is not installed; pip install 'alm-toolkit[{extra}]'")


def read_key(file: str | None) -> str | None:
    """The API key, from a file or `ALM_API_KEY`; never from an argument, which other users of a machine can read.

    Args:
        file: A file whose first line is the key; None reads the environment.

    Raises:
        ConfigError: The file cannot be read, or the key is short or holds blanks or characters beyond ASCII.
    """
    where = KEY_VARIABLE if file is None else file
    key = os.environ.get(KEY_VARIABLE)
    if file is not None:
        try:
            with open_regular(Path(file)) as stream:
                key = stream.readline(4096).decode("utf-8", "replace").strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file}: cannot be read ({error}); give a file with the key") from error
    if key is None:
        return None
    if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{where}: the key must have {_SHORTEST_KEY} or more printable ASCII characters and no blanks; make one "
            "with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return key


def check_address(address: Address, key: str | None) -> None:
    """Refuse an address that other machines can reach, unless there is a key.

    Raises:
        ConfigError: Other machines can reach the address, and there is no key.
    """
    if not address.own_host_only and key is None:
        raise ConfigError(
            f"--host {address.host}: other machines may ask only with a key; set {KEY_VARIABLE} or --api-key-file, or "
            "use --host 127.0.0.1"
        )
