"""Files of options: mistakes in them that a parser would pass over, such as an option that stands twice."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from mixers.checks import UsageError

Options = dict[str, Any]

SECTIONS = ("model", "data", "trainer")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a name that stands twice, of which YAML would quietly take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Options:
        names = [name.value for name, _ in node.value if name.tag != "tag:yaml.org,2002:merge"]
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"{name!r} stands twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def read_options(path: Path, what: str) -> Options:
    """The options in a YAML file, which errors call `what`; raises UsageError where it holds none."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{what}={str(path)!r} is not right: {' '.join(str(error).split())}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{what}={str(path)!r} is not UTF-8 text: write the path of a YAML file.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{what}={str(path)!r} has no keys: it should be a YAML file of options.")
    return content


def check_sections(options: Options, whose: str) -> None:
    """Raises UsageError for a section that is no mapping, which the parser would take for all its defaults."""
    for section in SECTIONS:
        if section in options and not isinstance(options[section], dict):
            raise UsageError(
                f"{whose} has {section}: {options[section]!r}, which is no mapping: write {section}: {{OPTION: VALUE}}."
            )


def check_configs(configs: Iterable[str | None]) -> None:
    """Raises UsageError for a config that is a file whose content is no section of options."""
    for config in filter(None, configs):
        if is_file(config):
            check_sections(read_options(Path(config), "config"), f"config={config!r}")


def is_file(config: str) -> bool:
    """Whether a config is the path of a file, and not written out, which may be too long for a name."""
    with suppress(OSError):
        return Path(config).is_file()
    return False
