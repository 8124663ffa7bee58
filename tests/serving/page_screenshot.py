"""Makes docs/serving.png: a conversation about a drawn scene with the demonstration's model.

make demo
PYTHONPATH=tests/serving .venv/bin/python tests/serving/page_screenshot.py runs/demo/stage2/model
"""

import io
import re
import subprocess
import sys
import tempfile
import time

import httpx
from browser import chromium
from PIL import Image
from playwright.sync_api import expect

from owl_jax.demo.questions import questions

QUESTIONS = ("Where is the blue circle?", "Is the red triangle to the left of the green square?")
SIZE = {"width": 1120, "height": 760}


def main(model, output="docs/serving.png"):
    command = [sys.executable, "-m", "owl_jax.serve", f"--model={model}", "--name=owl-demo"]
    with tempfile.NamedTemporaryFile() as votes:
        command += ["--port=0", "--temperature=0", f"--votes_file={votes.name}"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            url = re.search(r"http://\S+(?=;)", server.stdout.readline())[0]
            while httpx.get(f"{url}/health").status_code != 200:
                time.sleep(1)
            picture = conversation(url)
        finally:
            server.terminate()
            server.wait()
    Image.open(io.BytesIO(picture)).quantize(256, dither=Image.Dither.NONE).save(
        output, optimize=True
    )


def scene():
    """The file of the picture that README.md draws."""
    file = io.BytesIO()
    questions("heldout", 1, 1, ["vqa"], image_size=240)[0].images[0].save(file, "PNG")
    return {"name": "scene.png", "mimeType": "image/png", "buffer": file.getvalue()}


def conversation(url):
    """Asks QUESTIONS about a scene, and returns what the page shows then, as PNG."""
    with chromium() as browser:
        tab = browser.new_page(viewport=SIZE, device_scale_factor=2)
        tab.goto(url)
        tab.set_input_files("#files", scene())
        expect(tab.locator("#attached .thumbnail")).to_have_count(1)
        for number, question in enumerate(QUESTIONS, start=1):
            tab.fill("#question", question)
            tab.press("#question", "Enter")
            expect(tab.locator(".answer.done")).to_have_count(number, timeout=60_000)
        tab.locator("[aria-label='Good answer']").last.click()
        tab.mouse.move(0, 0)
        expect(tab.locator("[aria-label='Good answer'][aria-pressed='true']")).to_be_visible()
        return tab.screenshot()


if __name__ == "__main__":
    main(*sys.argv[1:])
