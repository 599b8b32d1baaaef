"""Numbers of things in texts for people."""


def counted(number: int, noun: str, one: str = "", more: str = "") -> str:
    """Return a number with its noun, and with a verb if there are two: ``1 job is``, ``2 jobs are``."""
    verb = one if number == 1 else more
    return f"{number} {noun}{'s' * (number != 1)}{f' {verb}' if verb else ''}"
