"""Documents read field by field: what is taken is checked, what is left is named, and nothing is passed over."""

import json

import pytest

from bgevis.converter.checkpoint.format_error import FormatError
from bgevis.converter.checkpoint.strict_json import parse
from bgevis.model.documents import USED, Document, Given, Only, Settled, shown
from bgevis.validation.errors import InputError


def document(content, ignored=()):
    return Document("config.json", "/m/config.json", content, ignored)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [(3, int, 3), (3, float, 3.0), (0.5, float, 0.5), (True, bool, True), ("a", str, "a"), ([1], list, [1])],
)
def test_a_value_of_its_kind_is_given(value, kind, expected):
    read = document({"field": value})
    got = read.take("field", kind)
    assert got == expected
    assert type(got) is type(expected)
    assert read.told() == {"field": USED}


ODD = [None, True, False, 0.5, "1", "", [], [1], {}, {"a": 1}, 10**400, float("inf"), float("nan")]


@pytest.mark.parametrize("kind", [bool, int, float, str, list, dict])
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_any_other_is_one_message(value, kind):
    fits = {bool: (bool,), int: (int,), float: (float, int), str: (str,), list: (list,), dict: (dict,)}[kind]
    too_large = kind in (int, float) and (value == 10**400 or value in (float("inf"),) or value != value)
    if type(value) in fits and not too_large:
        assert document({"field": value}).take("field", kind) == value
        return
    with pytest.raises(InputError, match=r"^/m/config.json: field is .*, expected (a|an|true) ") as raised:
        document({"field": value}).take("field", kind)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("value", [0, -1, 7, 2**70])
def test_bounds_and_choices_are_named(value):
    with pytest.raises(InputError, match="expected a whole number at least 1 and at most 6"):
        document({"field": value}).take("field", int, low=1, high=6)
    with pytest.raises(InputError, match="field is 'tanh', expected 'gelu' or 'relu'"):
        document({"field": "tanh"}).take("field", str, choices=("gelu", "relu"))


def test_silence_is_the_default_and_null_only_where_that_is_none():
    assert document({}).take("field", int, 5) == 5
    assert document({"field": None}).take("field", int, None) is None
    with pytest.raises(InputError, match="field is null"):
        document({"field": None}).take("field", int, 5)
    with pytest.raises(InputError, match=r"config.json: field is missing"):
        document({}).take("field", int)


def test_what_nobody_accounted_for_is_listed_at_once():
    read = document({"used": 1, "harmless": 2, "first": [1, 2], "second": "x", "only": 3})
    read.take("used", int)
    read.accept({"harmless": "training only", "only": Only((4,), "as here"), "absent": "training only"})
    with pytest.raises(InputError) as raised:
        read.finish()
    assert "3 fields would change: first = [1, 2], second = 'x', only = 3" in str(raised.value)
    assert "--ignore config.json:first" in str(raised.value)


def test_a_harmless_value_is_told_from_its_likes():
    for value in (1, 0, "false", None, [False]):
        read = document({"decoder": value})
        read.accept({"decoder": Only((False,), "an encoder")})
        with pytest.raises(InputError, match="decoder"):
            read.finish()
    read = document({"decoder": False})
    read.accept({"decoder": Only((False,), "an encoder")})
    read.finish()
    assert read.told() == {"decoder": "an encoder"}


def test_an_ignored_field_is_as_if_it_were_not_there():
    read = document({"act": "odd", "inner": {"x": 1, "y": 2}}, ("act", "inner.x"))
    assert read.take("act", str, "gelu", choices=("gelu",)) == "gelu"
    assert read.part("inner").take("x", int, 7) == 7
    with pytest.raises(InputError, match=r"inner.y = 2"):
        read.finish()
    assert read.told()["act"] == read.told()["inner.x"] == "ignored, as --ignore says"


def test_what_is_no_object_or_no_list_is_named():
    with pytest.raises(InputError, match=r"/m/config.json is \[1\], expected an object"):
        document([1]).take("field", int)
    with pytest.raises(InputError, match="is an object of 1 field, expected a list"):
        document({"a": 1}).items()
    with pytest.raises(InputError, match=r"\[1\] is 3, expected an object"):
        document([{"a": 1}, 3]).items()[1].take("a", int)


def test_the_command_line_wins_and_says_so():
    read = document({"act": "relu"})
    settled = Settled({"text.act": Given("gelu", "--set")}, "text.")
    assert settled.choose("act", str, (read, "act"), otherwise=("silu", "default"), choices=("gelu", "relu")) == "gelu"
    assert settled.origins == {"act": "--set"}
    assert read.told() == {"act": "--set says 'gelu' in its place"}
    assert Settled({}).choose("act", str, (read, "act"), otherwise=("silu", "default")) == "relu"
    with pytest.raises(InputError, match=r"--set: text.act is 3, expected a text"):
        Settled({"text.act": Given(3, "--set")}, "text.").choose("act", str)
    with pytest.raises(InputError, match=r"width is stated nowhere; say it"):
        Settled({}).choose("width", int, (None, "width"), advice="say it")
    with pytest.raises(InputError, match="--set: width is 3, but shape of w says 4"):
        Settled({"width": Given(3, "--set")}).put("width", 4, "shape of w")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": NaN}', "not a number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 6000 + "}", "number that is too long"),
        ('{"a": "\\ud800"}', "half of a character"),
        ("{", "is not valid JSON"),
    ],
)
def test_json_that_readers_disagree_on_is_refused(text, words):
    with pytest.raises(FormatError, match=words):
        parse(text.encode())
    assert parse(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}
    with pytest.raises(FormatError, match="is not UTF-8"):
        parse(json.dumps({"a": "é"}, ensure_ascii=False).encode("latin-1"))


def test_values_are_shown_on_one_line():
    for value in ("a\nb\x1b[31m" * 50, list(range(100)), {"a": "b" * 1000}, 10**5000, ["x" * 300], "\u202e"):
        text = shown(value)
        assert text.isprintable()
        assert len(text) < 100
