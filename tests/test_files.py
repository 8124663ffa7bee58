"""Only regular files are opened; JSON objects of any quality; paths as people type them."""

import os
import socket
import stat
from pathlib import Path
from threading import Thread

import pytest

from owl_jax.errors import UserError
from owl_jax.files import (
    NotAFile,
    as_typed,
    beside,
    check_regular,
    lock_directory,
    open_regular,
    read_json,
    write_whole,
)


def test_regular_files_and_links_to_them_are_opened(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"words")
    (tmp_path / "link").symlink_to(file)
    for path in (file, tmp_path / "link"):
        check_regular(path)
        with open_regular(path) as opened:
            assert opened.read() == b"words"


@pytest.fixture(params=["fifo", "link to fifo", "socket", "device", "folder"])
def no_file(request, tmp_path):
    path = tmp_path / "thing"
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "link to fifo":
        os.mkfifo(tmp_path / "fifo")
        path.symlink_to(tmp_path / "fifo")
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif request.param == "device":
        path = Path("/dev/zero")
    else:
        path.mkdir()
    return path


def test_what_is_no_regular_file_is_refused_at_once(no_file):
    with pytest.raises(NotAFile, match="is a"):
        check_regular(no_file)
    with pytest.raises(OSError):
        open_regular(no_file)
    with pytest.raises(UserError) as told:
        read_json(no_file)
    assert no_file.name in str(told.value)


def test_a_pointer_of_git_lfs_is_no_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n")
    for look in (check_regular, open_regular):
        with pytest.raises(NotAFile, match="is a Git LFS pointer, not the file itself"):
            look(path)
    with pytest.raises(UserError, match=r"config\.json: is a Git LFS pointer.*pull` in its folder"):
        read_json(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n" * 99)  # a text about them
    check_regular(path)
    open_regular(path).close()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b'{"a": ' * 100_000, "nested too deeply"),
        (b"\xff\xfe{}", "not JSON"),
        (b'{"a": 1' + b"\0" * 9, "not JSON"),
        (b'{"a": ' + b"1" * 10**5 + b"}", "not JSON"),
    ],
)
def test_what_is_no_json_object_is_one_line(tmp_path, content, said):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as told:
        read_json(path)
    assert str(path) in str(told.value) and len(str(told.value)) < 500


def test_json_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}


def test_names_beside_are_hidden_short_and_never_the_same(tmp_path):
    names = {beside(tmp_path / ("x" * 250)) for _ in range(100)}
    assert len(names) == 100
    for name in names:
        assert name.parent == tmp_path and name.name.startswith(".") and len(name.name) < 100
        name.mkdir()


def test_a_home_directory_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_typed("~/runs/first") == str(tmp_path / "runs" / "first")
    assert as_typed("runs/~") == "runs/~"
    assert as_typed("/a/b") == "/a/b"
    with pytest.raises(UserError, match="no such user"):
        as_typed("~nobody-of-this-name/runs")


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("file:///a/b.png", "/a/b.png"),
        ("file:///my%20pic/%C3%A9.png", "/my pic/\u00e9.png"),
        ("FILE://localhost/a", "/a"),
        ("file:/a", "/a"),
        ("file:///a%25b", "/a%b"),
        ("file:///a%E9", os.fsdecode(b"/a\xe9")),
        ("file.png", "file.png"),
        ("a%20b", "a%20b"),
    ],
)
def test_a_file_url_is_a_path(typed, path):
    assert as_typed(typed) == path


@pytest.mark.parametrize("typed", ["file://server/a", "file://", "file://localhostile/a"])
def test_what_looks_like_a_file_url_of_another_machine_is_refused(typed):
    with pytest.raises(UserError, match="not a file of this machine"):
        as_typed(typed)


def test_a_file_url_with_a_nul_is_refused():
    with pytest.raises(UserError, match="not a file of this machine"):
        as_typed("file:///a%00b")


def test_a_file_whose_name_begins_with_a_tilde_is_found(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~nobody-of-this-name").touch()
    assert as_typed("~nobody-of-this-name") == "~nobody-of-this-name"


@pytest.fixture
def three(tmp_path):
    """A file, a link to it, and what neither is."""
    (tmp_path / "file").write_text("before")
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "link").symlink_to("file")
    return tmp_path


@pytest.mark.parametrize("name", ["file", "link", "new", "x" * 255])
def test_a_file_is_written_whole(name, three):
    write_whole(three / name, "wörds \udcff\n")
    assert (three / name).read_bytes() == "wörds \\udcff\n".encode()
    assert (three / "link").is_symlink()
    assert stat.S_IMODE((three / "file").stat().st_mode) == 0o640
    assert {path.name for path in three.iterdir()} == {"file", "link", name}


@pytest.mark.parametrize("name", ["folder", "no/such", "file/x", "x" * 256, "fifo"])
def test_what_cannot_be_written_is_an_error_at_once(name, three):
    (three / "folder").mkdir()
    os.mkfifo(three / "fifo")  # nobody reads it
    before = sorted(three.iterdir())
    with pytest.raises(OSError):
        write_whole(three / name, "x")
    assert sorted(three.iterdir()) == before
    assert (three / "file").read_text() == "before"


def test_devices_and_pipes_are_written_to(tmp_path):
    write_whole(Path("/dev/null"), "x")
    reader, writer = os.pipe()
    write_whole(Path(f"/dev/fd/{writer}"), "words")
    assert os.read(reader, 9) == b"words"
    os.close(reader)
    os.close(writer)
    with (tmp_path / "out").open("w") as out:  # as standard output that goes to a file
        out.write("printed, ")
        out.flush()
        write_whole(Path(f"/dev/fd/{out.fileno()}"), "written")
    assert (tmp_path / "out").read_text() == "printed, written"


def test_the_last_of_many_writers_wins_and_nobody_sees_a_mixture(tmp_path):
    texts = [str(number) * 100_000 for number in range(8)]
    threads = [Thread(target=write_whole, args=(tmp_path / "file", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_directory_has_one_owner(tmp_path):
    lock = lock_directory(tmp_path)
    with pytest.raises(BlockingIOError):
        lock_directory(tmp_path)
    os.close(lock)
    os.close(lock_directory(tmp_path))
    with pytest.raises(FileNotFoundError):
        lock_directory(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "typed",
    [
        *(r"C:\Users\me\a b.png", "D:/owls/a.png", r"\\server\owls\a.png"),
        *(
            "file:///C:/Users/me/a.png",
            "$HOME/runs",
            "${HOME}/runs",
            "$HOME",
            r"%USERPROFILE%\runs",
        ),
    ],
)
def test_paths_that_nothing_here_can_mean_are_refused(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"Windows path|the shell") as told:
        as_typed(typed)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["C:", "$5", "%a", "C:x", "100%", "$HOME"])
def test_names_that_only_look_so_are_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$HOME").touch()
    assert as_typed(name) == name


def test_a_drive_in_the_linux_of_a_windows_machine(monkeypatch):
    monkeypatch.setattr("owl_jax.files.is_directory", lambda path: path == "/mnt/c")
    assert as_typed(r"C:\Users\me\a b.png") == "/mnt/c/Users/me/a b.png"
    assert as_typed("file:///C:/Users/a%20b.png") == "/mnt/c/Users/a b.png"
    with pytest.raises(UserError, match="Windows path"):
        as_typed("D:/a")


def test_a_file_url_with_the_name_of_this_machine():
    assert as_typed(f"file://{os.uname().nodename}/a%20b") == "/a b"
