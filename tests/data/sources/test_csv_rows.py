"""Tables: rows with quoted line ends are found as a CSV reader finds them; bad ones are
reported."""

import base64
import csv
import io
import random

import pytest
import source_files

from owl_jax.data.sources.csv_rows import CsvSource, scan_rows
from owl_jax.errors import BadData, UserError
from owl_jax.text.turns import SYSTEM


@pytest.fixture
def write(tmp_path):
    def write(data, name="data.csv"):
        (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return CsvSource(tmp_path / name, tmp_path / "media", tmp_path / "index")

    return write


def captions(source):
    return [source[number]["text"].split("\nAI: ")[1] for number in range(len(source))]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("head", ["", "\ufeff", "\n"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_a_row_is_a_pair(write, tmp_path, newline, head, delimiter):
    rows = [
        ["image", "license", "caption"],
        ["a.jpg", "CC", 'An owl, "awake";\tand\nsmall.'],
        ["b.jpg", "", "鸮"],
    ]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=newline).writerows(rows)
    source = write(head + text.getvalue())
    line = head.count("\n") + 2
    assert len(source) == 2
    assert source[0] == {
        "text": f'{SYSTEM}\nHuman: <image>\nAI: An owl, "awake";\tand\nsmall.',
        "images": [tmp_path / "media" / "a.jpg"],
        "videos": [],
        "task_type": "",
        "where": f"{tmp_path}/data.csv:{line}",
    }
    assert captions(source)[1] == "鸮"
    assert source[1]["where"].endswith(f":{line + 2}")


@pytest.mark.parametrize(
    ("header", "row", "text"),
    [
        ("Caption, IMAGE ,caption_id", "An owl.,a.jpg,7", "Human: <image>\nAI: An owl."),
        ("video,caption", "a.mp4,An owl.", "Human: <|video|>\nAI: An owl."),
        ("question,answer,image", "What?,An owl.,", "Human: What?\nAI: An owl."),
        ("question;answer;image", "What?;Owl;a", "Human: <image>\nHuman: What?\nAI: Owl"),
        ("messages,image,caption", "extra,a.jpg,An owl.", "Human: <image>\nAI: An owl."),
    ],
)
def test_columns_make_the_form(write, header, row, text):
    assert write(f"{header}\n{row}\n")[0]["text"] == f"{SYSTEM}\n{text}"


def test_whole_texts(write):
    source = write('text\n"Human: hi\nAI: a, b"\nHuman: hi; ho\n')
    assert source[0]["text"] == "Human: hi\nAI: a, b"
    assert source[1]["text"] == "Human: hi; ho"


def test_blank_rows_count_as_lines_but_not_as_records(write):
    source = write("\nimage,caption\n\na.jpg,one\n,\n  \n\r\nb.jpg,two\n,,,")
    assert captions(source) == ["one", "two"]
    assert [source[number]["where"][-2:] for number in (0, 1)] == [":4", ":8"]


def test_a_picture_in_a_cell(write):
    picture = source_files.picture(1, "BMP", (300, 300))
    url = f"data:image/bmp;base64,{base64.b64encode(picture).decode()}"
    assert len(url) > 300_000  # Python's csv takes 131,072 unless it is set otherwise
    source = write(f'image,caption\n"{url}",One\n2.jpg,Two\n')
    assert captions(source) == ["One", "Two"]
    assert source[0]["images"] == [picture]


def test_a_tab_file_may_have_quotes_in_its_words(write):
    source = write('caption\timage\n5" nails, "sharp"\ta.jpg\n"quoted"\tb.jpg\n', "data.tsv")
    assert captions(source) == ['5" nails, "sharp"', "quoted"]


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("wrong number of fields", b"a.jpg"),
        ("wrong number of fields", b"a.jpg,An owl, awake"),
        ("malformed record", b'a.jpg,"An owl'),
        ("malformed record", b'a.jpg,"An owl" awake'),
        ("malformed record", b"a.jpg,An\rowl"),
        ("malformed record", b"a.jpg," + b"owl" * (1 << 24)),
        ("invalid UTF-8", b"a.jpg,\xff"),
        ("empty text", b"a.jpg, "),
        ("not an example", b",An owl"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_a_bad_row_is_told_with_its_line_and_spoils_no_other(write, reason, row):
    source = write(b'image,caption\n0.jpg,"ze\nro"\n' + row + b'\n1.jpg,"on\ne"\n2.jpg,two,\n')
    assert len(source) == 4
    with pytest.raises(BadData, match=r"data\.csv:4: [^\n]*$") as error:
        source[1]
    assert error.value.reason == reason
    assert [source[number]["text"].split("AI: ")[1] for number in (0, 2, 3)] == [
        "ze\nro",
        "on\ne",
        "two",
    ]
    assert [source[number]["where"][-1] for number in (2, 3)] == ["5", "7"]


def test_a_header_without_the_columns_of_a_form_is_told(write):
    for data, found in (
        ("url,caption,size\nx,y,z\n", "the columns 'url', 'caption', 'size'; expected image"),
        ("url\tcaption\nx\ty\n", "the columns 'url', 'caption'; expected image"),
        ("a.jpg\n", r"the columns 'a\.jpg'; expected image"),
        (b"\xff\xfe,caption\n", "no columns that can be read; expected image"),
        ('"image', "no columns that can be read; expected image"),
    ):
        with pytest.raises(UserError, match=rf"data\.csv: the header has {found}"):
            write(data)


def test_empty_and_missing_files_are_told(write, tmp_path):
    for data in ("", "\n\n", "\ufeff"):
        with pytest.raises(UserError, match=r"data\.csv: empty; expected a header and rows"):
            write(data)
    for data in ("image,caption", "image,caption\n\n,\n"):
        with pytest.raises(UserError, match=r"data\.csv: empty; expected rows below the header"):
            write(data)
    with pytest.raises(UserError, match=r"none\.csv: cannot be read \(No such file"):
        CsvSource(tmp_path / "none.csv", tmp_path)


def test_rows_are_those_of_a_csv_reader():
    rng = random.Random(0)
    letters = ['"', ",", "\n", "\r\n", "a", "鸮", "\t", ";", " "]
    for _ in range(500):
        delimiter, newline = rng.choice(",\t;"), rng.choice(["\n", "\r\n"])
        text, expected = io.StringIO(newline=""), []
        writer = csv.writer(text, delimiter=delimiter, lineterminator=newline)
        writer.writerow(["image", "caption"])
        for _ in range(rng.randrange(6)):
            cells = ["".join(rng.choices(letters, k=rng.randrange(6))) for _ in range(2)]
            if "".join(cells).strip():
                expected.append((cells, text.getvalue().count("\n") + 1))
            writer.writerow(cells)
            text.write(newline * rng.randrange(2))
        data = rng.choice([b"", b"\xef\xbb\xbf"]) + text.getvalue().encode()
        found = []
        for part in scan_rows(io.BytesIO(data), delimiter):
            for start, end, line in part.tolist():
                row = io.StringIO(data[start:end].decode(), newline="")
                found.append((next(csv.reader(row, delimiter=delimiter)), line))
        assert found == expected, data
