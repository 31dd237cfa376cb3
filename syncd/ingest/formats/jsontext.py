"""
JSON (RFC 8259) read as a stream: the grammar is checked, next to nothing is kept.

The text may be far longer than memory allows, so it is decoded a window at a time; what is not
consumed yet is carried over. Members given twice are the caller's business.
"""

import codecs
import json
import re
from collections.abc import Iterator

from syncd.ingest.formats.window import WINDOW, Fault, read_at

MAX_VALUES = 1_000_000
"""Values and keys looked at one by one; what comes in runs of the usual kind does not count."""

MAX_DEPTH = 128
MAX_TOKEN = 4096
"""Characters of a number or a word. Strings may be as long as the text."""

_KEPT = 128
"""Characters of a string that are kept: enough for any key of interest, even in escapes only."""

_ESCAPE = len(r"\u0000")

SPACE = r"[ \t\n\r]*+"
INTEGER = r"(?:0|[1-9][0-9]{0,18}+)"
REPEATED = "{0,1000}"
PLAIN = r'"[^"\\\x00-\x1f]{0,512}+"'
_CHARACTERS = r'(?>(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))' + REPEATED + ")"
SIMPLE = (
    rf'(?:"{_CHARACTERS}"|true|false|null|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)'
)
"""
Pieces of expressions: white space, an offset, a key without escapes, a value that holds none.

A group is repeated as ``(?>(?:...){0,n})``: before Python 3.11.5, ``(?:...)*+`` goes wrong where
something in the group backtracks (gh-106052, gh-100061), and what may be taken back costs memory.
"""

_SPACE = re.compile(SPACE)
_BODY = re.compile(_CHARACTERS)
_SCALAR = re.compile(rf"{SIMPLE}(?![\w.+-])")
_INTEGER = re.compile(rf"{INTEGER}(?![\w.+-])")
_RUNS = {
    "]": re.compile(rf"(?>(?:{SIMPLE}{SPACE},{SPACE}){REPEATED})"),
    "}": re.compile(rf"(?>(?:{PLAIN}{SPACE}:{SPACE}{SIMPLE}{SPACE},{SPACE}){REPEATED})"),
}
"""Elements or members in a row, each with its comma: one match where a walk takes a call a token."""


class JsonText:
    """
    A cursor over the JSON text in ``[position, end)`` of a file.

    Every method raises ``Fault`` where the text is not what the grammar, the caller or ``MAX_*``
    asks for, and ``OSError`` where it cannot be read.
    """

    def __init__(self, fd: int, position: int, end: int) -> None:
        self._fd = fd
        self._position = position
        self._end = end
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._text = ""
        self._at = 0
        self._left = MAX_VALUES

    def members(self) -> Iterator[str]:
        """The keys of an object, each when the cursor stands at its value, to be consumed then."""
        self._expect("{")
        if self._accept("}"):
            return
        yield self._key()
        while self._one_of(",}") == ",":
            yield self._key()

    def skip_value(self) -> None:
        """Any value."""
        closers = ""
        while True:
            opened = self._open_or_skip()
            closers += opened
            if len(closers) > MAX_DEPTH:
                raise Fault(f"damaged: the JSON header nests deeper than {MAX_DEPTH}")
            while closers and not opened and self._one_of("," + closers[-1]) != ",":
                closers = closers[:-1]
            if not closers:
                return
            self._to_next_value(closers[-1])

    def string(self, most: int) -> str:
        """A string of at most *most* characters, escapes counted as they are written."""
        text = self._string(most + 1)
        if len(text) > most:
            raise self._fault()
        return _unescaped(text)

    def integers(self) -> tuple[int, int]:
        """An array of two integers from 0 to 10**19, such as an offset pair."""
        self._expect("[")
        first = self._integer()
        self._expect(",")
        second = self._integer()
        self._expect("]")
        return first, second

    def run(self, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        """
        Matches of *pattern* from the cursor on, one behind the other; each is consumed.

        It saves time only: what the pattern takes must be what the other methods would take.
        """
        self._ensure(MAX_TOKEN)
        while found := pattern.match(self._text, self._at):
            self._at = found.end()
            yield found

    def finish(self) -> None:
        """Nothing but white space may follow."""
        self._to_token()
        if self._at < len(self._text):
            raise self._fault()

    def _open_or_skip(self) -> str:
        """The closer of what the next value opens and holds something in, else nothing."""
        self._spend()
        first = self._peek()
        if first == '"':
            self._string()
        elif first in "{[":
            return self._open()
        else:
            self._token(_SCALAR)
        return ""

    def _open(self) -> str:
        closer = "}" if self._one_of("{[") == "{" else "]"
        return "" if self._accept(closer) else closer

    def _to_next_value(self, closer: str) -> None:
        self._ensure(MAX_TOKEN)
        self._peek()
        self._at = _RUNS[closer].match(self._text, self._at).end()  # type: ignore[union-attr]
        if closer == "}":
            self._key()

    def _key(self) -> str:
        self._spend()
        key = self._string()
        self._expect(":")
        return _unescaped(key) if len(key) < _KEPT else key

    def _string(self, keep: int = _KEPT) -> str:
        """The first *keep* characters of a string, as written."""
        self._expect('"')
        kept = ""
        while True:
            start = self._at
            end = _BODY.match(self._text, self._at).end()  # type: ignore[union-attr]
            kept += self._text[start : min(end, start + keep - len(kept))]
            self._at = end
            # A quote ends it; an escape cut by the end of the window needs the next one.
            if self._text.startswith('"', end):
                self._at += 1
                return kept
            if end == start and (end + _ESCAPE <= len(self._text) or not self._more()):
                raise self._fault()

    def _integer(self) -> int:
        self._peek()
        return int(self._token(_INTEGER))

    def _token(self, pattern: re.Pattern[str]) -> str:
        self._ensure(MAX_TOKEN)
        found = pattern.match(self._text, self._at)
        if found is None or found.end() - self._at > MAX_TOKEN // 2:
            raise self._fault()
        self._at = found.end()
        return found[0]

    def _expect(self, character: str) -> None:
        self._one_of(character)

    def _accept(self, character: str) -> bool:
        if self._peek() != character:
            return False
        self._at += 1
        return True

    def _one_of(self, characters: str) -> str:
        found = self._peek()
        if found not in characters:
            raise self._fault()
        self._at += 1
        return found

    def _peek(self) -> str:
        """The next character that is not white space."""
        self._to_token()
        if self._at == len(self._text):
            raise Fault("damaged: the JSON header ends too early")
        return self._text[self._at]

    def _to_token(self) -> None:
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._more():
                return

    def _ensure(self, count: int) -> None:
        while len(self._text) - self._at < count and self._more():
            pass

    def _more(self) -> bool:
        """Read on, keeping what is not consumed; False at the end of the text."""
        if self._position == self._end:
            return False
        data = read_at(self._fd, self._position, min(WINDOW, self._end - self._position))
        self._position = self._position + len(data) if data else self._end
        try:
            decoded = self._decode(data, self._position == self._end)
        except UnicodeDecodeError:
            raise Fault("damaged: the JSON header is not UTF-8") from None
        self._text = self._text[self._at :] + decoded
        self._at = 0
        return True

    def _spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Fault(f"damaged: the JSON header holds more than {MAX_VALUES:,} values")

    def _fault(self) -> Fault:
        return Fault("damaged: the header is not the JSON object that it should be")


def _unescaped(text: str) -> str:
    """What stands between the quotes of a whole JSON string, with its escapes resolved."""
    return str(json.loads(f'"{text}"')) if "\\" in text else text
