"""Studies with one mistake each, and words of the sentence that it is answered with: read by test_wrong_input.py."""

import json

from small_study import STUDY

# Changes to a study that is right, each section and option as a path.
STUDIES = [
    ("seeds", [0, 0], "seeds=[0, 0] 0 twice"),
    ("seeds", [-1], "seeds=-1 write 0 to 4294967295"),
    ("seeds", [2**32], "seeds=4294967296 write 0 to 4294967295"),
    ("seeds", [], "seeds=[] write at least one"),
    ("seeds", ["a"], "seeds int a"),
    ("rows", {}, "rows={} one or more names"),
    ("rows", {1: {}}, "rows 1 in quotes"),
    ("rows", {"A b": {}, "a-b": {}}, "rows=['A b', 'a-b'] need names that differ"),
    ("rows.RetNet", None, "rows dict None"),
    ("rows.RetNet", {"model": 5}, "row 'RetNet' model: 5 no mapping"),
    ("rows.RetNet", {"model": {"mixer": "nope"}}, "row 'RetNet' No mixer is named 'nope'"),
    ("rows.RetNet", {"model": {"dmi": 1}}, "row 'RetNet' no option --model.dmi"),
    ("rows.RetNet", {"model": {"dim": 0}}, "row 'RetNet' dim=0 write 1 or more"),
    ("rows.RetNet", {"model": {"lr": -1}}, "row 'RetNet' lr=-1.0 above 0"),
    ("rows.RetNet", {"model": {"overrides": {9: "retention"}}}, "row 'RetNet' overrides block 9"),
    ("rows.RetNet", {"trainer": {"precision": "bf17"}}, "row 'RetNet' bf17"),
    ("rows.RetNet", {"trainer": {"devices": -5}}, "row 'RetNet' devices=-5"),
    ("rows.RetNet", {"data": {"corpus": "nope.txt"}}, "corpus='nope.txt' is not there"),
    ("rows.RetNet", {"data": {"tokenizer": "nope.json"}}, "row 'RetNet' tokenizer='nope.json' not a file"),
    ("fit", "nope.yaml", "fit nope.yaml is no file"),
    ("fit", {}, "fit needs trainer.max_steps"),
    ("fit.trainer.max_steps", -1, "trainer.max_steps=-1 write 1 or more"),
    ("fit.trainer.max_steps", "x", "trainer.max_steps write a whole number"),
    ("fit.data.block_size", 9999999, "block_size=9999999 too few"),
    ("test.contexts", [1], "contexts=[1] write 128 or more"),
    ("test.contexts", [999999], "contexts=999999 too few"),
    ("test.corpora", ["nope"], "corpus='nope' is not known"),
    ("test.corpora", ["other.txt", "other.txt"], "corpora 'other.txt' again"),
    ("test.corpora", ["empty.txt"], "corpus='empty.txt' no text"),
    ("test.corpora", [5], "corpora has 5 write names"),
    ("test.corpora", [{"name": "other.txt"}], "corpora {'name': 'other.txt'} write names"),
    ("test.split", "train", "test --split 'validation' train"),
    ("test.contxts", [128], "test no option --contxts"),
    ("cost", 5, "cost=5 no mapping"),
    ("cost.lengths", [999999999999], "lengths=999999999999 out of range"),
    ("cost.rounds", 0, "rounds=0 write 1 or more"),
]


def changed_study(path: str, value: object) -> dict[str, object]:
    """A study with one value that is wrong."""
    study = json.loads(json.dumps(STUDY))
    *sections, option = path.split(".")
    place = study
    for section in sections:
        place = place[section]
    place[option] = value
    return study
