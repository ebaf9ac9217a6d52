"""Addresses in settings: whether one can be used, holds a password, or is of this machine."""

import ipaddress
import re
from urllib.parse import urlsplit

_LOGIN = re.compile(r"\s*(https?:/*|[a-z][a-z0-9+.-]*://)[^/?#\s]*@", re.IGNORECASE)


def check_url(url: str, name: str = "url") -> str:
    """An address of HTTP without a user or password, as it was given.

    Args:
        name: Setting that the address comes from, for the error.

    Raises:
        ValueError: the text is no such address.
    """
    if has_login(url):
        raise ValueError(
            f"{name} holds a user or password before an @; leave them out, since settings are saved and "
            "shown in errors, and name a token's variable with token_env instead"
        )
    shown = repr(url) if "@" not in url else "(not shown: it holds an @)"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or re.search(r"[\s\x00-\x20\x7f\\]", url):
        raise ValueError(
            f"{name}={shown} must be an address of the form http://host/path or https://host/path"
        )
    return url


def has_login(text: str) -> bool:
    """Whether a text is an address with a user or password in it."""
    return _LOGIN.match(text) is not None


def is_loopback(host: str | None) -> bool:
    """Whether a host's name or number can only be this machine."""
    if host is None or host == "localhost":
        return host is not None
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(number, "ipv4_mapped", None)
    return bool((mapped or number).is_loopback)
