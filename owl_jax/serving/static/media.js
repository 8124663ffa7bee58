// Pictures and videos: from files to what the server takes.
//
// A medium is {id, conversation, kind, name, blob, frames, seconds}. A picture is sent as it is, unless
// it is large: the model sees a few hundred pixels, and every turn sends all pictures again. Of a video
// the browser takes some frames, evenly spaced, of which the server chooses; a video that the
// browser cannot play is sent as a file.

import { newId } from "./dom.js";
import { PageError } from "./errors.js";

const KEPT_TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const KEPT_BYTES = 2 ** 20;
const LONGEST_SIDE = 1536; // pixels of a picture that is made smaller
const FRAMES = 32;
const LONGEST_FRAME_SIDE = 512;
const QUALITY = 0.9;
const SEEK_MILLISECONDS = 10_000;
const VIDEO_NAMES = /\.(avi|m4v|mkv|mov|mp4|mpe?g|ogv|ts|webm|wmv)$/i;

/** The medium in a file. Throws PageError if it is none, or too large. */
export async function readMedium(file, conversation, facts) {
  const name = file.name || "picture";
  if (file.size === 0) throw new PageError(`${name} is empty.`);
  const medium = { id: newId(), conversation, name, frames: [], seconds: 0 };
  if (file.type.startsWith("video/") || VIDEO_NAMES.test(name)) {
    return { ...medium, kind: "video", ...(await readVideo(file, name, facts)) };
  }
  return { ...medium, kind: "image", blob: await readPicture(file, name) };
}

/** A medium as a content part of a message. */
export async function partOf(medium) {
  if (medium.kind === "image") {
    return { type: "image_url", image_url: { url: await dataUri(medium.blob) } };
  }
  let url = medium.blob && (await dataUri(medium.blob));
  if (medium.frames.length) {
    const frames = await Promise.all(medium.frames.map(dataUri));
    url = `data:video/jpeg;base64,${frames.map((frame) => frame.split(",")[1]).join(",")}`;
  }
  return { type: "video_url", video_url: { url } };
}

/** What to show of a medium: a picture, or null. Many videos begin in black. */
export function previewOf(medium) {
  return medium.kind === "image" ? medium.blob : (medium.frames[medium.frames.length >> 1] ?? null);
}

export function dataUri(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new PageError("A picture or video cannot be read any more."));
    reader.readAsDataURL(blob);
  });
}

async function readPicture(file, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new PageError(`${name} is not a picture or a video that this browser can read.`);
  }
  try {
    const isSmall = Math.max(bitmap.width, bitmap.height) <= 2 * LONGEST_SIDE;
    if (KEPT_TYPES.includes(file.type) && file.size <= KEPT_BYTES && isSmall) return file;
    return await drawn(bitmap, bitmap.width, bitmap.height, LONGEST_SIDE);
  } finally {
    bitmap.close();
  }
}

async function readVideo(file, name, facts) {
  const url = URL.createObjectURL(file);
  const video = document.createElement("video");
  try {
    video.muted = true;
    video.preload = "auto";
    video.src = url;
    await happens(video, "loadeddata");
    const seconds = await durationOf(video);
    const count = Math.min(FRAMES, facts.max_frames ?? FRAMES);
    const frames = [];
    for (let index = 0; index < count; index += 1) {
      const time = (seconds * index) / Math.max(count - 1, 1);
      await seek(video, Math.min(time, Math.max(seconds - 0.001, 0)));
      frames.push(await drawn(video, video.videoWidth, video.videoHeight, LONGEST_FRAME_SIDE));
    }
    return { frames, seconds, blob: null };
  } catch {
    if ((file.size * 4) / 3 < (facts.max_body_bytes ?? 0)) return { blob: file };
    throw new PageError(`${name} cannot be played by this browser and is too large to send as it is.`);
  } finally {
    video.removeAttribute("src");
    video.load();
    URL.revokeObjectURL(url);
  }
}

/** Recordings of browsers say how long they are only once their end has been read. */
async function durationOf(video) {
  if (video.duration === Infinity) await seek(video, Number.MAX_SAFE_INTEGER);
  if (!Number.isFinite(video.duration)) throw new Error("a video without an end");
  return video.duration;
}

async function seek(video, time) {
  if (video.currentTime === time) return;
  const sought = happens(video, "seeked");
  video.currentTime = time;
  await sought;
}

function happens(video, event) {
  return new Promise((resolve, reject) => {
    setTimeout(reject, SEEK_MILLISECONDS, new Error(`no ${event}`));
    video.addEventListener(event, resolve, { once: true });
    video.addEventListener("error", () => reject(video.error), { once: true });
  });
}

/** A JPEG on white, which is what the model sees behind transparent pixels. */
function drawn(source, width, height, longest) {
  const scale = Math.min(1, longest / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => {
    const done = (blob) => (blob ? resolve(blob) : reject(new PageError("The picture is too large.")));
    canvas.toBlob(done, "image/jpeg", QUALITY);
  });
}

/** A picture of a camera that is running in a video element. */
export function snapshot(video) {
  return drawn(video, video.videoWidth, video.videoHeight, LONGEST_SIDE);
}
