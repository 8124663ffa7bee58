"""Small files of every kind that a source may be, with media in them."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import msgpack
import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from owl_jax.errors import BadData
from owl_jax.media.image import load_image
from owl_jax.media.video import load_frames

EMBEDDED = Path(__file__).parents[1] / "configs" / "demo" / "synthetic.py"
TEXT = "Be kind.\nHuman: {marks}\nHuman: What is it?\nAI: An owl."


def picture(seed: int, format: str = "JPEG", size: tuple[int, int] = (24, 16)) -> bytes:
    """A file with a picture of its own for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size).save(buffer, format)
    return buffer.getvalue()


def movie(path: Path, seed: int = 0, frames: int = 6) -> bytes:
    """Writes a video file, and gives its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(frames):
            image = Image.open(io.BytesIO(picture(100 * seed + number, "PNG", (32, 32))))
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path.read_bytes()


def text(*marks: str) -> str:
    """A conversation of one turn in the original's format."""
    return TEXT.format(marks="".join(marks))


def pixels(record: Mapping) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The pictures and a few frames of the videos of a record, decoded."""
    images = [np.asarray(load_image(image)) for image in record["images"]]
    videos = [np.stack([np.asarray(f) for f in load_frames(v, 4)]) for v in record["videos"]]
    return images, videos


def assert_same_records(found: Sequence, expected: Sequence) -> None:
    """The same texts, types and pixels in the same order."""
    assert len(found) == len(expected)
    for index in range(len(expected)):
        a, b = found[index], expected[index]
        assert (a["text"], a["task_type"], a["where"]) == (b["text"], b["task_type"], b["where"])
        for ours, theirs in zip(pixels(a), pixels(b), strict=True):
            assert len(ours) == len(theirs)
            for x, y in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(x, y)


class NumberedSource:
    """Records of 1 KiB and a little; some are broken; asking for record `stop` ends the run."""

    def __init__(self, size, broken=(), stop=None, slow=False):
        self.size, self.broken, self.stop, self.slow = size, broken, stop, slow
        self.asked = []

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.asked.append(index)
        if index == self.stop:
            raise KeyboardInterrupt
        if self.slow:
            time.sleep(0.002 * (7 * index % 5))
        if index in self.broken:
            raise BadData(f"reason {index % 2}", f"{self.where(index)}: is broken")
        words = text() + f" {index} ".center(1024 - 140, ".")
        where = self.where(index)
        return {"text": words, "images": [], "videos": [], "task_type": "", "where": where}

    def where(self, index):
        return f"x: y:{index}"

    def num_bytes(self):
        return 1024 * self.size


def assert_told(source, index, words=""):
    """Record `index` is BadData, with its place before the words."""
    with pytest.raises(BadData) as error:
        source[index]
    assert str(error.value).startswith(f"{source.where(index)}: {words}")


def write_tar(path: Path, members: Mapping[str, bytes | str]) -> Path:
    """A tar of these members, in this order."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_files(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    """A folder of these files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def write_array_record(path: Path, entries: Sequence[Mapping | bytes]) -> Path:
    """An ArrayRecord file of msgpack maps, or of bytes as they are."""
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for entry in entries:
        writer.write(entry if isinstance(entry, bytes) else msgpack.packb(entry))
    writer.close()
    return path


class TinyOwl(tfds.core.GeneratorBasedBuilder):
    """LLaVA's form as TensorFlow Datasets has it."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "images": tfds.features.Sequence(tfds.features.Image(encoding_format="jpeg")),
                    "conversations": tfds.features.Sequence(
                        {"from": tfds.features.Text(), "value": tfds.features.Text()}
                    ),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4), "test": self._generate_examples(2)}

    def _generate_examples(self, count):
        for number in range(count):
            images = [io.BytesIO(picture(number + i)) for i in range(number)]
            yield (
                number,
                {
                    "id": str(number),
                    "images": images,
                    "conversations": [
                        {
                            "from": "human",
                            "value": "<image>" * number + f"\nHow many öwls? {count}",
                        },
                        {"from": "gpt", "value": f"{number}, I think."},
                    ],
                },
            )


def write_tfds(directory: Path, file_format: str) -> Path:
    """A directory of TensorFlow Datasets; its splits train and test have 4 and 2 examples."""
    TinyOwl(data_dir=directory, file_format=file_format).download_and_prepare()
    return directory / "tiny_owl" / "1.0.0"


def conversation(marks: str, answer: str = "An owl.") -> list[dict[str, str]]:
    """One turn in LLaVA's form."""
    return [
        {"from": "human", "value": f"{marks}\nWhat is it?"},
        {"from": "gpt", "value": answer},
    ]


def write_table(path: Path, rows: int = 3) -> None:
    """A data set of Hugging Face: a directory of save_to_disk, or a parquet file by its name."""
    import datasets

    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
            "conversations": datasets.List(
                {"from": datasets.Value("string"), "value": datasets.Value("string")}
            ),
        }
    )
    table = [
        {
            "id": f"{path.stem} {number}",
            "images": [{"bytes": picture(number + i), "path": None} for i in range(number)],
            "conversations": conversation("<image>" * number, f"{path.stem} {number}"),
        }
        for number in range(rows)
    ]
    dataset = datasets.Dataset.from_list(table, features=features)
    if path.suffix == ".parquet":
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.to_parquet(path)
    else:
        dataset.save_to_disk(path)


def samples(folder: Path) -> dict[str, bytes | str]:
    """Files of samples, as a tar or a folder has them: pictures, a video, words alone."""
    return {
        "a/01.jpg": picture(1),
        "a/01.txt": "A small owl.\n",
        "a/02.json": json.dumps({"conversations": conversation("<image><image>")}),
        "a/02.1.png": picture(3, "PNG"),
        "a/02.0.png": picture(2, "PNG"),
        "b/03.mp4": movie(folder / "movie.mp4"),
        "b/03.txt": "It flies.",
        "b/04.json": json.dumps({"text": text(), "task_type": "words"}),
    }


def write_all(folder: Path) -> dict[str, str]:
    """One source of every kind below `folder`: what to give open_source, by the kind."""
    media = write_files(
        folder / "lines",
        {
            "1.jpg": picture(1),
            "2.png": picture(2, "PNG"),
            "3.gif": picture(3, "GIF"),
            "frames/f2.png": picture(12, "PNG"),
            "frames/f10.png": picture(20, "PNG"),
            "frames/f1.png": picture(11, "PNG"),
        },
    )
    movie(media / "movie.mp4", seed=1)
    lines = [
        {"text": text("<image>"), "image": ["1.jpg"], "task_type": "vqa"},
        {"text": text("<image>", "<image>"), "image": ["3.gif", "2.png"]},
        {"text": text("<|video|>"), "video": "movie.mp4"},
        {"text": text("<image>", "<|video|>"), "image": "1.jpg", "video": ["frames"]},
        {"text": text()},
    ]
    (media / "data.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    llava = [
        {"id": "1", "image": "1.jpg", "conversations": conversation("<image>")},
        {"id": "2", "conversations": conversation("")},
    ]
    (media / "llava.json").write_text(json.dumps(llava, indent=1), encoding="utf-8")
    pairs = 'image,caption\n1.jpg,"One, in ""quotes"""\n2.png,Two\n'
    (media / "pairs.csv").write_text(pairs, encoding="utf-8")
    write_tar(folder / "samples.tar", samples(folder))
    write_files(folder / "samples", samples(folder))
    entry = {"text": text("<image>"), "images": [picture(5)], "where": "somewhere:1"}
    write_array_record(folder / "one.array_record", [entry])
    write_table(folder / "saved")
    write_table(folder / "table.parquet")
    return {
        "json_lines": str(media / "data.jsonl"),
        "json_array": str(media / "llava.json"),
        "csv": str(media / "pairs.csv"),
        "tar": str(folder / "samples.tar"),
        "folder": str(folder / "samples"),
        "array_record": str(folder / "one.array_record"),
        "saved": str(folder / "saved"),
        "parquet": str(folder / "table.parquet"),
        "tfds": str(write_tfds(folder / "tfds", "array_record")),
        "synthetic": f"{EMBEDDED}:vqa=2,two_images,video,text_math",
    }
