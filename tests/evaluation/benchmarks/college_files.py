"""MMMU's and MMMU-Pro's files: parquet with pictures, from the recorded rows without them."""

import io

import pyarrow
import pyarrow.parquet
from PIL import Image
from recorded import SCORES, lines

NAMES = {"mmmu": "validation-00000-of-00001.parquet", "mmmu_pro": "test-00000-of-00001.parquet"}


def png(color="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1), color).save(buffer, "PNG")
    return buffer.getvalue()


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_recorded(name, folder):
    """The benchmark's folder; a picture has the colour of its number."""
    files = {}
    for row in lines(SCORES / name / "rows.jsonl"):
        vision = row["pictures"] == ["image"]
        columns = ["image"] if vision else [f"image_{number}" for number in range(1, 8)]
        pictures = {
            column: {"bytes": png(), "path": f"{column}.png"} if column in row["pictures"] else None
            for column in columns
        }
        kept = {key: value for key, value in row.items() if key not in ("folder", "pictures")}
        files.setdefault(row["folder"], []).append({**kept, **pictures})
    for inner, rows in files.items():
        write_rows(folder / inner / NAMES[name], rows)
    return folder
