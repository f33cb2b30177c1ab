/** LPNSR Compare: shows pairs of pictures in a before/after slider. */
import { api } from "../../scripts/api.js";
import { addElement, keepUpToDate, lastOutput } from "./graph.js";
import { text } from "./language.js";
import { Slider } from "./slider.js";

const MIN_HEIGHT = 240;
const SIZE = [420, 460];

/** @param node LPNSRCompare */
export function addSlider(node) {
  const slider = new Slider({
    labels: [text("LR, bicubic"), "LPNSR"],
    hint: text("Run the workflow to compare."),
    text,
    onShown: (_, result) => {
      // for Open Image, Copy Image and Save Image in the node's menu
      node.imgs = [result];
      node.imageIndex = 0;
    },
  });
  const options = { hideOnZoom: false, getMinHeight: () => MIN_HEIGHT };
  addElement(node, "lpnsr_compare", slider.element, options);
  node.setSize(SIZE);

  // Keep ComfyUI from also showing the pictures below the slider, on the canvas and in Nodes 2.0.
  // Front end 1.32 does not support hideOutputImages; there, lpnsr.css hides them.
  node.onDrawBackground = null;
  node.hideOutputImages = true;
  keepUpToDate(node, [], () => {
    slider.show(pairUrls(node));
    slider.note(aboutShape(node));
  });
}

/** @returns {string} a note if LR image and result have different aspect ratios, otherwise "". */
function aboutShape(node) {
  const [size] = lastOutput(node)?.fitted ?? [];
  if (!size) return "";
  const [width, height] = size;
  return text(
    "The LR image ({width} × {height}) has another aspect ratio and is shown with bars.",
    { width, height },
  );
}

/** @returns {string[][]} URLs [LR, result] of the pairs that the node saved in its last run. */
function pairUrls(node) {
  const urls = (lastOutput(node)?.images ?? []).map((image) =>
    api.apiURL(`/view?${new URLSearchParams(image)}`),
  );
  return urls.flatMap((url, i) => (i % 2 ? [[urls[i - 1], url]] : []));
}
