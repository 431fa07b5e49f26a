"""A corpus as token files, one a split."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from lit_modules.data.splits import Part
from lit_modules.data.token_file import TokenFile, token_file
from lit_modules.data.tokenizer import Tokenizer


def token_files(path: Path, parts: Sequence[Part], tokenizer: Tokenizer) -> dict[str, TokenFile]:
    """The token file of each split with a document, beside `path`, a .json."""
    documents = defaultdict[str, list[str]](list)
    for part in parts:
        for split, document in part.read():
            documents[split].append(document)
    return {
        split: token_file(path.with_name(f"{path.stem}-{split}.bin"), lambda found=found: found, tokenizer)  # type: ignore[misc]
        for split, found in documents.items()
    }
