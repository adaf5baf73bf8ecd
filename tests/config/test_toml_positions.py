"""Lines of keys in TOML, and of syntax errors."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presence_server.config.toml_positions import KeyPath, error_line, key_lines

DOCUMENT = '''\
# a comment = 1
top = 1

[server]  # a header's comment
host = """
port = 1
[server]
"""
origins = [
  "a",  # ]
  "b",
]
  port = 3
limits.rooms = 4
table = {a = 1, b = {c = 2}}

[[rooms]]
pattern = "a"
[[rooms]]

pattern = "b"
[rooms.more]
x = 1
[[throttle."rules"]]
name = 'x'
[[throttle.rules]]
name = 'y'
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("server",), 4),
        (("server", "host"), 5),
        (("server", "origins"), 9),
        (("server", "port"), 13),
        (("server", "limits", "rooms"), 14),
        (("server", "table", "b", "c"), 15),
        (("rooms",), 17),
        (("rooms", 0), 17),
        (("rooms", 0, "pattern"), 18),
        (("rooms", 1), 19),
        (("rooms", 1, "pattern"), 21),
        (("rooms", 1, "more", "x"), 23),
        (("throttle", "rules", 0, "name"), 25),
        (("throttle", "rules", 1), 26),
        (("throttle", "rules", 1, "name"), 27),
    ],
)
def test_each_key_has_the_line_it_begins_on(path: KeyPath, line: int) -> None:
    assert key_lines(DOCUMENT)[path] == line
    assert key_lines(DOCUMENT.replace("\n", "\r\n"))[path] == line


def test_a_key_inside_a_multi_line_text_is_no_key() -> None:
    assert ("port",) not in key_lines('a = """\nport = 1\n"""\n')


@given(st.lists(st.text(st.sampled_from("ab=[]#\"'\\ \n"), max_size=12), max_size=6))
def test_lines_are_found_whatever_the_values_hold(values: list[str]) -> None:
    text, begins = "", []
    for n, value in enumerate(values):
        begins.append(text.count("\n") + 1)
        quoted = value.replace("\\", "\\\\").replace('"', '\\"')
        text += f'k{n} = """\n{quoted}"""\n'
    assert [tomllib.loads(text)[f"k{n}"] for n in range(len(values))] == values
    assert [key_lines(text)[f"k{n}",] for n in range(len(values))] == begins


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a = 1\nb = = 2\n", 2, "Invalid value"),
        ("[a]\nx = 1\n[a]\n", 3, "Cannot declare ('a',) twice"),
        ("a = 1\n\nb = [1,\n", 3, "Unclosed array"),
        ("x", 1, "Expected '=' after a key in a key/value pair"),
    ],
)
def test_a_syntax_error_has_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(tomllib.TOMLDecodeError) as caught:
        tomllib.loads(text)
    found, said = error_line(caught.value, text)
    assert found == line
    assert said == message or not said.endswith(")")
