"""A command line as a Unikraft 0.17 kernel reads it: written down from its rules, to hold ours against.

Words end at white space outside of quotes; within ``"`` a backslash escapes ``"`` and itself, elsewhere it
escapes anything; empty words vanish. Then ``argv[0]`` is set aside, ``lib.parameter=value`` or ``=[ ... ]``
are parameters until a ``--``, what is no parameter is passed over, and a ``]`` at a value's end ends a list.
"""

from dataclasses import dataclass, field


@dataclass
class Read:
    """What the kernel and its program find."""

    argv: list[str]
    parameters: dict[str, list[str]] = field(default_factory=dict)


def read(line: str, *, kernel_path: str | None = "kernel") -> Read:
    """As on x86; on arm64 there is no path of the kernel in front (``kernel_path=None``)."""
    first, *rest = [*([kernel_path] if kernel_path else []), *words(line)]
    found = Read([first])
    open_list: str | None = None
    for number, word in enumerate(rest):
        if open_list is not None:
            value = word.removesuffix("]")
            if value:
                found.parameters[open_list].append(value)
            if word.endswith("]"):
                open_list = None
        elif word == "--":
            found.argv += rest[number + 1 :]
            break
        elif "." in word:
            name, _, value = word.partition("=")
            values = found.parameters.setdefault(name, [])
            if not value.startswith("["):
                values.append(value)
                continue
            if value[1:].removesuffix("]"):
                values.append(value[1:].removesuffix("]"))
            if not value.endswith("]"):
                open_list = name
    return found


def words(line: str) -> list[str]:
    """The words of a line, quotes taken off."""
    found: list[str] = []
    word, quote, characters = "", "", iter(line)
    for character in characters:
        if character == "\\" and quote != "'":
            escaped = next(characters, "")
            word += escaped if escaped == "\\" or (escaped == '"' if quote else True) else f"\\{escaped}"
        elif character in "\"'" and quote in ("", character):
            quote = "" if quote else character
        elif character in " \r\n\t\v" and not quote:
            found.append(word)
            word = ""
        else:
            word += character
    return [word for word in [*found, word] if word]
