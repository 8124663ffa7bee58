"""Videos: the original's choice of frames (goldens case 7), every kind of source, broken files."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from owl_jax.errors import BadData, UserError
from owl_jax.media.container import read_by_seeking, read_in_order
from owl_jax.media.image import preprocess_image
from owl_jax.media.video import frame_indices, load_frames, load_video

ARRAYS = np.load(Path(__file__).parents[1] / "goldens" / "case07_image_preprocess" / "outputs.npz")
SIZE = 16
STEP = 5  # grey levels from one frame to the next: they encode its index


def pictures(count) -> list[Image.Image]:
    return [Image.new("RGB", (32, 24), (STEP * i,) * 3) for i in range(count)]


def choose_six(times) -> list[int]:
    return frame_indices(len(times), 6)


def numbers(frames) -> list[int]:
    """The index of each frame, from its grey level."""
    return [round(float(frame.mean()) / STEP) for frame in frames]


def reason_of(source, **options) -> str:
    with pytest.raises(BadData) as error:
        load_video(source, 4, SIZE, **options)
    assert "\n" not in str(error.value)
    return error.value.reason


class Part:
    """A Part: a file inside another."""

    def __init__(self, path):
        self.path = path

    def read(self) -> bytes:
        return self.path.read_bytes()

    def __str__(self) -> str:
        return "shard.tar/a.mp4"


def write_video(path, count, codec="libx264", pixel_format="yuv420p", gop=7) -> Path:
    """A file with a key frame every `gop` frames and, if the codec supports them, B-frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, pixel_format
        stream.gop_size = gop
        if codec in ("libx264", "mpeg4"):
            stream.options = {"bf": "2", "qmin": "1", "qmax": "2"}
        for picture in pictures(count):
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("num_frames", [4, 8])
def test_frame_numbers_are_the_originals(num_frames):
    lengths = ARRAYS["frame_index_total_frames"]
    chosen = [frame_indices(int(n), num_frames) for n in lengths]
    np.testing.assert_array_equal(chosen, ARRAYS[f"frame_index_{num_frames}"])


def test_frame_numbers_are_inside_the_video():
    for length in range(1, 60):
        for num_frames in range(1, 20):
            chosen = frame_indices(length, num_frames)
            assert len(chosen) == num_frames
            assert chosen == sorted(chosen) and chosen[0] >= 0 and chosen[-1] < length
            assert all(type(index) is int for index in chosen)
    for wrong in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            frame_indices(*wrong)


FILES = [
    ("a.mp4", "libx264", "yuv420p"),
    ("a.mkv", "libx264", "yuv420p"),
    ("a.ts", "libx264", "yuv420p"),
    ("a.avi", "mpeg4", "yuv420p"),
    ("a.webm", "libvpx-vp9", "yuv420p"),
    ("b.avi", "mjpeg", "yuvj420p"),
]


@pytest.mark.parametrize(("name", "codec", "pixel_format"), FILES)
def test_file_gives_the_chosen_frames(tmp_path, name, codec, pixel_format):
    path = write_video(tmp_path / name, 41, codec, pixel_format)
    for num_frames in (1, 4, 8, 50):
        frames = load_video(path, num_frames, SIZE)
        assert (frames.shape, frames.dtype) == ((num_frames, SIZE, SIZE, 3), np.uint8)
        assert numbers(frames) == frame_indices(41, num_frames)


def test_colon_in_a_name_is_not_a_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "take:2.mp4", 9)
    assert numbers(load_video("take:2.mp4", 2, SIZE)) == frame_indices(9, 2)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_seeking_gives_the_pixels_of_decoding_in_order(tmp_path, name):
    path = write_video(tmp_path / name, 41)
    sought = read_by_seeking(path, choose_six)
    in_order = read_in_order(path, choose_six)
    assert len(sought) == len(in_order) == 6
    for one, other in zip(sought, in_order, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


# A raw stream has no time stamps; in a transport stream FFmpeg's seek lands behind the key frame.
@pytest.mark.parametrize("name", ["raw.h264", "a.ts"])
def test_unseekable_file_is_decoded_in_order(tmp_path, name):
    path = write_video(tmp_path / name, 41)
    assert read_by_seeking(path, choose_six) == []
    assert numbers(load_video(path, 6, SIZE)) == frame_indices(41, 6)


# Ten frames a second; a raw stream tells no times, an AVI's frames are found without seeking.
@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "raw.mjpeg", "a.ts"])
def test_only_an_interval_of_a_file_is_used(tmp_path, name):
    codec = {"avi": "mpeg4", "mjpeg": "mjpeg"}.get(name.partition(".")[2], "libx264")
    path = write_video(tmp_path / name, 41, codec, "yuvj420p" if codec == "mjpeg" else "yuv420p")
    rate = 25 if name == "raw.mjpeg" else 10  # what FFmpeg assumes of a raw stream

    def used(start, end, num_frames=3):
        return numbers(load_video(path, num_frames, SIZE, interval=(start, end)))

    assert used(10 / rate, 18 / rate) == [10 + i for i in frame_indices(9, 3)]
    assert used(31.5 / rate, None) == [32 + i for i in frame_indices(9, 3)]
    assert used(None, 8 / rate) == frame_indices(9, 3)
    assert used(12.2 / rate, 12.8 / rate, 2) == [13, 13]
    assert used(99, 100, 2) == [40, 40]


def test_only_an_interval_of_a_folder_is_used(tmp_path):
    for number, picture in enumerate(pictures(12)):
        picture.save(tmp_path / f"{number}.png")
    found = numbers(load_video(tmp_path, 3, SIZE, interval=(1.0, 3.0)))
    assert found == [3 + i for i in frame_indices(7, 3)]


def test_other_frames_are_not_decoded(tmp_path):
    """If every frame is a key frame, a damaged one only matters if it is chosen."""
    path = write_video(tmp_path / "a.avi", 30, "mjpeg", "yuvj420p")
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    content = path.read_bytes()
    wanted = frame_indices(30, 3)
    for damaged in (wanted[1] - 1, wanted[1] + 1):
        spoilt = content.replace(packets[damaged], bytes(len(packets[damaged])))
        path.write_bytes(spoilt)
        assert numbers(load_video(path, 3, SIZE)) == wanted
    path.write_bytes(content.replace(packets[wanted[1]], bytes(len(packets[wanted[1]]))))
    with pytest.raises(UserError, match="damaged"):
        load_video(path, 3, SIZE)


def test_rotation_of_a_phone_video_is_applied(tmp_path):
    path = tmp_path / "phone.mp4"
    stored = np.zeros((24, 32, 3), np.uint8)
    stored[:, 16:] = 250  # right half bright
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode())
    # The track header's matrix for "turn a quarter clockwise to show" (ISO 14496-12, tkhd).
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    values = (0, 0x10000, 0, -0x10000, 0, 0, 24 << 16, 0, 0x40000000)
    content[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in values)
    path.write_bytes(content)
    frame = load_video(path, 1, SIZE)[0]
    assert frame[SIZE - 3 :].mean() > 200 > 50 > frame[:3].mean()


def test_folder_is_in_natural_order_and_other_files_are_ignored(tmp_path):
    for number, picture in enumerate(pictures(12)):
        picture.save(tmp_path / f"Frame{number}.{'PNG' if number % 2 else 'png'}")
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / "._Frame3.png").write_text("no frame")
    assert numbers(load_video(tmp_path, 12, SIZE)) == frame_indices(12, 12)
    assert numbers(load_video(str(tmp_path), 4, SIZE)) == frame_indices(12, 4)


def test_only_the_chosen_pictures_are_opened(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(9)]
    for index in frame_indices(9, 2):
        pictures(9)[index].save(files[index])
    assert numbers(load_video(files, 2, SIZE)) == frame_indices(9, 2)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animation_gives_the_chosen_frames(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    first, *rest = pictures(11)
    first.save(path, save_all=True, append_images=rest, lossless=True)
    assert numbers(load_video(path, 4, SIZE)) == frame_indices(11, 4)


def test_list_of_pictures_equals_the_pictures():
    frames = load_video(pictures(5), 5, SIZE)
    singles = [preprocess_image(pictures(5)[i], SIZE) for i in frame_indices(5, 5)]
    np.testing.assert_array_equal(frames, singles)


def test_one_image_is_a_still_video(tmp_path):
    pictures(4)[3].save(tmp_path / "still.gif")
    pictures(4)[3].save(tmp_path / "still.bmp")
    for source in (tmp_path / "still.gif", tmp_path / "still.bmp", pictures(4)[3:]):
        assert numbers(load_video(source, 4, SIZE)) == [3] * 4


@pytest.mark.parametrize("name", ["absent.mp4", "absent.gif", "absent", "http://host/a.mp4"])
def test_missing_video_is_named(tmp_path, name):
    with pytest.raises(UserError, match=r"^data\.jsonl:7: .*: no such file$"):
        load_video(tmp_path / name, 4, SIZE, "data.jsonl:7")


@pytest.mark.parametrize("name", ["text.mp4", "text.gif", "text.unknown"])
@pytest.mark.parametrize("content", ["this is no video", ""])
def test_text_is_no_video(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=rf"{name}: not a (video|picture)") as error:
        load_video(path, 4, SIZE)
    assert "\n" not in str(error.value)


def test_damaged_videos_are_named(tmp_path):
    path = write_video(tmp_path / "half.mp4", 20)
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"half\.mp4: not a video that FFmpeg reads, or damaged"):
        load_video(path, 4, SIZE)
    middle = content.index(b"mdat") + 4
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"half\.mp4: not a video that FFmpeg reads, or damaged"):
        load_video(path, 4, SIZE)


def test_sound_is_no_video(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = np.zeros((1, 800), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(UserError, match=r"sound\.wav: no frames"):
        load_video(path, 4, SIZE)


def test_video_without_frames_is_refused(tmp_path):
    with pytest.raises(UserError, match="the video: no frames"):
        load_video([], 4, SIZE)
    (tmp_path / "notes.txt").write_text("no frame")
    with pytest.raises(UserError, match=rf"{tmp_path.name}: no frames.*\.jpg"):
        load_video(tmp_path, 4, SIZE)


def test_broken_frame_of_a_folder_is_named(tmp_path):
    (tmp_path / "frame0.png").write_text("no picture")
    with pytest.raises(UserError, match=r"frame0\.png: not a picture"):
        load_video(tmp_path, 4, SIZE)


@pytest.mark.parametrize("source", [None, 3])
def test_other_objects_are_refused(source):
    with pytest.raises(UserError, match=f"is {type(source).__name__}"):
        load_video(source, 4, SIZE)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "raw.h264"])
def test_bytes_and_parts_give_what_the_file_gives(tmp_path, name):
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    path = write_video(tmp_path / name, 23, codec)
    expected = load_video(path, 5, SIZE)
    for source in (path.read_bytes(), Part(path)):
        np.testing.assert_array_equal(load_video(source, 5, SIZE), expected)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animation_is_detected_from_its_bytes(tmp_path, suffix):
    path = tmp_path / "named.mp4"
    first, *rest = pictures(11)
    first.save(path, suffix, save_all=True, append_images=rest, lossless=True)
    for source in (path, path.read_bytes(), Part(path)):
        # An animation is not unusual.
        assert numbers(load_video(source, 4, SIZE, unusual="refuse")) == frame_indices(11, 4)


def test_video_is_detected_from_its_bytes_not_its_name(tmp_path):
    path = write_video(tmp_path / "a.mp4", 9).rename(tmp_path / "a.gif")
    assert numbers(load_video(path, 2, SIZE)) == frame_indices(9, 2)


def test_frames_may_be_of_any_kind(tmp_path):
    first, second, third, fourth = pictures(4)
    second.save(tmp_path / "1.png")
    third.save(tmp_path / "2.png")
    fourth.save(tmp_path / "3.png")
    frames = [
        first,
        tmp_path / "1.png",
        (tmp_path / "2.png").read_bytes(),
        Part(tmp_path / "3.png"),
    ]
    loaded = load_frames(frames, 4)
    assert [np.asarray(frame)[0, 0, 0] for frame in loaded] == [
        STEP * index for index in frame_indices(4, 4)
    ]


def test_frames_that_would_be_altered_are_refused_on_demand(tmp_path):
    cmyk = Image.new("CMYK", (8, 8))
    assert load_video([cmyk], 4, SIZE).shape == (4, SIZE, SIZE, 3)
    assert reason_of([cmyk], unusual="refuse") == "CMYK picture"
    first, *rest = pictures(3)
    first.save(tmp_path / "frame0.gif", save_all=True, append_images=rest)
    assert reason_of(tmp_path, unusual="refuse") == "animated picture"
    assert numbers(load_video(tmp_path / "frame0.gif", 3, SIZE, unusual="refuse")) == [0, 1, 1]
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    assert reason_of(tmp_path / "deep.png", unusual="refuse") == "16-bit picture"


def test_jpeg_frames_are_shrunk_on_demand(tmp_path):
    Image.new("RGB", (640, 480)).save(tmp_path / "0.jpg")
    assert [frame.size for frame in load_frames(tmp_path, 2, shrink_to=100)] == [(160, 120)] * 2


def test_every_failure_has_its_reason(tmp_path):
    path = write_video(tmp_path / "a.mp4", 20)
    content = bytearray(path.read_bytes())
    assert reason_of(tmp_path / "absent.mp4") == "missing file"
    for nothing in (b"text", b"", None, 3):
        assert reason_of(nothing) == "not a video"
    assert reason_of(bytes(content[: len(content) // 2])) == "damaged video"
    begin, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[begin:end] = bytes(end - begin)
    assert reason_of(bytes(content)) == "damaged video"
    assert reason_of([]) == "video without frames"
    assert reason_of([tmp_path / "absent.png"]) == "missing file"
    assert reason_of([b"text"]) == "not a picture"
    first, *rest = [Image.effect_noise((64, 64), 90) for _ in range(9)]
    first.save(tmp_path / "a.png", save_all=True, append_images=rest)
    content = (tmp_path / "a.png").read_bytes()
    assert reason_of(content[: len(content) // 2]) == "damaged video"


@pytest.mark.parametrize(("suffix", "options"), [("mp4", {"movflags": "faststart"}), ("mkv", {})])
def test_truncated_video_is_damaged(tmp_path, suffix, options):
    """Their headers have the duration; FFmpeg returns the remaining frames."""
    path, noise = tmp_path / f"a.{suffix}", np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(41):
            pixels = noise.integers(0, 256, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    assert load_video(path, 4, SIZE).shape == (4, SIZE, SIZE, 3)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(
        BadData, match=rf"a\.{suffix}: cut short: 2\.\d s are left of 4\.1"
    ) as error:
        load_video(path, 4, SIZE)
    assert error.value.reason == "damaged video"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_frames_too_large_are_refused_by_the_header(tmp_path):
    first, second = pictures(2)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    content = bytearray((tmp_path / "a.gif").read_bytes())
    content[6:10] = (12_000).to_bytes(2, "little") + (10_000).to_bytes(2, "little")
    assert reason_of(bytes(content)) == "picture too large"


@pytest.mark.parametrize(
    "playlist",
    [
        "ffconcat version 1.0\nfile a.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\na.mp4\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ],
)
def test_video_cannot_open_other_files(tmp_path, playlist):
    write_video(tmp_path / "a.mp4", 9)
    path = tmp_path / "list.mp4"
    path.write_text(playlist)
    for source in (path, path.read_bytes()):
        with pytest.raises(BadData, match="not a video but a") as error:
            load_video(source, 2, SIZE)
        assert error.value.reason == "not a video"


def test_special_characters_in_a_name_are_not_a_pattern(tmp_path):
    pictures(8)[7].save(tmp_path / "f%d.jpg")
    pictures(2)[1].save(tmp_path / "f1.jpg")
    assert numbers(load_video(tmp_path / "f%d.jpg", 2, SIZE)) == [7, 7]
    path = write_video(tmp_path / "a.mp4", 9).rename(tmp_path / "%03d*.mp4")
    assert numbers(load_video(path, 2, SIZE)) == frame_indices(9, 2)


def test_raw_motion_jpeg_is_a_video_and_an_mpo_a_photograph(tmp_path):
    first, *rest = pictures(5)
    for picture in (first, *rest):
        with (tmp_path / "raw.jpg").open("ab") as file:
            picture.save(file, "JPEG")
    assert numbers(load_video(tmp_path / "raw.jpg", 5, SIZE)) == frame_indices(5, 5)
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=rest)
    with Image.open(tmp_path / "a.jpg") as image:
        count = image.n_frames
    assert numbers(load_video(tmp_path / "a.jpg", count, SIZE)) == [0] * count


def test_video_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    path = write_video(tmp_path / "a.avi", 2, "mjpeg", "yuvj420p")
    size = (32).to_bytes(4, "little") + (24).to_bytes(4, "little")
    large = (15_000).to_bytes(4, "little") + (10_000).to_bytes(4, "little")
    content = path.read_bytes()
    assert content.count(size) >= 1
    assert reason_of(content.replace(size, large)) in ("picture too large", "damaged video")
