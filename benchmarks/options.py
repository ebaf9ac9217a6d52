"""Command-line options that may be given several times or with commas."""

MANY = "comma or repeat"

List = list[str] | None


def split(values: List) -> list[str]:
    """Single values of an option, in order."""
    return [part.strip() for value in values or () for part in value.split(",") if part.strip()]
