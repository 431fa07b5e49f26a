"""Whether two regular expression engines, of `tokenizers` and of `tiktoken`, cut a text alike.

They know different versions of Unicode, so a rare character may be a letter for one and nothing for the other. Given
an expression in the syntax that both share, they find the same matches as long as they put each character into the
same classes, such as `\\p{L}`. That is asked of both, once for each character that occurs.
"""

import re

import numpy as np
import tiktoken
import tokenizers
from tokenizers.pre_tokenizers import Split

UNICODE = 0x110000  # code points
UNSEEN, SAME, DIFFERENT = 0, 1, 2
CLASS = r"\\[pP]\{\w+\}|\\[sS]"
COMMON = re.compile(
    rf"(?:{CLASS}|\\[rnt]|\((?:\?(?:[:!=]|i:)|(?!\?))|[)|?*+]|\[\^?|\]|\{{\d+(?:,\d*)?\}}|[^\\\[\]^$(){{}}|?*+.])+"
)
UNLIKE = re.compile(r"\d\}\+|\[[^\]]*\[|&&|--|~~")  # possessive for one engine only; classes inside classes
FOLDED = "(?i:"  # letters by either case: some characters outside ASCII are the other case of one inside


def is_common(pattern: str) -> bool:
    """Whether an expression is written in the syntax that means the same to both engines."""
    return COMMON.fullmatch(pattern) is not None and UNLIKE.search(pattern) is None


class Agreement:
    """The characters that both engines put into the same classes of a pattern, found out as they occur."""

    def __init__(self, pattern: str) -> None:
        folded = ["(?i:[a-z])"] if FOLDED in pattern else []
        classes = [*dict.fromkeys(re.findall(CLASS, pattern)), *folded]
        bytes_only = {bytes([byte]): byte for byte in range(256)}
        self._engines = [
            (
                Split(tokenizers.Regex(name), "removed"),
                tiktoken.Encoding(name, pat_str=name, mergeable_ranks=bytes_only, special_tokens={}),
            )
            for name in classes
        ]
        self._known = np.zeros(UNICODE, np.uint8)
        self._ascii = False
        self._ascii = self.covers("".join(map(chr, range(128))))

    def covers(self, text: str) -> bool:
        """Whether the engines agree on all characters of a text."""
        if self._ascii and text.isascii():
            return True
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        known = self._known[points]
        if (unseen := points[known == UNSEEN]).size:
            self._learn(np.unique(unseen))
            known = self._known[points]
        return bool((known == SAME).all())

    def _learn(self, points: np.ndarray) -> None:
        characters = "".join(map(chr, points))
        self._known[points] = SAME
        for split, encoding in self._engines:
            outside = {character for piece, _ in split.pre_tokenize_str(characters) for character in piece}
            found = encoding.encode_to_numpy(characters, disallowed_special=()).astype(np.uint8).tobytes().decode()
            differ = (set(characters) - outside) ^ set(found)
            self._known[[ord(character) for character in differ]] = DIFFERENT
