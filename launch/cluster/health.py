"""Whether a rollout server answers."""

from ...envs.http.client import Client, NoReplyError


def healthy(address: str) -> bool:
    """Whether a server answers there."""
    client = Client(address, timeout=5, deadline=5)
    try:
        return client.get("/health").ok
    except NoReplyError:
        return False
    finally:
        client.close()
