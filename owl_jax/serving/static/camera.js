// A picture from the webcam.

import { byId } from "./dom.js";
import { PageError } from "./errors.js";
import { snapshot } from "./media.js";

/** Browsers give a camera only to pages from this machine or over HTTPS. */
export const hasCamera = Boolean(navigator.mediaDevices?.getUserMedia);

/** Shows the camera until a picture is taken: a file, or null. Throws PageError without a camera. */
export async function takePicture() {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    const isRefused = error.name === "NotAllowedError";
    throw new PageError(
      isRefused ? "This page may not use the camera. Allow it in the browser." : "No camera was found.",
    );
  }
  const dialog = byId("camera");
  const video = dialog.querySelector("video");
  const shutter = dialog.querySelector("[data-shutter]");
  shutter.disabled = true;
  video.srcObject = stream;
  video.onloadeddata = () => {
    shutter.disabled = false;
    shutter.focus();
  };
  let taken = null;
  const closed = new Promise((resolve) => {
    dialog.onclose = resolve;
  });
  shutter.onclick = async () => {
    taken = await snapshot(video);
    dialog.close();
  };
  dialog.showModal();
  await closed;
  for (const track of stream.getTracks()) track.stop();
  video.srcObject = null;
  return taken && new File([taken], "camera.jpg", { type: taken.type });
}
